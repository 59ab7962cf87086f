"""CLIP as the teacher of a scene's features: what it says of each object seen alone (our design, after Feature4X).

For each view and some frames, everything but one object is painted in the floor's mean colour, and CLIP's embedding of
that picture is the target of the object's pixels. The embeddings lie on few axes, so a scene learns F numbers for each
Gaussian and one linear layer that makes CLIP's space of them again.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from wm_pipelines import hub
from wm_pipelines.clip.parts import load_clip, preprocess
from wm_pipelines.clip.towers import encode_images, encode_texts
from wm_pipelines.morpho4d.capture import Capture
from wm_pipelines.morpho4d.heads import FeatureHead

NAME = "clip"
"""Of the head."""
WIDTH = 8
LEAST_PIXELS = 30
"""Of an object that a picture tells anything of."""


@dataclass
class ClipTeacher:
    """clip: a `CLIPModel`. tokenizer, image_processor: its own."""

    clip: Any
    tokenizer: Any
    image_processor: Any

    @classmethod
    def load(cls, source: str | os.PathLike = "diorama-clip") -> "ClipTeacher":
        """From an embedded name, a folder or a Hub id.

        Raises:
            ValueError: no CLIP checkpoint.
        """
        return cls(**load_clip(hub.resolve(source)))

    @property
    def temperature(self) -> float:
        """What CLIP divides cosines by."""
        return float((-self.clip.logit_scale.detach()).exp())

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """(n, D), of length one."""
        return encode_texts(self.clip, self.tokenizer, texts)

    @torch.no_grad()
    def pictures(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        """(n, D), of length one, of pictures (3, H, W) in [0, 1]."""
        return encode_images(self.clip, preprocess(self.image_processor, pictures))


def teach(
    capture: Capture, teacher: ClipTeacher, seen: torch.Tensor | None = None, every: int = 3, width: int = WIDTH
) -> tuple[Capture, dict[str, FeatureHead], dict[int, torch.Tensor]]:
    """A capture whose features are what CLIP says; the head that makes CLIP's space of them; and object id -> what it
    says of the object on average (F,), 0 for the background: the last two are `heads` and `concepts` of a scene.

    Args:
        seen: what CLIP looks at in place of `capture.video`, such as the same with light and shadows.
        every: one frame of so many is looked at; those between take what the frame before them has.
        width: F.

    Raises:
        ValueError: the capture is not whole, `seen` is of another shape, or no picture shows enough of anything.
    """
    for name, value in (("every", every), ("width", width)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` is {value!r}; a whole number, 1 or more")
    capture.check()
    seen = capture.video if seen is None else seen
    if seen.shape != capture.video.shape:
        raise ValueError(f"`seen` is {tuple(seen.shape)}; `video` is {tuple(capture.video.shape)}")
    where = [w for w in _places(capture) if w[1] % every == 0]
    if not where:
        raise ValueError(f"`masks` show nothing in {LEAST_PIXELS} pixels or more")
    said = teacher.pictures(
        [alone(seen[v, t], capture.masks[v, t] == i, capture.masks[v, t] == 0) for v, t, i in where]
    )
    middle = said.mean(0)
    axes = torch.linalg.svd(said - middle, full_matrices=False).Vh[:width]
    codes = (said - middle) @ axes.T
    scale = codes.abs().amax().clamp(min=1e-6)
    known = dict(zip(where, codes / scale, strict=True))
    mean = {i: torch.stack([c for w, c in known.items() if w[2] == i]).mean(0) for i in {w[2] for w in where}}
    features = torch.zeros(capture.views, capture.frames, *capture.size, len(axes))
    for i, code in mean.items():
        features[capture.masks == i] = code
    for view, frame, i in _places(capture):
        code = known.get((view, frame - frame % every, i))
        if code is not None:
            features[view, frame][capture.masks[view, frame] == i] = code
    head = FeatureHead(((axes.T * scale).contiguous(),), (middle,))
    return replace(capture, features=features.permute(0, 1, 4, 2, 3).contiguous()), {NAME: head}, mean


def _places(capture: Capture) -> list[tuple[int, int, int]]:
    """(view, frame, object id), 0 for the background, where enough of it is seen."""
    found = []
    for i in capture.masks.unique().tolist():
        enough = (capture.masks == i).sum((2, 3)) >= LEAST_PIXELS
        found += [(view, frame, i) for view, frame in enough.nonzero().tolist()]
    return sorted(found)


def alone(picture: torch.Tensor, mask: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """A picture (3, H, W) with everything outside `mask` (H, W) painted in the mean colour of `floor` (H, W)."""
    plain = picture[:, floor].mean(1) if floor.any() else picture.new_full((3,), 0.5)
    return torch.where(mask, picture, plain[:, None, None])

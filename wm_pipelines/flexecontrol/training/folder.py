"""Training on pictures of one's own: a folder in Uni-ControlNet's layout, and the tasks that read it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_pipelines.data.captioned import CaptionedFolder
from wm_pipelines.flexecontrol.training.global_adapter import GlobalTask, without_local
from wm_pipelines.flexecontrol.training.task import DEFAULTS, Encode, FlexEControlTask, Maps
from wm_pipelines.media.conditions import ALIASES, TYPES, extract
from wm_pipelines.media.pictures import PICTURE_SUFFIXES, load_image, read_labels, to_tensor
from wm_pipelines.runtime.readers import read_array, read_json
from wm_pipelines.training import KeyedNoise

MODEL_ONLY = ("pose", "depth")  # no offline extractor makes these from a picture
CONTENT = "conditions/content"


class FolderSource(CaptionedFolder):
    """`anno.txt` (id TAB caption), `images/ID.jpg`, `conditions/TYPE/ID.jpg`; all pictures of one size, of any format.

    A type without a folder is extracted offline where that can be done. Optional, for phrases: `spans.json`
    ({id: [[start, end], ...]}) and `masks/ID.png`, a label picture (`media.read_labels`: a palette's indices, or grey)
    whose value k marks the object of the k-th span, and 0 and higher values what no phrase speaks of; for global
    control `conditions/content/ID.npy`, the picture's projected, un-normalised CLIP vector (D,).

    Args:
        root: the folder. size: (height, width) that every picture must have. types: conditions that will be asked.
        encode: makes latents of pictures, when they are needed.

    Raises:
        ValueError: a file or folder that is missing, a line without a TAB, a span outside its caption; masks that are
            no label pictures of `size`, or have no pixel for a phrase while some have the value of none.
    """

    def __init__(self, root: str | Path, size: tuple[int, int], types: Sequence[str], encode: Encode | None = None):
        super().__init__(root)
        self.size, self.encode = tuple(size), encode
        self.spans = self._read_spans()
        self.folders = {kind: self._folder(kind) for kind in types}
        self.length = len(self.names)
        self.data = f"folder of {self.length} captioned pictures, {len(self.spans)} with phrases"
        for folder in ["images", *(f for f in self.folders.values() if f)]:
            for name in self.names:
                self._picture(folder, name)
        for name in self.spans:
            self._labels(name)

    def _read_spans(self) -> dict[str, list[tuple[int, int]]]:
        path = self.root / "spans.json"
        if not path.is_file():
            return {}
        found: Any = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(f"spans.json must be an object {{id: [[start, end], ...]}}, got {type(found).__name__}")
        captions = dict(zip(self.names, self.captions, strict=True))
        for name, spans in found.items():
            if spans and self.names.count(name) > 1:
                raise ValueError(f"spans.json has spans of {name!r}, which has several captions")
            for span in spans if isinstance(spans, list) else [spans]:
                if not isinstance(span, list) or [type(place) for place in span] != [int, int]:
                    raise ValueError(f"spans.json: a span of {name!r} must be two integers, got {span!r:.80}")
                start, end = span
                if not 0 <= start < end <= len(captions.get(name, "")):
                    raise ValueError(f"spans.json: ({start}, {end}) is no span of the caption of {name!r}")
        return {name: [(a, b) for a, b in spans] for name, spans in found.items() if spans}

    def _folder(self, kind: str) -> str | None:
        """The folder of a type, under its own name or one that Uni-ControlNet uses for it."""
        for name in (kind, *(alias for alias, target in ALIASES.items() if target == kind)):
            if (self.root / "conditions" / name).is_dir():
                return f"conditions/{name}"
        if kind in MODEL_ONLY:
            raise ValueError(f"options.data: no folder conditions/{kind}, and no offline extractor makes {kind}")
        return None

    def _picture(self, folder: str, name: str) -> Path:
        return self.path(folder, name, PICTURE_SUFFIXES, wanted=".jpg (or .png)")

    def _labels(self, name: str) -> torch.Tensor:
        """(H,W) int64: which span's object a pixel belongs to."""
        path = self._picture("masks", name)
        labels, count = read_labels(path, self.size), len(self.spans[name])
        there = set(labels.unique().tolist())
        absent, unknown = sorted(set(range(1, count + 1)) - there), sorted(n for n in there if n > count)
        if absent and unknown:
            raise ValueError(
                f"{path}: no pixel has the value {absent[0]} of the span {self.spans[name][absent[0] - 1]}, though "
                f"some have {unknown[0]}; the values of its {count} spans are 1 to {count}"
            )
        return labels

    def _read(self, folder: str, index: int) -> torch.Tensor:
        path = self._picture(folder, self.names[index])
        picture = to_tensor(load_image(path))
        if tuple(picture.shape[-2:]) != self.size:
            came, wanted = ("{}x{}".format(*size) for size in (picture.shape[-2:], self.size))
            raise ValueError(f"{path.name} in {folder} is {came}; height and width must be {wanted}, as options.size")
        return picture

    def pictures(self, indices: Sequence[int]) -> torch.Tensor:
        """(N,3,H,W) float32 in [0, 1]."""
        return torch.stack([self._read("images", i) for i in indices])

    def maps(self, kind: str, indices: Sequence[int]) -> torch.Tensor:
        """Whole condition maps (N,3,H,W)."""
        folder = self.folders[kind]
        if folder is None:
            return extract(kind, self.pictures(indices))
        return torch.stack([self._read(folder, i) for i in indices])

    def masks(self, indices: Sequence[int]) -> torch.Tensor:
        """(N,P,H,W): the object of phrase p in row p; P is the most phrases that any of them has."""
        counts = [len(self.spans.get(self.names[i], [])) for i in indices]
        masks = torch.zeros(len(indices), max(counts), *self.size)
        for row, (i, count) in enumerate(zip(indices, counts, strict=True)):
            if count:
                ids = self._labels(self.names[i])
                masks[row, :count] = (ids[None] == torch.arange(1, count + 1)[:, None, None]).float()
        return masks

    def latents(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled mean and deviation of the latents of some pictures."""
        return self.encode(self.pictures(indices))

    def caption(self, index: int, generator: np.random.Generator) -> tuple[str, dict[int, tuple[int, int]]]:
        """Its caption, and the character span of each phrase (from 1)."""
        return self.captions[index], dict(enumerate(self.spans.get(self.names[index], []), 1))

    def batch_maps(self, indices: list[int], masks: torch.Tensor, noise: KeyedNoise) -> tuple[Maps, torch.Tensor]:
        """A function from (type, samples of the batch) to their whole maps, and `masks`."""
        return self.maps, masks

    def contents(self, indices: Sequence[int]) -> torch.Tensor:
        """Content vectors (N,D) float32."""
        return torch.stack([read_vector(self.path(CONTENT, self.names[i], (".npy",))) for i in indices])


def read_vector(path: Path) -> torch.Tensor:
    """A vector (D,) of a .npy file, float32; pickled arrays are refused.

    Raises:
        ValueError: not such a file, not one vector, or a value that is not finite.
    """
    try:
        values = read_array(path)
    except ValueError as error:
        raise ValueError(f"{CONTENT}/{path.name} can't be read: {error}") from None
    one = values.size == max(values.shape, default=0) > 0
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite then, and refused
        vector = values.astype(np.float32).reshape(-1) if one and values.dtype.kind in "fiu" else None
    if vector is None or not np.isfinite(vector).all():
        came = f"{values.shape} of {values.dtype}"
        raise ValueError(f"{CONTENT}/{path.name} must be one vector of finite numbers, it is {came}")
    return torch.from_numpy(vector)


def folder_source(task: FlexEControlTask) -> FolderSource:
    """The folder that a task's `options.data` names.

    Raises:
        ValueError: there is none, `options.size` does not fit the adapter, or as `FolderSource`.
    """
    side = task.options["size"]
    if task.options["data"] is None:
        raise ValueError("options.data is missing: a folder with anno.txt, images/ and conditions/")
    if side % task.control.multiple:
        raise ValueError(f"options.size is {side}; it must be a multiple of {task.control.multiple}")
    return FolderSource(task.options["data"], (side, side), task.control.config.types, task.encode)


FOLDER_DEFAULTS: dict[str, Any] = {
    **DEFAULTS, "data": None, "size": 512, "base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "r": 8,
    "map_stride": 4, "feature_channels": None, "pre_channels": None,
}  # fmt: skip


class FolderTask(FlexEControlTask):
    """`wm train flexecontrol-folder`: an adapter for any Stable Diffusion 1.x or 2.x base.

    Options as in `FlexEControlTask`, and `data` (the folder), `size` (the side of its pictures). Pictures are encoded
    when they are needed.
    """

    defaults = FOLDER_DEFAULTS
    given_types = TYPES

    def make_source(self) -> FolderSource:
        return folder_source(self)


class GlobalFolderTask(GlobalTask):
    """On a folder in Uni-ControlNet's layout, with `conditions/content/ID.npy` for every picture."""

    defaults = without_local(FOLDER_DEFAULTS)
    given_types = TYPES

    def _carried(self) -> dict[str, Any]:
        root = self.options["data"]
        first = next(iter(sorted((Path(root) / CONTENT).glob("*.npy"))), None) if root else None
        if first is None:
            raise ValueError(f"options.data: {root!r} has no {CONTENT}/ID.npy, the content vectors")
        return {"global_adapter": True, "global_embed_dim": len(read_vector(first))}

    def make_source(self) -> FolderSource:
        source = folder_source(self)
        for index, name in enumerate(source.names):  # all are looked at now, none is kept
            found, wanted = source.contents([index]).shape[1], self.control.config.global_embed_dim
            if found != wanted:
                raise ValueError(f"{CONTENT}/{name}.npy has {found} values, the first file has {wanted}")
        return source

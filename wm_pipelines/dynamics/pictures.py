"""Pictures on their way to codes: one size for source and target, Emu3's codes, and whether two tokenisers agree."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from wm_pipelines.media.pictures import Picture, to_pil, to_tensor
from wm_pipelines.tokens.pictures import PictureTokens, check_codes, check_tensor

RESIZES = ("pad", "crop")


def as_list(name: str, pictures: Any) -> list[Picture]:
    """One picture, a sequence of them or a batch `(B, 3, H, W)`, as a list.

    Raises:
        ValueError: nothing in it.
    """
    if isinstance(pictures, torch.Tensor) and pictures.ndim == 4 or isinstance(pictures, list | tuple):
        found = list(pictures)
    else:
        found = [pictures]
    if not found:
        raise ValueError(f"`{name}` is empty; at least one picture is needed")
    return found


def to_size(
    pictures: Sequence[Picture], size: tuple[int, int], resize: str | None, colour: Sequence[int], name: str = "source"
) -> torch.Tensor:
    """Pictures as float32 `(B, 3, H, W)` in [0, 1], at `size` (height, width).

    Args:
        resize: "pad" pads to the model's proportions with `colour` (0 ... 255) and scales (as Liquid does), "crop"
            scales and cuts the middle out (as Chameleon's processor does), both with Lanczos; None takes only pictures
            that have `size`.

    Raises:
        ValueError: another `resize`, a picture of another size without one, or no picture.
    """
    if resize is not None and resize not in RESIZES:
        raise ValueError(f"`resize` is {resize!r}; allowed: {', '.join(RESIZES)} or None")
    tensors = [to_tensor(picture) for picture in pictures]
    if resize is None:
        for tensor in tensors:
            if tuple(tensor.shape[1:]) != tuple(size):
                raise ValueError(
                    f"`{name}` is {tensor.shape[1]}x{tensor.shape[2]}, but the model takes {size[0]}x{size[1]}; pass "
                    "resize='pad' or resize='crop'"
                )
        return torch.stack(tensors)
    return torch.stack([_resized(tensor, size, resize, colour) for tensor in tensors])


def _resized(picture: torch.Tensor, size: tuple[int, int], resize: str, colour: Sequence[int]) -> torch.Tensor:
    height, width = picture.shape[1:]
    if (height, width) == tuple(size):
        return picture
    image = to_pil(picture)
    wanted = size[1] / size[0]
    if resize == "pad":
        whole = (max(width, round(height * wanted)), max(height, round(width / wanted)))
        canvas = Image.new("RGB", whole, tuple(colour))
        canvas.paste(image, ((whole[0] - width) // 2, (whole[1] - height) // 2))
        image, box = canvas, None
    else:
        inner = (min(width, height * wanted), min(height, width / wanted))
        left, top = (width - inner[0]) / 2, (height - inner[1]) / 2
        box = (left, top, left + inner[0], top + inner[1])
    return to_tensor(image.resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box))


def check_pair(source: Sequence[Picture], target: Sequence[Picture], resize: str | None) -> None:
    """ValueError if there are not as many targets as sources, or a pair has two sizes and no `resize` is given."""
    if len(source) != len(target):
        raise ValueError(f"`source` has {len(source)} pictures and `target` {len(target)}; give one for each")
    for one, other in zip(source, target, strict=True):
        sizes = [tuple(to_tensor(picture).shape[1:]) for picture in (one, other)]
        if sizes[0] != sizes[1] and resize is None:
            raise ValueError(
                f"`source` and `target` have different sizes ({_text(sizes[0])}, {_text(sizes[1])}); pass images of "
                "one size or `resize='pad'`"
            )
        if sizes[0] != sizes[1] and resize == "crop":
            raise ValueError(
                f"`source` and `target` have different sizes ({_text(sizes[0])}, {_text(sizes[1])}); resize='crop' "
                "would cut them at two boxes, and then everything looks changed"
            )


def _text(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def check_actions(actions: Any, count: int) -> list[str]:
    """Actions as a list of `count`; one string is for all.

    Raises:
        ValueError: another number, no string, or an empty one.
    """
    given = [actions] * count if isinstance(actions, str) else list(actions) if actions is not None else []
    if len(given) != count:
        raise ValueError(
            f"`action` has {len(given)} sentences for {count} pictures; give one for each, or one for all"
        )
    for action in given:
        if not isinstance(action, str):
            raise ValueError(f"`action` is a {type(action).__name__}; it must be a sentence")
        if not action.strip():
            raise ValueError("`action` is empty; say what changes, as in 'move the red cube to the left'")
    return given


class Emu3Pictures:
    """The codes of Emu3's video tokeniser (Wang et al., arXiv 2409.18869) for single pictures; as `PictureTokens`.

    Args:
        vq: an `Emu3VQVAE`, whose weights must be in float32.
    """

    def __init__(self, vq: nn.Module):
        self.vq = vq

    @property
    def factor(self) -> int:
        return self.vq.spatial_scale_factor

    @property
    def codebook(self) -> torch.Tensor:
        return self.vq.quantize.embedding.weight

    @property
    def num_codes(self) -> int:
        return self.codebook.shape[0]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of a picture's codes; ValueError for sides that are no multiples of `factor`."""
        if height < 1 or width < 1 or height % self.factor or width % self.factor:
            raise ValueError(f"`pictures` are {height}x{width}; sides must be multiples of {self.factor}")
        return height // self.factor, width // self.factor

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """`(N, 3, H, W)` in [0, 1], float32, to codes `(N, h, w)`, int64.

        Raises:
            ValueError: another shape or dtype, or a model that is not in float32.
        """
        check_tensor("pictures", pictures)
        if pictures.ndim != 4 or pictures.dtype != torch.float32 or self.vq.dtype != torch.float32:
            raise ValueError(
                f"`pictures` are {tuple(pictures.shape)} in {pictures.dtype}, the model is in {self.vq.dtype}; encode "
                "(N, 3, H, W) in float32, both"
            )
        self.grid(*pictures.shape[2:])
        sizes = torch.tensor([list(pictures.shape[2:])] * len(pictures))
        return torch.stack(list(self.vq.encode(2 * pictures - 1, sizes).image_tokens)).long()

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(N, h, w)` to `(N, 3, H, W)`, float32, cut to [0, 1]."""
        pictures = self.vq.decode(check_codes(codes, self.num_codes))
        return (pictures.float() / 2 + 0.5).clamp(0, 1)

    def code_distances(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Squared L2 between the vectors of two sets of codes of one shape."""
        return (self.codebook[first].float() - self.codebook[second].float()).square().sum(-1)


def same_codes(first: PictureTokens | Emu3Pictures, second: PictureTokens | Emu3Pictures) -> bool:
    """Whether two tokenisers give the same codes: the same module, or equal weights."""
    if first.vq is second.vq:
        return True
    mine, yours = first.vq.state_dict(), second.vq.state_dict()
    return mine.keys() == yours.keys() and all(
        tensor.shape == yours[name].shape and torch.equal(tensor, yours[name].to(tensor.device))
        for name, tensor in mine.items()
    )

"""Pictures: the only module that opens or writes picture files; `video` has what moves.

Conventions: a picture is float32 `(3, H, W)` in [0, 1], sRGB. Greyscale is repeated to three channels, 16-bit
samples are divided by 65535 (never clipped), EXIF orientation is applied, alpha is composited over a grey `matte`
(1 = white, the default for photos; 0 for maps that are white on black). Pillow reads 16-bit colour files as
8 bits a sample, and of several pictures in one file the first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from wm_pipelines.runtime.files import atomic

Picture: TypeAlias = Image.Image | np.ndarray | torch.Tensor


def open_image(path: str | Path) -> Image.Image:
    """Read a picture file fully, in its own mode and bit depth, upright.

    Raises:
        ValueError: no such file, not a picture, a truncated one, or one too large to be decoded safely.
    """
    path = Path(path)
    if not path.is_file():
        why = "it is a folder" if path.is_dir() else "the file is missing"
        raise ValueError(f"no picture at {str(path)!r}: {why}")
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise ValueError(f"{str(path)!r} is not a picture that Pillow can read") from None
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(path)!r} is a corrupt or unsafe picture: {error}") from None


def load_image(path: str | Path, matte: float = 1.0) -> Image.Image:
    """Read a picture file as 8-bit RGB (`PIL.Image`); see the module's conventions.

    Raises:
        ValueError: as `open_image`.
    """
    return to_pil(to_tensor(open_image(path), matte))


def load_mask(path: str | Path) -> Image.Image:
    """Read a mask file as 8-bit greyscale (`PIL.Image`, mode "L"); 255 is inside.

    A picture whose alpha varies is taken at its alpha, as painting programs export masks; any other at its luminance.
    """
    return Image.fromarray((to_mask(open_image(path))[0].numpy() * 255).round().astype(np.uint8))


def to_tensor(image: Picture, matte: float = 1.0) -> torch.Tensor:
    """Any single picture as float32 `(3, H, W)` in [0, 1].

    Args:
        image: `PIL.Image` of any mode; array `(H, W)`, `(H, W, 1|3|4)`, uint8, uint16, bool or float in [0, 1];
            tensor `(H, W)`, `(1|3|4, H, W)` or `(1, C, H, W)`, uint8, bool or float in [0, 1].
        matte: the grey behind transparent pixels.

    Raises:
        ValueError: another shape or type, an empty picture, NaN, infinity, or values outside [0, 1].
    """
    channels = _planes(image)  # (C, H, W)
    if channels.shape[0] == 1:
        return channels.expand(3, -1, -1).contiguous()
    if channels.shape[0] == 4:
        return channels[:3] * channels[3:] + matte * (1 - channels[3:])
    return channels


def to_mask(image: Picture) -> torch.Tensor:
    """A mask picture as float32 `(1, H, W)` in [0, 1]: its alpha where that varies, else its luminance."""
    channels = _planes(image)
    if channels.shape[0] == 4:
        if channels[3].min() < channels[3].max():
            return channels[3:]
        channels = channels[:3]
    if channels.shape[0] == 3:
        return (channels * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True).clamp(0, 1)
    return channels


def _planes(image: Picture) -> torch.Tensor:
    """The picture's own channels, float32 `(1|3|4, H, W)` in [0, 1]."""
    if isinstance(image, Image.Image):
        image = _pil_array(image)
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = image[..., None]
        if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
            raise ValueError(f"picture array has shape {image.shape}; it must be (H, W) or (H, W, C), C = 1, 3, 4")
        if image.dtype == np.uint16:
            image = image.astype(np.float32) / 65535
        elif image.dtype.kind not in "bf" and image.dtype != np.uint8:
            raise ValueError(f"picture array has dtype {image.dtype}; use uint8, uint16, bool or float in [0, 1]")
        image = torch.from_numpy(np.moveaxis(image, -1, 0).copy())
    elif isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        if image.ndim == 4 and image.shape[0] == 1:
            image = image[0]
        if image.ndim == 2:
            image = image[None]
        if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
            raise ValueError(
                f"picture tensor has shape {tuple(image.shape)}; it must be (H, W) or (C, H, W), C = 1, 3, 4"
            )
    else:
        raise ValueError(f"a picture is a PIL.Image, an array or a tensor, not {type(image).__name__}")
    if 0 in image.shape:
        raise ValueError(f"the picture is empty: {image.shape[1]}x{image.shape[2]}")
    if image.dtype == torch.uint8:
        return image.float() / 255
    if image.dtype != torch.bool and not image.is_floating_point():
        raise ValueError(f"picture tensor has dtype {image.dtype}; it must be uint8, bool or float in [0, 1]")
    image = image.float()
    if not torch.isfinite(image).all():
        raise ValueError(f"the picture holds NaN or infinity at {int((~torch.isfinite(image)).sum())} values")
    low, high = float(image.min()), float(image.max())
    # Rounding in resizes and decoders leaves values like 1.0000001; a wrong scale ([-1, 1], [0, 255]) does not.
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(f"picture values run from {low:.3g} to {high:.3g}; they must lie in [0, 1]")
    return image.clamp(0, 1)


def _pil_array(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"32-bit picture runs from {values.min()} to {values.max()}; only 0 to 65535 is read")
        return values.astype(np.uint16)
    if image.mode in ("F", "L", "RGB", "RGBA"):
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    # Palettes may carry transparency in a colour's entry or in a chunk; RGBA resolves both.
    has_alpha = image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))


def to_pil(image: Picture, matte: float = 1.0) -> Image.Image:
    """Any single picture as an 8-bit RGB `PIL.Image`; floats are rounded to nearest."""
    tensor = to_tensor(image, matte)
    return Image.fromarray((tensor.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def save_image(image: Picture, path: str | Path) -> Path:
    """Write a picture atomically; the suffix chooses the format.

    Raises:
        ValueError: a suffix that Pillow can't write, or a bad picture.
    """
    path = Path(path)
    Image.init()
    if Image.EXTENSION.get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"can't write a picture as {path.name!r}: use a suffix such as .png, .jpg or .webp")
    picture = to_pil(image)
    with atomic(path) as temporary:
        picture.save(temporary)
    return path


def image_grid(images: Sequence[Picture], columns: int, gap: int = 0, background: float = 1.0) -> Image.Image:
    """Pictures of one size in rows of `columns`, `gap` pixels apart, as a `PIL.Image`.

    Raises:
        ValueError: no picture, `columns` or `gap` out of range, or pictures of different sizes.
    """
    if not images:
        raise ValueError("images is empty: a grid needs at least one picture")
    if columns < 1 or gap < 0:
        raise ValueError(f"columns={columns}, gap={gap}; columns must be at least 1 and gap at least 0")
    tensors = [to_tensor(image) for image in images]
    sizes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(sizes) > 1:
        raise ValueError(f"a grid needs pictures of one size, got {sorted(sizes)}")
    height, width = sizes.pop()
    columns = min(columns, len(tensors))
    rows = -(-len(tensors) // columns)
    sheet = torch.full((3, rows * (height + gap) - gap, columns * (width + gap) - gap), float(background))
    for index, tensor in enumerate(tensors):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = tensor
    return to_pil(sheet)


def frame_arrays(frames: Sequence[Picture]) -> list[np.ndarray]:
    """uint8 `(H, W, 3)` each, all of one size."""
    arrays = [np.asarray(to_pil(frame)) for frame in frames]
    if not arrays:
        raise ValueError("frames is empty: at least one picture is needed")
    sizes = {array.shape[:2] for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f"frames must have one size, got {sorted(sizes)}")
    return arrays

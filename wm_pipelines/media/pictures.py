"""Pictures: the only module that opens or writes picture files; `video` has what moves.

Conventions: a picture is float32 `(3, H, W)` in [0, 1], sRGB. Greyscale is repeated to three channels, 16-bit
samples are divided by 65535 (never clipped), EXIF orientation is applied, alpha is composited over a grey `matte`
(1 = white, the default for photos; 0 for maps that are white on black), whichever way the file is transparent: by a
channel, a palette, or one colour that stands for nothing. Pillow reads 16-bit colour files as 8 bits a sample, and of
several pictures in one file the first. A label picture is something else: what counts there is a pixel's number.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.limits import limit

Picture: TypeAlias = Image.Image | np.ndarray | torch.Tensor

PICTURE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jfif", ".jpe",
    ".avif", ".jp2",
)  # fmt: skip
"""Endings of the picture files that are read, in small letters."""

MAX_PIXELS = limit("PIXELS", 2**26)
"""Pixels that a picture file or a frame of a video may have; checked before it is decoded."""

BAND = 2**20
"""Pixels of a file that are turned into floats at a time."""

# Raw modes of Pillow's decoders for grey samples of less than 8 bits, with the factor by which it widens them.
_WIDENED = {"L;2": 85, "L;4": 17}


def open_image(path: str | Path) -> Image.Image:
    """Read a picture file fully, in its own mode and bit depth, upright.

    Raises:
        ValueError: no such file, not a picture, a truncated one, or one of more than `MAX_PIXELS` pixels.
    """
    return _opened(path, decoded, "a corrupt or unsafe picture")


def _opened(path: str | Path, load: Callable[[Image.Image], Any], otherwise: str) -> Any:
    """What `load` makes of a picture file that is open but not decoded yet; if it can't, the file is `otherwise`."""
    path = Path(path)
    if not path.is_file():
        why = "it is a folder" if path.is_dir() else "the file is missing"
        raise ValueError(f"no picture at {str(path)!r}: {why}")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width}x{image.height} pixels, more than {MAX_PIXELS}")
            return load(image)
    except UnidentifiedImageError:
        raise ValueError(f"{str(path)!r} is not a picture that Pillow can read") from None
    except Exception as error:  # broken files make Pillow's decoders raise nearly anything
        raise ValueError(f"{str(path)!r} is {otherwise}: {error}") from None


def decoded(image: Image.Image) -> Image.Image:
    """A PIL image decoded and upright, its transparent colour on the scale of its samples."""
    raw, key = _raw_mode(image), image.info.get("transparency")
    if key is not None and raw == "RGB;16B":
        alpha = _alpha_16(image)
        image.load()
        whole = Image.merge("RGBA", (*image.split(), alpha))
        whole.info = {name: value for name, value in image.info.items() if name != "transparency"}
        image = whole
    elif key is not None and raw in _WIDENED and isinstance(key, int):
        factor = _WIDENED[raw]
        image.load()
        # of a key as of a sample, the lowest bits count
        image.info["transparency"] = (key & 255 // factor) * factor
    image.load()
    return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; as it is where that is too broken to be read, as viewers show it."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow's parser lets nearly anything out
        return image.copy()


def _raw_mode(image: Image.Image) -> str:
    """How the samples lie in the file, in Pillow's words; empty once it is decoded, and for what decodes itself."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def _alpha_16(image: Image.Image) -> Image.Image:
    """Where a PNG of 16 bits a colour is opaque. Pillow keeps 8 of them, in which many colours look like the key."""
    import cv2

    image.fp.seek(0)
    samples = cv2.imdecode(np.frombuffer(image.fp.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.shape[-1] != 4:
        raise ValueError("its transparent colour of 16 bits can't be read")
    return Image.fromarray((samples[..., 3] > 0).astype(np.uint8) * 255)


def read_labels(path: str | Path, size: tuple[int, int] | None = None) -> torch.Tensor:
    """The numbers that a label picture gives its pixels: a palette's indices, or grey samples of 1 to 32 bits.

    A colour file serves if its colours are greys; what is transparent there must be 0. Of a picture of 1 bit, white
    is 1. Bits are read as they are in the file, so 3 of 4 bits is 3.

    Args:
        size: (height, width) that it must have.

    Returns:
        int64 `(H, W)`.

    Raises:
        ValueError: as `open_image`; another size; a format that changes or renumbers values (JPEG, lossy WebP, GIF);
            or colours, for which number each stands for can't be known.
    """
    labels = _opened(path, _numbers, "no label picture that can be read")
    if size is not None and labels.shape != tuple(size):
        came, wanted = ("{}x{}".format(*pair) for pair in (labels.shape, size))
        raise ValueError(f"label picture {str(path)!r} is {came}; height and width must be {wanted}")
    return torch.from_numpy(labels)


def _numbers(image: Image.Image) -> np.ndarray:
    """int64 `(H, W)` of a label picture that is not decoded yet."""
    raw, mode, compression = _raw_mode(image), image.mode, str(image.info.get("compression", ""))
    lossy = image.format == "WEBP" and b"VP8L" not in _head(image)
    if image.format not in ("PNG", "TIFF", "BMP", "WEBP") or lossy or compression in ("jpeg", "webp"):
        what = "lossy WEBP" if lossy else f"{image.format} {compression}".strip()
        raise ValueError(f"{what} does not keep the numbers; save labels as PNG or TIFF")
    bits = raw.partition(";")[2]
    if "16" in bits and mode in ("RGB", "RGBA", "LA"):
        raise ValueError("it has 16 bits a colour; save labels as one channel of grey, or as palette indices")
    if "I" in bits:
        raise ValueError("0 is white in it; save labels as grey with 0 as black, or as palette indices")
    image.load()
    values = np.asarray(_upright(image))
    if mode in ("RGB", "RGBA", "LA", "PA"):
        values = _only_channel(values, alpha=mode != "RGB")
    elif mode not in ("1", "P", "L", "I") and not mode.startswith("I;16"):
        raise ValueError(f"it has pixels of mode {mode}; save labels as grey or as palette indices")
    elif mode == "L":
        values = values // _WIDENED.get(raw.rstrip("R"), 1)
    if values.min() < 0:
        raise ValueError(f"its numbers begin at {values.min()}; labels are 0 or more")
    return values.astype(np.int64)


def _only_channel(values: np.ndarray, alpha: bool) -> np.ndarray:
    """`(H, W)` of `(H, W, C)` whose channels but the last, which is alpha if `alpha` says so, are the same."""
    colours, opaque = (values[..., :-1], values[..., -1]) if alpha else (values, np.full_like(values[..., 0], 255))
    if (colours != colours[..., :1]).any():
        raise ValueError("it has colours, and which number each stands for can't be known; save numbers as grey")
    if ((opaque < 255) & ((opaque > 0) | (colours[..., 0] > 0))).any():
        raise ValueError("it has numbers on transparent pixels; save labels without transparency")
    return colours[..., 0]


def _head(image: Image.Image) -> bytes:
    """The first bytes of a picture's file: those that say which kind of WebP it is."""
    image.fp.seek(0)
    return image.fp.read(64)


def load_image(path: str | Path, matte: float = 1.0) -> Image.Image:
    """Read a picture file as 8-bit RGB (`PIL.Image`); see the module's conventions.

    Raises:
        ValueError: as `open_image`.
    """
    image = open_image(path)
    if image.mode == "RGB" and image.info.get("transparency") is None:  # the same without floats, which take 12 times
        return Image.fromarray(np.asarray(image))
    whole, high = Image.new("RGB", image.size), max(1, BAND // image.width)
    for top in range(0, image.height, high):  # so that floats are there for a band alone
        whole.paste(to_pil(image.crop((0, top, image.width, min(top + high, image.height))), matte), (0, top))
    return whole


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
    """`(H, W)` or `(H, W, 3|4)`; the fourth channel is how opaque a pixel is."""
    image = decoded(image)
    mode, key = image.mode, image.info.get("transparency")
    if mode == "La":  # Pillow has no way from it, but the same samples are a premultiplied colour
        grey, alpha = image.getchannel(0), image.getchannel(1)
        return np.asarray(Image.merge("RGBa", (grey, grey, grey, alpha)).convert("RGBA"))
    if mode == "1":
        image, key = image.convert("L"), None if key is None else 255 * (key & 1)
    if mode in ("1", "F", "L", "RGB", "RGBA", "I") or mode.startswith("I;16"):
        values = np.asarray(image)
        if mode.startswith("I"):
            if values.min() < 0 or values.max() > 65535:
                raise ValueError(f"32-bit picture runs from {values.min()} to {values.max()}; only 0 to 65535 is read")
            values = values.astype(np.uint16)
        return values if key is None or mode in ("F", "RGBA") else _without_colour(values, key, mode)
    # Palettes may carry transparency in a colour's entry or in a chunk; RGBA resolves both.
    palette_alpha = mode == "P" and image.palette is not None and image.palette.mode.endswith("A")
    has_alpha = mode in ("LA", "PA", "RGBa") or palette_alpha or key is not None
    return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))


def _without_colour(values: np.ndarray, key: object, mode: str) -> np.ndarray:
    """`(H, W, 4)` of samples `(H, W)` or `(H, W, 3)` one colour of which, `key`, stands for nothing."""
    colours = values if values.ndim == 3 else values[..., None].repeat(3, -1)
    most = np.iinfo(colours.dtype).max
    wanted = np.asarray(key)
    if wanted.dtype.kind not in "iu" or wanted.shape not in ((), (3,)):
        raise ValueError(f"the transparent colour of a picture of mode {mode} is {key!r}; a grey or three samples")
    if wanted.max() > most:  # of a file with more bits than Pillow kept
        wanted = wanted >> 8
    alpha = np.where((colours == wanted).all(-1), 0, most).astype(colours.dtype)
    return np.dstack([colours, alpha])


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

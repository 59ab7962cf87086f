"""The kinds of spatial condition: names, order, polarity, and the maps that can be made without a model.

A map is float32 `(3, H, W)` in [0, 1]. Kinds and slot order follow Uni-ControlNet (arXiv 2305.16322), whose names are
accepted as aliases. Marks are white on black, depth is near = 1, a segmentation has one palette colour a region.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from wm_pipelines.runtime.random import keyed

TYPES: tuple[str, ...] = ("canny", "lines", "softedge", "sketch", "pose", "depth", "seg")
"""Condition types in slot order: slot j of a 21-channel Uni-ControlNet input is channels 3j to 3j+2."""

ALIASES: dict[str, str] = {
    "mlsd": "lines",
    "line": "lines",
    "hed": "softedge",
    "soft_edge": "softedge",
    "scribble": "sketch",
    "openpose": "pose",
    "midas": "depth",
    "segmentation": "seg",
}

BACKGROUND: dict[str, float] = dict.fromkeys(TYPES, 0.0)
"""The value that means "no control here" in our maps; slots are filled with it outside a condition's region."""

UNI_CONTROLNET_BACKGROUND: dict[str, float] = {**BACKGROUND, "sketch": 1.0}
"""The same for imported Uni-ControlNet weights, whose sketches are black on white."""

STAND_INS: dict[str, str] = {"lines": "M-LSD", "softedge": "HED", "seg": "ADE20K segmentation"}
"""Types whose extractor here stands in for a model that the Uni-ControlNet weights were trained with."""

SPARSE: frozenset[str] = frozenset({"canny", "lines", "softedge", "sketch", "pose"})
"""Types drawn as thin marks on the background; depth and seg speak about every pixel."""

PALETTE: np.ndarray = np.array(
    [
        (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
        (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (170, 110, 40),
    ],
    dtype=np.float32,
) / 255  # fmt: skip
"""Twelve distinct colours, none black, float32 `(12, 3)` in [0, 1]."""

# Marks fainter than this are JPEG noise and resize ringing, not control.
_MARK = 0.1


def canonical_type(name: str) -> str:
    """The house's name of a condition type, given that name or an alias, in any case.

    Raises:
        ValueError: an unknown name; the message lists the known ones and the nearest.
    """
    key = str(name).strip().lower()
    key = ALIASES.get(key, key)
    if key in TYPES:
        return key
    near = difflib.get_close_matches(key, [*TYPES, *ALIASES], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"unknown condition type {name!r}; known: {', '.join(TYPES)}{hint}")


def depth_to_map(z: torch.Tensor | np.ndarray) -> torch.Tensor:
    """A depth condition from metric depth: (1/z - min) / (max - min) over each picture, so near = 1 and far = 0.

    Args:
        z: `(..., H, W)`, metres along the camera's axis. Infinite, NaN, zero and negative values mean "nothing there":
            they become 0 and don't count in min and max.

    Returns:
        float32 `(..., 3, H, W)` in [0, 1]; all 0 where a picture's depth is constant or nowhere known.
    """
    z = torch.as_tensor(z)
    if z.ndim < 2 or not z.is_floating_point():
        raise ValueError(f"z must be a float array (..., H, W) in metres, got {z.dtype} of shape {tuple(z.shape)}")
    z = z.detach().float()
    known = torch.isfinite(z) & (z > 0)
    inverse = torch.where(known, 1 / z.where(known, 1.0), 0.0)
    high = inverse.where(known, -torch.inf).amax((-2, -1), keepdim=True)
    low = inverse.where(known, torch.inf).amin((-2, -1), keepdim=True)
    span = high - low
    # Rounding makes "constant" inexact; a spread below one part in a million carries no shape.
    varies = span > 1e-6 * high
    scaled = (inverse - low) / span.where(varies, 1.0)
    scaled = scaled.where(varies & known, 0.0).clamp(0, 1)
    return scaled.unsqueeze(-3).expand(*z.shape[:-2], 3, *z.shape[-2:]).contiguous()


def seg_from_ids(ids: torch.Tensor | np.ndarray, palette_seed: object = 0) -> torch.Tensor:
    """A segmentation condition from object ids: one palette colour per id, 0 stays black.

    The palette is permuted by a generator keyed with `palette_seed`, so that a colour says nothing about the object.

    Args:
        ids: integers `(H, W)` or `(B, H, W)`, 0 = background, 1 to 12 = regions.
        palette_seed: one key for all pictures, or for `(B, H, W)` a list of B keys.

    Returns:
        float32 `(3, H, W)` or `(B, 3, H, W)`.

    Raises:
        ValueError: float ids, ids outside 0 to 12, another shape, or a list of keys of another length.
    """
    ids = torch.as_tensor(ids)
    if ids.is_floating_point() or ids.ndim not in (2, 3):
        raise ValueError(f"ids must be integers (H, W) or (B, H, W), got {ids.dtype} of shape {tuple(ids.shape)}")
    ids = ids.long()
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > len(PALETTE)):
        raise ValueError(f"ids run from {int(ids.min())} to {int(ids.max())}; they must be 0 to {len(PALETTE)}")
    single = ids.ndim == 2
    batch = ids[None] if single else ids
    keys = palette_seed if isinstance(palette_seed, list) else [palette_seed] * len(batch)
    if len(keys) != len(batch):
        raise ValueError(f"palette_seed has {len(keys)} keys for {len(batch)} pictures")
    tables = {}
    for key in keys:
        if repr(key) not in tables:
            order = keyed("palette", repr(key)).permutation(len(PALETTE))
            tables[repr(key)] = torch.from_numpy(np.concatenate([np.zeros((1, 3), np.float32), PALETTE[order]]))
    tables = torch.stack([tables[repr(key)] for key in keys])  # (B, 13, 3)
    flat = tables.gather(1, batch.flatten(1).unsqueeze(-1).expand(-1, -1, 3))  # (B, HW, 3)
    maps = flat.transpose(1, 2).reshape(len(batch), 3, *batch.shape[1:]).contiguous()
    return maps[0] if single else maps


def support(type: str, map: torch.Tensor, background: float | None = None, fill: bool = False) -> torch.Tensor:
    """The pixels that a map controls: those that differ from the type's background.

    Dense depth and seg maps therefore control (nearly) all; cut to one object on the background, only that object.
    The masked-noise loss of FlexEControl treats pose as controlling everything; that is the loss's business.

    Args:
        type: a condition type.
        map: float `(..., 3, H, W)` in [0, 1].
        background: the value of "no control", the type's own by default (`BACKGROUND`).
        fill: also count what sparse marks enclose, that is the inside of their outer contours, open ones as drawn.

    Returns:
        bool `(..., 1, H, W)`.
    """
    type = canonical_type(type)
    if map.ndim < 3 or map.shape[-3] != 3:
        raise ValueError(f"map has shape {tuple(map.shape)}; it must be (..., 3, H, W)")
    background = BACKGROUND[type] if background is None else background
    # Depth falls to the background smoothly: its own threshold is one 8-bit step.
    threshold = _MARK if type in SPARSE else 0.5 / 255
    marked = ((map - background).abs() > threshold).any(-3, keepdim=True)
    return _filled(marked) if fill and type in SPARSE else marked


def _filled(marked: torch.Tensor) -> torch.Tensor:
    import cv2

    flat = marked.detach().cpu().reshape(-1, *marked.shape[-2:]).numpy().astype(np.uint8)
    for index, mask in enumerate(flat):
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        flat[index] = cv2.drawContours(mask.copy(), contours, -1, 1, cv2.FILLED)
    return torch.from_numpy(flat > 0).reshape(marked.shape).to(marked.device)


def polarity_warning(type: str, map: torch.Tensor, background: float | None = None) -> str | None:
    """What is suspicious about a map's polarity, in words, or None.

    Args:
        type: a condition type.
        map: float `(3, H, W)` in [0, 1].
        background: the value of "no control"; the type's own by default.
    """
    type = canonical_type(type)
    background = BACKGROUND[type] if background is None else background
    if type not in SPARSE:
        return None
    distance = float((map - background).abs().mean())
    if distance > 0.5:
        expected = "white on black" if background < 0.5 else "black on white"
        return f"the map looks inverted: {distance:.0%} of it is marked, but {type} is drawn {expected}"
    return None


def _as_uint8(photo: object) -> tuple[np.ndarray, bool]:
    """uint8 `(B, H, W, 3)` and whether the caller gave a batch."""
    from wm_pipelines.media.pictures import to_tensor

    if isinstance(photo, np.ndarray) and photo.ndim == 4 and photo.dtype == np.uint8 and photo.shape[-1] == 3:
        return np.ascontiguousarray(photo), True
    if isinstance(photo, torch.Tensor) and photo.ndim == 4:
        if photo.shape[0] == 0 or photo.shape[1] != 3:
            raise ValueError(f"photos have shape {tuple(photo.shape)}; a batch must be (B, 3, H, W)")
        # One check for the whole batch: the batch as one tall picture has the same values.
        tall = to_tensor(photo.transpose(0, 1).reshape(3, -1, photo.shape[-1])).reshape(3, -1, *photo.shape[-2:])
        return (tall.permute(1, 2, 3, 0) * 255).round().to(torch.uint8).numpy(), True
    tensor = to_tensor(photo)
    return (tensor.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()[None], False


def box_mask(box: Sequence[float], height: int, width: int) -> torch.Tensor:
    """A box (x0, y0, x1, y1) in fractions of the picture as a mask, float32 `(1, H, W)`; at least one pixel.

    Raises:
        ValueError: not four numbers with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1.
    """
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError):
        raise ValueError(f"a box must be four numbers (x0, y0, x1, y1), got {box!r}") from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"box {(x0, y0, x1, y1)} must satisfy 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    # A pixel belongs to the box if its centre does; one thinner than a pixel gets the pixel it lies in.
    top, left = min(round(y0 * height), height - 1), min(round(x0 * width), width - 1)
    mask = torch.zeros(1, height, width)
    mask[:, top : max(round(y1 * height), top + 1), left : max(round(x1 * width), left + 1)] = 1
    return mask


_WANTED = {
    "depth": "near = white; an estimator takes a PIL image and returns (h, w), larger = nearer, for instance a model "
    "made from your copy of Depth-Anything-V2-Small-hf or dpt-hybrid-midas (model.safetensors)",
    "pose": "an OpenPose drawing; an estimator takes a PIL image and returns (people, 18, 3): x, y, confidence, for "
    "instance a model made from your copy of OpenPose (body_pose_model.pth) or DWPose (dw-ll_ucoco_384.onnx)",
}

EXTRACTABLE: tuple[str, ...] = tuple(type for type in TYPES if type not in _WANTED)
"""Types that `extract` makes from a photo with nothing else given."""


def check_extractable(type: str, options: Mapping[str, object]) -> None:
    """Refuse before any work what `extract` could not do.

    Raises:
        ValueError: an unknown type or option, or a type that needs a model while none is given.
    """
    from wm_pipelines.media import extractors

    type = canonical_type(type)
    if type in _WANTED:
        if not callable(options.get("estimator")):
            raise ValueError(
                f"{type} needs a {type} map or a loaded estimator; this package downloads nothing ({_WANTED[type]})"
            )
        known = ["estimator"]
    else:
        known = list(inspect.signature(getattr(extractors, type)).parameters)[1:]
        known += ["palette_seed"] if type == "seg" else []
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} for {type}; known: {', '.join(known)}")


def extract(type: str, photo: object, **options: object) -> torch.Tensor:
    """Make a condition map from a picture with an offline extractor.

    The maps for softedge and seg are not those of HED and ADE20K models: to weights trained on these, such as an
    imported Uni-ControlNet, they are a distribution shift.

    Args:
        type: canny (options `low`, `high`), lines (`min_length`), softedge (`sigmas`, `quantile`), sketch (`sigma`,
            `sharpness`, `threshold`, `polarity`), seg (`regions`, `method`, `palette_seed`), or with
            `estimator=` depth and pose.
        photo: one picture as `media.to_tensor` takes it, or a batch: float `(B, 3, H, W)` or uint8 `(B, H, W, 3)`.
        options: see `wm_pipelines.media.extractors`.

    Returns:
        float32 `(3, H, W)` in [0, 1], or `(B, 3, H, W)` for a batch.

    Raises:
        ValueError: an unknown type or option, a bad picture, or a type that needs a model.
    """
    from wm_pipelines.media import extractors

    type = canonical_type(type)
    check_extractable(type, options)
    pictures, batched = _as_uint8(photo)
    if type in _WANTED:
        maps = torch.stack([_estimate(type, picture, options["estimator"]) for picture in pictures])
        return maps if batched else maps[0]
    seed = options.pop("palette_seed", 0)
    extractor = getattr(extractors, type)
    found = torch.from_numpy(np.stack([extractor(picture, **options) for picture in pictures]))  # (B, H, W)
    maps = seg_from_ids(found, seed) if type == "seg" else found.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
    return maps if batched else maps[0]


def _estimate(type: str, picture: np.ndarray, estimator: Callable[[Image.Image], object]) -> torch.Tensor:
    from wm_pipelines.media import extractors

    height, width = picture.shape[:2]
    found = estimator(Image.fromarray(picture))
    if type == "pose":
        return torch.from_numpy(extractors.draw_pose(found, height, width)).permute(2, 0, 1).contiguous()
    # transformers' depth-estimation pipeline returns a dict.
    found = found["predicted_depth"] if isinstance(found, Mapping) else found
    nearness = torch.as_tensor(np.asarray(found), dtype=torch.float32).squeeze()
    if nearness.ndim != 2 or not torch.isfinite(nearness).all():
        raise ValueError(f"the depth estimator returned shape {tuple(nearness.shape)}; it must be finite (h, w)")
    nearness = torch.nn.functional.interpolate(nearness[None, None], (height, width), mode="bilinear")[0]
    span = nearness.max() - nearness.min()
    return ((nearness - nearness.min()) / span.clamp_min(1e-12)).expand(3, -1, -1).contiguous()

"""What is known of moving bodies: where they are, how large, and how much of them a camera shows (our design).

Of a clip: each pixel's depth is lifted to the world; a body's centre lies `INWARDS` of its radius behind the mean of
the points that are seen, along the line of sight. On solids of the miniature world that is right within a tenth of a
radius, the same from frame to frame within 0.03 where a body does not turn. What is hidden of a body is taken as the
mirror image of what is seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wm_pipelines.morpho4d.capture import lift
from wm_pipelines.morpho4d.gaussians import Cameras

INWARDS = 0.6
LEAST_PIXELS = 6
HIDDEN = 0.2
"""Share of a body's outline that others or the picture's edge cut off, from which on its size and place are unsure."""
PLACED = 0.5
"""Share of the outline cut off from which on a body counts as hidden: its place is taken from the frames around."""
ROUND = 1.3
"""A body is taken as a ball whose reaches differ by no more than this factor."""
OFF, TURN = 0.3, 0.5
"""What a centre may be off: radii where all of the outline is cut off, and the share of how the body's reach has
changed since the frame before, for what turns shows other sides."""
NEARER = 0.05
"""Metres: what is nearer by this hides what is behind it."""


def directions(count: int = 64) -> np.ndarray:
    """Unit vectors (count, 3), even over half a sphere (a spiral of Fibonacci's)."""
    z = (np.arange(count) + 0.5) / count
    angle, level = np.arange(count) * np.pi * (3 - 5**0.5), np.sqrt(1 - z * z)
    return np.stack([level * np.cos(angle), level * np.sin(angle), z], axis=1)


@dataclass(frozen=True)
class Particles:
    """Of one body: points (T, K, 3), upright, metres; weights (K,), together 1."""

    points: np.ndarray
    weights: np.ndarray

    @property
    def around(self) -> np.ndarray:
        """(T, K, 3) from the centre of mass."""
        return self.points - np.einsum("k,tkc->tc", self.weights, self.points)[:, None]


@dataclass
class Bodies:
    """N bodies over T frames, z up, metres; the floor is z = 0.

    Args:
        ids: N object ids. names: what they are called, by id. fps: frames a second.
        centres: (N, T, 3), NaN where a body is not seen.
        radii: (N, T), of the disc of the same size, NaN likewise.
        bottoms: (N, T), height of the lowest point: the mean of the lowest that is seen and of the top's mirror image.
        reach: (N, T, 64), how far a body goes from its centre along `directions()`.
        clean, placed: (N, T) bool: seen, and hardly cut off by others or the picture's edge; not cut off too much.
        missing: (N, T), the share of the silhouette that should be seen and is not, 0 to 1; NaN where unknown.
        unsure: (N, T), metres that a centre may be off by what is cut off and by turning.
        particles: N, of a scene; None of a clip, which has none that keep their names.
    """

    ids: tuple[int, ...]
    names: Mapping[int, str]
    fps: float
    centres: np.ndarray
    radii: np.ndarray
    bottoms: np.ndarray
    reach: np.ndarray
    clean: np.ndarray
    placed: np.ndarray
    missing: np.ndarray
    unsure: np.ndarray
    particles: tuple[Particles, ...] | None = None

    @property
    def frames(self) -> int:
        return self.centres.shape[1]

    @property
    def radius(self) -> np.ndarray:
        """(N,), the middle one of those that are sure; of all where none is."""
        sure = np.where(self.clean, self.radii, np.nan)
        rows = [s if np.isfinite(s).any() else r for s, r in zip(sure, self.radii, strict=True)]
        return np.array([np.nanmedian(r) for r in rows])

    def filled(self, values: np.ndarray, known: np.ndarray) -> np.ndarray:
        """(N, T, ...) with what is not `known` (N, T) between the known frames around it, or as the nearest one."""
        filled, every = values.copy(), np.arange(self.frames)
        for n in range(len(self.ids)):
            sure = known[n] if known[n].any() else np.isfinite(self.radii[n])
            flat = filled[n].reshape(self.frames, -1)
            for column in range(flat.shape[1]):
                flat[:, column] = np.interp(every, every[sure], flat[sure, column])
        return filled


def check_clip(masks: Any, depth: Any, cameras: Any, fps: float) -> Cameras:
    """The camera of a clip; raises ValueError, which names the argument, where one is not as `clip_physics` says."""
    if not isinstance(masks, torch.Tensor) or masks.dim() != 3 or masks.dtype != torch.int64:
        came = (tuple(masks.shape), masks.dtype) if isinstance(masks, torch.Tensor) else type(masks).__name__
        raise ValueError(f"`masks` is {came}; it must be an int64 tensor (T, H, W) of object ids")
    if masks.shape[0] < 5:
        raise ValueError(f"`masks` has {masks.shape[0]} frames; 5 or more are needed to see how something moves")
    if int(masks.min()) < 0 or not int(masks.max()):
        raise ValueError(f"`masks` has ids {masks.unique().tolist()[:8]}; 0 is the background, objects are above")
    if not isinstance(depth, torch.Tensor) or depth.shape != masks.shape or not depth.is_floating_point():
        came = (tuple(depth.shape), depth.dtype) if isinstance(depth, torch.Tensor) else type(depth).__name__
        raise ValueError(f"`depth` is {came}; as `masks` it must be floats {tuple(masks.shape)}, metres")
    if not bool((depth > 0).all()):
        raise ValueError(f"`depth` has {float((~(depth > 0)).float().mean()):.1%} values that are not above 0")
    if not np.isfinite(fps) or not 0 < fps <= 1000:
        raise ValueError(f"`fps` is {fps!r}; above 0, up to 1000")
    if cameras is None:
        raise ValueError("`cameras` is missing: without it depth can't be lifted; pass `Cameras` or (K, T_cw)")
    if not isinstance(cameras, Cameras):
        k, pose = (torch.as_tensor(part).float() for part in cameras)
        pose = pose.expand(len(masks), 4, 4) if pose.dim() == 2 else pose
        cameras = Cameras(k[None], pose[None], tuple(masks.shape[1:]))
    size = tuple(masks.shape[1:])
    if len(cameras) != 1 or tuple(cameras.size) != size:
        raise ValueError(f"`cameras` are {len(cameras)} of size {tuple(cameras.size)}; one of {size}")
    cameras.check(len(masks))
    return cameras


def lift_bodies(
    masks: torch.Tensor, depth: torch.Tensor, cameras: Cameras, names: Mapping[int, str], fps: float
) -> Bodies:
    """The bodies of a clip: masks (T, H, W) int64, depth (T, H, W) metres, one camera."""
    ids = [i for i in masks.unique().tolist() if i]
    shape, ways = (len(ids), len(masks)), directions()
    centres, radii, bottoms = np.full((*shape, 3), np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    reach, cut = np.full((*shape, len(ways)), np.nan), np.full(shape, np.nan)
    focal = float(cameras.K[0, 0, 0] * cameras.K[0, 1, 1]) ** 0.5
    for t in range(len(masks)):
        pose = cameras.T_cw[0, t]
        points = lift(depth[t].float(), cameras.K[0], pose).double().numpy()
        eye = (-pose[:3, :3].mT @ pose[:3, 3]).double().numpy()
        mask, away = masks[t].numpy(), depth[t].double().numpy()
        for n, i in enumerate(ids):
            mine = (mask == i) & np.isfinite(away)
            if mine.sum() < LEAST_PIXELS:
                continue
            own = points[mine]
            r = float(np.sqrt((away[mine] ** 2).sum() / np.pi) / focal)
            sight = own.mean(0) - eye
            centre = own.mean(0) + INWARDS * r * sight / np.linalg.norm(sight)
            half = away[mine].mean() / focal / 2  # a pixel shows its middle; bodies go on to its edge
            low, top = own[:, 2].min() - half, own[:, 2].max() + half
            centres[n, t], radii[n, t], bottoms[n, t] = centre, r, (low + 2 * centre[2] - top) / 2
            reach[n, t] = np.abs((own - centre) @ ways.T).max(0)
            cut[n, t] = _cut_off(mask, away, i)
    clean, placed, missing = cut < HIDDEN, cut < PLACED, np.full(shape, np.nan)
    change = np.diff(reach, axis=1, prepend=reach[:, :1])
    turned = np.where(clean, np.nan_to_num((change**2).mean(-1) ** 0.5), 0.0)
    unsure = np.where(clean, 0.0, OFF * cut * radii) + TURN * turned
    found = Bodies(tuple(ids), names, fps, centres, radii, bottoms, reach, clean, placed, missing, unsure)
    found.missing = _missing(found, masks.numpy(), depth.double().numpy(), cameras, focal)
    return found


def _cut_off(mask: np.ndarray, away: np.ndarray, i: int) -> float:
    """Share of the outline of object i beyond which there is something nearer, or no picture."""
    mine, cut, edges = mask == i, 0, 0
    padded = np.pad(mask, 1, constant_values=-1)
    far = np.pad(away, 1)
    height, width = mask.shape
    for row, column in ((0, 1), (2, 1), (1, 0), (1, 2)):
        other = padded[row : row + height, column : column + width]
        nearer = far[row : row + height, column : column + width] < away - NEARER
        edge = mine & (other != i)
        edges += edge.sum()
        cut += (edge & ((other == -1) | ((other > 0) & nearer))).sum()
    return cut / max(edges, 1)


def _missing(bodies: Bodies, masks: np.ndarray, depth: np.ndarray, cameras: Cameras, focal: float) -> np.ndarray:
    """Of the disc that a body should fill, the share that is in the picture, behind nothing else, and not seen."""
    places, radius = bodies.filled(bodies.centres, bodies.placed), bodies.radius
    height, width = masks.shape[1:]
    rows, columns = np.mgrid[:height, :width] + 0.5
    out = np.zeros(masks.shape[:1] + (len(bodies.ids),))
    k = cameras.K[0].double().numpy()
    for t in range(len(masks)):
        pose = cameras.T_cw[0, t].double().numpy()
        for n, i in enumerate(bodies.ids):
            x, y, z = pose[:3, :3] @ places[n, t] + pose[:3, 3]
            size = 0.8 * radius[n] * focal / max(z, 1e-3)
            u, v = k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
            disc = (columns - u) ** 2 + (rows - v) ** 2 <= size**2
            inside = disc.sum() / max(np.pi * size**2, 1)
            hidden = disc & (masks[t] != i) & (masks[t] > 0) & (depth[t] < z + radius[n])
            free = (disc & ~hidden).sum() / max(np.pi * size**2, 1)
            seen = (masks[t] == i).sum() * 0.64 / max(np.pi * size**2, 1)
            out[t, n] = max(0.0, min(free, 1.0) - seen) if inside > 0.8 and z > 0 else 0.0
    return out.T

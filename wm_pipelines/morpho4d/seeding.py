"""Where a fit begins: Gaussians on the lifted depth, nodes spread over the objects, and how far objects move."""

from dataclasses import dataclass

import numpy as np
import torch

from wm_pipelines.morpho4d.capture import Capture
from wm_pipelines.morpho4d.quaternions import unit

LEAST_PIXELS = 8
"""Of an object in all views of a frame, for its first frame."""
STATIC_PICTURES = 16
WIDEST = 2.5
"""Pixels, of a Gaussian's distance to its neighbours: what is far away and seen at a low angle begins small."""
PLAIN = 0.3
"""Where the picture does not change, Gaussians are begun as often as at this share of its mean change."""
LEAST_GAUSSIANS = 24
"""Of an object."""


@dataclass
class Seeds:
    """Points (n, 3), their colours (n, 3), distances to neighbours (n,), unit quaternions (n, 4) whose third axis is
    the surface's normal, and object ids (n,)."""

    points: torch.Tensor
    colours: torch.Tensor
    spacing: torch.Tensor
    quats: torch.Tensor
    object_id: torch.Tensor


@dataclass
class Nodes:
    """M nodes where they begin.

    Args:
        points: (M, 3). object_id: (M,). first: (M,) int64, the frame in which each begins.
        centres: (T, M, 3), the middle of what is seen of each node's object; the last one known where nothing is.
        knn_index, skin_weight: (D, k), of the moving Gaussians.
        links: (M, j) int64, the nearest nodes of the same object.
    """

    points: torch.Tensor
    object_id: torch.Tensor
    first: torch.Tensor
    centres: torch.Tensor
    knn_index: torch.Tensor
    skin_weight: torch.Tensor
    links: torch.Tensor


def neighbour_distance(points: torch.Tensor, count: int = 3) -> torch.Tensor:
    """(n,), the mean distance to the nearest `count` others."""
    if len(points) <= 1:
        return torch.full((len(points),), 0.05)
    apart = torch.cdist(points, points).fill_diagonal_(torch.inf)
    return apart.topk(min(count, len(points) - 1), largest=False).values.mean(1).clamp(min=1e-3)


def farthest(points: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (at most `count`,) of points that are far from each other, from the first on."""
    chosen, away = [0], (points - points[0]).norm(dim=-1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(away.argmax()))
        away = torch.minimum(away, (points - points[chosen[-1]]).norm(dim=-1))
    return torch.tensor(chosen)


def first_frames(capture: Capture) -> dict[int, int]:
    """Object id -> the first frame that shows enough of it; objects that no frame shows enough of are left out."""
    seen = {}
    for i in capture.masks.unique().tolist():
        counts = ((capture.masks == i) & capture.depth.isfinite()).sum((0, 2, 3))
        if i and int(counts.max()) >= LEAST_PIXELS:
            seen[i] = int((counts >= LEAST_PIXELS).nonzero()[0])
    return seen


def surface_normals(points: torch.Tensor, eye: torch.Tensor) -> torch.Tensor:
    """Unit normals (H, W, 3), turned to `eye` (3,), of the surface through a picture's points (H, W, 3).

    Along each side of the picture the nearer of both neighbours counts, so that none lies on another surface; where
    there is no finite one, the normal is the way to the eye.
    """
    along = []
    for side in (0, 1):
        step, nothing = points.diff(dim=side), torch.full_like(points.narrow(side, 0, 1), torch.inf)
        before, after = torch.cat([nothing, step], side), torch.cat([step, nothing], side)
        lengths = [s.norm(dim=-1, keepdim=True).nan_to_num(torch.inf) for s in (before, after)]
        along.append(torch.where(lengths[0] < lengths[1], before, after))
    to_eye = torch.nn.functional.normalize(eye - points, dim=-1)
    normal = torch.linalg.cross(along[1], along[0])
    size = normal.norm(dim=-1, keepdim=True)
    normal = torch.where(size.isfinite() & (size > 0), normal / size, to_eye)
    return torch.where((normal * to_eye).sum(-1, keepdim=True) < 0, -normal, normal)


def turn_to(normal: torch.Tensor) -> torch.Tensor:
    """Unit quaternions (n, 4) that turn the third axis to unit vectors (n, 3)."""
    x, y, z = normal.unbind(-1)
    turned = torch.stack([1 + z, -y, x, torch.zeros_like(z)], dim=-1)
    return torch.where((z < -0.9999)[:, None], normal.new_tensor([0.0, 1.0, 0.0, 0.0]), unit(turned))


def _pool(capture: Capture, view: int, frame: int, object_id: int) -> tuple[torch.Tensor, ...]:
    """Points (n, 3) of an object in a picture, their colours (n, 3), normals (n, 3), the width of a pixel there (n,),
    metres, and how much the picture changes there (n,)."""
    depth, points, pose = capture.depth[view, frame], capture.points(view, frame), capture.cameras.T_cw[view, frame]
    found = (capture.masks[view, frame] == object_id) & depth.isfinite()
    colours = capture.video[view, frame].permute(1, 2, 0)[found]
    normals = surface_normals(points, -pose[:3, :3].T @ pose[:3, 3])[found]
    change = _change(capture.video[view, frame])[found]
    return points[found], colours, normals, depth[found] / capture.cameras.K[view, 0, 0], change


def _change(picture: torch.Tensor) -> torch.Tensor:
    """(H, W), the mean difference of a picture's (3, H, W) colours to the farther neighbour of each side."""
    across = torch.nn.functional.pad(picture.diff(dim=2).abs().mean(0), (1, 1))
    down = torch.nn.functional.pad(picture.diff(dim=1).abs().mean(0), (0, 0, 1, 1))
    return torch.maximum(across[:, :-1], across[:, 1:]) + torch.maximum(down[:-1], down[1:])


def _drawn(pool: list[tuple[torch.Tensor, ...]], count: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Points, colours, distances to neighbours, which count up to `WIDEST` pixels, and rotations."""
    points, colours, normals, pixel, change = (torch.cat(part) for part in zip(*pool, strict=True))
    chances = (PLAIN * change.mean().clamp(min=1e-6) + change).double().numpy()
    some = rng.choice(len(points), min(count, len(points)), replace=False, p=chances / chances.sum())
    some = torch.from_numpy(some)
    spacing = torch.minimum(neighbour_distance(points[some]), WIDEST * pixel[some])
    return points[some], colours[some], spacing, turn_to(normals[some])


def static_seeds(capture: Capture, count: int, rng: np.random.Generator) -> Seeds:
    """Points of the background, from several pictures."""
    pictures = [(v, t) for t in range(capture.frames) for v in range(capture.views)]
    some = rng.permutation(len(pictures))[:STATIC_PICTURES]
    drawn = _drawn([_pool(capture, *pictures[i], 0) for i in some], count, rng)
    return Seeds(*drawn, torch.zeros(len(drawn[0]), dtype=torch.int64))


def moving_seeds(capture: Capture, first: dict[int, int], count: int, rng: np.random.Generator) -> Seeds:
    """Points of each object in its first frame, in proportion to how much is seen of it."""
    pools = {i: [_pool(capture, v, t, i) for v in range(capture.views)] for i, t in first.items()}
    seen = {i: sum(len(part[0]) for part in pool) for i, pool in pools.items()}
    parts = []
    for i, pool in pools.items():
        share = max(round(count * seen[i] / sum(seen.values())), LEAST_GAUSSIANS)
        drawn = _drawn(pool, share, rng)
        parts.append((*drawn, torch.full((len(drawn[0]),), i)))
    if not parts:
        empty = (torch.zeros(0, *rest) for rest in ((3,), (3,), (), (4,)))
        return Seeds(*empty, torch.zeros(0, dtype=torch.int64))
    return Seeds(*(torch.cat(part) for part in zip(*parts, strict=True)))


def object_centres(capture: Capture, object_id: int, first: int) -> torch.Tensor:
    """(T, 3), the middle of what depth shows of an object in all views; the last one known where nothing is seen."""
    centres, last = [], None
    for t in range(capture.frames):
        found = (capture.masks[:, t] == object_id) & capture.depth[:, t].isfinite()
        seen = torch.cat([capture.points(v, t)[found[v]] for v in range(capture.views)])
        last = seen.mean(0) if len(seen) >= LEAST_PIXELS else last
        centres.append(last)
    return torch.stack([centres[first] if c is None else c for c in centres])


def spread_nodes(capture: Capture, first: dict[int, int], seeds: Seeds, count: int, neighbours: int) -> Nodes:
    """Nodes among the points of each object, and the `neighbours` of them that carry each Gaussian."""
    points, ids, centres, links = [], [], [], []
    index = torch.zeros(len(seeds.points), neighbours, dtype=torch.int64)
    weight = torch.zeros(len(seeds.points), neighbours)
    begin = 0
    for i, t in first.items():
        mine = (seeds.object_id == i).nonzero().squeeze(1)
        share = max(round(count * len(mine) / len(seeds.points)), neighbours)
        chosen = seeds.points[mine][farthest(seeds.points[mine], share)]
        near = torch.cdist(seeds.points[mine], chosen).topk(min(neighbours, len(chosen)), largest=False)
        sigma = neighbour_distance(chosen, 1).mean()
        share = torch.softmax(-near.values.square() / (2 * sigma**2), dim=-1)
        index[mine, : near.indices.shape[1]] = begin + near.indices
        index[mine, near.indices.shape[1] :] = begin + near.indices[:, :1]
        weight[mine, : share.shape[1]] = share
        between = torch.cdist(chosen, chosen).topk(min(neighbours + 1, len(chosen)), largest=False).indices
        links.append(begin + _filled(between, neighbours + 1)[:, 1:])
        points.append(chosen)
        ids += [i] * len(chosen)
        centres.append(object_centres(capture, i, t)[:, None].expand(-1, len(chosen), -1))
        begin += len(chosen)
    started = torch.tensor([first[i] for i in ids])
    return Nodes(torch.cat(points), torch.tensor(ids), started, torch.cat(centres, 1), index, weight, torch.cat(links))


def _filled(index: torch.Tensor, count: int) -> torch.Tensor:
    """(M, j) -> (M, count), with the last repeated."""
    return torch.cat([index, index[:, -1:].expand(-1, count - index.shape[1])], dim=1)

"""Bodies of a scene in time: its Gaussians are particles that keep their names (our design)."""

import numpy as np
import torch

from wm_pipelines.morpho4d.physics.bodies import LEAST_PIXELS, ROUND, Bodies, Particles, directions
from wm_pipelines.morpho4d.scene import Scene4D

LEAST_PARTICLES = 4


def scene_bodies(scene: Scene4D, masks: torch.Tensor | None, floor: float = 0.0) -> Bodies:
    """The bodies of a scene, of each object with `LEAST_PARTICLES` Gaussians or more.

    Args:
        masks: (T, H, W) int64, what the first camera truly saw, to hold silhouettes against; None: unknown.
        floor: its height, metres.
    """
    posed = [scene.at(float(t)) for t in range(scene.frames)]
    ids = posed[0].object_id.numpy()
    known = [i for i in np.unique(ids).tolist() if i and (ids == i).sum() >= LEAST_PARTICLES]
    if not known:
        raise ValueError(f"`scene` has no object of {LEAST_PARTICLES} Gaussians or more; there is nothing to measure")
    shape, ways = (len(known), scene.frames), directions()
    centres, radii, bottoms = np.zeros((*shape, 3)), np.zeros(shape), np.zeros(shape)
    reach, particles = np.zeros((*shape, len(ways))), []
    for n, i in enumerate(known):
        mine = ids == i
        first = posed[0]
        weight = (first.opacities * first.scales.prod(-1)).double().numpy()[mine] + 1e-12
        weight /= weight.sum()
        tracks = np.stack([_upright(p.means.double().numpy()[mine], scene.up) for p in posed]) - (0, 0, floor)
        particles.append(Particles(tracks, weight))
        around = particles[-1].around
        centres[n] = tracks[:, 0] - around[:, 0]
        size = np.einsum("k,tkc->t", weight, around**2) ** 0.5
        reach[n] = np.abs(around @ ways.T).max(1)
        radii[n] = reach[n, 0].mean() * size / max(size[0], 1e-9)
        bottoms[n] = tracks[..., 2].min(1)
        far = reach[n].max(1)
        if (far < ROUND * reach[n].min(1)).all():  # the underside of a ball is seen least
            bottoms[n] = np.minimum(bottoms[n], centres[n, :, 2] - far)
    missing = np.full(shape, np.nan) if masks is None else _missing(scene, masks, known)
    clean = np.ones(shape, dtype=bool)
    return Bodies(
        *(tuple(known), dict(scene.names), scene.fps, centres, radii, bottoms, reach, clean, clean, missing),
        unsure=np.zeros(shape),
        particles=tuple(particles),
    )


def _upright(points: np.ndarray, up: str) -> np.ndarray:
    return points if up == "z" else points[:, [0, 2, 1]] * (1, 1, -1)


def _missing(scene: Scene4D, masks: torch.Tensor, known: list[int]) -> np.ndarray:
    """Of the silhouette that the scene shows its first camera, the share that was not seen there."""
    wanted = (scene.frames, *scene.cameras.size)
    if not isinstance(masks, torch.Tensor) or tuple(masks.shape) != wanted or masks.dtype != torch.int64:
        raise ValueError(f"`masks` must be int64 {wanted}, what the scene's first camera saw")
    shown = scene.render(0).object_ids
    out = np.zeros((len(known), scene.frames))
    for n, i in enumerate(known):
        there = (shown == i).sum((1, 2)).double()
        both = ((shown == i) & (masks == i)).sum((1, 2)).double()
        out[n] = torch.where(there >= LEAST_PIXELS, 1 - both / there.clamp(min=1), 0.0).numpy()
    return out

"""Terms that need particles which keep their names: rigidity, strain, spin in free flight, balance at rest.

Our design.
"""

import numpy as np

from wm_pipelines.morpho4d.physics.bodies import Bodies
from wm_pipelines.morpho4d.physics.terms import Contact, span

NEIGHBOURS = 6
SHORT = 0.1
"""Of the longest distance of neighbours: what is nearer is no edge, for its length is mostly noise."""
LEAST_SPIN = 1.0
"""rad/s: changes of a slower spin are held against this one."""
REST = 0.1
"""Radii: what moves less between the frames around rests."""
SOLE = 0.1
"""Radii: what is not higher above the lowest particles bears a body that rests."""
LOWEST = 0.02
"""Share of the particles that may be below."""


def best_turn(before: np.ndarray, after: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) that brings points (K, 3) about their centre nearest to those after (Kabsch)."""
    u, _, v = np.linalg.svd((weights[:, None] * after).T @ before)
    return u @ np.diag([1, 1, np.sign(np.linalg.det(u @ v))]) @ v


def rigidity(bodies: Bodies) -> np.ndarray:
    """(N, T): root of the mean squared residual after the best rigid motion since the first frame, root mean square
    radii."""
    out = np.zeros(bodies.radii.shape)
    for n, body in enumerate(bodies.particles or ()):
        around, weights = body.around, body.weights
        size = float(weights @ (around[0] ** 2).sum(-1)) ** 0.5
        for t, later in enumerate(around):
            apart = later - around[0] @ best_turn(around[0], later, weights).T
            out[n, t] = float(weights @ (apart**2).sum(-1)) ** 0.5 / max(size, 1e-9)
    return out


def strain(bodies: Bodies) -> np.ndarray:
    """(N, T): 95th percentile of |d / d0 - 1| over the distances of each particle and its nearest ones in the first
    frame."""
    from scipy.spatial import cKDTree

    out = np.zeros(bodies.radii.shape)
    for n, body in enumerate(bodies.particles or ()):
        first = body.points[0]
        _, near = cKDTree(first).query(first, k=min(NEIGHBOURS + 1, len(first)))
        ends = np.stack([np.repeat(np.arange(len(first)), near.shape[1]), near.reshape(-1)])
        lengths = np.linalg.norm(body.points[:, ends[0]] - body.points[:, ends[1]], axis=-1)
        edges = lengths[0] > SHORT * lengths[0].max()
        if edges.any():
            out[n] = np.quantile(np.abs(lengths[:, edges] / lengths[0, edges] - 1), 0.95, axis=1)
    return out


def spin(bodies: Bodies, contact: Contact) -> np.ndarray:
    """(N, T): how much the angular momentum changes from one pair of frames to the next, as a share of it, while
    nothing touches the body; NaN elsewhere."""
    from scipy.spatial.transform import Rotation

    out = np.full(bodies.radii.shape, np.nan)
    free = ~contact.floor & ~contact.pairs.any(1)
    for n, body in enumerate(bodies.particles or ()):
        around = body.around
        turns = np.stack([best_turn(around[0], later, body.weights) for later in around])
        rate = Rotation.from_matrix(turns[1:] @ turns[:-1].swapaxes(1, 2)).as_rotvec() * bodies.fps
        tensor = np.stack([_inertia(points, body.weights) for points in around])
        tensor = (tensor[1:] + tensor[:-1]) / 2
        momentum = np.einsum("tij,tj->ti", tensor, rate)
        least = LEAST_SPIN * np.trace(tensor, axis1=1, axis2=2) / 3
        size = np.maximum(np.linalg.norm(momentum, axis=1), least)
        change = np.linalg.norm(np.diff(momentum, axis=0), axis=1) / ((size[1:] + size[:-1]) / 2)
        out[n, 1:-1] = np.where(free[n, 1:-1], change, np.nan)
    return out


def _inertia(around: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(3, 3) about the centre, for a mass of 1."""
    second = np.einsum("k,ki,kj->ij", weights, around, around)
    return np.trace(second) * np.eye(3) - second


def balance(bodies: Bodies, contact: Contact) -> np.ndarray:
    """(N, T): how far the centre of mass is beside the hull of what a body stands on while it rests on the floor and
    touches nothing else, radii; NaN elsewhere."""
    angles = np.arange(64) * (2 * np.pi / 64)
    ways = np.stack([np.cos(angles), np.sin(angles)])
    out, half = np.full(bodies.radii.shape, np.nan), span(bodies.fps)
    alone = contact.floor & ~contact.pairs.any(1)
    for n, body in enumerate(bodies.particles or ()):
        around, radius = body.around, bodies.radius[n]
        for t in range(half, bodies.frames - half):
            moved = body.points[t + half] - body.points[t - half]
            still = (body.weights @ (moved**2).sum(-1)) ** 0.5 < REST * radius
            if alone[n, t] and still:
                height = around[t, :, 2]
                sole = around[t, height < np.quantile(height, LOWEST) + SOLE * radius, :2]
                out[n, t] = max(0.0, float(-(sole @ ways).max(0).min())) / radius
    return out

"""Where a path of points is at each frame, by the rules of the tools that read such paths.

Each function takes a track, float64 `(K, 2)`, NaN where it is hidden, and the number of frames F, and gives `(F, 2)`
without NaN. Tools draw on whole pixels and cut fractions off; here places keep them, so they differ from a tool's
pixels by less than one of its pixels at each cut.
"""

import numpy as np


def spread(track: np.ndarray, num_frames: int) -> np.ndarray:
    """Point k at k / (K - 1) of the clip, linear between; hidden points are bridged, before and after them it holds.

    KJNodes' splines and TRACKS have one point for each frame of a clip of K frames (`CreateShapeImageOnPath`,
    ComfyUI's `WanMoveTracksFromCoords`: frame k shows point k); a clip of another length takes as long over the path.
    ATI spreads 121 points over any clip (`process_tracks` of bytedance/ATI and of ComfyUI's `nodes_wan.py`).
    """
    seen = np.flatnonzero(np.isfinite(track).all(1))
    at = places(len(track), num_frames)
    return np.stack([np.interp(at, seen, side) for side in track[seen].T], axis=-1)


def places(points: int, num_frames: int) -> np.ndarray:
    """At which point, from 0 and also between two, each frame is under `spread`, `(F,)`."""
    return np.linspace(0, points - 1, num_frames)


def hidden_frames(track: np.ndarray, num_frames: int) -> list[int]:
    """Frames whose nearest point under `spread` is hidden: of two equally near the earlier, as ATI picks them."""
    nearest = np.ceil(places(len(track), num_frames) - 0.5 - 1e-9).clip(0).astype(int)
    return np.flatnonzero(~np.isfinite(track).all(1)[nearest]).tolist()


def filled(track: np.ndarray, num_frames: int) -> np.ndarray:
    """One point a frame by MotionCtrl's rule (`process_points` of `gradio_utils/traj_utils.py`), which Tora took over.

    With K >= F every (K // F)-th point, the last frame the last point. With fewer, F - K points are set in between,
    as many in each of the K - 1 gaps, and one more in each of the first gaps where that does not come out even. A
    single point stands still; MotionCtrl puts it in the middle of its canvas instead.
    """
    count = len(track)
    if count == 1:
        return track.repeat(num_frames, axis=0)
    if count >= num_frames:
        return np.concatenate([track[:: count // num_frames][: num_frames - 1], track[-1:]])
    more, over = divmod(num_frames - count, count - 1)
    steps = 1 + more + (np.arange(count - 1) < over)  # frames from each point to the next
    frames = np.concatenate([[0], steps.cumsum()])
    return np.stack([np.interp(np.arange(num_frames), frames, side) for side in track.T], axis=-1)


def thinned(track: np.ndarray, num_frames: int) -> np.ndarray:
    """`filled`, of the first F of every (K // F)-th point: how MotionCtrl and Tora read lines (`read_points`).

    So a file of K points, F < K < 2F, is cut after F of them.
    """
    if len(track) > num_frames:
        track = track[:: len(track) // num_frames][:num_frames]
    return filled(track, num_frames)


def smooth(track: np.ndarray, num_frames: int) -> np.ndarray:
    """Point k at k / (K - 1) of the clip, monotone cubic between: DragNUWA's rule (`interpolate_trajectory`, PCHIP).

    At a point the slope is the harmonic mean of the slopes on both sides, 0 where these have different signs (Fritsch
    and Butland); at the ends it is that of the parabola through three points, kept monotone. A single point stands
    still; DragNUWA lets it drift by one pixel right and down, as no flow is no drag to it.
    """
    count = len(track)
    if count == 1:
        return track.repeat(num_frames, axis=0)
    rise = np.diff(track, axis=0)  # (K - 1, 2); points are one apart
    slope = np.zeros_like(track)
    if count == 2:
        slope[:] = rise
    else:
        before, after = rise[:-1], rise[1:]
        same = before * after > 0
        slope[1:-1][same] = 2 * before[same] * after[same] / (before + after)[same]
        slope[0], slope[-1] = _end(rise[0], rise[1]), _end(rise[-1], rise[-2])
    at = places(count, num_frames)
    k = np.minimum(at.astype(int), count - 2)
    u = (at - k)[:, None]
    return (
        (1 + 2 * u) * (1 - u) ** 2 * track[k]
        + u * (1 - u) ** 2 * slope[k]
        + u**2 * (3 - 2 * u) * track[k + 1]
        + u**2 * (u - 1) * slope[k + 1]
    )


def _end(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Slope at an end, from the rises next to it and one further, `(2,)` each."""
    slope = (3 * near - far) / 2
    slope = np.where(slope * near <= 0, 0.0, slope)
    return np.where((near * far <= 0) & (np.abs(slope) > 3 * np.abs(near)), 3 * near, slope)

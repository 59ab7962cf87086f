"""The open `.4dgs` container (https://4dgs.dev), by its own library `fourdgs`: a whole scene in time in one file.

Objects that keep their shape are stored once, with a track of poses; what bends is stored frame by frame, each
Gaussian there until the next frame and on its way to it in a straight line. z points up.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from wm_pipelines.morpho4d.formats.clip import Clip
from wm_pipelines.morpho4d.formats.data import Budget, opened, tensor
from wm_pipelines.morpho4d.formats.rigid import TOLERANCE, Part, rigid_part
from wm_pipelines.morpho4d.formats.splats import Splats, dc_of
from wm_pipelines.morpho4d.quaternions import conjugate, multiply, rotate, unit
from wm_pipelines.runtime.files import atomic

PROFILES = ("fine", "default", "coarse")

AXES = {"z-up-right-handed": "z", "y-up-right-handed": "y"}
"""What a file's `coordinate_system` may be, and the axis that it means."""

SH_REACH = 4.0
"""Harmonics are stored in bytes, from minus this to this."""

MOST_RATIO = 64
"""Bytes that a file's streams may unpack to, for each of its own."""

_STREAM = 17  # bytes of a stream's header: attribute, width, mode, codec, channels, count (4), length (8)


def write_4dgs(clip: Clip, path: str | os.PathLike, profile: str = "fine", tolerance: float = TOLERANCE) -> Path:
    """Writes a .4dgs. How far a stored value may be from the true one stands in the file; colours are cut to 0..1.

    The last frame lasts as long as the one before it (a second, where it is the only one). Between frames a track
    takes places on a line and rotations on the shorter arc, about the world's origin: what turns far from one frame to
    the next cuts the corner there.

    Args:
        profile: "fine", "default" or "coarse"; places are kept to 2, 5 or 20 % of a Gaussian's median scale.
        tolerance: as for `rigid_scene`; what deviates more is stored frame by frame, and so is what has harmonics and
            moves, for tracks do not turn them.

    Raises:
        ValueError: an unknown profile.
        ImportError: `fourdgs` is not installed.
    """
    fourdgs = _library()
    if profile not in PROFILES:
        raise ValueError(f"`profile` is {profile!r}; allowed: {', '.join(PROFILES)}")
    clip = clip.with_up("z")
    ends = clip.times[-1] + (clip.times[-1] - clip.times[-2] if len(clip.times) > 1 else 1.0)
    columns: list[dict[str, np.ndarray]] = []
    tracks, entries = [], []
    for n in clip.frames[0].object_id.unique().tolist():
        part = rigid_part(clip, n)
        frames = [frame.picked(frame.object_id == n) for frame in clip.frames]
        tracked = n > 0 and frames[0].degree == 0
        if part.deviation <= tolerance and (tracked or not part.moves):
            columns.append(_columns(frames[0], 0.0, ends))
            tracks += [_track(fourdgs, part, n)] if part.moves else []
        else:
            columns += _moving(frames, clip.times, ends)
        if n > 0:
            entries.append(fourdgs.ObjectTableEntry(n, clip.name(n), tuple(part.translations[0].tolist())))
    whole = {name: np.concatenate([piece[name] for piece in columns]) for name in columns[0]}
    gaussians = fourdgs.GaussianSet(**whole, sh_degree=clip.frames[0].degree)
    axes = {"handedness": 1, "up_axis": 2, "forward_axis": 1, "length_unit": 1, "metres_per_unit": 1.0}
    options = fourdgs.WriteOptions(
        profile=profile,
        library="wm-pipelines",
        metadata={"coordinate_system": "z-up-right-handed", "color_space": "srgb-rec709-display"},
        provenance=fourdgs.Provenance([fourdgs.CoordinateFrame("world", **axes)]),
        objects=fourdgs.ObjectLayer(fourdgs.ObjectTable(0, entries) if entries else None, tracks),
    )
    path = Path(path)
    with atomic(path) as partial:
        fourdgs.write(str(partial), gaussians, ends, options=options)
    return path


@dataclass(frozen=True, eq=False)
class Container:
    """A .4dgs that was read.

    Args:
        scene: the library's own.
        duration: seconds.
        names: object id -> label.
        up: as in `Splats`.
    """

    scene: Any
    duration: float
    names: dict[int, str]
    up: str

    def at(self, time: float) -> Splats:
        """The Gaussians that are there at `time`, seconds.

        Raises:
            ValueError: there are none, or values that `Splats` refuses.
        """
        state, stored = self.scene.state_at(time), self.scene.gaussians
        which = state["indices"]
        sh = dc_of(tensor(stored.colors[which, :3]))
        if stored.sh is not None:
            rest = tensor(stored.sh[which]).reshape(len(which), 3, -1).transpose(1, 2)
            sh = torch.cat([sh, rest * (2 * SH_REACH / 255) - SH_REACH], dim=1)
        return Splats(
            means=tensor(state["centers"]),
            quats=tensor(state["orientations"])[:, [3, 0, 1, 2]],
            scales=tensor(stored.scales[which]),
            opacities=tensor(state["opacity"]).clamp(0, 1),
            sh=sh,
            object_id=torch.from_numpy(state["object_id"].astype(np.int64)),
            up=self.up,
        )


def read_4dgs(path: str | os.PathLike, up: str | None = None) -> Container:
    """Reads a .4dgs of the temporal model `gaussian-birth`, which is what `write_4dgs` writes.

    Args:
        up: what points up where the file does not say; None refuses such a file.

    Raises:
        ValueError: no such container, one that is damaged or cut short, streams that unpack to more than `MOST_RATIO`
            times the file, another temporal model, or axes that are not known; names the file.
        ImportError: `fourdgs` is not installed.
    """
    fourdgs = _library()
    with opened(path) as data:
        try:
            _check_sizes(data)
            with np.errstate(all="ignore"):
                scene = fourdgs.read(data, recover_truncated=False)
            says = scene.header.attributes.get("coordinate_system")
        except ValueError:
            raise
        except Exception as error:  # the library's own, and what numpy and struct make of hostile bytes
            raise ValueError(f"it is no .4dgs that can be read: {error}") from None
        if (AXES.get(says) if says is not None else up) is None:
            raise ValueError(f"its coordinate_system is {says!r}; allowed: {', '.join(AXES)}, or pass `up`")
        found = scene.gaussians
        arrays = (found.positions, found.scales, found.rotations, found.colors, found.motions, found.mu_t)
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("it has values that are not finite")
        entries = scene.objects.table.entries if scene.objects.table else []
        names = {entry.object_id: entry.label for entry in entries}
        return Container(scene, scene.duration_sec, names, AXES[says] if says is not None else up)


def _library() -> ModuleType:
    try:
        import fourdgs
    except ImportError:
        raise ImportError('.4dgs files need fourdgs: pip install "wm-pipelines[4d]"') from None
    return fourdgs


def _columns(splats: Splats, begins: float, ends: float, motions: torch.Tensor | None = None) -> dict[str, np.ndarray]:
    """Gaussians that are there from `begins` to `ends`, where they are at `begins`."""
    n = splats.count
    rest = (splats.sh[:, 1:].transpose(1, 2).flatten(1) + SH_REACH) * (255 / (2 * SH_REACH))
    return {
        "positions": splats.means.numpy(),
        "scales": splats.scales.numpy(),
        "rotations": splats.quats[:, [1, 2, 3, 0]].numpy(),
        "colors": torch.cat([splats.rgb.clamp(0, 1), splats.opacities[:, None]], dim=1).numpy(),
        "motions": np.zeros((n, 3), np.float32) if motions is None else motions.numpy(),
        "mu_t": np.full(n, begins, np.float32),
        "sigma_t": np.full(n, np.inf, np.float32),
        "win_lo": np.full(n, begins),
        "win_hi": np.full(n, ends),
        "sh": rest.round().clamp(0, 255).numpy().astype(np.uint8),
        "object_id": splats.object_id.numpy().astype(np.uint32),
    }


def _moving(frames: list[Splats], times: tuple[float, ...], ends: float) -> list[dict[str, np.ndarray]]:
    """Frame after frame; the first is there from 0 on, the last stays where it is."""
    found = []
    for n, (frame, begins) in enumerate(zip(frames, times, strict=True)):
        until = times[n + 1] if n + 1 < len(times) else ends
        after = frames[min(n + 1, len(frames) - 1)]
        found.append(_columns(frame, begins, until, (after.means - frame.means) / (until - begins)))
    found[0]["win_lo"][:] = 0.0
    return found


def _track(fourdgs: ModuleType, part: Part, object_id: int) -> Any:
    """Poses that bring the first frame to each: turned about the world's origin, then moved."""
    turns = unit(multiply(part.rotations, conjugate(part.rotations[:1].expand_as(part.rotations))).double())
    first = part.translations[:1].double().expand(len(turns), 3)
    shifts = part.translations.double() - rotate(turns, first)
    rotations = turns[:, [1, 2, 3, 0]].tolist()
    return fourdgs.ObjectTrack(object_id, 0, part.times.tolist(), rotations, shifts.tolist())


def _check_sizes(data: bytes) -> None:
    """ValueError where streams say that they unpack to far more than the file: the library's own cap is half a GB."""
    from fourdgs import opcode, records, serialization

    serialization.check_magic(data)
    budget = Budget(len(data), MOST_RATIO)
    for record in serialization.iter_records(data, len(serialization.MAGIC)):
        if record.opcode == opcode.CHUNK:
            head, streams = records.parse_chunk(record.content)
            if head.compression:
                raise ValueError("its chunks are packed as wholes, which is not read")
            budget.take(64 * head.count, "its Gaussians")
        elif record.opcode == opcode.SH_BAND_STREAM:
            streams = record.content[1:]
        else:
            continue
        for channels, count in _streams(bytes(streams)):
            budget.take(8 * channels * count, "a stream")


def _streams(data: bytes) -> Iterator[tuple[int, int]]:
    """Channels and count of each stream."""
    at = 0
    while at + _STREAM <= len(data):
        yield data[at + 4], int.from_bytes(data[at + 5 : at + 9], "little")
        at += _STREAM + int.from_bytes(data[at + 9 : at + 17], "little")

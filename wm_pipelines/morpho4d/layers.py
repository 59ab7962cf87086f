"""Edits as layers over a fitted scene: each is a record and a mask, and none changes what is under it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wm_pipelines.morpho4d.gaussians import SH_DC, Gaussians, PosedGaussians
from wm_pipelines.morpho4d.operations import Duplicate, Extract, Move, Recolor, Remove, Retime, Scale, SetTime
from wm_pipelines.morpho4d.quaternions import multiply, rotate
from wm_pipelines.record import Record

LUMA = (0.299, 0.587, 0.114)
HALF = 0.5
"""From this share on, a Gaussian goes where its object goes."""


@dataclass(frozen=True)
class Layer:
    """One edit.

    Args:
        op: what is done; ways to go are resolved to `by`.
        mask: (n,) float32 in [0, 1], how much it is about each of the Gaussians that there were before it.
        said: the words that it came from, if it did.
        object_ids: of a duplicate: each object's id -> the id of its copy.
    """

    op: Record
    mask: torch.Tensor
    said: str = ""
    object_ids: dict[int, int] | None = None

    @property
    def copied(self) -> torch.Tensor:
        """(c,) int64, the Gaussians that a duplicate copies; they stand behind the others in this order."""
        chosen = self.mask >= HALF if isinstance(self.op, Duplicate) else torch.zeros_like(self.mask, dtype=torch.bool)
        return chosen.nonzero().squeeze(1)


Pose = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def evaluate(gaussians: Gaussians, pose: Pose, layers: Sequence[Layer], time: float, frames: int) -> PosedGaussians:
    """Gaussians as they stand at `time` under all layers.

    From the last layer to the first, each says which Gaussian a row was before it and at which time to look; then the
    Gaussians are posed, and the layers act on them from the first to the last.

    Args:
        pose: (rows, times) -> means and quaternions of stored Gaussians, each at a time of its own.
    """
    count = len(gaussians) + sum(len(layer.copied) for layer in layers)
    rows, times = torch.arange(count), torch.full((count,), float(time))
    waiting = []
    for layer in reversed(layers):
        before = len(layer.mask)
        if isinstance(layer.op, Duplicate):
            share = (rows >= before).float()
            source = torch.cat([torch.arange(before), layer.copied])
            waiting.append((layer, share, times))
            rows = source[rows]
            continue
        share = layer.mask[rows]
        waiting.append((layer, share, times))
        if isinstance(layer.op, Retime | SetTime):
            times = torch.where(share >= HALF, _other_time(layer.op, times, frames), times)
    posed = PosedGaussians.of(gaussians[rows], *pose(rows, times))
    for layer, share, times in reversed(waiting):
        posed = _apply(layer, posed, share, times)
    return posed


def _other_time(op: Record, times: torch.Tensor, frames: int) -> torch.Tensor:
    if isinstance(op, SetTime):
        return torch.full_like(times, op.time)
    along = (op.offset + op.rate * times).clamp(0, frames - 1)
    return frames - 1 - along if op.reverse else along


def _apply(layer: Layer, posed: PosedGaussians, share: torch.Tensor, times: torch.Tensor) -> PosedGaussians:
    op, whole = layer.op, share >= HALF
    if isinstance(op, Remove):
        return posed.replace(opacities=posed.opacities * (1 - share))
    if isinstance(op, Extract):
        kept = torch.where(posed.object_id == 0, 1.0, share) if op.background else share
        return posed.replace(opacities=posed.opacities * kept)
    if isinstance(op, Recolor):
        return _recolor(op, posed, share)
    if isinstance(op, Move) and whole.any():
        return _move(op, posed, whole, times)
    if isinstance(op, Scale) and whole.any():
        return _scale(op, posed, whole)
    if isinstance(op, Duplicate) and whole.any():
        ids = posed.object_id.clone()
        for old, new in (layer.object_ids or {}).items():
            ids[whole & (posed.object_id == old)] = new
        shift = posed.means.new_tensor(op.by)
        return posed.replace(means=torch.where(whole[:, None], posed.means + shift, posed.means), object_id=ids)
    return posed


def _recolor(op: Recolor, posed: PosedGaussians, share: torch.Tensor) -> PosedGaussians:
    rgb, wanted = 0.5 + SH_DC * posed.sh[:, 0], posed.sh.new_tensor(op.rgb)
    if op.mode == "assign":
        new = wanted.expand_as(rgb)
    elif op.mode == "multiply":
        new = rgb * wanted
    else:
        luma = rgb.new_tensor(LUMA)
        new = wanted * ((rgb @ luma) / (wanted @ luma).clamp(min=1e-3))[:, None]
    mixed = torch.lerp(rgb, new.clamp(0, 1), share[:, None])
    rest = posed.sh[:, 1:] * (1 - share * (1 - op.keep_shading))[:, None, None]
    return posed.replace(sh=torch.cat([((mixed - 0.5) / SH_DC)[:, None], rest], dim=1))


def _move(op: Move, posed: PosedGaussians, whole: torch.Tensor, times: torch.Tensor) -> PosedGaussians:
    start = op.start or 0.0
    if op.end is not None:
        done = ((times - start) / (op.end - start)).clamp(0, 1)
    else:
        done = (times >= start).to(times)
    pivot = posed.means[whole].mean(0)
    half = torch.deg2rad(done * op.turn) / 2
    turn = torch.stack([half.cos(), torch.zeros_like(half), torch.zeros_like(half), half.sin()], dim=-1)
    shift = posed.means.new_tensor(op.by or (0.0, 0.0, 0.0)) * done[:, None]
    means = rotate(turn, posed.means - pivot) + pivot + shift
    return posed.replace(
        means=torch.where(whole[:, None], means, posed.means),
        quats=torch.where(whole[:, None], multiply(turn, posed.quats), posed.quats),
    )


def _scale(op: Scale, posed: PosedGaussians, whole: torch.Tensor) -> PosedGaussians:
    chosen = posed.means[whole]
    pivot = torch.cat([chosen[:, :2].mean(0), chosen[:, 2:].amin(0)])
    means = (posed.means - pivot) * op.factor + pivot
    return posed.replace(
        means=torch.where(whole[:, None], means, posed.means),
        scales=torch.where(whole[:, None], posed.scales * op.factor, posed.scales),
    )

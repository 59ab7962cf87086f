"""Which conditions act at which step, and the slots they fill then.

A condition is active at step i of n iff its strength is above 0 there and not (i/n < start or (i+1)/n > end).
Features, per-type weights and phrase regions depend on the strengths of a step alone, so they are computed when these
change.
"""

from collections.abc import Sequence

import torch

from wm_pipelines.flexecontrol.conditions.preparing import PreparedCondition
from wm_pipelines.flexecontrol.network.slots import SlotInput
from wm_pipelines.runtime.factors import factor_at

Row = Sequence[PreparedCondition]
# One tuple for each row: the strength of each of its conditions at a step, 0 where it is not active.
Active = tuple[tuple[float, ...], ...]


def strength_at(condition: PreparedCondition, step: int, steps: int) -> float:
    """The strength of a condition at `step` (0-based) of `steps`, 0 outside its window."""
    if step / steps < condition.start or (step + 1) / steps > condition.end:
        return 0.0
    if condition.schedule is None:
        return condition.strength
    return condition.strength * factor_at(condition.schedule, step, steps)


def active_steps(condition: PreparedCondition, steps: int, ran: int | None = None) -> list[int]:
    """The steps at which a condition acts, of the first `ran` (by default all) of `steps`."""
    return [step for step in range(steps if ran is None else ran) if strength_at(condition, step, steps) > 0]


def active_set(rows: Sequence[Row], step: int, steps: int) -> Active:
    """The strength of every condition of every row at one step."""
    return tuple(tuple(strength_at(condition, step, steps) for condition in row) for row in rows)


def active_conditions(row: Row, strengths: Sequence[float]) -> list[tuple[PreparedCondition, float]]:
    """The conditions of one row that act, with their strengths."""
    return [(condition, value) for condition, value in zip(row, strengths, strict=True) if value > 0]


def slots_of_rows(rows: Sequence[Row], active: Active, device: torch.device, dtype: torch.dtype) -> list[SlotInput]:
    """Stack the active conditions of all rows into slots: the k-th of a type in every row shares one.

    A row that has no k-th condition of the type, or an inactive one, takes part with strength 0, which is exact
    removal.

    Returns:
        slots with `image` (R, 3, H, W), `strength` (R,) and `region` (R, 1, H, W) or None.
    """
    slots: dict[tuple[str, int], tuple[list[PreparedCondition | None], list[float]]] = {}
    for r, (row, strengths) in enumerate(zip(rows, active, strict=True)):
        seen: dict[str, int] = {}
        for condition, strength in active_conditions(row, strengths):
            k = seen.get(condition.type, 0)
            seen[condition.type] = k + 1
            members, values = slots.setdefault((condition.type, k), ([None] * len(rows), [0.0] * len(rows)))
            members[r], values[r] = condition, strength
    return [_stack(kind, *stacked, device, dtype) for (kind, _), stacked in slots.items()]


def _stack(
    kind: str,
    members: list[PreparedCondition | None],
    values: list[float],
    device: torch.device,
    dtype: torch.dtype,
) -> SlotInput:
    like = next(member.image for member in members if member is not None)
    blank, everywhere = torch.zeros_like(like), torch.ones_like(like[:1])
    image = torch.stack([blank if member is None else member.image for member in members])
    strength = torch.tensor(values)
    region = None
    if any(member is not None and member.region is not None for member in members):
        region = torch.stack([everywhere if m is None or m.region is None else m.region for m in members])
        region = region.to(device, dtype)
    return SlotInput(kind, image.to(device, dtype), strength.to(device), region)


def type_strengths(rows: Sequence[Row], active: Active, types: Sequence[str]) -> torch.Tensor:
    """Summed strength of the active conditions of each type, `(R, types)`; divided by their sum they are w_c."""
    strengths = torch.zeros(len(rows), len(types))
    for r, (row, acting) in enumerate(zip(rows, active, strict=True)):
        for condition, strength in active_conditions(row, acting):
            strengths[r, list(types).index(condition.type)] += strength
    return strengths

"""Which conditions act at which step, and the slots they fill then.

A condition is active at step i of n iff its strength is above 0 and not (i/n < start or (i+1)/n > end). Features,
per-type weights and phrase regions depend on the active set alone, so they are computed when it changes.
"""

from collections.abc import Sequence

import torch

from wm_pipelines.flexecontrol.conditions.preparing import PreparedCondition
from wm_pipelines.flexecontrol.network.slots import SlotInput

Row = Sequence[PreparedCondition]
# One tuple of flags for each row: which of the row's conditions are active.
Active = tuple[tuple[bool, ...], ...]


def is_active(condition: PreparedCondition, step: int, steps: int) -> bool:
    """Whether a condition acts at `step` (0-based) of `steps`."""
    inside = not (step / steps < condition.start or (step + 1) / steps > condition.end)
    return inside and condition.strength > 0


def active_steps(condition: PreparedCondition, steps: int, ran: int | None = None) -> list[int]:
    """The steps at which a condition acts, of the first `ran` (by default all) of `steps`."""
    return [step for step in range(steps if ran is None else ran) if is_active(condition, step, steps)]


def active_set(rows: Sequence[Row], step: int, steps: int) -> Active:
    """The flags of every condition of every row at one step."""
    return tuple(tuple(is_active(condition, step, steps) for condition in row) for row in rows)


def active_conditions(row: Row, flags: Sequence[bool]) -> list[PreparedCondition]:
    """The conditions of one row whose flag is set."""
    return [condition for condition, flag in zip(row, flags, strict=True) if flag]


def slots_of_rows(rows: Sequence[Row], active: Active, device: torch.device, dtype: torch.dtype) -> list[SlotInput]:
    """Stack the active conditions of all rows into slots: the k-th of a type in every row shares one.

    A row that has no k-th condition of the type, or an inactive one, takes part with strength 0, which is exact
    removal.

    Returns:
        slots with `image` (R, 3, H, W), `strength` (R,) and `region` (R, 1, H, W) or None.
    """
    slots: dict[tuple[str, int], list[PreparedCondition | None]] = {}
    for r, (row, flags) in enumerate(zip(rows, active, strict=True)):
        seen: dict[str, int] = {}
        for condition in active_conditions(row, flags):
            k = seen.get(condition.type, 0)
            seen[condition.type] = k + 1
            slots.setdefault((condition.type, k), [None] * len(rows))[r] = condition
    return [_stack(kind, members, device, dtype) for (kind, _), members in slots.items()]


def _stack(kind: str, members: list[PreparedCondition | None], device: torch.device, dtype: torch.dtype) -> SlotInput:
    like = next(member.image for member in members if member is not None)
    blank, everywhere = torch.zeros_like(like), torch.ones_like(like[:1])
    image = torch.stack([blank if member is None else member.image for member in members])
    strength = torch.tensor([0.0 if member is None else member.strength for member in members])
    region = None
    if any(member is not None and member.region is not None for member in members):
        region = torch.stack([everywhere if m is None or m.region is None else m.region for m in members])
        region = region.to(device, dtype)
    return SlotInput(kind, image.to(device, dtype), strength.to(device), region)


def type_strengths(rows: Sequence[Row], active: Active, types: Sequence[str]) -> torch.Tensor:
    """Summed strength of the active conditions of each type, `(R, types)`; divided by their sum they are w_c."""
    strengths = torch.zeros(len(rows), len(types))
    for r, (row, flags) in enumerate(zip(rows, active, strict=True)):
        for condition in active_conditions(row, flags):
            strengths[r, list(types).index(condition.type)] += condition.strength
    return strengths

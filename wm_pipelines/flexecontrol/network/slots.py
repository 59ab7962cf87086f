"""Conditions as the network takes them: one slot per type, into which images of that type are summed."""

import dataclasses
from collections.abc import Sequence

import torch


@dataclasses.dataclass
class SlotInput:
    """One condition.

    Attributes:
        type: one of the model's types. image: (B,3,H,W) float in [0, 1], or (1,3,H,W) for the whole batch.
        strength: float, or (B,) for one value per sample; 0 removes the condition exactly.
        region: (B,1,H,W) in [0, 1] where it acts; None: everywhere.
    """

    type: str
    image: torch.Tensor
    strength: float | torch.Tensor = 1.0
    region: torch.Tensor | None = None


def sum_slots(
    slots: Sequence[SlotInput],
    types: Sequence[str],
    backgrounds: Sequence[float],
    multiple: int,
    device: torch.device,
    normalise_overlap: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The input of the first convolution, which is linear: summing before it is summing its outputs.

    Args:
        types, backgrounds: slot order, and each type's value where nothing is drawn.
        multiple: of which heights and widths must be. normalise_overlap: where k regions of a type meet, divide by k.

    Returns:
        maps (B, 3 * types, H, W) float32: strength * region * (region * image + (1 - region) * background), summed by
        type; and the union of the regions (B,1,H,W), 0 or 1.

    Raises:
        ValueError: no slot, an unknown type, a shape that does not fit.
    """
    if not slots:
        raise ValueError("condition_features needs at least one slot; without conditions do not run the adapter")
    batch = max(max(_rows(x) for x in (s.image, s.strength, s.region)) for s in slots)
    height, width = slots[0].image.shape[-2:]
    maps = torch.zeros(batch, len(types), 3, height, width, device=device)
    count = torch.zeros(batch, len(types), 1, height, width, device=device)
    for i, slot in enumerate(slots):
        index = _check(slot, i, types, batch, (height, width), multiple)
        image = slot.image.to(maps)
        strength = torch.as_tensor(slot.strength, dtype=torch.float32, device=device).reshape(-1, 1, 1, 1)
        region = torch.ones_like(image[:, :1]) if slot.region is None else slot.region.to(maps)
        if slot.region is not None:
            image = region * (region * image + (1 - region) * backgrounds[index])
        maps[:, index] += strength * image
        count[:, index] += ((region > 0) & (strength != 0)).float()
    if normalise_overlap:
        maps = maps / count.clamp(min=1)
    return maps.flatten(1, 2), (count.amax(1) > 0).float()


def _rows(x: torch.Tensor | float | None) -> int:
    return x.shape[0] if isinstance(x, torch.Tensor) and x.ndim else 1


def _check(slot: SlotInput, i: int, types: Sequence[str], batch: int, size: tuple[int, int], multiple: int) -> int:
    """The index of the slot's type, if all of it fits the others."""
    if slot.type not in types:
        raise ValueError(f"unknown condition type {slot.type!r}; known: {', '.join(types)}")
    shape, label = tuple(slot.image.shape), f"condition {slot.type!r} #{i + 1}"
    if len(shape) != 4 or shape[1] != 3 or shape[0] not in (1, batch):
        raise ValueError(f"{label} has shape {shape}; allowed: (1 or {batch}, 3, H, W)")
    if shape[-2:] != size or size[0] % multiple or size[1] % multiple:
        raise ValueError(
            f"{label} is {shape[-2]}x{shape[-1]}; height and width must be multiples of {multiple} and equal to the "
            f"others' {size[0]}x{size[1]}"
        )
    if slot.region is not None and tuple(slot.region.shape) not in ((1, 1, *size), (batch, 1, *size)):
        came = tuple(slot.region.shape)
        raise ValueError(f"region of {label} has shape {came}; allowed: (1 or {batch}, 1, {size[0]}, {size[1]})")
    if isinstance(slot.strength, torch.Tensor) and slot.strength.numel() not in (1, batch):
        raise ValueError(f"strength of {label} has {slot.strength.numel()} values; allowed: 1 or {batch}")
    return list(types).index(slot.type)

"""Pixels: how much of the change an edit made, and how much it left alone (our design).

L1, CLIP-I and DINO alone are best for an editor that does nothing; these two numbers stand beside each other, and a
copy gets 0 and 1.
"""

from dataclasses import dataclass

import torch

TOLERANCE = 0.05  # of a channel in [0, 1]: by more a pixel counts as different
FEW = 0.005  # share of a picture: with fewer different pixels two pictures count as the same
ENOUGH, MOST = 0.5, 0.95  # what `change` and `preserve` must reach for a success


@dataclass(frozen=True)
class EditScore:
    """How an edit compares with the truth; with the source alone where there is none.

    Args:
        change: with a truth, the share of the way from the state before to the truth that was gone, mean over the
            pixels that the truth changes (0 for a copy, 1 for the truth); None where it changes nothing. Without one,
            the share of pixels that differ from the source.
        preserve: with a truth, the share of the other pixels that are as in it; without one, of all that are as in
            the source.
        copied: fewer than 0.5 % of the pixels differ from the source.
        l1: mean absolute difference to the truth, 0 to 1; None without.
        success: change of 0.5 and preserve of 0.95 or more, and no copy; None without a truth.
        shown: fewer than 0.5 % of the pixels differ from the truth; None without.
    """

    change: float | None
    preserve: float
    copied: bool
    l1: float | None = None
    success: bool | None = None
    shown: bool | None = None


def different(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Pixels `(H, W)` of which a channel differs by more than `TOLERANCE`."""
    return (first - second).abs().amax(0) > TOLERANCE


def edit_score(
    source: torch.Tensor,
    edited: torch.Tensor,
    truth: torch.Tensor | None = None,
    before: torch.Tensor | None = None,
) -> EditScore:
    """Measure one edit.

    Args:
        source: what the editor saw. edited: what it made. truth: what it should have made.
        before: the true state before this step, where `source` is an edit itself; None is `source`. All `(3, H, W)`
            in [0, 1] and of one size.

    Raises:
        ValueError: another shape, or pictures of two sizes.
    """
    _check(source, edited, truth, before)
    copied = float(different(source, edited).float().mean()) < FEW
    if truth is None:
        share = float(different(source, edited).float().mean())
        return EditScore(share, 1 - share, copied)
    before = source if before is None else before
    inside = different(before, truth)
    wrong = different(edited, truth)
    change = None
    if bool(inside.any()):
        left = (edited - truth).abs().sum(0) / (before - truth).abs().sum(0).clamp(min=1e-9)
        change = float((1 - left).clamp(0, 1)[inside].mean())
    preserve = float((~wrong)[~inside].float().mean()) if not bool(inside.all()) else 1.0
    return EditScore(
        change=change,
        preserve=preserve,
        copied=copied,
        l1=float((edited - truth).abs().mean()),
        success=change is not None and change >= ENOUGH and preserve >= MOST and not copied,
        shown=float(wrong.float().mean()) < FEW,
    )


def nearer(edited: torch.Tensor, truth: torch.Tensor, against: torch.Tensor) -> bool:
    """Whether an edit is nearer to the truth than to another picture, where these two differ."""
    _check(truth, edited, against, None)
    where = different(truth, against)
    return bool((edited - truth).abs().sum(0)[where].sum() < (edited - against).abs().sum(0)[where].sum())


def _check(source, edited, truth, before) -> None:
    given = {"source": source, "edited": edited, "truth": truth, "before": before}
    for name, value in given.items():
        if value is not None and (value.ndim != 3 or value.shape[0] != 3):
            raise ValueError(f"`{name}` is {tuple(value.shape)}; it must be (3, H, W)")
        if value is not None and value.shape != source.shape:
            sizes = [f"{v.shape[1]}x{v.shape[2]}" for v in (source, value)]
            raise ValueError(f"`source` and `{name}` have different sizes ({', '.join(sizes)}); pass pictures of one")

"""Two models on the same items, and many: paired tests, which refuse runs that saw other frames or prompts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wm_pipelines.evaluation.mcq.rows import Row
from wm_pipelines.evaluation.statistics import (
    McNemar,
    Mean,
    clustered_mean,
    detectable_gap,
    holm,
    mcnemar,
    paired_difference,
    wilson,
)
from wm_pipelines.runtime.readers import concise

Key = tuple[str, int, int]


@dataclass(frozen=True)
class Comparison:
    """Two runs on the items that both answered.

    Args:
        first, second: names. n: items that both answered. accuracies: of the two, on those.
        difference: first - second, clustered by video.
        test: exact McNemar. detectable: the smallest gap found with 80 % power at this discordance; None for none.
        only_first, only_second: uids that only one got right.
        unanswered: items that one of them did not answer. unshared: items of only one of them.
        other_frames, other_prompts: shares of the items where these differ. unknown: the share where nobody knows.
    """

    first: str
    second: str
    n: int
    accuracies: tuple[float, float]
    difference: Mean
    test: McNemar
    detectable: float | None
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    unanswered: int
    unshared: int
    other_frames: float
    other_prompts: float
    unknown: float


@concise()
def compare(
    first: Iterable[Row], second: Iterable[Row], control: str = "full", allow_mismatch: bool = False
) -> Comparison:
    """The paired comparison of two runs under one control.

    A question that was asked several times (option shifts, seeds) is paired with itself each time.

    Args:
        first, second: rows of one model under one protocol each; those of other controls are left aside.
        allow_mismatch: compare runs whose frames or prompts differ, or are unknown.

    Raises:
        ValueError: rows of several models or protocols, a question twice, none in common, other right answers, or,
            unless allowed, other or unknown frames or prompts.
    """
    one, two = _keyed("first", first, control), _keyed("second", second, control)
    shared = sorted(set(one) & set(two))
    if not shared:
        raise ValueError(f"`first` and `second` have no item in common under the control {control!r}")
    pairs = [(one[key], two[key]) for key in shared]
    other = [(a, b) for a, b in pairs if set(a.right) != set(b.right) or a.options != b.options]
    if other and not allow_mismatch:
        a, b = other[0]
        said = f"{a.uid}: {', '.join(a.right)} is right in `first`, {', '.join(b.right)} in `second`"
        raise ValueError(f"{said}: the items differ ({len(other)} of {len(pairs)}); pass `allow_mismatch=True`")
    frames, prompts, unknown = _mismatch(pairs)
    if not allow_mismatch:
        _refuse(frames, prompts, unknown)
    both = [(a, b) for a, b in pairs if a.answered and b.answered]
    if len({a.cluster for a, _ in both}) < 2:
        raise ValueError(f"`first` and `second` both answered {len(both)} items of fewer than two videos")
    x, y = [a.correct for a, _ in both], [b.correct for _, b in both]
    difference, test = _paired(both)
    discordance = (test.only_first + test.only_second) / len(both)
    effect = difference.design_effect or 1.0
    return Comparison(
        first=_name(one),
        second=_name(two),
        n=len(both),
        accuracies=(sum(x) / len(x), sum(y) / len(y)),
        difference=difference,
        test=test,
        detectable=detectable_gap(len(both), discordance, design_effect=effect) if discordance else None,
        only_first=tuple(dict.fromkeys(a.uid for a, b in both if a.correct > b.correct)),
        only_second=tuple(dict.fromkeys(a.uid for a, b in both if a.correct < b.correct)),
        unanswered=len(pairs) - len(both),
        unshared=len(set(one) ^ set(two)),
        other_frames=frames,
        other_prompts=prompts,
        unknown=unknown,
    )


class Rank(NamedTuple):
    """A model's place.

    Args:
        model, protocol: of the run. n: items that it answered. micro: mean over items, clustered by video.
        interval: Wilson's, over items. macro: mean over the groups' means; groups: group -> (mean, n).
        format_failures: share of replies that name no option; truncated: such that were cut off. unanswered: items.
        gap, p, adjusted: to the next place: its difference, exact McNemar, and that by Holm; None for the last.
        detectable: the smallest gap to the next place that is found with 80 % power.
    """

    model: str
    protocol: str
    n: int
    micro: Mean
    interval: tuple[float, float]
    macro: float
    groups: Mapping[str, tuple[float, int]]
    format_failures: float
    truncated: float
    unanswered: int
    gap: float | None = None
    p: float | None = None
    adjusted: float | None = None
    detectable: float | None = None


@concise()
def leaderboard(
    rows: Iterable[Row], control: str = "full", by: str | None = None, allow_mismatch: bool = False
) -> list[Rank]:
    """Models by their micro accuracy; each is tested against the next, and Holm's adjustment is over these tests.

    Args:
        rows: of two runs or more; a run is a model under a protocol.
        by: what `macro` is over: "facet", "family", "subset", a name of `annotations`; by default "discipline" where
            the rows have it, and the facet else.
        allow_mismatch: as for `compare`.

    Raises:
        ValueError: fewer than two runs, rows without such a group, or as `compare`.
    """
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.control == control:
            runs.setdefault((row.model, row.protocol), []).append(row)
    if len(runs) < 2:
        raise ValueError(
            f"`rows` holds {len(runs)} runs under the control {control!r}; a leaderboard takes two or more"
        )
    board = sorted((_rank(*name, run, by) for name, run in runs.items()), key=lambda r: (-r.micro.value, r.model))
    tests = [
        compare(runs[a.model, a.protocol], runs[b.model, b.protocol], control, allow_mismatch)
        for a, b in zip(board, board[1:], strict=False)
    ]
    adjusted = holm([found.test.p for found in tests])
    return [
        rank._replace(gap=found.difference.value, p=found.test.p, adjusted=p, detectable=found.detectable)
        for rank, found, p in zip(board, tests, adjusted, strict=False)
    ] + [board[-1]]


def group_of(row: Row, by: str | None = None) -> str:
    """What a row is grouped by, as for `leaderboard`.

    Raises:
        ValueError: the row has no such field or annotation.
    """
    if by is None:
        return str(row.annotations.get("discipline") or row.facet)
    if by in ("facet", "family", "subset", "source"):
        return str(getattr(row, by))
    if by not in row.annotations:
        raise ValueError(f"`by` is {by!r}; {row.uid} has facet, family, subset, source, {', '.join(row.annotations)}")
    return str(row.annotations[by])


def _rank(model: str, protocol: str, run: Sequence[Row], by: str | None) -> Rank:
    answered = [row for row in run if row.answered]
    if not answered:
        raise ValueError(f"{model} ({protocol}) answered none of {len(run)} items")
    groups: dict[str, list[bool]] = {}
    for row in answered:
        groups.setdefault(group_of(row, by), []).append(row.correct)
    means = {name: (sum(some) / len(some), len(some)) for name, some in sorted(groups.items())}
    right = [row.correct for row in answered]
    return Rank(
        model=model,
        protocol=protocol,
        n=len(answered),
        micro=clustered_mean(right, [r.cluster for r in answered]),
        interval=wilson(sum(right), len(right)),
        macro=sum(mean for mean, _ in means.values()) / len(means),
        groups=means,
        format_failures=sum(row.letter is None and not row.truncated for row in answered) / len(answered),
        truncated=sum(row.letter is None and row.truncated for row in answered) / len(answered),
        unanswered=len(run) - len(answered),
    )


def _keyed(name: str, rows: Iterable[Row], control: str) -> dict[Key, Row]:
    found: dict[Key, Row] = {}
    for row in rows:
        if row.control != control:
            continue
        key = (row.uid, row.shift, row.seed)
        if key in found:
            raise ValueError(f"`{name}` has {row.uid} twice under {control!r} (shift {row.shift}, seed {row.seed})")
        found[key] = row
    if not found:
        raise ValueError(f"`{name}` has no row under the control {control!r}")
    runs = Counter((row.model, row.protocol) for row in found.values())
    if len(runs) > 1:
        raise ValueError(f"`{name}` holds {len(runs)} runs, {', '.join(map(' '.join, runs))}; give one")
    return found


def _mismatch(pairs: Sequence[tuple[Row, Row]]) -> tuple[float, float, float]:
    """Shares of pairs with other frames, with other prompts, and of which nobody knows."""
    known = [(a, b) for a, b in pairs if a.prompt_sha is not None and b.prompt_sha is not None]
    frames = sum(a.frames_sha != b.frames_sha for a, b in known)
    prompts = sum(a.prompt_sha != b.prompt_sha for a, b in known)
    return frames / len(pairs), prompts / len(pairs), 1 - len(known) / len(pairs)


def _refuse(frames: float, prompts: float, unknown: float) -> None:
    parts = [
        f"{_percent(share)} of items {text}"
        for share, text in (
            (frames, "used other frames"),
            (prompts, "used other prompts"),
            (unknown, "do not say which frames and prompts they used"),
        )
        if share
    ]
    if parts:
        raise ValueError(f"paired test refused: {', '.join(parts)}; pass `allow_mismatch=True`")


def _percent(share: float) -> str:
    return "under 1%" if share < 0.01 else f"{share:.0%}"


def _paired(both: Sequence[tuple[Row, Row]]) -> tuple[Mean, McNemar]:
    x, y = [a.correct for a, _ in both], [b.correct for _, b in both]
    return paired_difference(x, y, [a.cluster for a, _ in both]), mcnemar(x, y)


def _name(rows: Mapping[Key, Row]) -> str:
    row = next(iter(rows.values()))
    return f"{row.model} ({row.protocol})"

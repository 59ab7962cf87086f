"""Rows to figures: for each task and over all, with intervals over items, beside the copy; and model against model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_pipelines.evaluation.statistics import clustered_mean, holm, mcnemar, paired_difference, wilson

SHARES = ("success", "shown", "copied", "nearer")
MEASURES = ("change", "preserve", *SHARES, "l1", "clip_i", "clip_t", "dino")
ALL = "all"


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{task or "all": {measure: figure}}.

    A figure: `value`, `low`, `high` (95 %, over items), `n` rows, `copy` (the value of an editor that does nothing)
    and `gain` over it {value, low, high}. Without a second item there is no interval: None. "judge", where there was
    one: the mean of the smaller scores, `failed` runs of `runs`, and `unanswered` rows, of which no run answered and
    which count nowhere else.
    """
    found = {}
    for task in [*dict.fromkeys(row["task"] for row in rows), ALL]:
        some = [row for row in rows if task in (row["task"], ALL)]
        figures = {name: figure for name in MEASURES if (figure := _figure(some, name))}
        figures["steps"], figures["items"] = len(some), len({row["item"] for row in some})
        if any("judge" in row for row in some):
            figures["judge"] = _judged(some)
        found[task] = figures
    return found


def compare(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Two models on the same steps, {task or "all": ...}: `difference` (first - second) of each measure that both
    have, with its interval; `mcnemar` on `success`: how often only one had it, p, and p after Holm over the tasks.

    Raises:
        ValueError: they are not of the same items.
    """
    keyed = [{(row["item"], row["step"]): row for row in rows} for rows in (first, second)]
    if keyed[0].keys() != keyed[1].keys():
        odd = sorted(keyed[0].keys() ^ keyed[1].keys())[0]
        raise ValueError(f"the two runs are not of the same items: {odd[0]!r} is in one of them")
    pairs = [(row, keyed[1][key]) for key, row in keyed[0].items()]
    found: dict[str, Any] = {}
    for task in [*dict.fromkeys(a["task"] for a, _ in pairs), ALL]:
        some = [pair for pair in pairs if task in (pair[0]["task"], ALL)]
        gaps = {name: gap for name in MEASURES if (gap := _difference(some, name))}
        found[task] = {"difference": gaps, "mcnemar": _mcnemar(some)}
    tests = [entry["mcnemar"] for task, entry in found.items() if task != ALL and entry["mcnemar"]]
    if tests:
        for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = p
    return found


def _values(row: dict[str, Any], side: str, name: str) -> float | None:
    value = row[side].get(name)
    return None if value is None else float(value)


def _figure(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    known = [row for row in rows if _values(row, "measures", name) is not None]
    if not known:
        return None
    mine, theirs = ([_values(row, side, name) for row in known] for side in ("measures", "copy"))
    items = [row["item"] for row in known]
    figure = {**_interval(mine, items, name in SHARES), "n": len(known)}
    if all(value is not None for value in theirs):
        gap = _mean(np.subtract(mine, theirs).tolist(), items)
        figure |= {"copy": float(np.mean(theirs)), "gain": gap}
    return figure


def _interval(values: list[float], items: list[str], share: bool) -> dict[str, Any]:
    if share and len(set(items)) == len(items):
        low, high = wilson(int(sum(values)), len(values))
        return {"value": float(np.mean(values)), "low": low, "high": high}
    return _mean(values, items)


def _mean(values: list[float], items: list[str]) -> dict[str, Any]:
    if len(set(items)) < 2:
        return {"value": float(np.mean(values)), "low": None, "high": None}
    found = clustered_mean(values, items)
    return {"value": found.value, "low": found.low, "high": found.high}


def _judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    asked = [row for row in rows if "judge" in row]
    scores = [(row["item"], [min(pair) for pair in row["judge"]["scores"]]) for row in asked]
    known = [(item, float(np.mean(some))) for item, some in scores if some]
    failed = sum(len(row["judge"]["failures"]) for row in asked)
    figure: dict[str, Any] = {"value": None, "low": None, "high": None}
    if known:
        figure = _mean([score for _, score in known], [item for item, _ in known])
    runs = failed + sum(len(some) for _, some in scores)
    return {**figure, "n": len(known), "unanswered": len(asked) - len(known), "failed": failed, "runs": runs}


def _difference(pairs: list[tuple[dict[str, Any], dict[str, Any]]], name: str) -> dict[str, Any] | None:
    both = [(a["item"], _values(a, "measures", name), _values(b, "measures", name)) for a, b in pairs]
    both = [entry for entry in both if entry[1] is not None and entry[2] is not None]
    if not both:
        return None
    items, first, second = (list(column) for column in zip(*both, strict=True))
    if len(set(items)) < 2:
        return {"value": float(np.mean(np.subtract(first, second))), "low": None, "high": None}
    found = paired_difference(first, second, items)
    return {"value": found.value, "low": found.low, "high": found.high}


def _mcnemar(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any] | None:
    both = [(a["measures"].get("success"), b["measures"].get("success")) for a, b in pairs]
    both = [pair for pair in both if None not in pair]
    if not both:
        return None
    found = mcnemar([bool(a) for a, _ in both], [bool(b) for _, b in both])
    return {"only_first": found.only_first, "only_second": found.only_second, "p": found.p}

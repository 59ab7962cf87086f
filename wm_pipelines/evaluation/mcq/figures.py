"""Figures of rows: a score with its intervals, pairs, cycles, positions (our design)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wm_pipelines.evaluation.mcq.rows import SHOWN, Row
from wm_pipelines.evaluation.statistics import (
    cluster_bootstrap,
    clustered_mean,
    interval,
    mcnemar,
    paired_difference,
    wilson,
)

Figure = dict[str, Any]


def share(values: Sequence[bool], clusters: Sequence[str]) -> Figure | None:
    """A share with its intervals; None of no value.

    `low` and `high` are those of errors over clusters, cut to [0, 1]; Wilson's where there is one cluster or all
    values are equal.
    """
    if not len(values):
        return None
    found: Figure = {"n": len(values), "score": float(np.mean(values)), "clusters": len(set(clusters))}
    found["wilson"] = list(wilson(int(sum(values)), len(values)))
    found["low"], found["high"] = found["wilson"]
    if len(set(clusters)) > 1 and 0 < sum(values) < len(values):
        mean = clustered_mean([float(v) for v in values], clusters)
        found |= {"error": mean.error, "design_effect": mean.design_effect}
        found |= {"low": max(0.0, mean.low), "high": min(1.0, mean.high)}
        found["bootstrap"] = list(interval(cluster_bootstrap([float(v) for v in values], clusters)))
    return found


def figure(rows: Iterable[Row]) -> Figure:
    """The score of rows, with what is not in it: replies that never came, and those that name no option.

    A reply without an option is wrong; one that was cut off is counted apart. What was not answered is neither.
    """
    rows = list(rows)
    answered = [row for row in rows if row.answered]
    silent = [row for row in answered if row.letter is None]
    found: Figure = {
        "asked": len(rows),
        "answered": len(answered),
        "not_answered": len(rows) - len(answered),
        "correct": sum(row.correct for row in answered),
        "format_failures": sum(not row.truncated for row in silent),
        "truncated": sum(row.truncated for row in silent),
        "ties": sum(row.stage == "tie" for row in answered),
        **(share([row.correct for row in answered], [row.cluster for row in answered]) or {"n": 0, "score": None}),
    }
    known = [row for row in answered if row.decided is not None]
    if known:
        sure = [row for row in known if row.decided]
        found["decided"] = len(sure)
        found["undecided"] = len(known) - len(sure)
        found["score_decided"] = float(np.mean([row.correct for row in sure])) if sure else None
    return found


def both(first: Mapping[str, Row], second: Mapping[str, Row]) -> Figure | None:
    """How often both of two questions about an item are answered rightly; items that were answered both times."""
    uids = common(first, second)
    return share([first[u].correct and second[u].correct for u in uids], [first[u].cluster for u in uids])


def difference(first: Mapping[str, Row], second: Mapping[str, Row]) -> Figure | None:
    """first - second over the items answered both times: the mean with its interval over clusters, and McNemar's p."""
    uids = common(first, second)
    if not uids:
        return None
    a, b = ([side[u].correct for u in uids] for side in (first, second))
    clusters = [first[u].cluster for u in uids]
    test = mcnemar(a, b)
    found: Figure = {"n": len(uids), "value": float(np.mean(a) - np.mean(b)), "p": test.p}
    found |= {"only_first": test.only_first, "only_second": test.only_second}
    if len(set(clusters)) > 1:
        mean = paired_difference([float(v) for v in a], [float(v) for v in b], clusters)
        found |= {"low": mean.low, "high": mean.high}
    return found


def common(first: Mapping[str, Row], second: Mapping[str, Row]) -> list[str]:
    """Items that were answered both times, in order."""
    return sorted(u for u in first.keys() & second.keys() if first[u].answered and second[u].answered)


def cycles(full: Mapping[str, Row], moved: Iterable[Row]) -> Figure | None:
    """Circular evaluation: items right under every shift of their options, and the mean over all shifts.

    `chance` is that of all shifts for a model that draws letters; an item counts if all its shifts were answered.
    """
    of: dict[str, dict[int, Row]] = {uid: {0: row} for uid, row in full.items()}
    for row in moved:
        of.setdefault(row.uid, {})[row.shift] = row
    whole = [list(rows.values()) for rows in of.values()]
    whole = [rows for rows in whole if len(rows) == rows[0].options and all(row.answered for row in rows)]
    if not whole:
        return None
    found = share([all(row.correct for row in rows) for rows in whole], [rows[0].cluster for rows in whole]) or {}
    found["mean_of_shifts"] = float(np.mean([np.mean([row.correct for row in rows]) for rows in whole]))
    found["chance"] = float(np.mean([(len(rows[0].right) / rows[0].options) ** rows[0].options for rows in whole]))
    return found


def position_bias(rows: Iterable[Row]) -> Figure | None:
    """How the letters that were said, as they were shown, differ from those that are right (2309.03882).

    `p` is that of a chi-square test that both are distributed alike, `rstd` the standard deviation of the recall over
    the letters that are right somewhere. Replies without a letter are in the recall only.
    """
    from scipy.stats import chi2_contingency

    rows = [row for row in rows if row.answered]
    said = [row.said for row in rows if row.said is not None]
    gold = [row.shown(row.right[0]) for row in rows]
    if not said:
        return None
    letters = [x for x in SHOWN if x in gold or x in said]
    table = np.array([[side.count(letter) for letter in letters] for side in (said, gold)])
    recall = {
        letter: float(np.mean([row.correct for row, right in zip(rows, gold, strict=True) if right == letter]))
        for letter in letters
        if letter in gold
    }
    return {
        "said": dict(zip(letters, table[0].tolist(), strict=True)),
        "right": dict(zip(letters, table[1].tolist(), strict=True)),
        "recall": recall,
        "rstd": float(np.std(list(recall.values()))),
        "p": float(chi2_contingency(table, correction=False).pvalue) if len(letters) > 1 else None,
    }

"""The report of an evaluation, from its rows alone (our design)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wm_pipelines.evaluation.mcq.figures import Figure, both, cycles, difference, figure, position_bias
from wm_pipelines.evaluation.mcq.rows import SHOWN, Row
from wm_pipelines.evaluation.statistics import cluster_bootstrap, interval
from wm_pipelines.runtime.readers import concise

MOST_GROUPS = 40
"""Values that an annotation may have to be a way to group results."""


@concise()
def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures of one model's rows.

    Returns:
        `controls`: figure of each. `pairs`: mirror and reverse, original and twin both right. `circular`. `drops`: the
        score less that under each control. `groups`: name -> value -> figure of `full`; `macro`: the mean over the
        values of a group. `position`. `decomposition`: vision (full - blind), perception (oracle state - full) and
        reasoning (1 - oracle state) gaps. `knowledge`: what is lost where the world contradicts common sense.
        `dummy`: how often it answers about what is not there. `frames`: how many were shown.

    Raises:
        ValueError: no row, or rows of several models, protocols or of one question twice.
    """
    rows = list(rows)
    for name in ("model", "protocol"):
        found = {getattr(row, name) for row in rows}
        if len(found) != 1:
            raise ValueError(f"`rows` are of {len(found)} {name}s, {', '.join(sorted(found))}; they must be of one")
    of = _by_control(rows)
    full = of.get("full", {})
    groups = group_figures(full.values())
    return {
        "model": rows[0].model,
        "protocol": rows[0].protocol,
        "items": len({row.uid for row in rows}),
        "videos": len({row.cluster for row in rows}),
        "frames": sorted({len(row.frame_indices) for row in full.values() if row.frame_indices}),
        "controls": {name: figure(row for row in rows if row.control == name) for name in of},
        "pairs": {name: both(full, of[name]) for name in ("mirror", "reverse") if name in of},
        "circular": cycles(full, (row for row in rows if row.control == "circular")) if "circular" in of else None,
        "drops": {n: difference(full, side) for n, side in of.items() if n not in ("full", "circular", "dummy:noise")},
        "groups": groups,
        "macro": {name: _macro(values.values()) for name, values in groups.items()},
        "position": position_bias(full.values()),
        "decomposition": _decomposition(of),
        "knowledge": _knowledge(full.values()),
        "dummy": _dummy(of),
    }


def headline(report: Mapping[str, Any]) -> str:
    """The score in one line with what would make it worthless; what was not asked for says so."""
    full, blind = report["controls"].get("full", {}), report["controls"].get("blind")
    pairs = [f"{name} {percent(pair)}" for name, pair in report["pairs"].items() if pair]
    parts = [
        f"{report['model']} ({report['protocol']}): {percent(full)} of {full.get('n', 0):,}",
        f"blind {percent(blind)}" if blind else "blind not asked",
        "pairs " + (", ".join(pairs) or "not asked"),
        f"{full.get('format_failures', 0):,} format failures",
        f"{full.get('not_answered', 0):,} not answered",
        "frames " + ("/".join(map(str, report["frames"])) or "not known"),
    ]
    if report["circular"]:
        parts.insert(3, f"all orders {percent(report['circular'])}")
    if full.get("truncated"):
        parts.insert(-2, f"{full['truncated']:,} cut off")
    return "; ".join(parts)


def percent(found: Mapping[str, Any] | None) -> str:
    """A score with its interval, such as "61.5 % [57.0, 66.0]"."""
    if not found or found.get("score") is None:
        return "not answered"
    return f"{100 * found['score']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def group_figures(rows: Iterable[Row]) -> dict[str, dict[str, Figure]]:
    """Figures of rows by source, subset, facet, family and each annotation that has 2 to `MOST_GROUPS` values."""
    rows = list(rows)
    names = sorted({name for row in rows for name in row.annotations})
    ways = {name: (lambda row, name=name: getattr(row, name)) for name in ("source", "subset", "facet", "family")}
    ways |= {name: (lambda row, name=name: row.annotations.get(name)) for name in names if name not in ways}
    found = {}
    for name, value_of in ways.items():
        values = {_label(value_of(row)) for row in rows} - {""}
        if 2 <= len(values) <= MOST_GROUPS:
            found[name] = {v: figure(r for r in rows if _label(value_of(r)) == v) for v in sorted(values)}
    return found


def _label(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _macro(figures: Iterable[Figure]) -> float | None:
    scores = [found["score"] for found in figures if found["score"] is not None]
    return float(np.mean(scores)) if scores else None


def _by_control(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """control -> uid -> row, `full` first; of `circular` any of its shifts."""
    of: dict[str, dict[str, Row]] = {}
    seen = set()
    for row in rows:
        if (where := (row.uid, row.control, row.shift, row.seed)) in seen:
            raise ValueError(f"`rows` has {row.uid!r} twice under the control {row.control!r}")
        seen.add(where)
        of.setdefault(row.control, {})[row.uid] = row
    return dict(sorted(of.items(), key=lambda pair: (pair[0] != "full", pair[0])))


def _decomposition(of: Mapping[str, dict[str, Row]]) -> dict[str, Any] | None:
    full, blind, state = (of.get(name, {}) for name in ("full", "blind", "oracle_state"))
    found = {"vision": difference(full, blind), "perception": difference(state, full)}
    told = figure(state.values()) if state else None
    if told and told["score"] is not None:
        found["reasoning"] = {
            "n": told["n"],
            "value": 1 - told["score"],
            "low": 1 - told["high"],
            "high": 1 - told["low"],
        }
    return {name: value for name, value in found.items() if value} or None


def _knowledge(rows: Iterable[Row]) -> dict[str, Any] | None:
    """The score where the world is as one expects less that where it contradicts (annotation `conflict`)."""
    sides = {
        name: [r for r in rows if r.answered and r.annotations.get("conflict") is conflict]
        for rows in [list(rows)]
        for name, conflict in (("consistent", False), ("counter", True))
    }
    if not all(sides.values()):
        return None
    figures = {name: figure(side) for name, side in sides.items()}
    value = figures["consistent"]["score"] - figures["counter"]["score"]
    found = {**figures, "value": value}
    clusters = [row.cluster for side in sides.values() for row in side]
    if len(set(clusters)) > 1:
        low, high = _difference_interval(sides, clusters)
        found |= {"low": low, "high": high}
    return found


def _difference_interval(sides: Mapping[str, Sequence[Row]], clusters: Sequence[str]) -> tuple[float, float]:
    """Of the difference of two sides that may share clusters, by drawing whole clusters."""
    table = np.array([(float(row.correct), float(name == "counter")) for name in sides for row in sides[name]])

    def gap(drawn: np.ndarray) -> float:
        counter = drawn[:, 1] == 1
        if counter.all() or not counter.any():
            return np.nan
        return float(drawn[~counter, 0].mean() - drawn[counter, 0].mean())

    draws = cluster_bootstrap(table, clusters, statistic=gap)
    return interval(draws[np.isfinite(draws)])


def _dummy(of: Mapping[str, dict[str, Row]]) -> dict[str, Any] | None:
    """`answers`: names an option of frames that show nothing; `refuses`: says so of the video that shows it."""
    found = {}
    noise = [row for row in of.get("dummy:noise", {}).values() if row.answered]
    if noise:
        found["answers"] = float(np.mean([row.letter is not None and not row.correct for row in noise]))
    real = [row for row in of.get("dummy:real", {}).values() if row.answered]
    if real:
        found["refuses"] = float(np.mean([row.letter is None or row.letter == _last(row) for row in real]))
    return found or None


def _last(row: Row) -> str:
    return SHOWN[row.options - 1]

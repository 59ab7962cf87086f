"""What the benchmarks share: rows in JSON Lines files with where they were made, bootstrap intervals, verdicts."""

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wm_pipelines.evaluation.statistics import hierarchical, interval
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.random import keyed
from wm_pipelines.training.record import code_commit, hardware, versions

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Hardware with thread count, library versions and code commit: a part of every measured row."""
    return {"hardware": hardware(1), "versions": versions(), "commit": code_commit()}


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file, none if it is not there; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one row; several processes may add to one file. A line that a kill cut short is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write((json.dumps(row) + "\n").encode())


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the file by these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def median_draws(values: np.ndarray, draws: int = 10_000) -> np.ndarray:
    """Bootstrap medians of `values` (N,)."""
    rng = keyed("median bootstrap", len(values))
    return np.median(values[rng.integers(len(values), size=(draws, len(values)))], axis=1)


def mean_interval(values: np.ndarray, draws: int = 2000) -> list[float]:
    """95 % bootstrap interval of the mean of `values` (N,), NaN left out, rounded to four digits."""
    rows = keyed("bootstrap", len(values)).integers(len(values), size=(draws, len(values)))
    return [round(float(q), 4) for q in np.nanquantile(np.nanmean(values[rows], axis=1), (0.025, 0.975))]


def detectable(draws: np.ndarray) -> float:
    """Smallest difference that a two-sided 5 % test of this precision finds in 80 % of repetitions: 2.8 errors."""
    return float(2.8 * np.std(draws))


def summary(values: np.ndarray, draws: int) -> dict[str, Any]:
    """Mean of `values` (seeds, scenes) with its interval by `hierarchical`, and the smallest detectable difference."""
    means = hierarchical(values, draws)
    low, high = interval(means)
    return {
        "value": float(np.nanmean(values)), "low": low, "high": high, "seeds": len(values),
        "detectable": detectable(means),
    }  # fmt: skip


def verdict(
    claim: str, parts: dict | None, measured: dict | None, seeds: int, needed: int | None = None
) -> dict[str, Any]:
    """Row of one claim: {claim, holds (True, False, or None where cells are missing), seeds, complete, parts}.

    Args:
        parts: {condition in words: (figure, whether it is met)}; nothing where cells are missing.
        measured: the figure whose `seeds` are those that the claim stands on. seeds: asked for.
        needed: how many parts must be met; all when None.
    """
    holds = None
    if parts:
        passed = sum(bool(ok) for _, ok in parts.values())
        holds = passed >= (needed or len(parts))
    found = measured["seeds"] if parts else 0
    return {"kind": "verdict", "claim": claim, "holds": holds, "seeds": found, "complete": found >= seeds,
            "parts": {k: {"measured": v, "passed": bool(ok)} for k, (v, ok) in (parts or {}).items()}}  # fmt: skip


def verdict_lines(verdicts: list[dict[str, Any]], seeds: int) -> list[str]:
    """The verdicts in words, each with its parts and their figures."""
    lines = []
    for row in verdicts:
        word = {True: "HOLDS", False: "DOES NOT HOLD", None: "not measured"}[row["holds"]]
        partial = "" if row["complete"] else f" (only {row['seeds']} of {seeds} seeds)"
        lines.append(f"  {row['claim']}: {word}{partial}")
        for text, part in row["parts"].items():
            found = part["measured"]
            extra = f"; smallest detectable difference {found['detectable']:.3f}" if isinstance(found, dict) else ""
            lines.append(f"    {'yes' if part['passed'] else 'no':<4}{text}: {figure_text(found)}{extra}")
    return lines


def figure_text(figure: dict[str, Any] | float | None) -> str:
    """A `summary` as "mean [low, high]", a number as it is, None as a dash."""
    if figure is None:
        return "-"
    if isinstance(figure, float):
        return f"{figure:.4g}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"

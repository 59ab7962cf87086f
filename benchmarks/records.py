"""What every benchmark here shares: rows in JSON Lines files with where they were made, and bootstrap intervals."""

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wm_pipelines.media import atomic
from wm_pipelines.random import keyed
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


def hierarchical(values: np.ndarray, draws: int = 10_000) -> np.ndarray:
    """Bootstrap means of `values` (seeds, scenes): seeds are drawn with replacement, then scenes within each.

    NaN (a scene without the quantity) is left out of a mean. Returns (draws,). The stream depends on the sizes only,
    so two quantities over the same seeds and scenes are resampled alike.
    """
    seeds, scenes = values.shape
    rng = keyed("hierarchical bootstrap", seeds, scenes)
    means = np.empty(draws)
    for start in range(0, draws, 500):
        count = min(500, draws - start)
        rows = rng.integers(seeds, size=(count, seeds, 1))
        columns = rng.integers(scenes, size=(count, seeds, scenes))
        means[start : start + count] = np.nanmean(values[rows, columns], axis=(1, 2))
    return means


def median_draws(values: np.ndarray, draws: int = 10_000) -> np.ndarray:
    """Bootstrap medians of `values` (N,)."""
    rng = keyed("median bootstrap", len(values))
    return np.median(values[rng.integers(len(values), size=(draws, len(values)))], axis=1)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of bootstrap draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def mean_interval(values: np.ndarray, draws: int = 2000) -> list[float]:
    """95 % bootstrap interval of the mean of `values` (N,), NaN left out, rounded to four digits."""
    rows = keyed("bootstrap", len(values)).integers(len(values), size=(draws, len(values)))
    return [round(float(q), 4) for q in np.nanquantile(np.nanmean(values[rows], axis=1), (0.025, 0.975))]


def detectable(draws: np.ndarray) -> float:
    """Smallest difference that a two-sided 5 % test of this precision finds in 80 % of repetitions: 2.8 errors."""
    return float(2.8 * np.std(draws))

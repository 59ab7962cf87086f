"""What the experiments on ComCLIP share: its rules, how trials are scored, figures, and what is claimed of them.

A trial is a caption, the picture it is true of and, for each kind of foil, a picture it is false of. A rule is right
where the true picture's score is the larger one; equal scores are wrong. Boxes alone (the share of the caption's
things that have one) are the control; there equal shares count half, as a guess would.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import figure_text, summary, verdict, verdict_lines

from wm_pipelines.comclip.pipeline import ComCLIPPipeline
from wm_pipelines.runtime.files import atomic

FOILS = ("subject", "object", "verb", "swap")
# name -> options of the pipeline
RULES: dict[str, dict[str, Any]] = {
    "released": {},
    "gclip": {"fusion": "gclip"},
    "equal": {"fusion": "equal"},
    "blank": {"missing": "blank"},
    "late": {"fusion": "late"},
}
NAMES = {
    "global": "global CLIP",
    "released": "ComCLIP as released (missing: whole picture)",
    "gclip": "GCLIP-style (weights not normalised)",
    "equal": "equal weights",
    "blank": "as released, missing: black picture",
    "late": "late fusion (mean of cosines)",
    "detector": "control: boxes alone",
}
Boxes = dict[str, list[tuple[float, ...]]]


def decide(
    pipeline: ComCLIPPipeline,
    captions: Sequence[str],
    true: torch.Tensor,
    false: torch.Tensor,
    true_boxes: Sequence[Boxes],
    false_boxes: Sequence[Boxes],
    batch_size: int = 256,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """1 where a rule is right, 0 where it is wrong, for each trial; and what the scoring cost and met.

    Args:
        true, false: pictures `(N, 3, H, W)`.
    """
    right: dict[str, list[float]] = {}
    met = {"images": 0, "texts": 0, "failures": 0}
    for name, options in RULES.items():
        with warnings.catch_warnings(action="ignore"):  # what has no box is what the experiment is about
            own = pipeline(true, captions, true_boxes, batch_size=batch_size, **options)
            foil = pipeline(false, captions, false_boxes, batch_size=batch_size, **options)
        right[name] = (own.score > foil.score).double().tolist()
        met["images"] += own.passes.images + foil.passes.images
        met["texts"] += own.passes.texts + foil.passes.texts
    met["failures"] = len(own.failures) + len(foil.failures)
    right["global"] = (own.baseline > foil.baseline).double().tolist()
    gap = own.detector - foil.detector
    right["detector"] = ((gap > 0).double() + 0.5 * (gap == 0).double()).tolist()
    return right, met


class Results:
    """Decisions by seed, boxes, foil and rule; rules are compared with each other trial by trial."""

    def __init__(self, rows: list[dict[str, Any]], draws: int):
        self.draws = draws
        self.cells = {(row["boxes"], row["seed"]): row["right"] for row in rows if row["kind"] == "cell"}
        self.grounding = list(dict.fromkeys(boxes for boxes, _ in self.cells))

    def right(self, boxes: str, foil: str, rule: str) -> np.ndarray | None:
        """(seeds, trials) 100 where the rule is right."""
        found = [right[foil][rule] for (b, _), right in sorted(self.cells.items()) if b == boxes]
        return 100 * np.array(found, dtype=float) if found else None

    def figure(self, boxes: str, foil: str, rule: str, other: str | None = None) -> dict[str, Any] | None:
        """Accuracy in per cent, or the difference to another rule in points, with its interval."""
        values = self.right(boxes, foil, rule)
        if values is None:
            return None
        return summary(values if other is None else values - self.right(boxes, foil, other), self.draws)


def verdicts(results: Results, seeds: int) -> list[dict[str, Any]]:
    """One claim for each rule and kind of boxes (beats global CLIP on all four foils), and that of the default."""
    made = []
    for boxes in results.grounding:
        for rule in RULES:
            gaps = {foil: results.figure(boxes, foil, rule, "global") for foil in FOILS}
            parts = {
                f"{foil}: {rule} - global (interval above 0)": [gap, gap["low"] > 0] for foil, gap in gaps.items()
            }
            made.append(verdict(f"{rule} beats global CLIP, {boxes} boxes", parts, gaps["subject"], seeds))
    parts, measured = {}, None
    for boxes in ("oracle", "noisy"):
        if boxes not in results.grounding:
            parts = {}
            break
        for foil in FOILS:
            gap = measured = results.figure(boxes, foil, "blank", "released")
            told, met = ("not below", gap["high"] >= 0) if foil == "verb" else ("above", gap["low"] > 0)
            parts[f"{boxes}, {foil}: blank - full (interval {told} 0)"] = [gap, met]
        for foil in ("verb", "swap"):
            gap = results.figure(boxes, foil, "blank", "detector")
            parts[f"{boxes}, {foil}: blank - boxes alone (interval above 0)"] = [gap, gap["low"] > 0]
    made.append(verdict('missing="blank" becomes the default', parts or None, measured, seeds))
    return made


def report(results: Results, seeds: int) -> tuple[str, list[dict[str, Any]]]:
    """The whole report as text, and as rows: figures of every rule, then the verdicts."""
    lines, rows = ["accuracy in per cent of choosing the true picture (chance 50)"], []
    for boxes in results.grounding:
        lines.append(f"\n{boxes} boxes")
        for rule, name in NAMES.items():
            figures = {foil: results.figure(boxes, foil, rule) for foil in FOILS}
            lines.append(f"  {name:<46}" + "  ".join(f"{foil} {figure_text(f)}" for foil, f in figures.items()))
            rows.append({"kind": "figures", "boxes": boxes, "rule": rule, **figures})
    judged = verdicts(results, seeds)
    lines += ["\nPre-registered claims:", *verdict_lines(judged, seeds)]
    return "\n".join(lines), rows + judged


def plot(results: Results, path: Path) -> None:
    """Differences to global CLIP with their intervals: one panel for each kind of boxes, one group for each foil."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = results.grounding
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4 * len(shown), 3.4), sharey=True, layout="constrained")
    for axis, boxes in zip(np.atleast_1d(axes), shown, strict=True):
        for n, rule in enumerate(RULES):
            gaps = [results.figure(boxes, foil, rule, "global") for foil in FOILS]
            places = np.arange(len(FOILS)) + (n - 2) * 0.14
            middle = np.array([gap["value"] for gap in gaps])
            low, high = (np.array([gap[k] for gap in gaps]) for k in ("low", "high"))
            spread = np.clip([middle - low, high - middle], 0, None)
            axis.errorbar(places, middle, spread, fmt="o", capsize=2, label=rule)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set_xticks(range(len(FOILS)), FOILS)
        axis.set_title(f"{boxes} boxes")
    np.atleast_1d(axes)[0].set_ylabel("accuracy minus global CLIP's, points")
    np.atleast_1d(axes)[-1].legend(fontsize="small")
    with atomic(path) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)

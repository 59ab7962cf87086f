"""What the rows of KAdaptation's micro-experiment say: accuracy with intervals, the verdicts, a plot."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from kadaptation_world import CLASSES
from records import figure_text, summary, verdict, verdict_lines

from wm_pipelines.runtime.files import atomic

MARGIN = 0.01
"""By how much accuracy may fall short of a LoRA with three times the parameters."""
LARGER_LORA = ("lora6", "lora8")
"""LoRA with three and with four times the parameters of KAdaptation."""
SMALLER = ("probe", "bias", "lora1", "lora2")
"""All arms that have no more parameters than KAdaptation."""


class Results:
    """Rows of cells by arm; seeds that two arms share are compared with each other, picture by picture."""

    def __init__(self, rows: list[dict[str, Any]], draws: int):
        self.base = next((r for r in rows if r["kind"] == "base"), None)
        self.draws = draws
        self.cells: dict[str, dict[int, dict]] = defaultdict(dict)
        self.tuning: dict[str, list[dict]] = defaultdict(list)
        for row in rows:
            if row["kind"] == "cell":
                self.cells[row["arm"]][row["seed"]] = row
            elif row["kind"] == "tuning":
                self.tuning[row["arm"]].append(row)

    def tuned(self, arm: str) -> dict[float, float]:
        """{rate: mean validation accuracy over the tuning seeds}, rates rising."""
        rates = sorted(map(float, self.tuning[arm][0]["rates"]))
        return {rate: float(np.mean([r["rates"][f"{rate:g}"]["val"] for r in self.tuning[arm]])) for rate in rates}

    def rate(self, arm: str) -> float:
        """The learning rate with the best `tuned`, ties to the smaller."""
        tuned = self.tuned(arm)
        return max(tuned, key=tuned.get)

    def found(self, arm: str) -> dict[int, dict[str, Any]]:
        """{seed: what was measured at the arm's rate}."""
        return {s: next(iter(row["rates"].values())) for s, row in sorted(self.cells.get(arm, {}).items())}

    def given(self, arm: str) -> dict[int, np.ndarray]:
        """{seed: (pictures,) labels given}."""
        return {seed: np.array(list(found["given"]), int) for seed, found in self.found(arm).items()}

    def right(self, arm: str) -> dict[int, np.ndarray]:
        """{seed: (pictures,) 1 where the arm is right}."""
        return {s: (g == np.arange(len(g)) % CLASSES).astype(float) for s, g in self.given(arm).items()}

    def accuracy(self, arm: str) -> dict[str, Any] | None:
        found = self.right(arm)
        return summary(np.stack(list(found.values())), self.draws) if found else None

    def difference(self, one: str, other: str) -> dict[str, Any] | None:
        """Accuracy of `one` - `other` over shared seeds and pictures; None without shared seeds."""
        a, b = self.right(one), self.right(other)
        shared = sorted(set(a) & set(b))
        return summary(np.stack([a[s] - b[s] for s in shared]), self.draws) if shared else None

    def trainable(self, arm: str) -> int:
        return next(iter(self.cells[arm].values()))["trainable"]


def verdicts(results: Results, seeds: int) -> list[dict[str, Any]]:
    """The three claims of the experiment, the second in its two halves; `seeds`: asked for."""
    said = []
    probe, full = results.difference("ka", "probe"), results.difference("ka", "full")
    parts = probe and full and {
        "accuracy KA - probe (interval above 0)": [probe, probe["low"] > 0],
        "accuracy KA - full fine-tuning (interval not below 0)": [full, full["low"] >= 0],
    }  # fmt: skip
    said.append(verdict("KA beats the probe and is not behind full fine-tuning", parts, probe, seeds))

    gaps = {arm: results.difference("ka", arm) for arm in LARGER_LORA}
    parts = all(gaps.values()) and {
        f"accuracy KA - {arm}, {results.trainable(arm) / results.trainable('ka'):.3g} x its parameters "
        f"(interval above -{MARGIN})": [gap, gap["low"] >= -MARGIN]
        for arm, gap in gaps.items()
    }  # fmt: skip
    said.append(verdict("KA keeps up with LoRA of three times its parameters", parts, gaps[LARGER_LORA[0]], seeds))

    rivals = {arm: results.difference("ka", arm) for arm in SMALLER}
    parts = all(rivals.values()) and {
        f"accuracy KA - {arm}, {results.trainable(arm):,} parameters (mean not below 0)": [gap, gap["value"] >= 0]
        for arm, gap in rivals.items()
    }
    said.append(verdict("KA is on the Pareto front: no arm of as few parameters is better", parts, probe, seeds))

    ours, plain = results.given("released"), results.given("bias")
    shared, parts = sorted(set(ours) & set(plain)), None
    if shared:
        moved = max(results.found("released")[s]["moved"] for s in shared)
        differ = float(np.mean([ours[s] != plain[s] for s in shared]))
        parts = {
            "largest entry of a factor U after training (= 0)": [moved, moved == 0],
            "share of test pictures given another label than by bias tuning (<= 0.001)": [differ, differ <= 0.001],
        }
    said.append(verdict("the released initialisation is bias tuning", parts, {"seeds": len(shared)}, seeds))
    return said


def report(results: Results, names: dict[str, str], seeds: int) -> tuple[str, list[dict]]:
    """The whole report as text, and as rows: figures of every arm, then the verdicts."""
    lines, rows = [], []
    if results.base:
        lines.append(f"base: {results.base['accuracy']:.1%} of {results.base['test']} new pictures named\n")
    lines.append(f"{'arm':<38}{'parameters':>11}{'rate':>7}  train  test accuracy [95 %]   KA minus this")
    for arm in sorted(results.cells, key=lambda a: (results.trainable(a), a)):
        found = results.found(arm)
        rate = next(iter(next(iter(results.cells[arm].values()))["rates"]))
        tuned = results.tuned(arm) if results.tuning.get(arm) else None
        row = {
            "kind": "figures", "arm": arm, "seeds": sorted(found), "trainable": results.trainable(arm), "rate": rate,
            "rate_at_edge": float(rate) in (min(tuned), max(tuned)) if tuned else None, "tuned": tuned,
            "train": float(np.mean([f["train"] for f in found.values()])), "test": results.accuracy(arm),
            "ka_minus": results.difference("ka", arm),
        }  # fmt: skip
        edge = "*" if row["rate_at_edge"] else " "
        lines.append(
            f"{names[arm]:<38}{row['trainable']:>11,}{rate:>7}{edge} {row['train']:.3f}  {figure_text(row['test'])}  "
            f"{figure_text(row['ka_minus'])}"
        )
        rows.append(row)
    lines.append("* at the edge of its grid")
    judged = verdicts(results, seeds)
    lines += ["\nPre-registered claims:", *verdict_lines(judged, seeds)]
    return "\n".join(lines), rows + judged


def plot(results: Results, path: Path) -> None:
    """Accuracy over trainable parameters, head left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for arm in results.cells:
        found, colour = results.accuracy(arm), "tab:orange" if arm.startswith("ka") else "tab:blue"
        spread = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
        count = max(results.trainable(arm), 100)  # a logarithmic axis has no zero
        axis.errorbar(count, found["value"], np.clip(spread, 0, None), color=colour, marker="o", capsize=3)
        axis.annotate(arm, (count, found["value"]), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axis.set(xscale="log", xlabel="trainable parameters without the head (probe: 0)", ylabel="test accuracy")
    with atomic(path) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)

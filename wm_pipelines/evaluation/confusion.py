"""Which class is taken for which."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image

from wm_pipelines.evaluation.statistics import wilson


@dataclass(frozen=True)
class Confusion:
    """Counts of answers by truth.

    Args:
        names: the classes; the rows of `counts`, and its first columns.
        counts: int `(C, C + 1)`; row the truth, column the answer, the last one for answers that are no class.
    """

    names: tuple[str, ...]
    counts: np.ndarray

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.counts[:, :-1]) / self.n)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson), which takes the pictures as independent."""
        return wilson(int(np.trace(self.counts[:, :-1])), self.n)

    def lines(self) -> list[str]:
        """Accuracy, each class's recall and precision, and the confusions, the most frequent first."""
        low, high = self.interval
        said = [f"accuracy {self.accuracy:.1%} [{low:.1%}, {high:.1%}], {self.n} pictures"]
        for i, name in enumerate(self.names):
            own, asked = int(self.counts[i].sum()), int(self.counts[:, i].sum())
            right = int(self.counts[i, i])
            recall = f"{right} of {own} found" if own else "none shown"
            said.append(f"{name}: {recall}, {f'{right} of {asked} answers right' if asked else 'never answered'}")
        answers = [*self.names, "another answer"]
        wrong = [
            (int(self.counts[i, j]), name, answer)
            for i, name in enumerate(self.names)
            for j, answer in enumerate(answers)
            if i != j and self.counts[i, j]
        ]
        return said + [f"{name} taken for {answer}: {count}" for count, name, answer in sorted(wrong, reverse=True)]

    def picture(self) -> PIL.Image.Image:
        """The counts as a table, rows the truth, darker the larger the share of its row."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        other = bool(self.counts[:, -1].any())
        counts = self.counts if other else self.counts[:, :-1]
        columns = [*self.names, "other"] if other else list(self.names)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        side = 2.5 + 0.45 * len(columns)
        figure, axis = pyplot.subplots(figsize=(side, side), layout="constrained")
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
        axis.set_yticks(range(len(self.names)), self.names)
        axis.set(xlabel="answer", ylabel="truth")
        for i, j in zip(*np.nonzero(counts), strict=True):
            axis.text(j, i, counts[i, j], ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
        with io.BytesIO() as file:
            figure.savefig(file, format="png", dpi=100)
            pyplot.close(figure)
            file.seek(0)
            return PIL.Image.open(file).convert("RGB")


def confusion(predicted: Sequence[str], truth: Sequence[str], class_names: Sequence[str] | None = None) -> Confusion:
    """Count answers against the truth.

    Args:
        predicted, truth: one name for each picture.
        class_names: the classes and their order; the sorted names in `truth` when None.

    Raises:
        ValueError: no picture, lists of other lengths, a repeated class, or a truth that is none.
    """
    if not truth or len(predicted) != len(truth):
        raise ValueError(
            f"`predicted` has {len(predicted)} names and `truth` {len(truth)}; both must have one for each picture"
        )
    names = tuple(sorted(set(truth)) if class_names is None else class_names)
    if len(set(names)) != len(names):
        raise ValueError(f"`class_names` has {next(n for n in names if names.count(n) > 1)!r} more than once")
    index = {name: n for n, name in enumerate(names)}
    unknown = next((name for name in truth if name not in index), None)
    if unknown is not None:
        raise ValueError(f"`truth` has {unknown!r}, which is no class; there are {', '.join(names)}")
    counts = np.zeros((len(names), len(names) + 1), dtype=int)
    for said, true in zip(predicted, truth, strict=True):
        counts[index[true], index.get(said, len(names))] += 1
    return Confusion(names, counts)

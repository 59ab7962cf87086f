"""Progress of a fit to a few examples: the pipeline's own bar, and callbacks named as diffusers names them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Callback = Callable[[Any, int, dict[str, float]], Any]
"""Called with the pipeline, the number of steps or epochs done, and the figures of the last."""


class FitProgress:
    """Counts the steps and epochs of a fit and tells them.

    Args:
        bar: with an `update()` for each step. on_step, on_epoch: of the caller.
    """

    def __init__(self, pipeline: Any, bar: Any, on_step: Callback | None, on_epoch: Callback | None):
        self.pipeline, self.bar, self.on_step, self.on_epoch = pipeline, bar, on_step, on_epoch
        self.steps = self.epochs = 0

    def step(self, figures: dict[str, float]) -> None:
        """A step is done; `loss` and what else was measured in it."""
        self.steps += 1
        self.bar.update()
        if self.on_step is not None:
            self.on_step(self.pipeline, self.steps, figures)

    def epoch(self, row: dict[str, float]) -> bool:
        """An epoch is done, with its row of `history`; True if a callback asked to stop."""
        self.epochs += 1
        if self.on_epoch is not None:
            self.on_epoch(self.pipeline, self.epochs, row)
        return self.pipeline.interrupt


@contextmanager
def fit_progress(
    pipeline: Any, steps: int, on_step: Callback | None, on_epoch: Callback | None
) -> Iterator[FitProgress]:
    """The pipeline's progress bar over so many steps; what interrupted an earlier fit is forgotten."""
    pipeline.interrupt = False
    with pipeline.progress_bar(total=steps) as bar:
        yield FitProgress(pipeline, bar, on_step, on_epoch)

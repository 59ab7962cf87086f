"""Classification as a task to measure local intrinsic dimension on: the two functions that `measure` takes."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from wm_pipelines.runtime.random import keyed

Labelled = tuple[torch.Tensor, torch.Tensor]


class ClassificationTask:
    """Pictures with labels, a budget of steps and a grid of learning rates, the same for every dimension.

    Args:
        train: (pictures (N,C,H,W), labels (N,) int64) to learn from.
        validation: the same, to choose the learning rate of the body on, by cross-entropy.
        test: the same, to evaluate on.
        steps: of Adam, at constant rates. batch: pictures a step. head_rate: learning rate of the head.
        rates: learning rates that the body may have.
    """

    def __init__(
        self,
        train: Labelled,
        validation: Labelled,
        test: Labelled,
        *,
        steps: int,
        batch: int,
        head_rate: float,
        rates: Iterable[float],
    ):
        self.pictures, self.labels = train
        self.validation, self.test = validation, test
        self.steps, self.batch = steps, min(batch, len(self.labels))
        self.head_rate, self.rates = head_rate, tuple(rates)

    def train(self, model: nn.Module, head: list[nn.Parameter], body: list[nn.Parameter], seed: int) -> None:
        """Train from the present values once at every rate and keep the outcome that validates best."""
        trained = [*head, *body]
        start, best = [p.detach().clone() for p in trained], None
        for rate in self.rates if body else self.rates[:1]:
            _assign(trained, start)
            self._fit(model, head, body, rate, seed)
            loss = self.loss(model)
            if best is None or loss < best[0]:
                best = loss, [p.detach().clone() for p in trained]
        _assign(trained, best[1])

    def _fit(
        self, model: nn.Module, head: list[nn.Parameter], body: list[nn.Parameter], rate: float, seed: int
    ) -> None:
        optimizer = torch.optim.Adam([{"params": head, "lr": self.head_rate}, {"params": body, "lr": rate}])
        for step in range(self.steps):
            rows = keyed("batch", seed, step).choice(len(self.labels), self.batch, replace=False)
            loss = F.cross_entropy(model(self.pictures[rows]), self.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def _logits(self, model: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(part) for part in pictures.split(256)])

    def loss(self, model: nn.Module) -> float:
        """Cross-entropy on the validation pictures; infinite where it is not a number."""
        pictures, labels = self.validation
        loss = float(F.cross_entropy(self._logits(model, pictures), labels))
        return loss if loss == loss else float("inf")

    def evaluate(self, model: nn.Module) -> list[float]:
        """1 for every test picture that is named right, else 0."""
        pictures, labels = self.test
        return (self._logits(model, pictures).argmax(1) == labels).float().tolist()


@torch.no_grad()
def _assign(parameters: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)

"""What is trained: the `Task` a method writes, and the keyed noise and data order it is given."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wm_pipelines.runtime.random import keyed


class KeyedNoise:
    """Random numbers of one training step, keyed by (seed, step, sample, purpose).

    A sample draws the same numbers whichever process or micro-batch it falls into, and two purposes never share a
    stream. Every method takes one sample index and returns `shape`, or a sequence of N indices and returns
    `(N, *shape)`; all on the CPU.
    """

    def __init__(self, seed: int, step: int) -> None:
        self.seed, self.step = int(seed), int(step)

    def generator(self, sample: int, purpose: str) -> np.random.Generator:
        """The NumPy generator behind the other methods, for what they do not cover."""
        return keyed("noise", self.seed, self.step, int(sample), purpose)

    def randn(self, sample: int | Sequence[int], shape: Sequence[int], purpose: str) -> torch.Tensor:
        """Standard normal, float32."""
        return self._draw(sample, shape, purpose, lambda g, out: g.standard_normal(out=out, dtype=np.float32))

    def uniform(
        self, sample: int | Sequence[int], shape: Sequence[int], purpose: str, low: float = 0.0, high: float = 1.0
    ) -> torch.Tensor:
        """Uniform in [low, high), float32."""
        drawn = self._draw(sample, shape, purpose, lambda g, out: g.random(out=out, dtype=np.float32))
        return drawn if (low, high) == (0.0, 1.0) else drawn.mul_(high - low).add_(low)

    def integers(
        self, sample: int | Sequence[int], shape: Sequence[int], purpose: str, low: int, high: int
    ) -> torch.Tensor:
        """Uniform integers in [low, high), int64."""

        def fill(generator: np.random.Generator, out: np.ndarray) -> None:
            out[...] = generator.integers(low, high, out.shape)

        return self._draw(sample, shape, purpose, fill, np.int64)

    def _draw(self, sample, shape, purpose, fill, dtype=np.float32) -> torch.Tensor:
        single = isinstance(sample, int | np.integer)
        samples = [sample] if single else sample
        out = np.empty((len(samples), *shape), dtype)
        # a generator for each sample, never one for the batch: where a batch is cut changes nothing
        for row, index in enumerate(samples):
            fill(self.generator(index, purpose), out[row : row + 1].reshape(tuple(shape)))
        return torch.from_numpy(out[0] if single and shape else out.reshape(tuple(shape)) if single else out)


class Task(ABC):
    """What a method gives the engine. A task is built as `Class(recipe)` and holds its modules.

    Attributes:
        length: number of samples, or None for endless procedural data. With a length, `loss` gets indices below it,
            each once per epoch, in an order keyed by (seed, epoch); the rest of an epoch that fills no global batch
            is left out. Without, indices count up for ever: sample i is seen once.
        data: one line for the record: what was trained on.
        device: set by the engine before the first `loss`; inputs must be moved there.
    """

    length: int | None = None
    data: str = ""
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Every module whose state belongs to the run, trainable or not; saved whole, moved to `device`."""

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Named fp32 parameters to optimise; by default all of `modules()` that require gradients."""
        return [
            (f"{key}.{name}", parameter)
            for key, module in self.modules().items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]

    def group(self, name: str, parameter: nn.Parameter) -> tuple[float, bool]:
        """Of a trainable parameter, the factor of its learning rate, and whether weight decay applies to it.

        By default 1, and decay where it has two or more dimensions.
        """
        return 1.0, parameter.ndim >= 2

    @abstractmethod
    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        """Mean loss over the samples `indices`.

        Returns:
            "loss" (scalar with gradient) and any scalars to log. All randomness comes from `noise`; PyTorch's global
            generator (dropout layers) is seeded by (seed, step, micro-batch) before the call, so it repeats too.
        """

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the checkpoint to publish (fp16 safetensors) into the empty `folder`; averaged weights are in."""

    def load_weights(self, source: str) -> dict[str, Any] | None:
        """Load exported weights (`Recipe.init_from`) before a run starts with a fresh optimiser.

        Returns facts about them for the record (hashes, steps they had), if any.
        """
        raise ValueError(f"init_from: {type(self).__name__} cannot start from weights, got {source!r}")


class DataOrder:
    """Which samples a step sees: a pure function of (seed, step), so nothing has to be saved.

    Raises:
        ValueError: the data is shorter than one global batch.
    """

    def __init__(self, seed: int, length: int | None, global_batch: int) -> None:
        if length is not None and length < global_batch:
            raise ValueError(
                f"batch_size * grad_accum * processes is {global_batch}, but the data has only {length} samples; "
                "lower it, or let the task set length = None and repeat its samples itself"
            )
        self.seed, self.length, self.global_batch = seed, length, global_batch
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def __call__(self, step: int) -> list[int]:
        """The global batch of step `step` (from 0)."""
        if self.length is None:
            return list(range(step * self.global_batch, (step + 1) * self.global_batch))
        epoch, batch = divmod(step, self.length // self.global_batch)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, keyed("order", self.seed, epoch).permutation(self.length)
        return self._permutation[batch * self.global_batch : (batch + 1) * self.global_batch].tolist()

"""Pairs of the miniature world as training data: made when they are asked for, each action in several wordings."""

from collections.abc import Sequence

import torch

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.render import render
from wm_pipelines.dynamics.data import Pair

WORDINGS = 4  # the first is the plainest


class DioramaPairs(Sequence):
    """Items `start` ... `start + length - 1` of `DioramaDataset(kind="pairs")`, with captions of their first states.

    `identity` says what they are without making one; `kind` of a pair is that of its action.
    """

    def __init__(
        self, split: str = "train", composition: str = "iid", length: int = 1000, start: int = 0, size: int = 64
    ):
        self.data = DioramaDataset("pairs", split, composition, length=start + length, size=size)
        self.start, self.length = start, length
        self.identity = f"Diorama pairs {split} {composition} {start} {length} {size} {WORDINGS}"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, n: int) -> Pair:
        if not 0 <= n < self.length:
            raise IndexError(f"pair {n} of {self.length}")
        n += self.start
        chain = self.data.chain(n)
        words = dict.fromkeys(chain.phrases(seed)[0] for seed in [0, *range(4 * n + 1, 4 * n + WORDINGS)])

        def read() -> tuple[torch.Tensor, torch.Tensor]:
            before, after = render(chain.states, (0,), self.data.size, ("rgb",)).rgb[:, 0]
            return before, after

        said = caption(chain.states[0], "full", seed=n, relations=True).text
        return Pair(f"{self.data.split}:{n}", read, tuple(words), chain.actions[0].kind, said)

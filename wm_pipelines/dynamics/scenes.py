"""Pairs of the miniature world as training data: rendered when they are encoded, each action in several wordings."""

import torch

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.render import render
from wm_pipelines.dynamics.data import Pair

WORDINGS = 4  # the first is the plainest


def diorama_pairs(
    split: str = "train", composition: str = "iid", length: int = 1000, size: int = 64, name: str = "diorama"
) -> list[Pair]:
    """Pairs of `DioramaDataset(kind="pairs")` with captions of their first states; `kind` is that of the action."""
    data = DioramaDataset(kind="pairs", split=split, composition=composition, length=length, size=size, name=name)
    return [_pair(data, n) for n in range(length)]


def _pair(data: DioramaDataset, n: int) -> Pair:
    chain = data.chain(n)
    words = dict.fromkeys(chain.phrases(seed)[0] for seed in [0, *range(4 * n + 1, 4 * n + WORDINGS)])

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        before, after = render(chain.states, (0,), data.size, ("rgb",)).rgb[:, 0]
        return before, after

    said = caption(chain.states[0], "full", seed=n, relations=True).text
    return Pair(f"{data.split}:{n}", read, tuple(words), chain.actions[0].kind, said)

"""The models of `mcq_micro.py`, and what they are shown under each control.

All read question and options as words, each with a gain for its place, and score every option by itself; they differ
in what they see: nothing ("text"), frames in any order ("bag"), frames in order ("temporal"), or the state ("oracle").
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mcq_world import FRAMES, OPTIONS, STATE, WORDS, Data
from torch import nn
from torch.nn import functional

from wm_pipelines.runtime.random import keyed

CONTROLS = ("full", "blank", "one", "shuffle", "mirror", "reverse", "circular")
LONGEST = 40


class Texts(nn.Module):
    """Mean over the words of a text of their vectors, each times the gain of its place."""

    def __init__(self, width: int):
        super().__init__()
        self.words = nn.Embedding(len(WORDS), width, padding_idx=0)
        self.gains = nn.Parameter(1 + 0.3 * torch.randn(LONGEST, width))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(..., L) -> (..., width)."""
        there = (ids > 0).sum(-1, keepdim=True).clamp(min=1)
        return (self.words(ids) * self.gains[: ids.shape[-1]]).sum(-2) / there.sqrt()


class Frames(nn.Module):
    """Frames as one vector, given the question: a small convolutional net, attention over the cells of each frame.

    Args:
        ordered: the frames' features are mixed with those of their neighbours in time and read in order; else each is
            read by itself and their mean is taken, which no order changes.
    """

    def __init__(self, width: int, ordered: bool, maps: int = 24):
        super().__init__()
        self.ordered = ordered
        self.see = nn.Sequential(
            nn.Conv2d(3, maps, 3, 2, 1), nn.ReLU(), nn.Conv2d(maps, maps, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(maps, maps, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip
        self.mix = nn.ModuleList(nn.Conv3d(maps, maps, (3, 1, 1), padding=(1, 0, 0)) for _ in range(2 * ordered))
        self.gate = nn.Linear(width, 2 * maps)
        self.look = nn.Linear(maps, 4)
        side = torch.linspace(-1, 1, 8)
        self.register_buffer("places", torch.stack(torch.meshgrid(side, side, indexing="ij")).flatten(1).T)
        self.each = nn.Linear(4 * (maps + 2) + maps, 32)
        self.out = nn.Linear(32 * FRAMES if ordered else 32, width)

    def forward(self, data: Data, question: torch.Tensor) -> torch.Tensor:
        n = len(data)
        maps = self.see(data.frames.flatten(0, 1).float() / 127.5 - 1)
        maps = maps.unflatten(0, (n, FRAMES)).transpose(1, 2)  # N, C, T, 8, 8
        for layer in self.mix:
            maps = maps + functional.relu(layer(maps))
        cells = maps.permute(0, 2, 3, 4, 1).flatten(2, 3)  # N, T, 64, C
        gain, shift = self.gate(question)[:, None, None].chunk(2, -1)
        cells = functional.relu(cells * (1 + gain) + shift)
        weight = self.look(cells).softmax(2).transpose(2, 3)  # N, T, 4, 64
        seen = torch.cat([weight @ cells, weight @ self.places], -1).flatten(2)
        each = functional.relu(self.each(torch.cat([seen, cells.mean(2)], -1)))
        return self.out(each.flatten(1) if self.ordered else each.mean(1))


class State(nn.Module):
    """The state as one vector, given the question: a net for each object by itself, and their sum."""

    def __init__(self, width: int):
        super().__init__()
        self.each = nn.Sequential(
            nn.Linear(STATE + width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU()
        )
        self.out = nn.Linear(width, width)

    def forward(self, data: Data, question: torch.Tensor) -> torch.Tensor:
        asked = question[:, None].expand(-1, data.state.shape[1], -1)
        return self.out(self.each(torch.cat([data.state, asked], -1)).sum(1))


class Net(nn.Module):
    """Scores of the options (N, 4), minus infinity where there is none."""

    def __init__(self, arm: str, width: int):
        super().__init__()
        self.texts = Texts(width)
        made: dict[str, Callable[[], nn.Module]] = {
            "bag": lambda: Frames(width, False), "temporal": lambda: Frames(width, True),
            "oracle": lambda: State(width),
        }  # fmt: skip
        self.video = made[arm]() if arm in made else None
        self.head = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.letters = nn.Parameter(torch.zeros(OPTIONS, width))

    def forward(self, data: Data) -> torch.Tensor:
        question, options = self.texts(data.words), self.texts(data.options) + self.letters
        seen = torch.zeros_like(question) if self.video is None else self.video(data, question)
        wanted = self.head(torch.cat([question, seen], -1))
        scores = (options * wanted[:, None]).sum(-1) / wanted.shape[-1] ** 0.5
        return scores.masked_fill(~data.there, -torch.inf)


def fit(arm: str, data: Data, seed: int, sizes: dict[str, Any], epochs: int) -> Net:
    """A net trained on `data` for so many epochs."""
    torch.manual_seed(int(keyed("mcq micro start", arm, seed).integers(2**31)))
    net = Net(arm, sizes["width"])
    per_epoch = max(1, len(data) // sizes["batch"])
    optimiser = torch.optim.AdamW(net.parameters(), lr=sizes["lr"], weight_decay=sizes["decay"])
    rise = torch.optim.lr_scheduler.OneCycleLR(optimiser, sizes["lr"], epochs * per_epoch + 1)
    for epoch in range(epochs):
        order = torch.from_numpy(keyed("mcq micro order", seed, epoch).permutation(len(data)))
        for rows in order.split(sizes["batch"])[:per_epoch]:
            batch = data.take(rows)
            loss = functional.cross_entropy(net(batch), batch.answer)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rise.step()
    return net.eval()


def shown(data: Data, control: str) -> Data:
    """What a control shows, with the answer that is right then, -1 where none is."""
    frames, state = data.frames, data.state
    if control == "blank":
        return replace(data, frames=torch.full_like(frames, 128), state=torch.zeros_like(state))
    if control == "one":
        return replace(data, **_in_order(data, [[FRAMES // 2] * FRAMES] * len(data)))
    if control == "shuffle":
        return replace(data, **_in_order(data, [_other_order(n) for n in range(len(data))]))
    if control == "mirror":
        flipped = state.clone()
        flipped[..., -3 * FRAMES :: 3] *= -1
        return replace(data, frames=frames.flip(-1), state=flipped, answer=data.mirror)
    if control == "reverse":
        back = [list(range(FRAMES))[::-1]] * len(data)
        return replace(data, **_in_order(data, back), answer=data.reverse)
    return data


def _in_order(data: Data, orders: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    order = torch.tensor(orders)
    frames = data.frames[torch.arange(len(data))[:, None], order]
    looks, moves = data.state[..., : -3 * FRAMES], data.state[..., -3 * FRAMES :].unflatten(-1, (FRAMES, 3))
    at = order[:, None, :, None].expand(-1, moves.shape[1], -1, 3)
    return {"frames": frames, "state": torch.cat([looks, moves.gather(2, at).flatten(2)], -1)}


def _other_order(n: int) -> list[int]:
    rng = keyed("mcq micro shuffle", n)
    while True:
        order = rng.permutation(FRAMES).tolist()
        if order != sorted(order):
            return order


@torch.no_grad()
def answered(net: Net, data: Data, batch: int = 250) -> np.ndarray:
    """Which questions are answered right, bool (N,)."""
    parts = torch.arange(len(data)).split(batch)
    return torch.cat([net(some := data.take(rows)).argmax(1) == some.answer for rows in parts]).numpy()


def circular(net: Net, data: Data) -> np.ndarray:
    """Which are answered right at every cyclic order of their options, bool (N,)."""
    right = np.ones(len(data), bool)
    count = data.there.sum(1)
    for shift in range(OPTIONS):
        place = torch.arange(OPTIONS)[None]
        source = torch.where(place < count[:, None], (place + shift) % count[:, None], place)
        moved = torch.where(data.answer >= 0, (data.answer - shift) % count, data.answer)
        rows = torch.arange(len(data))[:, None]
        right &= answered(net, replace(data, options=data.options[rows, source], answer=moved))
    return right


def controlled(net: Net, data: Data) -> dict[str, np.ndarray]:
    """Control -> which are answered right, bool (N,); a twin without an answer counts as wrong."""
    found = {name: answered(net, shown(data, name)) for name in CONTROLS if name != "circular"}
    return found | {"circular": circular(net, data)}

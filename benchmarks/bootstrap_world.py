"""The world of `bootstrap_micro.py`: a 4 x 4 grid of sprites, three kinds of actions, an exact simulator, a reader."""

from dataclasses import dataclass

import numpy as np
import torch

from wm_pipelines.runtime.random import keyed

GRID, CELL = 4, 8
COLOURS = {
    "red": (0.9, 0.15, 0.15),
    "green": (0.15, 0.75, 0.2),
    "blue": (0.2, 0.3, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "white": (0.95, 0.95, 0.95),
}
NAMES = list(COLOURS)
STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
ACTIONS = ("move", "recolour", "remove")
WORDS = [*ACTIONS, *NAMES, *STEPS]
GROUND = 0.35
NOISE = 0.02


@dataclass(frozen=True)
class Pairs:
    """before, after: `(n, 3, 32, 32)`. states, next_states: `(n, 4, 4)`, 0 where nothing is, else 1 + the colour."""

    before: torch.Tensor
    after: torch.Tensor
    states: np.ndarray
    next_states: np.ndarray
    actions: list[str]


def sprite(kind: int) -> torch.Tensor:
    """`(3, 8, 8)`: what stands in a cell of that number, each colour with a shape of its own."""
    y, x = torch.meshgrid(torch.arange(CELL) - 3.5, torch.arange(CELL) - 3.5, indexing="ij")
    if kind == 0:
        return torch.full((3, CELL, CELL), GROUND)
    shapes = [
        x.square() + y.square() <= 10,
        (x.abs() <= 2.5) & (y.abs() <= 2.5),
        x.abs() + y.abs() <= 3.5,
        (x.abs() <= 1) | (y.abs() <= 1),
        (y >= -2.5) & (x.abs() <= (y + 3.5) / 2),
    ]
    colour = torch.tensor(COLOURS[NAMES[kind - 1]])[:, None, None]
    return torch.where(shapes[kind - 1], colour, torch.tensor(GROUND))


SPRITES = torch.stack([sprite(kind) for kind in range(1 + len(NAMES))])


def render(state: np.ndarray, light: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """`(3, 32, 32)` in [0, 1] of a state under `light` `(1, 32, 32)`, with noise."""
    picture = SPRITES[torch.from_numpy(state.astype(np.int64))]  # (4, 4, 3, 8, 8)
    picture = picture.permute(2, 0, 3, 1, 4).reshape(3, GRID * CELL, GRID * CELL)
    noise = torch.from_numpy(rng.standard_normal(picture.shape).astype(np.float32))
    return (picture * light + NOISE * noise).clamp(0, 1)


def draw_light(rng: np.random.Generator) -> torch.Tensor:
    """A gain with a gentle slope."""
    across = torch.linspace(-1, 1, GRID * CELL)
    slope = rng.uniform(-0.06, 0.06, 2)
    return (rng.uniform(0.88, 1.12) + slope[0] * across[None, :] + slope[1] * across[:, None])[None].float()


def act(state: np.ndarray, words: str) -> np.ndarray | None:
    """The state after an action; None where it can't be done."""
    kind, colour, *rest = words.split()
    ((row, column),) = np.argwhere(state == 1 + NAMES.index(colour))
    after = state.copy()
    if kind == "remove":
        after[row, column] = 0
        return after if after.any() else None
    if kind == "recolour":
        new = 1 + NAMES.index(rest[0])
        after[row, column] = new
        return None if (state == new).any() else after
    down, right = STEPS[rest[0]]
    row, column, was = row + down, column + right, (row, column)
    if not (0 <= row < GRID and 0 <= column < GRID) or state[row, column]:
        return None
    after[was], after[row, column] = 0, state[was]
    return after


def sample_pair(*key: str | int) -> tuple[np.ndarray, str, np.ndarray]:
    """A state of two or three things of different colours, an action, and the next state."""
    rng = keyed("bootstrap", *key)
    while True:
        state = np.zeros((GRID, GRID), np.int64)
        count = int(rng.integers(2, 4))
        places, colours = rng.permutation(GRID * GRID)[:count], rng.permutation(len(NAMES))[:count]
        state.flat[places] = 1 + colours
        colour = NAMES[colours[rng.integers(count)]]
        kind = ACTIONS[rng.integers(len(ACTIONS))]
        rest = {"move": list(STEPS), "recolour": NAMES, "remove": [""]}[kind]
        words = f"{kind} {colour} {rest[rng.integers(len(rest))]}".strip()
        after = act(state, words)
        if after is not None and (after != state).any():
            return state, words, after


def sample_pairs(seed: int, split: str, count: int) -> Pairs:
    """The pairs that belong to seed and split; both pictures of a pair share their light, not their noise."""
    before, after, states, following, actions = [], [], [], [], []
    for n in range(count):
        state, words, result = sample_pair(seed, split, n)
        rng = keyed("light", seed, split, n)
        light = draw_light(rng)
        before.append(render(state, light, rng))
        after.append(render(result, light, rng))
        states.append(state)
        following.append(result)
        actions.append(words)
    return Pairs(torch.stack(before), torch.stack(after), np.stack(states), np.stack(following), actions)


def read_states(pictures: torch.Tensor) -> np.ndarray:
    """`(n, 4, 4)`: the sprite nearest to each cell, whatever its light."""
    cells = pictures.reshape(-1, 3, GRID, CELL, GRID, CELL).permute(0, 2, 4, 1, 3, 5).flatten(3)
    known = SPRITES.flatten(1)
    best = None
    for gain in (0.85, 0.925, 1.0, 1.075, 1.15):
        away = (cells[..., None, :] - gain * known).square().sum(-1)
        best = away if best is None else torch.minimum(best, away)
    return best.argmin(-1).numpy()


def copied(found: np.ndarray, states: np.ndarray) -> float:
    """Share of the pictures that show the source's state."""
    return float((found == states).all((1, 2)).mean())

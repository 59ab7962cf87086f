"""Draws codes token by token: candidate n of a row has its own random numbers, so that more candidates change none."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wm_pipelines.dynamics.backend import State, TokenBackend, pick
from wm_pipelines.runtime.random import keyed


@dataclass(frozen=True)
class Sampling:
    """How a code is drawn: temperature (0 takes the likeliest), `top_k` codes, those of the first `top_p` of the
    probability, and the weight g of `u + g (c - u)`, the logits with words c and without u.

    Raises:
        ValueError: a value out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise ValueError(f"`temperature` is {self.temperature}; it must be 0 or more")
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise ValueError(f"`top_k` is {self.top_k!r}; it must be an integer, 1 or more, or None")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` is {self.top_p}; it must lie in (0, 1], or be None")
        if not 0 < self.guidance_scale < float("inf"):
            raise ValueError(f"`guidance_scale` is {self.guidance_scale}; it must be above 0, and 1 is none")


def draw_codes(
    backend: TokenBackend,
    prompts: Sequence[Sequence[int]],
    unconditional: Sequence[Sequence[int]] | None,
    grid: tuple[int, int],
    seeds: Sequence[int],
    count: int,
    how: Sampling,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` candidates for each prompt; a prompt is read once, whatever `count` is.

    Args:
        prompts: up to the last token before the first code. unconditional: likewise without words, for guidance.
        grid: rows and columns of the picture. seeds: one for each prompt.

    Returns:
        codes `(B, N, h, w)`, int64, and `(B, N)`: mean log-probability of a candidate's codes among codes, at
        temperature 1 and without guidance.
    """
    branches = [prompts] if unconditional is None else [prompts, unconditional]
    states = [backend.read([prompt[:-1] for prompt in branch]).repeat(count) for branch in branches]
    last = torch.tensor([prompt[-1] for prompt in prompts for _ in range(count)], device=backend.device)
    chances = _chances(seeds, count, grid[0] * grid[1])
    ids, row_end = backend.codes.ids.to(backend.device), backend.sequences.row_end
    feed, codes, logprobs = last[:, None], [], []
    for place in range(grid[0] * grid[1]):
        plain, logits = _logits(backend, states, feed, ids, how.guidance_scale)
        chosen = _chosen(logits, chances[:, place].to(logits.device), how)
        codes.append(chosen.cpu())
        logprobs.append(plain.log_softmax(-1).gather(1, chosen[:, None])[:, 0].cpu())
        feed = ids[chosen][:, None]
        if (place + 1) % grid[1] == 0 and row_end:
            feed = torch.cat([feed, feed.new_tensor(row_end).expand(len(feed), -1)], 1)
    shape = (len(prompts), count)
    return torch.stack(codes, 1).reshape(*shape, *grid), torch.stack(logprobs, 1).mean(1).reshape(shape)


def _chances(seeds: Sequence[int], count: int, length: int) -> torch.Tensor:
    """Uniform float64 `(B * N, L)`; row (b, n) depends on seed b and n alone."""
    rows = [torch.from_numpy(keyed("candidate", seed, n).random(length)) for seed in seeds for n in range(count)]
    return torch.stack(rows)


def _logits(
    backend: TokenBackend, states: Sequence[State], feed: torch.Tensor, ids: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the codes with words, and those to draw from."""
    found = [backend.logits(backend.extend(state, feed)[:, -1], ids) for state in states]
    if len(found) == 1:
        return found[0], found[0]
    return found[0], found[1] + scale * (found[0] - found[1])


def _chosen(logits: torch.Tensor, chance: torch.Tensor, how: Sampling) -> torch.Tensor:
    """The code at which the summed probabilities pass `chance`, `(R,)`."""
    if how.temperature == 0:
        return logits.argmax(-1)
    logits = logits.double().cpu() / how.temperature
    if how.top_k is not None and how.top_k < logits.shape[-1]:
        least = logits.topk(how.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if how.top_p is not None and how.top_p < 1:
        ordered, places = probabilities.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= how.top_p
        probabilities = probabilities.scatter(-1, places, ordered.masked_fill(outside, 0.0))
    return pick(probabilities, chance.cpu()).to(chance.device)

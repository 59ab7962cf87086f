"""Token models behind one small interface: a causal decoder of transformers over text and the codes of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.dynamics.layout import Layout, Sequences
from wm_pipelines.tokens.vocabulary import CodeVocabulary

MASKED = {"ChameleonForConditionalGeneration": "ChameleonTokenBackend"}
"""Classes whose `forward` writes the smallest number into every picture logit, and the backend that goes past it."""
SILENT = {
    "JanusForConditionalGeneration": "its loop takes text only, no source picture",
    "GlmImageForConditionalGeneration": "its head knows no words",
}
"""Classes of transformers that have codes and still can't serve, and why."""


@dataclass
class State:
    """What a model has read: its cache, 0 where there is padding `(B, T)`, and each row's next position `(B,)`."""

    cache: Any
    mask: torch.Tensor
    position: torch.Tensor

    def repeat(self, count: int) -> "State":
        """Each row `count` times; the cache is changed in place."""
        self.cache.batch_repeat_interleave(count)
        return State(self.cache, self.mask.repeat_interleave(count, 0), self.position.repeat_interleave(count, 0))

    def part(self, rows: torch.Tensor) -> "State":
        """Some of the rows; the cache is changed in place."""
        self.cache.batch_select_indices(rows)
        return State(self.cache, self.mask[rows], self.position[rows])


class TokenBackend:
    """A causal language model of transformers over words and codes, read token by token.

    The decoder (`model.base_model`) and the output layer are called themselves, so that nothing that a class does to
    its logits stands between, and the output layer only for the tokens that are asked for.

    Args:
        model: such as `GemmaForCausalLM` (Liquid) or any small causal model.
        pictures: a `PictureTokens`, or what has its `encode`, `decode`, `grid`, `code_distances` and `same_codes`.
        codes: which token stands for which code. tokenizer: of the words. layout: the order of things.

    `forwards` counts the tokens that went through the decoder, padding left out.

    Raises:
        ValueError: a class that can't make pictures, or parts that don't fit one another.
    """

    masked_logits = False

    def __init__(self, model: nn.Module, pictures: Any, codes: CodeVocabulary, tokenizer: Any, layout: Layout):
        name = type(model).__name__
        if name in MASKED and not self.masked_logits:
            raise ValueError(
                f"backend {name} cannot generate images (logits are masked in transformers); use `{MASKED[name]}`"
            )
        if name in SILENT:
            raise ValueError(f"backend {name} cannot generate images from a source picture ({SILENT[name]})")
        rows = model.get_output_embeddings().weight.shape[0]
        if codes.num_codes != pictures.num_codes:
            raise ValueError(f"`codes` are {codes.num_codes} tokens, but the pictures have {pictures.num_codes} codes")
        if int(codes.ids.max()) >= rows:
            raise ValueError(f"`codes` reach token {int(codes.ids.max())}; `model` has {rows}")
        self.model, self.pictures, self.codes, self.tokenizer, self.layout = model, pictures, codes, tokenizer, layout
        self.sequences = Sequences(layout, tokenizer, codes)
        self.forwards = 0

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def context(self) -> int:
        """Most tokens that a sequence may have."""
        config = self.model.config.get_text_config()
        return config.max_position_embeddings

    def check_context(self, length: int) -> None:
        """ValueError if a sequence of `length` tokens is too long."""
        if length > self.context:
            raise ValueError(f"context {length} exceeds {self.context}: reduce `history`, the pictures or the text")

    def read(self, rows: Sequence[Sequence[int]]) -> State:
        """Prompts of any lengths, at least one token each, padded on the left; positions follow the mask."""
        from transformers import DynamicCache

        longest = max(map(len, rows))
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for n, row in enumerate(rows):
            tokens[n, longest - len(row) :] = torch.tensor(row)
            mask[n, longest - len(row) :] = 1
        mask = mask.to(self.device)
        state = State(DynamicCache(), mask[:, :0], mask.new_zeros(len(rows)))
        self.extend(state, tokens.to(self.device), mask)
        return state

    def extend(self, state: State, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Feeds tokens `(B, T)` behind what was read; places where `mask` is 0 count as not there.

        Returns:
            The decoder's output `(B, T, d)`.
        """
        mask = torch.ones_like(tokens) if mask is None else mask
        places = (state.position[:, None] + mask.cumsum(1) - 1).clamp(min=0)
        state.mask = torch.cat([state.mask, mask], 1)
        state.position = state.position + mask.sum(1)
        self.forwards += int(mask.sum())
        return self.model.base_model(
            input_ids=tokens,
            attention_mask=state.mask,
            position_ids=places,
            past_key_values=state.cache,
            use_cache=True,
        )[0]

    def hidden(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The decoder's output `(B, T, d)` for whole sequences padded on the right; for training."""
        return self.model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False)[0]

    def logits(self, hidden: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        """float32 logits `(..., V)`, or those of the tokens `ids` `(..., K)` alone."""
        head = self.model.get_output_embeddings()
        weight, bias = head.weight, head.bias
        if ids is not None:
            weight, bias = weight[ids], None if bias is None else bias[ids]
        return functional.linear(hidden, weight, bias).float()

    def completion_scores(
        self, state: State, before: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[torch.Tensor]:
        """Log-probabilities of completions behind `before`, which is fed behind `state`; one row each.

        Args:
            before: at least one token each. completions: likewise; padded on the right, and the state is spent.

        Returns:
            float32 `(T_i,)` each, on the CPU.
        """
        rows = [[*some, *completion[:-1]] for some, completion in zip(before, completions, strict=True)]
        longest = max(map(len, rows))
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for n, row in enumerate(rows):
            tokens[n, : len(row)], mask[n, : len(row)] = torch.tensor(row), 1
        hidden = self.extend(state, tokens.to(self.device), mask.to(self.device))
        found = []
        for n, completion in enumerate(completions):
            start = len(before[n]) - 1
            logits = self.logits(hidden[n, start : start + len(completion)])
            wanted = torch.tensor(completion, device=logits.device)
            found.append(logits.log_softmax(-1).gather(-1, wanted[:, None])[:, 0].cpu())
        return found

    def write_words(
        self,
        state: State,
        last: Sequence[Sequence[int]],
        most: int,
        leave: bool = True,
        chances: torch.Tensor | None = None,
    ) -> list[tuple[list[int], list[float]]]:
        """The likeliest word at each place until the stop, or `most` tokens; `last` is fed behind `state` first.

        Codes and the marks of pictures are never chosen; log-probabilities are over all tokens.

        Args:
            leave: rows that are done leave the batch, so that the others cost less; the state is spent.
            chances: uniform in [0, 1), float64 `(R, most)` or wider: words are drawn by them at temperature 1.

        Returns:
            For each row (tokens without the stop, log-probability of each, the stop's too where it came).
        """
        barred = torch.cat([self.codes.ids, torch.tensor(self.marks(), dtype=torch.long)]).to(self.device)
        rows = [list(row) for row in last]
        longest = max(map(len, rows))
        tokens = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device)
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
        done = torch.zeros(len(rows), dtype=torch.bool)
        numbers = list(range(len(rows)))  # of the rows in the batch
        for place in range(most):
            logprobs = self.logits(self.extend(state, tokens, mask)[:, -1]).log_softmax(-1)
            allowed = logprobs.index_fill(1, barred, -torch.inf)
            if chances is None:
                chosen = allowed.argmax(1)
            else:
                chosen = pick(allowed.double().cpu().softmax(-1), chances[numbers, place]).to(self.device)
            likely = logprobs.gather(1, chosen[:, None])[:, 0]
            for n in (~done).nonzero()[:, 0].tolist():
                found[numbers[n]][1].append(float(likely[n]))
                if int(chosen[n]) == self.sequences.stop:
                    done[n] = True
                else:
                    found[numbers[n]][0].append(int(chosen[n]))
            if done.all():
                break
            if leave and done.any():
                left = (~done).nonzero()[:, 0]
                state, chosen = state.part(left.to(self.device)), chosen[left.to(self.device)]
                numbers, done = [numbers[n] for n in left.tolist()], done[left]
            tokens, mask = chosen[:, None], (~done).long()[:, None].to(self.device)
        return found

    def marks(self) -> list[int]:
        """Tokens around words and codes, which no word is; without the stop."""
        pieces = (*self.layout.begin, *self.layout.row_end, *self.layout.end)
        marks = {self.sequences.token(piece.token) for piece in pieces if piece.token is not None}
        return sorted(marks - {self.sequences.stop})


def pick(probabilities: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """The place at which the summed probabilities `(R, V)` pass `chance` `(R,)`, uniform in [0, 1); both float64."""
    sums = probabilities.cumsum(-1)
    found = torch.searchsorted(sums, (chance * sums[:, -1])[:, None], right=True)[:, 0]
    return found.clamp(max=probabilities.shape[-1] - 1)

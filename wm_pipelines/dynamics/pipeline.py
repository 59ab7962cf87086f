"""The dynamics model (arXiv 2506.06006: CDM in its first version, IDM, inverse dynamics, in its third): two pictures
to the action that leads from one to the other, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput

from wm_pipelines.dynamics.pictures import as_list, check_actions, check_pair
from wm_pipelines.dynamics.token_pipeline import TokenPipeline
from wm_pipelines.media.pictures import Picture


@dataclass
class DynamicsModelOutput(BaseOutput):
    """actions: a sentence for each pair. token_logprobs: `(T_i,)` each, the stop's last. scores: `(B,)`, means."""

    actions: list[str]
    token_logprobs: list[torch.Tensor]
    scores: torch.Tensor


class DynamicsModelPipeline(TokenPipeline):
    """Says which action leads from one picture to another, and how likely a given action is.

    Args: as of `TokenPipeline`. Where the model has an adapter named "dynamics", that one reads.

    Example:
        ```py
        from wm_pipelines import AutoWMPipeline, DioramaDataset

        before, after = DioramaDataset("pairs", length=1)[0]["rgb"]  # or files, PIL pictures, arrays
        pipe = AutoWMPipeline.from_pretrained("my-dynamics")  # made by `wm train dynamics`
        print(pipe(before, after).actions)
        print(pipe.score(before, after, "move the red cube to the left"))  # its logarithm of probability
        ```
    """

    direction = "dynamics"

    def check_inputs(self, source: Any, target: Any, max_new_tokens: int, resize: str | None) -> None:
        """Refuses bad arguments before any work.

        Raises:
            ValueError: names the argument, what came and what is allowed.
        """
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` is {max_new_tokens!r}; it must be an integer, 1 or more")
        check_pair(as_list("source", source), as_list("target", target), resize)

    @torch.no_grad()
    def __call__(
        self,
        source: Picture | Sequence[Picture],
        target: Picture | Sequence[Picture],
        max_new_tokens: int = 256,
        resize: str | None = None,
        return_dict: bool = True,
    ) -> DynamicsModelOutput | tuple:
        """The likeliest action, word by word, for each pair.

        Args:
            source, target: pictures, one to one.
            max_new_tokens: where a sentence is cut off at the latest.
            resize: "pad" or "crop", as `pictures.to_size`; None takes pictures of the model's size only.

        Raises:
            ValueError: as `check_inputs`; pictures of another size; a context that is too long.
        """
        # 1. everything that was given, checked
        self.check_inputs(source, target, max_new_tokens, resize)
        # 2. pictures at the model's size
        before = self.fitted(as_list("source", source), resize, "source")
        after = self.fitted(as_list("target", target), resize, "target")
        # 3. their codes, and the words between them
        out = self.infer_codes(self.encode(before), self.encode(after), max_new_tokens)
        return out if return_dict else out.to_tuple()

    @torch.no_grad()
    def infer_codes(
        self, source: torch.Tensor, target: torch.Tensor, max_new_tokens: int = 256
    ) -> DynamicsModelOutput:
        """As a call, for codes `(B, h, w)`."""
        found = self.infer_tokens(source, target, max_new_tokens)
        actions = [self.words_of(tokens) for tokens, _ in found]
        logprobs = [torch.tensor(values) for _, values in found]
        return DynamicsModelOutput(actions, logprobs, torch.stack([values.mean() for values in logprobs]))

    def words_of(self, tokens: Sequence[int]) -> str:
        """The sentence that tokens spell."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    @torch.no_grad()
    def infer_tokens(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        max_new_tokens: int = 256,
        leave: bool = True,
        chances: torch.Tensor | None = None,
    ) -> list[tuple[list[int], list[float]]]:
        """As `infer_codes`, as tokens: see `TokenBackend.write_words`, also for `leave`.

        Args:
            chances: `(B, N, max_new_tokens)` draw N sentences for each pair, which is read once; pair by pair.
        """
        said = self.backend.sequences
        prompts = [[*said.inverse_head(a), *said.inverse_tail(b)] for a, b in zip(source, target, strict=True)]
        room = self.backend.context - max(map(len, prompts))
        self.backend.check_context(max(map(len, prompts)) + 1)
        with self.reading():
            state, last = self.backend.read([prompt[:-1] for prompt in prompts]), [prompt[-1:] for prompt in prompts]
            if chances is not None:
                count = chances.shape[1]
                state, last = state.repeat(count), [row for row in last for _ in range(count)]
                chances = chances.flatten(0, 1)
            return self.backend.write_words(state, last, min(max_new_tokens, room), leave=leave, chances=chances)

    @torch.no_grad()
    def score(
        self,
        source: Picture | Sequence[Picture],
        target: Picture | Sequence[Picture],
        action: str | Sequence[str],
        resize: str | None = None,
    ) -> torch.Tensor:
        """Mean log-probability of each action's tokens and of the stop behind them, `(B,)`, at most 0.

        Always with the first instruction of the layout, so that scores of different calls can be compared.

        Raises:
            ValueError: as a call; an empty action or another number of them.
        """
        sources, targets = as_list("source", source), as_list("target", target)
        actions = check_actions(action, len(sources))
        check_pair(sources, targets, resize)
        before, after = (self.fitted(p, resize, n) for p, n in ((sources, "source"), (targets, "target")))
        return self.score_codes(self.encode(before), self.encode(after)[:, None], actions)[:, 0]

    @torch.no_grad()
    def score_codes(self, source: torch.Tensor, candidates: torch.Tensor, actions: Sequence[str]) -> torch.Tensor:
        """Scores of candidates' codes, without a way through pixels; what stands before them is read once for all.

        Args:
            source: `(B, h, w)`. candidates: `(B, N, h, w)`. actions: B sentences.

        Returns:
            `(B, N)`, float32: mean log-probability, as `score`.
        """
        said, count = self.backend.sequences, candidates.shape[1]
        completions = [said.inverse_completion(action) for action in actions for _ in range(count)]
        found = self.score_tokens(source, candidates, completions)
        return torch.stack([values.mean() for values in found]).reshape(len(source), count)

    @torch.no_grad()
    def score_tokens(
        self, source: torch.Tensor, candidates: torch.Tensor, completions: Sequence[Sequence[int]]
    ) -> list[torch.Tensor]:
        """Log-probabilities `(T_i,)` of B N completions, as `score_codes` reads them, candidate by candidate."""
        said, count = self.backend.sequences, candidates.shape[1]
        heads = [said.inverse_head(codes) for codes in source]
        before = [[heads[b][-1], *said.inverse_tail(codes)] for b, row in enumerate(candidates) for codes in row]
        longest = max(len(some) + len(completion) for some, completion in zip(before, completions, strict=True))
        self.backend.check_context(max(map(len, heads)) - 1 + longest)
        with self.reading():
            state = self.backend.read([head[:-1] for head in heads]).repeat(count)
            return self.backend.completion_scores(state, before, completions)

"""The world model (arXiv 2506.06006: CWM in its first version, FDM, forward dynamics, in its third): a picture and an
action in words to the next picture, the best of several candidates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import logging

from wm_pipelines.dynamics.pictures import as_list, check_actions
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.dynamics.token_pipeline import TokenPipeline
from wm_pipelines.media.pictures import Picture, to_pil
from wm_pipelines.world_model.outputs import WorldModelOutput
from wm_pipelines.world_model.sampling import Sampling, draw_codes
from wm_pipelines.world_model.selection import (
    LIKELIHOOD,
    Choice,
    Gate,
    check_verifier,
    choose,
    score_codes,
    score_pictures,
)

logger = logging.get_logger(__name__)
OUTPUTS = ("pil", "pt")
Verifier = DynamicsModelPipeline | str | Callable | None
UNRANKED = "num_candidates>1 without a verifier: all candidates are returned unranked"


@dataclass(frozen=True)
class Plan:
    """How candidates are drawn and picked."""

    count: int
    verifier: Verifier
    how: Sampling
    gate: Gate


@dataclass(frozen=True)
class Pixels:
    """Which pictures are made of codes: for the verifier, of all candidates, and as what."""

    rescore: bool
    all_candidates: bool
    output_type: str


class WorldModelPipeline(TokenPipeline):
    """Draws what an action makes of a picture, N times, and picks the best.

    Args: as of `TokenPipeline`. Where the model has an adapter named "world", that one draws; with one named
        "dynamics" beside it, `DynamicsModelPipeline(**pipe.components)` is a verifier on the same weights.

    Example:
        ```py
        from wm_pipelines import AutoWMPipeline, DioramaDataset

        picture = DioramaDataset("pairs", length=1)[0]["rgb"][0]  # or a file, a PIL picture, an array
        world = AutoWMPipeline.from_pretrained("my-world-model")  # made by `wm train world-model`
        judge = AutoWMPipeline.from_pretrained("my-dynamics")
        out = world(picture, "move the red cube to the left", num_candidates=4, verifier=judge)
        out.chosen()[0].save("next.png")
        ```
    """

    direction = "world"

    def check_inputs(
        self, action: Any, count: int, num_candidates: int, verifier: Verifier, pixels: Pixels
    ) -> list[str]:
        """Refuses bad arguments before any work, and gives the actions, one for each of `count` pictures.

        Raises:
            ValueError: names the argument, what came and what is allowed.
        """
        check_common(num_candidates, pixels.output_type)
        check_verifier(verifier, self.backend.pictures, pixels.rescore)
        return check_actions(action, count)

    @torch.no_grad()
    def __call__(
        self,
        source: Picture | Sequence[Picture],
        action: str | Sequence[str],
        num_candidates: int = 1,
        verifier: Verifier = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance_scale: float = 1.0,
        gate: Gate | None = None,
        rescore_pixels: bool = False,
        resize: str | None = None,
        return_candidates: bool = True,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> WorldModelOutput | tuple:
        """The pictures that `action` makes of `source`.

        Args:
            source: one picture or several. action: a sentence for each, or one for all.
            num_candidates: N; four are the first four of eight.
            verifier: a dynamics model, "likelihood" (the world model's own), a `selection.Scorer`, or None, which
                ranks nothing.
            generator: one for each source, or one for all; seeds the candidates.
            temperature, top_k, top_p, guidance_scale: as `Sampling`. Low temperatures copy the source.
            gate: what counts as changed and as good.
            rescore_pixels: let the dynamics model see pixels, not codes; needed where it has other codes.
            resize: "pad" or "crop", as `dynamics.pictures.to_size`; None takes pictures of the model's size only.
            return_candidates: all candidates as pictures, or the chosen ones alone.
            output_type: "pil", or "pt" for tensors `(N, 3, H, W)` in [0, 1].

        Raises:
            ValueError: as `check_inputs`; an argument out of range; a context that is too long.
        """
        # 1. everything that was given, checked
        sources = as_list("source", source)
        pixels = Pixels(rescore_pixels, return_candidates, output_type)
        actions = self.check_inputs(action, len(sources), num_candidates, verifier=verifier, pixels=pixels)
        # 2. pictures at the model's size, a seed for each, and what to do with them
        how = Sampling(temperature, top_k, top_p, guidance_scale)
        seeds = draw_seeds(generator, len(sources))
        pictures = self.fitted(sources, resize, "source")
        plan = Plan(num_candidates, verifier, how, gate or Gate())
        # 3. candidates, drawn and ranked
        out = self._step(self.encode(pictures), actions, [()] * len(sources), seeds=seeds, plan=plan, pixels=pixels)
        return out if return_dict else out.to_tuple()

    @torch.no_grad()
    def rollout(
        self,
        source: Picture,
        actions: Sequence[str],
        num_candidates: int = 1,
        verifier: Verifier = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance_scale: float = 1.0,
        gate: Gate | None = None,
        rescore_pixels: bool = False,
        resize: str | None = None,
        history: int = 0,
        return_candidates: bool = False,
        output_type: str = "pil",
    ) -> list[WorldModelOutput]:
        """One step for each action; each goes on from the codes that the one before chose.

        Args:
            history: so many steps before the current one stand in the prompt too.
            others: as of a call.

        Raises:
            ValueError: as a call; no action; a negative `history`.
        """
        check_steps(actions)
        if isinstance(history, bool) or not isinstance(history, int) or history < 0:
            raise ValueError(f"`history` is {history!r}; it must be an integer, 0 or more")
        pixels = Pixels(rescore_pixels, return_candidates, output_type)
        said = self.check_inputs(actions, len(actions), num_candidates, verifier=verifier, pixels=pixels)
        plan = Plan(num_candidates, verifier, Sampling(temperature, top_k, top_p, guidance_scale), gate or Gate())
        codes = self.encode(self.fitted(as_list("source", source)[:1], resize, "source"))
        past: list[tuple[torch.Tensor, str, torch.Tensor]] = []
        found = []
        for action in said:
            seeds = draw_seeds(generator, 1)
            turns = past[max(0, len(past) - history) :]
            out = self._step(codes, [action], [turns], seeds=seeds, plan=plan, pixels=pixels)
            chosen = out.image_tokens[0, out.selected[0]].reshape(codes.shape)
            past.append((codes[0], action, chosen[0]))
            codes = chosen
            found.append(out)
        return found

    def _step(
        self,
        source: torch.Tensor,
        actions: Sequence[str],
        past: Sequence[Sequence[tuple[torch.Tensor, str, torch.Tensor]]],
        seeds: Sequence[int],
        plan: Plan,
        pixels: Pixels,
    ) -> WorldModelOutput:
        prompts, plain = self._prompts(source, actions, past, plan.how.guidance_scale != 1)
        with self.reading():
            codes, logprobs = draw_codes(
                self.backend, prompts, plain, tuple(source.shape[1:]), seeds=seeds, count=plan.count, how=plan.how
            )
        table = self.backend.pictures.codebook.device
        origin = source[:, None].expand_as(codes)
        change = self.backend.pictures.code_distances(codes.to(table), origin.to(table)).detach().cpu()
        scores, margins, decoded = logprobs if plan.verifier == LIKELIHOOD else None, None, None
        if isinstance(plan.verifier, DynamicsModelPipeline) and not pixels.rescore:
            scores, margins = score_codes(plan.verifier, source, codes, actions)
        elif plan.verifier is not None and plan.verifier != LIKELIHOOD:
            decoded = self._decoded(codes)
            scores, margins = score_pictures(plan.verifier, self.decode(source), decoded, actions, resize="pad")
        choice = choose(scores, margins, change, plan.gate)
        say(choice, plan.count, plan.verifier)
        if not pixels.all_candidates:
            rows = torch.arange(len(codes))
            decoded = self._decoded(codes[rows, choice.selected][:, None])
        elif decoded is None:
            decoded = self._decoded(codes)
        return WorldModelOutput(
            images=as_images(decoded, pixels.output_type),
            image_tokens=codes.flatten(2),
            scores=choice.scores,
            selected=choice.selected,
            margins=choice.margins,
            kept=choice.kept,
            accepted=choice.accepted,
            logprobs=logprobs,
            change=change,
        )

    def _decoded(self, codes: torch.Tensor) -> torch.Tensor:
        """Pictures `(B, N, 3, H, W)` of codes `(B, N, h, w)`."""
        return self.decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])

    def _prompts(self, source, actions, past, guided: bool) -> tuple[list[list[int]], list[list[int]] | None]:
        """Tokens up to the first code of the target for each row; without words too if `guided`."""
        said = self.backend.sequences
        prompts = []
        for codes, action, turns in zip(source, actions, past, strict=True):
            earlier = [
                token
                for before, words, after in turns
                for token in (*said.forward_prompt(before, words), *said.forward_completion(after)[0])
            ]
            prompts.append([*earlier, *said.forward_prompt(codes, action)])
        longest = max(map(len, prompts)) + len(said.forward_completion(source[0])[0])
        self.backend.check_context(longest)
        return prompts, [said.unconditional_prompt(codes) for codes in source] if guided else None


def check_common(num_candidates: int, output_type: str) -> None:
    """ValueError for a number of candidates below 1, or an output that there is not."""
    if isinstance(num_candidates, bool) or not isinstance(num_candidates, int) or num_candidates < 1:
        raise ValueError(f"`num_candidates` is {num_candidates!r}; it must be an integer, 1 or more")
    if output_type not in OUTPUTS:
        raise ValueError(f"`output_type` is {output_type!r}; allowed: {', '.join(OUTPUTS)}")


def check_steps(actions: Sequence[str]) -> None:
    """ValueError for anything but a list of one action or more."""
    if isinstance(actions, str) or not len(actions):
        raise ValueError(f"`actions` is {actions!r}; it must be a list of one sentence or more")


def draw_seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """A seed for each source: drawn from its generator, or from the one in turn; new ones without a generator.

    Raises:
        ValueError: as many generators as sources were not given.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        if len(generator) != count:
            raise ValueError(
                f"`generator` has {len(generator)} for {count} sources; give one for each, or one for all"
            )
        return [seed for one in generator for seed in draw_seeds(one, 1)]
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return [int(torch.randint(1 << 62, (), generator=generator, device=generator.device)) for _ in range(count)]


def say(choice: Choice, count: int, verifier: Verifier) -> None:
    """Warns where nothing was ranked, and where nothing passed."""
    if count > 1 and verifier is None:
        logger.warning(UNRANKED)
    failed = (~choice.accepted).nonzero()[:, 0].tolist()
    if failed:
        why = ["every candidate is a near copy" if not choice.kept[n].any() else "no margin is enough" for n in failed]
        said = "; ".join(f"source {n}: {reason}" for n, reason in zip(failed, why, strict=True))
        logger.warning(f"no candidate passes ({said}); the best is returned with accepted=False")


def as_images(pictures: torch.Tensor, output_type: str) -> list:
    """`(B, N, 3, H, W)` as lists of PIL pictures, or as tensors `(N, 3, H, W)`."""
    if output_type == "pt":
        return list(pictures)
    return [[to_pil(picture) for picture in row] for row in pictures]

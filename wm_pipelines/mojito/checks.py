"""What a call of the pipeline may be given; every refusal names the argument, what came and what is allowed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from wm_pipelines.mojito.bases.calls import StockCall
from wm_pipelines.mojito.guidance.noise_variance import check_scheduler
from wm_pipelines.mojito.guidance.temporal import temporal_layers
from wm_pipelines.mojito.trajectories.objects import MotionObject
from wm_pipelines.runtime.factors import checked_factors
from wm_pipelines.text.prompts import check_length
from wm_pipelines.text.vocabulary import check_vocabulary

Objects = Sequence[MotionObject] | Sequence[Sequence[MotionObject]]


@dataclass(frozen=True)
class CheckedInputs:
    """What a call was given: the prompts (None where embeddings came), and for each its `objects` and level;
    `num_frames` of the clip; videos `per_prompt`; factors on the levels, `schedule`, or None."""

    prompts: list[str] | None
    objects: list[list[MotionObject]]
    levels: list[float | None]
    num_frames: int
    per_prompt: int
    schedule: tuple[float, ...] | None = None

    @property
    def steered(self) -> bool:
        return any(self.objects)


def check_prompts(
    prompt: Any, options: Mapping[str, Any], tokenizer: Any, vocabulary: Sequence[str] | None, limited: bool
) -> list[str] | None:
    """The prompts; None where embeddings came.

    Args:
        options: of the stock call. vocabulary: of a base with a closed one.
        limited: refuse a text that is longer than the text encoder takes.

    Raises:
        ValueError: neither or both were given, no text, an unknown word, or one that is too long.
    """
    if (prompt is None) == (options.get("prompt_embeds") is None):
        raise ValueError(f"pass exactly one of prompt, prompt_embeds; got {'neither' if prompt is None else 'both'}")
    if prompt is None:
        return None
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"prompt must be a str or a non-empty list of str, got {prompt!r}")
    negative = options.get("negative_prompt") or []
    for name, texts in (
        ("prompt", prompts),
        ("negative_prompt", [negative] if isinstance(negative, str) else negative),
    ):
        if vocabulary:
            known = [*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens]
            check_vocabulary(vocabulary, texts, name, allowed=known)
        if limited:
            check_length(tokenizer, texts, name)
    return prompts


def check_levels(motion_intensity: Any, count: int, trained: bool) -> list[float | None]:
    """One level a prompt.

    Args:
        trained: whether the checkpoint has the modulator.

    Raises:
        ValueError: another number of levels, one outside 0 to 10, or any where nothing is trained.
    """
    levels = motion_intensity if isinstance(motion_intensity, Sequence) else [motion_intensity] * count
    if len(levels) != count:
        raise ValueError(f"motion_intensity has {len(levels)} values for {count} prompts")
    for level in levels:
        in_range = isinstance(level, Real) and not isinstance(level, bool) and 0 <= level <= 10
        if level is not None and not in_range:
            raise ValueError(f"motion_intensity={level!r}; a level from 0 to 10, or None")
    if not trained and any(level is not None for level in levels):
        raise ValueError("motion_intensity given but the checkpoint has no MIM weights")
    return list(levels)


def check_schedule(intensity_schedule: Any, levels: Sequence[float | None]) -> tuple[float, ...] | None:
    """The factors on the levels; None where none came.

    Raises:
        ValueError: no list of factors from 0 to 1, or factors without a level.
    """
    if intensity_schedule is None:
        return None
    factors = checked_factors(intensity_schedule, "intensity_schedule")
    if all(level is None for level in levels):
        raise ValueError("intensity_schedule scales motion_intensity, which is not given; a level from 0 to 10")
    return factors


def check_steered(call: StockCall, allow_joint: bool, temporal_weight: float) -> None:
    """ValueError for a denoiser, scheduler or option under which no object can be steered."""
    family, denoiser = call.family, call.denoiser
    if hasattr(denoiser, "_orig_mod"):
        raise ValueError(
            "the denoiser is wrapped by torch.compile, which hides its layers; pass it bare and call its compile()"
        )
    if any(p.is_inference() for p in denoiser.parameters()):
        raise ValueError(
            "the denoiser was loaded under torch.inference_mode and can't be differentiated; load it outside"
        )
    if family.joint and not allow_joint:
        raise ValueError(f"{family.pipeline} has joint text-video attention: pass allow_joint=True")
    if (denoiser.config.get("patch_size_t") or 1) > 1:
        raise ValueError(
            f"this {type(denoiser).__name__} joins {denoiser.config.patch_size_t} latent frames in one token "
            "(CogVideoX 1.5), which boxes can't be given for; take one with patch_size_t=1"
        )
    if call.options.get("clean_caption") and "clean_caption" in call.takes:
        raise ValueError("clean_caption=True rewrites the prompt, so phrases can't be found in it; pass False")
    check_scheduler(call.stock.scheduler)
    if temporal_weight:
        temporal_layers(family, denoiser)
        if getattr(call.stock, "free_noise_enabled", False):
            raise ValueError("temporal_weight can't act in FreeNoise's windows of a clip; disable_free_noise()")


def objects_per_prompt(objects: Objects | None, count: int) -> list[list[MotionObject]]:
    """One list of objects a prompt, from one list for all or one a prompt.

    Raises:
        ValueError: anything else, or objects for some prompts and none for others.
    """
    if objects is None:
        return [[]] * count
    if isinstance(objects, MotionObject) or not isinstance(objects, Sequence) or isinstance(objects, str):
        raise ValueError(f"objects must be a list of MotionObject, got {type(objects).__name__}")
    nested = [isinstance(item, Sequence) and not isinstance(item, str) for item in objects]
    if not any(nested):
        return [list(objects)] * count
    if not all(nested) or len(objects) != count:
        raise ValueError(f"objects must be one list for all prompts, or one list for each of the {count} prompts")
    if any(objects) and not all(objects):
        raise ValueError("objects has an empty list for one prompt and objects for another; sample them apart")
    return [list(item) for item in objects]

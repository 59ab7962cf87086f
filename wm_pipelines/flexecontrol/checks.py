"""What a call of the pipeline may be given; every refusal names the argument, what came and what is allowed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch

from wm_pipelines.text.scene_graph import CompiledGraph, SceneGraph

Texts = str | list[str]


@dataclass(frozen=True)
class TextInputs:
    """The words of a call: texts, or embeddings `(prompts, T, C)` in their place, and how they are encoded."""

    prompt: Texts | None = None
    negative_prompt: Texts | None = None
    prompt_embeds: torch.Tensor | None = None
    negative_prompt_embeds: torch.Tensor | None = None
    clip_skip: int | None = None

    @property
    def batch(self) -> int:
        """How many prompts there are."""
        return count_prompts(self.prompt, self.prompt_embeds)


CHOICES = {
    "binding": ("attention", "none"),
    "on_conflict": ("warn", "error", "ignore"),
    "variant": ("paper", "released"),
    "output_type": ("pil", "np", "pt", "latent"),
}
COUNTS = ("num_inference_steps", "num_images_per_prompt")
NUMBERS = ("guidance_scale", "guidance_rescale", "controlnet_conditioning_scale", "global_strength", "eta")


def check_size(height: int, width: int, multiple: int) -> None:
    """ValueError unless both are positive multiples of `multiple`."""
    if not all(isinstance(side, Integral) and side > 0 and side % multiple == 0 for side in (height, width)):
        raise ValueError(f"output is {height}x{width}; height and width must be positive multiples of {multiple}")


def check_options(options: Mapping[str, Any]) -> None:
    """ValueError on an unknown choice, a count below 1, a number that is not finite, or a schedule of no step."""
    for name, allowed in CHOICES.items():
        if options[name] not in allowed:
            raise ValueError(f"{name}={options[name]!r}; choose from {', '.join(allowed)}")
    for name in COUNTS:
        if not isinstance(options[name], Integral) or options[name] < 1:
            raise ValueError(f"{name} must be a positive integer, got {options[name]!r}")
    for name in NUMBERS:
        if not isinstance(options[name], Real) or not math.isfinite(options[name]):
            raise ValueError(f"{name} must be a finite number, got {options[name]!r}")
    for name in ("timesteps", "sigmas"):
        if options.get(name) is not None and not len(options[name]):
            raise ValueError(f"{name} is empty; give one number for each step, or None")


def check_texts(words: TextInputs, layers: int, width: int) -> None:
    """ValueError unless there is one prompt or one embedding of it, and a negative one that goes with it.

    Args:
        layers: of the text encoder.
        width: of a token's embedding, as the UNet takes it.
    """
    if (words.prompt is None) == (words.prompt_embeds is None):
        came = "neither" if words.prompt is None else "both"
        raise ValueError(f"pass exactly one of prompt, prompt_embeds (or a scene_graph alone); got {came}")
    for name in ("prompt", "negative_prompt"):
        text = getattr(words, name)
        whole = isinstance(text, list) and text and all(isinstance(item, str) for item in text)
        if text is not None and not isinstance(text, str) and not whole:
            raise ValueError(f"{name} must be a str or a non-empty list of str, got {text!r}")
    if words.negative_prompt is not None and words.negative_prompt_embeds is not None:
        raise ValueError("pass negative_prompt or negative_prompt_embeds, not both")
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        embeds = getattr(words, name)
        if embeds is not None and (embeds.ndim != 3 or embeds.shape[-1] != width or len(embeds) == 0):
            raise ValueError(f"{name} has shape {tuple(embeds.shape)}; it must be (prompts, tokens, {width})")
    negative = words.negative_prompt
    if isinstance(negative, list) and len(negative) != words.batch:
        raise ValueError(f"negative_prompt has {len(negative)} entries for {words.batch} prompts")
    check_same_shape(words.prompt_embeds, words.negative_prompt_embeds)
    skip = words.clip_skip
    if skip is not None and not (isinstance(skip, Integral) and 0 <= skip < layers):
        raise ValueError(f"clip_skip must be None or 0 to {layers - 1}, got {skip!r}")


def check_same_shape(prompt_embeds: torch.Tensor | None, negative_prompt_embeds: torch.Tensor | None) -> None:
    """ValueError if there are both and guidance could not put one beside the other."""
    if prompt_embeds is not None and negative_prompt_embeds is not None:
        if prompt_embeds.shape != negative_prompt_embeds.shape:
            shapes = f"{tuple(prompt_embeds.shape)} and {tuple(negative_prompt_embeds.shape)}"
            raise ValueError(f"prompt_embeds and negative_prompt_embeds must have one shape, got {shapes}")


def check_image_prompt(unet: Any, image: Any, embeds: Any) -> None:
    """ValueError unless there is one of picture and embeddings, and an IP-Adapter in the UNet that takes it."""
    loaded = getattr(getattr(unet, "encoder_hid_proj", None), "image_projection_layers", ())
    if image is None and embeds is None:
        if loaded:
            raise ValueError("an IP-Adapter is loaded: pass ip_adapter_image or ip_adapter_image_embeds, or unload it")
        return
    if image is not None and embeds is not None:
        raise ValueError("pass ip_adapter_image or ip_adapter_image_embeds, not both")
    name = "ip_adapter_image" if embeds is None else "ip_adapter_image_embeds"
    if not loaded:
        raise ValueError(f"{name} needs an IP-Adapter; load one by load_ip_adapter")
    if embeds is None:
        came = len(image) if isinstance(image, list) else 1
    else:
        if not isinstance(embeds, list) or not all(isinstance(e, torch.Tensor) and e.ndim in (3, 4) for e in embeds):
            raise ValueError(f"{name} must be a list of tensors of 3 or 4 dimensions, got {type(embeds).__name__}")
        came = len(embeds)
    if came != len(loaded):
        raise ValueError(f"{name} has {came} entries for {len(loaded)} IP-Adapters")


def compile_graphs(graphs: Sequence[SceneGraph], height: int, width: int) -> list[CompiledGraph]:
    """Every graph compiled for a picture of this size."""
    if not isinstance(graphs, Sequence) or not graphs or not all(isinstance(graph, SceneGraph) for graph in graphs):
        raise ValueError(f"scene_graph must be a SceneGraph or a non-empty list of them, got {graphs!r}")
    return [graph.compile(height, width) for graph in graphs]


def one_per_prompt(graphs: list[CompiledGraph] | None, batch: int) -> list[CompiledGraph] | None:
    """A graph for each prompt; a single one serves all."""
    if graphs is None or len(graphs) == batch:
        return graphs
    if len(graphs) > 1:
        raise ValueError(f"scene_graph has {len(graphs)} graphs for {batch} prompts")
    return graphs * batch


def count_prompts(prompt: Texts | None, prompt_embeds: torch.Tensor | None) -> int:
    """How many prompts there are, as text or as embeddings `(prompts, T, C)`."""
    if prompt is None:
        return len(prompt_embeds)
    return 1 if isinstance(prompt, str) else len(prompt)


def per_prompt(items: Sequence[Any] | None, batch: int, name: str, kind: type | tuple[type, ...]) -> list[list[Any]]:
    """One list per prompt, from one list for all (then the same list object each time) or one list per prompt.

    Args:
        kind: what an inner list is, if there is one per prompt.
    """
    items = [] if items is None else items
    if isinstance(items, str) or not isinstance(items, Sequence):
        raise ValueError(f"{name} must be a list, got {items!r}")
    nested = [isinstance(item, kind) for item in items]
    if not any(nested):
        return [list(items)] * batch
    if not all(nested):
        raise ValueError(f"{name} mixes lists and single entries; pass one list for all prompts, or one per prompt")
    if len(items) != batch:
        raise ValueError(f"{name} has {len(items)} lists for {batch} prompts; pass one list, or one per prompt")
    return [list(item) for item in items]


def check_generators(generator: torch.Generator | list[torch.Generator] | None, pictures: int) -> None:
    """ValueError for a list of generators that has not one for each picture."""
    if isinstance(generator, list) and len(generator) != pictures:
        raise ValueError(f"generator is a list of {len(generator)} for {pictures} pictures")


def seeds_of(generator: torch.Generator | list[torch.Generator] | None) -> list[int] | None:
    """The seeds that generators were made with; None without a generator."""
    if generator is None:
        return None
    generators = generator if isinstance(generator, list) else [generator]
    return [one.initial_seed() for one in generators]

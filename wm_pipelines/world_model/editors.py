"""Editors of diffusers as world models: what each pipeline calls its arguments, and pictures of given seeds."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline

from wm_pipelines.media.pictures import to_pil, to_tensor
from wm_pipelines.runtime.random import keyed


@dataclass(frozen=True)
class Capability:
    """How one pipeline class is asked for an edit.

    Args:
        image: its argument for the source. as_list: it takes a list of pictures for each prompt.
        prompt: what it is told, with {action} in it.
        size: arguments that make it draw at the source's size, of height, width and max_area (pixels); without them it
            would draw at the one it was trained for.
        settings: arguments that are always given; the defaults that its authors recommend.
    """

    image: str = "image"
    as_list: bool = False
    prompt: str = "{action}"
    size: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


_QWEN = Capability(  # it guides only where there is something to guide away from
    size=("height", "width"),
    settings={"num_inference_steps": 50, "true_cfg_scale": 4.0, "negative_prompt": " "},
)
EDITORS = {
    "StableDiffusionInstructPix2PixPipeline": Capability(
        settings={"num_inference_steps": 100, "guidance_scale": 7.5, "image_guidance_scale": 1.5}
    ),
    "StableDiffusionXLInstructPix2PixPipeline": Capability(
        settings={"num_inference_steps": 100, "guidance_scale": 5.0, "image_guidance_scale": 1.5}
    ),
    "FluxKontextPipeline": Capability(
        size=("height", "width", "max_area"),
        settings={"num_inference_steps": 28, "guidance_scale": 3.5, "_auto_resize": False},
    ),
    "QwenImageEditPipeline": _QWEN,
    "QwenImageEditPlusPipeline": _QWEN,
    "OmniGenPipeline": Capability(
        image="input_images",
        as_list=True,
        prompt="<img><|image_1|></img> {action}",
        size=("height", "width"),
        settings={"num_inference_steps": 50, "guidance_scale": 2.5, "img_guidance_scale": 1.6},
    ),
}
"""Editors that take a picture and an instruction, by the class of their pipeline."""


class Editor:
    """One editor of diffusers that draws what an action makes of a source.

    Args:
        pipe: the pipeline. capability: how it is asked; None looks its class up in `EDITORS`.
        settings: arguments of its call that differ from the capability's, such as `num_inference_steps`.

    Raises:
        ValueError: a class without a record, or a setting that its call doesn't take.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        capability: Capability | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        name = type(pipe).__name__
        if capability is None and name not in EDITORS:
            raise ValueError(
                f"`editor` is a {name}, of which no record says how it is asked; known are {', '.join(EDITORS)}, or "
                "pass `capability`"
            )
        self.pipe, self.capability = pipe, capability or EDITORS[name]
        self.settings = {**self.capability.settings, **(settings or {})}
        known = inspect.signature(type(pipe).__call__).parameters
        for key in (self.capability.image, *self.capability.size, *self.settings):
            if key not in known:
                raise ValueError(f"{name} takes no {key!r}; it takes {', '.join(known)}")

    @torch.no_grad()
    def draw(self, source: torch.Tensor, action: str, seed: int, count: int) -> torch.Tensor:
        """Candidates `(N, 3, H, W)` in [0, 1], one call each, so that candidate n depends on `seed` and n alone.

        Raises:
            ValueError: the editor draws another size than the source's.
        """
        size = tuple(source.shape[1:])
        found = [to_tensor(self._one(source, action, seed, n)) for n in range(count)]
        for picture in found:
            if tuple(picture.shape[1:]) != size:
                raise ValueError(
                    f"{type(self.pipe).__name__} drew {picture.shape[1]}x{picture.shape[2]} for a source of "
                    f"{size[0]}x{size[1]}; pass a source of a size that it keeps"
                )
        return torch.stack(found)

    def _one(self, source: torch.Tensor, action: str, seed: int, n: int) -> Any:
        drawn = int(keyed("candidate", seed, n).integers(1 << 62))
        generator = torch.Generator("cpu").manual_seed(drawn)
        picture = to_pil(source)
        given: Any = [picture] if self.capability.as_list else picture
        height, width = source.shape[1:]
        sizes = {"height": height, "width": width, "max_area": height * width}
        arguments = {
            "prompt": self.capability.prompt.format(action=action),
            self.capability.image: given,
            "generator": generator,
            **{name: sizes[name] for name in self.capability.size},
            **self.settings,
        }
        return self.pipe(**arguments, output_type="pil").images[0]

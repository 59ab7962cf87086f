"""What a FlexEControl call gives back: pictures, attention maps, conflicts and a report that goes into JSON."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput

from wm_pipelines.flexecontrol.conditions.preparing import PreparedCondition
from wm_pipelines.flexecontrol.network.blocks import max_pool_to
from wm_pipelines.flexecontrol.steering.binding import Binding
from wm_pipelines.flexecontrol.steering.plan import Plan
from wm_pipelines.flexecontrol.steering.windows import active_steps
from wm_pipelines.text.prompts import phrase_keys


@dataclass
class FlexEControlPipelineOutput(BaseOutput):
    """Result of `FlexEControlPipeline`; its tuple form holds the same six values in this order.

    Args:
        images: list of PIL pictures, array `(B, H, W, 3)` in [0, 1], tensor `(B, 3, H, W)`, or latents, by
            `output_type`; B is prompts times `num_images_per_prompt`.
        nsfw_content_detected: one flag per picture, None without a safety checker.
        attention_maps: one dict per picture, phrase -> float32 `(h, w)` on the CPU: how much attention each cell pays
            to the phrase's tokens, mean over steps, recorded layers, heads and tokens. None if nothing was recorded.
            A phrase that stands twice in the prompt has `@start` behind its second mention.
        conflicts: what the conditions, phrases and graph disagree about, found before sampling.
        report: plain numbers and strings: sizes, seeds, times, what each condition and phrase did.
        prepared: the conditions of each prompt as they were used, a scene graph's own maps behind the explicit ones;
            prompts that share conditions share the list. Whoever shows or measures them takes them from here.
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    nsfw_content_detected: list[bool] | None = None
    attention_maps: list[dict[str, torch.Tensor]] | None = None
    conflicts: list[Any] | None = None
    report: dict[str, Any] | None = None
    prepared: list[list[PreparedCondition]] | None = None


class MapRecorder:
    """Running mean over steps of the recorded attention maps, in float32, on their own device until the end."""

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None
        self.steps = 0

    def take(self, maps: dict[str, torch.Tensor]) -> None:
        """Take one step's maps, layer name -> `(B, P, h, w)`, and clear them; layers that did not run are absent."""
        if not maps:
            return
        mean = torch.stack([layer.detach().float() for layer in maps.values()]).mean(0)
        self.total = mean if self.total is None else self.total + mean
        self.steps += 1
        maps.clear()

    def maps(self, bindings: list[Binding], per_prompt: int) -> list[dict[str, torch.Tensor]] | None:
        """One dict per picture; pictures of one prompt stand together."""
        if self.total is None:
            return None
        mean = (self.total / self.steps).cpu()
        return [
            {key: mean[b, p] for p, key in enumerate(phrase_keys(bindings[b // per_prompt].phrases))}
            for b in range(len(mean))
        ]


@dataclass(frozen=True)
class Ran:
    """How much of a plan was carried out.

    Args:
        steps: evaluations of the denoiser that were planned. done: those that were made before an interrupt.
        bind: whether phrases with a place were kept to it.
    """

    steps: int
    done: int
    bind: bool


def report_prompts(plan: Plan, ran: Ran, maps: list[dict[str, torch.Tensor]] | None) -> list[dict[str, Any]]:
    """One entry per prompt: its text, what each of its conditions did and where its phrases looked."""
    pictures = len(maps) // len(plan.rows) if maps else 0
    reports = []
    for i, (text, row, binding) in enumerate(zip(plan.texts, plan.rows, plan.bindings, strict=True)):
        mine = maps[i * pictures : (i + 1) * pictures] if maps else None
        conditions = [condition_report(condition, active_steps(condition, ran.steps, ran.done)) for condition in row]
        phrases = phrase_reports(binding, row, mine, ran.bind)
        reports.append({"prompt": text, "conditions": conditions, "phrases": phrases})
    return reports


def condition_report(condition: PreparedCondition, active_steps: list[int]) -> dict[str, Any]:
    """What one condition is and when it acted; `coverage` is the share of the picture it speaks about."""
    return {
        "index": condition.index,
        "type": condition.type,
        "phrase": condition.phrase,
        "strength": float(condition.strength),
        "window": [float(condition.start), float(condition.end)],
        "active_steps": active_steps,
        **({} if condition.schedule is None else {"schedule": list(condition.schedule)}),
        "coverage": round(float(condition.area.float().mean()), 6),
    }


def phrase_reports(
    binding: Binding, row: list[PreparedCondition], maps: list[dict[str, torch.Tensor]] | None, bind: bool
) -> list[dict[str, Any]]:
    """Where each phrase was bound and how much of its attention fell there.

    `attention_inside` (mean over the prompt's pictures) is to be read beside `region_share`, the share of cells in
    the region, which is what attention spread evenly would give.

    Args:
        maps: one dict for each picture of the prompt, or None if nothing was recorded.
        bind: whether phrases with a place were kept to it.
    """
    places = binding.regions(row, [condition.strength > 0 for condition in row])
    reports = []
    for p, (phrase, key) in enumerate(zip(binding.phrases, phrase_keys(binding.phrases), strict=True)):
        entry: dict[str, Any] = {"phrase": key, "span": list(phrase.span), "bound": bind and p in places}
        if p in places and maps:
            inside, cells = [], None
            for picture in maps:
                cells = max_pool_to(places[p][None].cpu(), tuple(picture[key].shape))[0] > 0
                inside.append(float((picture[key] * cells).sum() / picture[key].sum().clamp_min(1e-12)))
            entry["attention_inside"] = round(sum(inside) / len(inside), 6)
            entry["region_share"] = round(float(cells.float().mean()), 6)
        reports.append(entry)
    return reports

"""Box biases on the text attention of native ComfyUI models, around the model's call and inside its attention.

One wrapper around the diffusion model knows the sizes of a call; while the model runs, it stands before the attention
function and adds the bias as a mask. Other packs' overrides of attention stay in force: ours calls them.
Imported when a node runs, for it needs ComfyUI's model code.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.wan.model import WanModel
from comfy.patcher_extension import WrappersMP

KEY = "wm_mojito"
WAN_STRIDE = 4  # frames of the clip in a latent frame, the first one apart
OVERRIDE = "optimized_attention_override"


def kind_of(model: Any) -> str:
    """ "unet" for SD 1.x, 2.x and XL, "wan" for Wan.

    Raises:
        ValueError: another model.
    """
    network = model.model.diffusion_model
    if isinstance(network, WanModel):
        return "wan"
    if isinstance(network, UNetModel):
        return "unet"
    raise ValueError(f"model is a {type(network).__name__}; WM Mojito Apply takes SD 1.x, 2.x, XL and Wan")


def positions_of(clip: Any, prompt: str, objects: Any) -> tuple[list[list[int]], int]:
    """Positions of each object's tokens in the encoded prompt, and the prompt's length in tokens.

    Raises:
        ValueError: a phrase that can't be located, or text encoders that count tokens differently.
    """
    from wm_pipelines.mojito.guidance.bias import phrase_positions, phrase_starts
    from wm_pipelines.text.prompts import locate

    encoded, empty = _tokens(clip, prompt), _tokens(clip, "")
    found: dict[str, list[list[int]]] = {key: [] for key in encoded}
    for item in objects:
        start, end = locate(prompt, item.phrase, item.span)
        words, before = prompt[start:end], _tokens(clip, prompt[:start])
        for key, own in _tokens(clip, words).items():
            own = [token for token in own if token not in set(empty[key])]
            # counted in tokens, for some text encoders tell capitals apart and others don't
            earlier = None if item.span is None else len(phrase_starts(before[key], own))
            found[key].append(phrase_positions(encoded[key], own, words, earlier))
    first, *rest = found
    if any(found[key] != found[first] or len(encoded[key]) != len(encoded[first]) for key in rest):
        raise ValueError(f"the text encoders {', '.join(found)} place the phrases differently; use one of them")
    return found[first], len(encoded[first])


def _tokens(clip: Any, text: str) -> dict[str, list[int]]:
    """Tokens of a text for each text encoder, rows joined; learned embeddings count as -1."""
    return {
        key: [token if isinstance(token, int) else -1 for row in rows for token, *_ in row]
        for key, rows in clip.tokenize(text).items()
    }


class MotionBias:
    """Wraps the calls of a diffusion model; see the module.

    Args:
        kind: from `kind_of`.
        objects: with places in a clip of `num_frames`; where that is 0, in that of the latent.
        positions, length: from `positions_of`.
        fraction: of the steps, from the first, in which it acts.
        schedule: factors on the biases at equally spaced times from the first step to the last, linear between; empty:
            1 all the time.
    """

    def __init__(
        self,
        kind: str,
        objects: list[Any],
        num_frames: int,
        positions: list[list[int]],
        length: int,
        bias_in: float,
        bias_out: float,
        fraction: float,
        schedule: Sequence[float] = (),
    ) -> None:
        self.schedule = tuple(schedule)
        self.kind, self.objects, self.num_frames = kind, objects, num_frames
        self.positions, self.length = positions, length
        self.bias_in, self.bias_out, self.fraction = bias_in, bias_out, fraction

    def apply(self, model: Any) -> Any:
        """A clone of a MODEL whose calls are wrapped."""
        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, self)
        return patched

    def __call__(self, executor: Callable, x: torch.Tensor, timesteps: Any, context: Any, *args: Any, **kwargs: Any):
        # Both kinds of model take two arguments between context and options.
        options = args[2] if len(args) > 2 else kwargs.get("transformer_options", {})
        conditional = [which == 0 for which in options.get("cond_or_uncond", [0])]
        factor = self._factor(options)
        if not factor or not any(conditional):
            return executor(x, timesteps, context, *args, **kwargs)
        options = {**options, OVERRIDE: self._override(x, context, options, conditional, factor=factor)}
        if len(args) > 2:
            args = (*args[:2], options, *args[3:])
        else:
            kwargs["transformer_options"] = options
        return executor(x, timesteps, context, *args, **kwargs)

    def _factor(self, options: dict[str, Any]) -> float:
        """By what the biases are multiplied at the running step, by its place in the sampler's schedule."""
        from wm_pipelines.runtime.factors import factor_at

        schedule, sigma = options.get("sample_sigmas"), options.get("sigmas")
        if schedule is None or sigma is None:
            return 1.0
        steps = max(len(schedule) - 1, 1)
        step = int((schedule.cpu().float() - float(sigma.flatten()[0])).abs().argmin())
        if step >= (0 if self.fraction == 0 else max(1, round(self.fraction * steps))):
            return 0.0
        return factor_at(self.schedule, step, steps) if self.schedule else 1.0

    def _override(
        self, x: torch.Tensor, context: torch.Tensor, options: dict, conditional: list[bool], factor: float
    ) -> Callable:
        from wm_pipelines.mojito.guidance.bias import attention_bias, rows_bias

        inner = options.get(OVERRIDE)
        rows = x.shape[0] // len(conditional)
        frames = rows if self.kind == "unet" else x.shape[2]
        boxes = self._frame_boxes(frames, options)
        keys = context.shape[1]
        if keys % self.length:
            raise ValueError(
                f"the conditioning has {keys} tokens, the prompt of WM Mojito Apply {self.length}; sample with its "
                "conditioning output"
            )
        # A batch of prompts of different lengths repeats the shorter ones.
        positions = [[p + r for r in range(0, keys, self.length) for p in own] for own in self.positions]
        made: dict[int, torch.Tensor] = {}

        def bias(cells: int, q: torch.Tensor) -> torch.Tensor:
            """(rows of x, 1, cells, keys)"""
            if cells not in made:
                grid = self._grid(x, cells, frames)
                pushes = {"bias_in": factor * self.bias_in, "bias_out": factor * self.bias_out}
                one = attention_bias(boxes, positions, grid, length=keys, **pushes)
                made[cells] = rows_bias(one, conditional, rows, spatial=self.kind == "unet", like=q)
            return made[cells]

        def attend(function: Callable, q: Any, k: Any, v: Any, heads: int, mask: Any = None, **kwargs: Any) -> Any:
            axis = 2 if kwargs.get("skip_reshape") else 1
            cells = q.shape[axis]
            if k.shape[axis] == keys:
                if cells == keys:
                    raise ValueError(
                        f"the latent has as many cells as the text has tokens, {keys}, so its attention to text can't "
                        "be told apart; change the size of the video"
                    )
                mask = bias(cells, q) if mask is None else bias(cells, q) + mask
            attention = function if inner is None else lambda *a, **kw: inner(function, *a, **kw)
            return attention(q, k, v, heads, mask=mask, **kwargs)

        return attend

    def _frame_boxes(self, frames: int, options: dict[str, Any]) -> torch.Tensor:
        """(O, frames, 4) of the running call, which may see a window of the clip only."""
        from wm_pipelines.mojito.bases.geometry import latent_boxes
        from wm_pipelines.mojito.trajectories.objects import object_boxes
        from wm_pipelines.mojito.trajectories.resampling import to_clip

        window, total = _window(options), frames
        if window is not None:
            window, total = window
        count = self.num_frames or ((total - 1) * WAN_STRIDE + 1 if self.kind == "wan" else total)
        boxes = object_boxes(to_clip(self.objects, count)[0], count)
        if self.kind == "wan":
            boxes = latent_boxes(boxes, total, WAN_STRIDE, True)
        elif count != total:
            raise ValueError(
                f"the latent has {total} frames, but num_frames is {count}; they must agree, or num_frames be 0"
            )
        return boxes if window is None else boxes[:, window]

    def _grid(self, x: torch.Tensor, cells: int, frames: int) -> tuple[int, int]:
        from wm_pipelines.mojito.bases.geometry import grid_of

        height, width = x.shape[-2:]
        if self.kind == "unet":
            return grid_of(cells, height, width)
        height, width = (height + 1) // 2, (width + 1) // 2
        if cells != frames * height * width:
            raise ValueError(
                f"the model attends from {cells} cells, the latent has {frames} x {height} x {width}; reference "
                "frames and the like are not known to WM Mojito Apply"
            )
        return height, width


def _window(options: dict[str, Any]) -> tuple[list[int], int] | None:
    """Frames of the running context window and of the whole clip: core's, or AnimateDiff-Evolved's."""
    window = options.get("context_window")
    if window is not None:
        # Newer ComfyUI runs a window with the frame before it in front; -1 or nothing where there is none.
        before = getattr(window, "causal_anchor_index", None)
        frames = [] if before is None or before < 0 else [before]
        return [*frames, *window.index_list], int(window.total_frames)
    animated = options.get("ad_params") or {}
    if animated.get("sub_idxs") is not None:
        return list(animated["sub_idxs"]), int(animated["full_length"])
    return None

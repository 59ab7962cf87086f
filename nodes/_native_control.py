"""A FlexEControl adapter as a control of native ComfyUI models, beside other ControlNets.

Core calls it at every step with the noisy latents; it gives the residuals that the library's own pipeline would add,
by the library's own code. Imported when a node runs, for it needs ComfyUI's model code.
"""

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.controlnet import ControlBase


class NativeControl(ControlBase):
    """Hangs on a CONDITIONING as `control`; see the module.

    Args:
        handle: of a FlexEControl pipeline; ComfyUI loads and moves its weights.
        conditions: of WM_CONDITIONS.
        strength: factor on all residuals.
    """

    def __init__(self, handle: Any, conditions: Sequence[Any], strength: float) -> None:
        super().__init__()
        self.handle, self.conditions, self.strength = handle, tuple(conditions), strength
        self.stages: dict[tuple[int, int], Any] = {}
        self.model_sampling: Any = None

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self.model_sampling = model.model_sampling

    def get_control(
        self, x_noisy: torch.Tensor, t: torch.Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> dict | None:
        """Residuals of the UNet's skips and middle, joined with those of the ControlNet before."""
        from wm_pipelines.flexecontrol.steering.stages import hooks, residuals

        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number=batched_number, transformer_options=transformer_options
            )
        if self.timestep_range is not None and not self.timestep_range[1] <= float(t[0]) <= self.timestep_range[0]:
            return previous
        control = self.handle.pipeline.control
        sample = self.model_sampling.calculate_input(t, x_noisy).type(control.dtype)
        context = cond.get("crossattn_controlnet", cond["c_crossattn"])
        context = comfy.model_management.cast_to_device(context, sample.device, sample.dtype)
        stage = self._stages(x_noisy).at(*_step(transformer_options, t))
        with hooks(None, control, None) as enter:
            enter(stage, 1)
            made = residuals(
                control,
                stage,
                sample=sample,
                timestep=self.model_sampling.timestep(t).type(sample.dtype),
                prompt_embeds=context,
                scale=1.0,
            )
        if not made:
            return previous
        down, mid = made["down_block_additional_residuals"], made["mid_block_additional_residual"]
        # core multiplies by the strength in place
        found = {"output": [residual.clone() for residual in down], "middle": [mid.clone()]}
        return self.control_merge(found, previous, x_noisy.dtype)

    def _stages(self, x_noisy: torch.Tensor) -> Any:
        """The stages at the size of the latents, prepared once."""
        from wm_pipelines.flexecontrol.steering.plan import plan_without_text
        from wm_pipelines.flexecontrol.steering.stages import Frame, Stages

        control = self.handle.pipeline.control
        size = tuple(side * control.config.condition_stride for side in x_noisy.shape[-2:])
        if size not in self.stages:
            plan = plan_without_text(control, self.conditions, size)
            self.stages[size] = Stages(
                control, plan, Frame(1, size, 1.0, normalise_overlap=False, device=x_noisy.device), bind=False
            )
        return self.stages[size]

    def copy(self) -> "NativeControl":
        other = NativeControl(self.handle, self.conditions, self.strength)
        self.copy_to(other)
        return other

    def get_models(self) -> list:
        return [*super().get_models(), self.handle.patcher]

    def cleanup(self) -> None:
        self.stages, self.model_sampling = {}, None
        super().cleanup()


def _step(options: dict[str, Any], t: torch.Tensor) -> tuple[int, int]:
    """Which step runs, and of how many, by its place in the schedule; the first of one where there is none."""
    schedule = options.get("sample_sigmas")
    if schedule is None:
        return 0, 1
    steps = max(len(schedule) - 1, 1)
    return min(int((schedule.cpu().float() - float(t.flatten()[0])).abs().argmin()), steps - 1), steps


def check_fits(model: Any, control: Any) -> None:
    """Refuse a native model whose UNet is not shaped as that which the adapter was made for.

    Raises:
        ValueError: another kind of model, or other widths.
    """
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = model.model.diffusion_model
    if not isinstance(network, UNetModel) or network.num_classes is not None:
        raise ValueError(
            f"model is a {type(network).__name__}; WM FlexEControl Apply takes models shaped as SD 1.x and 2.x"
        )
    wanted, native = control.config.unet_config, model.model.model_config.unet_config
    widths = [native["model_channels"] * factor for factor in native["channel_mult"]]
    text = wanted["cross_attention_dim"]
    if widths != list(wanted["block_out_channels"]) or native["context_dim"] != text:
        raise ValueError(
            f"model has levels of {widths} channels and texts of {native['context_dim']}; the adapter is for "
            f"{list(wanted['block_out_channels'])} and {text}"
        )

"""The widgets of WM_MojitoSample that are not every sampler's: guidance, and what else may come in."""

from typing import Any

from comfy_api.latest import io

from .._shared.types import ADVANCED
from ._sockets import Trajectory

OWN = -1.0


def guidance_inputs() -> list[Any]:
    """How the latent is moved, in the order that saved workflows rely on."""
    return [
        io.Float.Input(
            "guidance_eta",
            **ADVANCED,
            default=OWN,
            min=OWN,
            max=10000.0,
            step=1.0,
            tooltip="How far a guided step moves the latent towards the boxes. -1 takes the checkpoint's own.",
        ),
        io.Int.Input(
            "guidance_iterations",
            **ADVANCED,
            default=-1,
            min=-1,
            max=50,
            tooltip="Moves in a guided step, at most. -1 takes the checkpoint's own, 0 only measures.",
        ),
        io.Float.Input(
            "guidance_fraction",
            **ADVANCED,
            default=OWN,
            min=OWN,
            max=1.0,
            step=0.05,
            tooltip="Share of the steps, from the first, that are guided. -1 takes the checkpoint's own.",
        ),
        io.Float.Input(
            "guidance_threshold",
            **ADVANCED,
            default=OWN,
            min=OWN,
            max=1.0,
            step=0.05,
            tooltip="Energy below which a step is left as it is. -1 takes the checkpoint's own.",
        ),
        io.Float.Input(
            "smooth_weight",
            **ADVANCED,
            default=0.0,
            min=0.0,
            max=20.0,
            step=0.5,
            tooltip="Weight of keeping the attention's path as smooth as the boxes'; 0 turns it off.",
        ),
        io.Int.Input(
            "trailing_tokens",
            **ADVANCED,
            default=-1,
            min=-1,
            max=64,
            tooltip="Text positions behind the prompt that are steered with its object. -1 takes the checkpoint's own "
            "for a lone object, and none for several.",
        ),
        io.Float.Input(
            "bias_in",
            default=0.0,
            min=-50.0,
            max=50.0,
            step=0.1,
            tooltip="Added to the attention logits of a phrase inside its box. Needs no gradient.",
        ),
        io.Float.Input(
            "bias_out",
            default=0.0,
            min=-50.0,
            max=50.0,
            step=0.1,
            tooltip="Taken off the attention logits of a phrase outside its box. Needs no gradient.",
        ),
        io.Float.Input(
            "bias_fraction",
            **ADVANCED,
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Share of the steps, from the first, in which the biases act.",
        ),
        io.Boolean.Input(
            "allow_joint",
            **ADVANCED,
            default=False,
            tooltip="Guide models whose text and video share one attention, which costs much more.",
        ),
    ]


def optional_inputs() -> list[Any]:
    """The trajectory and what was added since, in the order that saved workflows rely on."""
    return [
        Trajectory.Input("trajectory", optional=True, tooltip="Where the objects are. Without it nothing is steered."),
        io.String.Input(
            "guidance_taps",
            **ADVANCED,
            default="",
            multiline=True,
            optional=True,
            tooltip="Blocks whose attention is read, one name a line. Empty takes the checkpoint's own.",
        ),
        io.Combo.Input(
            "bias_style",
            **ADVANCED,
            options=["logit", "trailblazer", "freetraj"],
            default="logit",
            optional=True,
            tooltip="logit uses bias_in and bias_out; the others edit the attention as TrailBlazer and "
            "FreeTraj do, and use bias_fraction alone.",
        ),
        io.Image.Input(
            "image",
            optional=True,
            tooltip="The first picture of the clip, for bases of Wan, LTX and CogVideoX that animate pictures.",
        ),
        io.Float.Input(
            "weak_clock",
            **ADVANCED,
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="Time-to-Move, with image: share of the steps until which all follows the picture dragged "
            "along the trajectory. 0 with strong_clock 0: off.",
        ),
        io.Float.Input(
            "strong_clock",
            **ADVANCED,
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="The same for what lies in a box; not below weak_clock. Its authors take 0.06 and 0.14 for "
            "Wan 2.2.",
        ),
        io.Int.Input(
            "window",
            **ADVANCED,
            default=0,
            min=0,
            max=1024,
            optional=True,
            tooltip="Frames of a window, for clips longer than an AnimateDiff model was made for (FreeNoise). "
            "0: all frames at once.",
        ),
        io.Int.Input(
            "window_stride",
            **ADVANCED,
            default=4,
            min=1,
            max=1024,
            optional=True,
            tooltip="Frames from one window to the next.",
        ),
        io.String.Input(
            "intensity_schedule",
            **ADVANCED,
            default="",
            optional=True,
            tooltip="Factors on motion_intensity from the first step to the last, 0 to 1 and linear between, such as "
            "1, 0.5. Empty: the same all the time.",
        ),
    ]

"""How much noise a latent holds, in the scale that the scheduler keeps it in (Mojito, arXiv 2412.08948; our reading).

With x_t = c_s x_0 + c_n noise, the update z <- z - eta * c_n**2 * gradient is one rule for every parametrisation: it
equals the step sigma**2 on latents divided by c_s, which is how layout guidance (arXiv 2304.03373) states it.
"""

from typing import Any

import torch

# c_n**2 = 1 - alpha_bar
VARIANCE_PRESERVING = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LCMScheduler",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "VideoCrafterDDIMScheduler",
)
# the same, from sigmas that may be spaced otherwise; flow matching with `use_flow_sigmas`
MULTISTEP = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
# c_s = 1 and c_n = sigma: the latent is divided by sqrt(sigma**2 + 1) before the network
VARIANCE_EXPLODING = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
)
# x = (1 - s) x_0 + s noise
FLOW_MATCHING = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
KNOWN = (*VARIANCE_PRESERVING, *MULTISTEP, *VARIANCE_EXPLODING, *FLOW_MATCHING)


def check_scheduler(scheduler: Any) -> None:
    """ValueError unless the parametrisation of the scheduler's latents is known."""
    if type(scheduler).__name__ not in KNOWN:
        raise ValueError(
            f"scheduler is a {type(scheduler).__name__}, whose latents are of unknown parametrisation; "
            f"guidance knows {', '.join(KNOWN)}"
        )


def latent_noise_variance(scheduler: Any, t: float | torch.Tensor) -> float:
    """c_n**2 of the latents that `scheduler.step` takes at timestep `t`.

    Raises:
        ValueError: a scheduler that is not in the table above.
    """
    check_scheduler(scheduler)
    name = type(scheduler).__name__
    if name in VARIANCE_PRESERVING:
        return 1 - float(scheduler.alphas_cumprod[int(t)])
    sigma = _sigma(scheduler, t)
    if name in MULTISTEP and not scheduler.config.get("use_flow_sigmas"):
        return sigma**2 / (1 + sigma**2)
    return sigma**2


def input_scale(scheduler: Any, t: float | torch.Tensor) -> float:
    """What the latent is multiplied by before the network sees it: 1 / sqrt(sigma**2 + 1), or 1."""
    if type(scheduler).__name__ in VARIANCE_EXPLODING:
        return (1 + _sigma(scheduler, t) ** 2) ** -0.5
    return 1.0


def _sigma(scheduler: Any, t: float | torch.Tensor) -> float:
    index = scheduler.step_index
    if index is None:
        index = scheduler.begin_index
    if index is None:
        index = scheduler.index_for_timestep(torch.as_tensor(t, device=scheduler.timesteps.device))
    # of the two evaluations of a second-order step, the second is at a sigma in between
    between = hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order
    return float((scheduler.sigmas_interpol if between else scheduler.sigmas)[index])

"""The judge: a small network that says, for every pixel of a Diorama picture, which colour and which shape it shows.

It measures generated pictures, with rendered scenes for its truth; it never sees a prompt.
"""

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin  # noqa: F401  pipelines look it up here
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import nn

from wm_pipelines.diorama.scene import COLOURS, SHAPES
from wm_pipelines.hub.models import WMModel


@dataclass
class JudgeOutput(BaseOutput):
    """colour: (B, 1 + 8, H, W) logits, channel 0 is background; shape: (B, 4, H, W) logits."""

    colour: torch.Tensor
    shape: torch.Tensor = None  # type: ignore[assignment]  # accelerate's hooks make outputs from a dict


def _block(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1),
        nn.GroupNorm(8, outside),
        nn.SiLU(),
        nn.Conv2d(outside, outside, 3, padding=1),
        nn.GroupNorm(8, outside),
        nn.SiLU(),
    )


class DioramaJudge(WMModel, ConfigMixin):
    """A small convolutional network with skips; input pictures are (B, 3, H, W) in [0, 1], H and W multiples of 4."""

    _no_split_modules: list[str] = []

    @register_to_config
    def __init__(self, channels: tuple[int, int, int] = (24, 48, 96)):
        super().__init__()
        a, b, c = channels
        self.top, self.middle, self.bottom = _block(3, a), _block(a, b), _block(b, c)
        self.up_middle, self.up_top = _block(c + b, b), _block(b + a, a)
        self.colour = nn.Conv2d(a, 1 + len(COLOURS), 1)
        self.shape = nn.Conv2d(a, len(SHAPES), 1)

    def forward(self, pictures: torch.Tensor) -> JudgeOutput:
        if pictures.dim() != 4 or pictures.shape[1] != 3 or pictures.shape[-1] % 4 or pictures.shape[-2] % 4:
            raise ValueError(
                f"`pictures` is {tuple(pictures.shape)}; it must be (B, 3, H, W) with H and W multiples of 4"
            )
        top = self.top(pictures * 2 - 1)
        middle = self.middle(nn.functional.avg_pool2d(top, 2))
        bottom = self.bottom(nn.functional.avg_pool2d(middle, 2))
        up = nn.functional.interpolate(bottom, scale_factor=2.0, mode="nearest")
        up = self.up_middle(torch.cat([up, middle], dim=1))
        up = nn.functional.interpolate(up, scale_factor=2.0, mode="nearest")
        up = self.up_top(torch.cat([up, top], dim=1))
        return JudgeOutput(self.colour(up), self.shape(up))

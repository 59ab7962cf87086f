"""How a stock call keeps its latents: `(V, C, f, h, w)`, frames before channels, or packed; a picture's beside them.

Where a picture is animated its latent may be stacked behind the call's own channels, or take the first latent frames,
which are then held.
"""

from dataclasses import dataclass
from typing import Any

import torch

from wm_pipelines.mojito.bases.families import Family


@dataclass(frozen=True)
class LatentForm:
    """The form of a call's latents.

    Attributes:
        axis: of the channels; 1 or 2, or -1 where cells are packed into `(V, f * h * w, C)`.
        shape: f, h, w.
        channels: the call's own, which come first; None where there are no others.
        held: first latent frames that are the picture's.
    """

    axis: int
    shape: tuple[int, int, int]
    channels: int | None = None
    held: int = 0

    def own(self, latents: torch.Tensor) -> torch.Tensor:
        """The call's own channels."""
        return latents if self.channels is None else latents.narrow(self.axis, 0, self.channels)

    def beside(self, latents: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """`own` with the other channels of `latents` behind it."""
        if self.channels is None:
            return own
        rest = latents.narrow(self.axis, self.channels, latents.shape[self.axis] - self.channels)
        return torch.cat([own, rest], dim=self.axis)

    def holding(self, latents: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """`latents` with the held frames of `held`."""
        if not self.held:
            return latents
        dim = 1 if self.axis != 1 else 2
        count = self.held * (self.shape[1] * self.shape[2] if self.axis == -1 else 1)
        rest = latents.shape[dim] - count
        return torch.cat([held.narrow(dim, 0, count), latents.narrow(dim, count, rest)], dim=dim)

    def plain(self, latents: torch.Tensor) -> torch.Tensor:
        """`(V, C, f, h, w)`."""
        if self.axis == -1:
            return latents.transpose(1, 2).unflatten(2, self.shape)
        return latents.transpose(1, 2) if self.axis == 2 else latents

    def kept(self, plain: torch.Tensor) -> torch.Tensor:
        """`(V, C, f, h, w)` as the call keeps it."""
        if self.axis == -1:
            return plain.flatten(2).transpose(1, 2)
        return plain.transpose(1, 2) if self.axis == 2 else plain

    def stepped(self, latents: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """`latents` in the form of `sample`, which a scheduler's step was given: LTX unpacks them and leaves out the
        held frames."""
        return latents if latents.shape == sample.shape else self.plain(latents)[:, :, self.held :]


@torch.no_grad()
def encode_video(stock: Any, family: Family, video: torch.Tensor) -> torch.Tensor:
    """Latents `(V, C, f, h, w)` of clips `(V, 3, F, H, W)` in [-1, 1], in the scale that the denoiser knows."""
    vae = stock.vae
    latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
    if family.name == "wan":
        mean, std = (
            torch.tensor(getattr(vae.config, name)).view(1, -1, 1, 1, 1).to(latents)
            for name in ("latents_mean", "latents_std")
        )
        return (latents - mean) / std
    if family.name == "ltx":
        mean, std = (getattr(vae, name).view(1, -1, 1, 1, 1).to(latents) for name in ("latents_mean", "latents_std"))
        return (latents - mean) / std
    scale = vae.config.scaling_factor
    return latents / scale if vae.config.get("invert_scale_latents") else latents * scale

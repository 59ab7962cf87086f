"""Sampling that starts from a picture, whole or with a mask of what is made anew.

Values and order of random numbers are those of `StableDiffusionImg2ImgPipeline` and, with a mask, of
`StableDiffusionInpaintPipeline` on a UNet of four channels.
"""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SchedulerMixin
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from diffusers.utils.torch_utils import randn_tensor

from wm_pipelines.media.pictures import to_mask, to_tensor

Generators = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True, eq=False)
class Start:
    """Where sampling starts.

    Args:
        pixels: `(n, 3, H, W)` in [-1, 1].
        mask: `(1, 1, H, W)`, 1 where the picture is made anew, 0 where it is kept; None: no part is kept as it is.
        strength: share of the schedule that runs, above 0 to 1.
    """

    pixels: torch.Tensor
    mask: torch.Tensor | None
    strength: float


def size_of(image: Any) -> tuple[int, int] | None:
    """Height and width of the first of the pictures in `image`; None without any."""
    if image is None or (isinstance(image, list) and not image):
        return None
    return tuple(_tensors(image)[0].shape[-2:])


def read_start(image: Any, mask: Any, strength: float | None, pictures: int, size: tuple[int, int]) -> Start | None:
    """The arguments `image`, `mask_image` and `strength` of a call, checked; None without a picture.

    Args:
        image: a picture as `media.pictures.to_tensor` takes it, or a list or batch `(n, 3, H, W)` of them.
        mask: white where the picture is made anew; at least 0.5 counts as white.
        strength: by default 0.8, with a mask 1.
        pictures: that the call makes; n divides it.
        size: height and width of the output.

    Raises:
        ValueError: a mask or strength without a picture, a value out of range, or sizes that don't fit.
    """
    if image is None:
        for name, given in (("mask_image", mask), ("strength", strength)):
            if given is not None:
                raise ValueError(f"{name} needs image, the picture to start from")
        return None
    strength = (0.8 if mask is None else 1.0) if strength is None else strength
    if isinstance(strength, bool) or not isinstance(strength, Real) or not 0 < strength <= 1:
        raise ValueError(f"strength={strength!r}; it must lie in (0, 1]")
    tensors, wanted = _tensors(image), "{}x{}".format(*size)
    if not tensors or pictures % len(tensors):
        raise ValueError(f"image has {len(tensors)} entries for {pictures} pictures; their number must divide it")
    for index, one in enumerate(tensors):
        if tuple(one.shape[-2:]) != size:
            came = "{}x{}".format(*one.shape[-2:])
            raise ValueError(f"image #{index + 1} is {came}; it must have the size of the output, {wanted}")
    white = None
    if mask is not None:
        try:
            white = (to_mask(mask)[None] >= 0.5).float()
        except ValueError as error:
            raise ValueError(f"mask_image: {error}") from None
        if tuple(white.shape[-2:]) != size:
            came = "{}x{}".format(*white.shape[-2:])
            raise ValueError(f"mask_image is {came}; it must have the size of image, {wanted}")
    pixels = torch.stack(tensors)
    if not isinstance(image[0] if isinstance(image, list) else image, torch.Tensor):
        # as diffusers lays pictures out that are no tensors: convolutions round otherwise in another layout
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    return Start(2 * pixels - 1, white, float(strength))


def _tensors(image: Any) -> list[torch.Tensor]:
    """Pictures `(3, H, W)` in [0, 1]."""
    several = isinstance(image, list) or (isinstance(image, torch.Tensor) and image.ndim == 4)
    try:
        return [to_tensor(one) for one in (image if several else [image])]
    except ValueError as error:
        raise ValueError(f"image: {error}") from None


def timesteps_from(scheduler: SchedulerMixin, steps: int, strength: float) -> tuple[torch.Tensor, int]:
    """The last `strength` of the schedule, and how many steps that are.

    Raises:
        ValueError: that is less than one step.
    """
    run = min(int(steps * strength), steps)
    if run < 1:
        raise ValueError(f"strength={strength:g} of {steps} steps leaves none; take more steps or more strength")
    first = (steps - run) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler.timesteps[first:], run


@dataclass(frozen=True, eq=False)
class Kept:
    """What a mask keeps of a picture while the rest is made anew.

    Args:
        latents, noise: of the picture, `(pictures, C, h, w)`. mask: `(1, 1, h, w)`, 1 where it is made anew.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor

    def put_back(
        self, scheduler: SchedulerMixin, latents: torch.Tensor, following: torch.Tensor | None
    ) -> torch.Tensor:
        """`latents` with the kept part of the picture, as noisy as at the `following` timestep, or clean."""
        kept = self.latents
        if following is not None:
            kept = scheduler.add_noise(kept, self.noise, following.reshape(1))
        return (1 - self.mask) * kept + self.mask * latents


def noised(
    start: Start,
    vae: AutoencoderKL,
    scheduler: SchedulerMixin,
    timestep: torch.Tensor,
    pictures: int,
    like: dict[str, Any],
) -> tuple[torch.Tensor, Kept | None]:
    """First latents `(pictures, C, h, w)`, and what the mask keeps.

    Args:
        timestep: the first of the run. like: `generator`, `device` and `dtype` of the latents.
    """
    generator = like["generator"]
    pixels = start.pixels.to(like["device"], like["dtype"])
    if start.mask is None and isinstance(generator, list):
        pixels = _repeated(pixels, pictures)  # each is drawn by its own generator
    found = _repeated(_encoded(vae, pixels, generator), pictures)
    if start.mask is not None:
        found = found.contiguous()  # the layout that the stock pipeline gives it here, and only here
    noise = randn_tensor(found.shape, **like)
    if start.mask is not None and start.strength == 1:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(found, noise, timestep.repeat(pictures))
    if start.mask is None:
        return latents, None
    mask = start.mask.to(pixels)
    # nothing reads these latents, but the stock pipeline draws random numbers for them
    _encoded(vae, pixels * (mask < 0.5), generator)
    return latents, Kept(found, noise, F.interpolate(mask, size=found.shape[-2:]))


def _encoded(vae: AutoencoderKL, pixels: torch.Tensor, generator: Generators) -> torch.Tensor:
    if isinstance(generator, list):
        # with a mask there may be fewer pictures than generators, and the first ones draw, as in the stock pipeline
        pairs = zip(pixels.split(1), generator, strict=False)
        each = [retrieve_latents(vae.encode(one), generator=own) for one, own in pairs]
        return vae.config.scaling_factor * torch.cat(each)
    return vae.config.scaling_factor * retrieve_latents(vae.encode(pixels), generator=generator)


def _repeated(values: torch.Tensor, pictures: int) -> torch.Tensor:
    """Rows of given pictures -> rows of made ones, which stand together by prompt; the memory's layout stays."""
    return torch.cat([row for row in values.split(1) for _ in range(pictures // len(values))])

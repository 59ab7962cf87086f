"""A call of a stock pipeline: what of its arguments was given, and what follows for the clip that it makes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import is_ftfy_available

from wm_pipelines.mojito.bases.families import Family
from wm_pipelines.mojito.bases.latents import LatentForm
from wm_pipelines.mojito.trajectories.values import frame_count, whole

LATTE_TOKENS = 120  # the limit that LattePipeline sets for itself


class LiveScale:
    """A guidance scale that a running call reads anew in each step, where stock loops keep the number they began with.

    It multiplies and compares as its `value` does.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def __mul__(self, other: Any) -> Any:
        return self.value * other

    __rmul__ = __mul__

    def __gt__(self, other: Any) -> bool:
        return self.value > other

    def __float__(self) -> float:
        return float(self.value)


@dataclass(frozen=True)
class StockCall:
    """One call to be.

    Attributes:
        stock: the pipeline of diffusers. family: of its denoiser.
        options: its arguments by its own names, without those that keep their defaults.
    """

    stock: DiffusionPipeline
    family: Family
    options: dict[str, Any]

    def __post_init__(self) -> None:
        takes = self.takes
        # Latte's video_length is num_frames here
        unknown = [name for name in self.options if name not in takes or name == self.family.frames]
        if unknown:
            raise ValueError(f"{type(self.stock).__name__} takes no {', '.join(unknown)}; it takes {', '.join(takes)}")

    @property
    def takes(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(type(self.stock).__call__).parameters)

    def value(self, name: str) -> Any:
        """What was given as `name`, or the stock pipeline's default; None where it has no such argument."""
        if name in self.options:
            return self.options[name]
        return self.takes[name].default if name in self.takes else None

    @property
    def denoiser(self) -> Any:
        return getattr(self.stock, self.family.component)

    @property
    def stride(self) -> int:
        """Frames of the clip in a latent frame."""
        names = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")
        return next((int(getattr(self.stock, name)) for name in names if hasattr(self.stock, name)), 1)

    @property
    def spatial(self) -> int:
        """Pixels in a side of a latent's cell."""
        names = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")
        return next(getattr(self.stock, name) for name in names if hasattr(self.stock, name))

    @property
    def videos_per_prompt(self) -> int:
        """How many videos each prompt gets.

        Raises:
            ValueError: no whole number, or more than one where the stock pipeline makes one whatever is asked.
        """
        name = self.family.several or "num_videos_per_prompt"
        count = self.options.get(name, 1)
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name}={count!r}; a whole number of at least 1")
        if self.family.several is None and count != 1:
            raise ValueError(
                f"{name}={count}, but {self.family.pipeline} makes one video of each prompt; repeat the prompt"
            )
        return count

    def num_frames(self, given: int | None, trajectory: int | None = None) -> int:
        """The clip's frames: as given, else as many as the `trajectory` has, up to the next number that the base can
        make, else the base's own.

        Raises:
            ValueError: no whole number from 1, one that the base's temporal stride does not divide, or more than its
                motion adapter has positions for.
        """
        if given is None and trajectory is not None:
            given = -(-(trajectory - 1) // self.stride) * self.stride + 1
        if given is None:
            given = self.takes[self.family.frames].default
            given = self.denoiser.config.sample_frames if given is None else given
        if (whole(given) or 0) < 1:
            raise ValueError(f"num_frames must be a positive integer, got {given!r}")
        frames = frame_count(given)
        if (frames - 1) % self.stride:
            raise ValueError(
                f"num_frames={frames} does not fit the base's temporal stride of {self.stride}: use {self.stride}k+1"
            )
        most = self.denoiser.config.get("motion_max_seq_length")
        if most is not None and frames > most and not getattr(self.stock, "free_noise_enabled", False):
            raise ValueError(f"num_frames={frames}, but the motion adapter has positions for {most} frames")
        return frames

    def token_grid(self, num_frames: int) -> tuple[int, int, int]:
        """Latent frames, and rows and columns of tokens, of the clip to be.

        Raises:
            ValueError: a height or width that the base can't have.
        """
        spatial = self.spatial
        config = self.denoiser.config
        patch = config.get("patch_size", 1) or 1
        patch = (1, patch, patch) if isinstance(patch, int) else tuple(patch)
        cells = []
        for name, width in (("height", False), ("width", True)):
            side = self.options.get(name) or self.takes[name].default
            if side is None:
                size = config.get(f"sample_{name}", None) or config.sample_size
                side = (size if isinstance(size, int) else size[width]) * spatial
            for step in (spatial, spatial * patch[1 + width]):
                if side % step:
                    raise ValueError(f"{name}={side}; it must be a multiple of {step}")
            cells.append(side // spatial // patch[1 + width])
        return (num_frames - 1) // self.stride + 1, cells[0], cells[1]

    def latent_form(self, num_frames: int) -> LatentForm:
        """How the call keeps its latents."""
        frames, rows, columns = self.token_grid(num_frames)
        config = self.denoiser.config
        patch = config.get("patch_size", 1) or 1
        _, tall, wide = (1, patch, patch) if isinstance(patch, int) else patch
        stacked = self.animates and config.in_channels != config.out_channels
        held = self.animates and (self.family.axis == -1 or bool(self.stock.config.get("expand_timesteps")))
        return LatentForm(
            self.family.axis,
            (frames, rows * tall, columns * wide),
            channels=config.out_channels if stacked else None,
            held=int(held),
        )

    @property
    def animates(self) -> bool:
        """Whether the call begins with a picture."""
        return type(self.stock).__name__ == self.family.picture

    def check_picture(self) -> None:
        """ValueError where the denoiser needs a picture and none was given, or the other way round, or where the stock
        pipeline of Wan's lacks a package."""
        config = self.denoiser.config
        if self.family.picture is None or self.family.axis == -1:  # LTX does both
            return
        if self.animates and self.family.name == "wan" and not is_ftfy_available():
            raise ValueError(
                "image given, but diffusers animates pictures by Wan only where ftfy is: pip install ftfy"
            )
        wants = config.in_channels != config.out_channels
        name = type(self.denoiser).__name__
        if self.animates and not wants and not self.stock.config.get("expand_timesteps"):
            raise ValueError(f"image given, but this {name} takes text alone; pass a base that animates pictures")
        if wants and not self.animates:
            raise ValueError(f"this {name} animates a picture: pass image")

    @property
    def token_limit(self) -> int:
        """Text tokens that the base reads."""
        if "max_sequence_length" in self.takes:
            return self.options.get("max_sequence_length") or self.takes["max_sequence_length"].default
        return LATTE_TOKENS if self.family.name == "latte" else self.stock.tokenizer.model_max_length

    @property
    def convert(self) -> Callable[[str], str]:
        """What the stock pipeline makes of a prompt before it is encoded."""
        if self.family.name == "wan":
            from diffusers.pipelines.wan.pipeline_wan import prompt_clean

            return prompt_clean
        if self.family.name == "latte":
            return lambda prompt: prompt.lower().strip()
        if hasattr(self.stock, "maybe_convert_prompt"):  # textual inversion
            return lambda prompt: self.stock.maybe_convert_prompt(prompt, self.stock.tokenizer)
        return str

    @property
    def drops_padding(self) -> bool:
        """Whether a single prompt reaches the denoiser without its padding."""
        return self.family.name == "latte" and self.options.get("mask_feature", True)


def stock_pipeline(pipe: DiffusionPipeline, family: Family, animate: bool = False) -> DiffusionPipeline:
    """The diffusers pipeline of `family`, over the components of `pipe`; with `animate` that of a first picture.

    Raises:
        ValueError: a family that animates no picture.
    """
    if animate and family.picture is None:
        raise ValueError(f"image given, but {family.pipeline} takes none; Wan, LTX and CogVideoX bases do")
    if family.pipeline == "TextToVideoPipeline":
        from wm_pipelines.mojito.bases.text_to_video import TextToVideoPipeline as kind
    else:
        import diffusers

        kind = getattr(diffusers, family.picture if animate else family.pipeline)
    takes = inspect.signature(kind.__init__).parameters
    parts = {name: value for name, value in pipe.components.items() if name in takes}
    parts |= {name: value for name, value in pipe.config.items() if name in takes and name not in parts}
    if "image_processor" in takes:  # Wan's name for it
        parts["image_processor"] = pipe.feature_extractor
    stock = kind(**parts)
    vars(stock).update(getattr(pipe, "stock_settings", {}))
    stock.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return stock

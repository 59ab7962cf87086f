"""The bases that Mojito steers: for each denoiser class, where its text attention lies and how its cells are laid out.

The stock pipelines of diffusers sample; a family only says what of a denoiser's call and modules means what.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

Grid = tuple[int, int, int]  # latent frames, height and width of the finest token grid


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of base.

    Attributes:
        denoisers: class names. component: the pipeline's attribute that holds the denoiser.
        pipeline: class name of the stock pipeline, in diffusers or here. frames: its name for the number of frames.
        attention: pattern of the names of the modules that attend to text, with group "block" for taps.
        spatial: a layer sees one frame at a time, (videos * frames, cells, C); else (videos, frames * cells, C).
        joint: text and video share one softmax, so guidance must be asked for by `allow_joint`.
        one_call: guidance puts [unconditional, conditional] into one call; else the conditional call comes first.
        per_video: names of the denoiser's inputs that have one row a video, or one a frame of each.
        grid: (latent, keyword arguments, denoiser) -> Grid.
        padded: the text is padded without a mask, so padding takes part in the softmax.
        picture: class name of the stock pipeline that animates a first picture; None where diffusers has none.
        temporal: pattern of the modules that attend over the frames of each cell; None where there are none.
        axis: of the channels in the stock pipeline's latents, -1 where cells are packed.
        several: the stock pipeline's argument for the videos of a prompt; None where it makes one, whatever is asked.
    """

    name: str
    denoisers: tuple[str, ...]
    component: str
    pipeline: str
    attention: str
    grid: Callable[[torch.Tensor, Mapping[str, Any], nn.Module], Grid]
    spatial: bool = False
    joint: bool = False
    frames: str = "num_frames"
    one_call: bool = True
    per_video: tuple[str, ...] = ("encoder_hidden_states",)
    padded: bool = False
    several: str | None = None
    picture: str | None = None
    axis: int = 1
    temporal: str | None = None

    def modules(self, denoiser: nn.Module) -> dict[str, nn.Module]:
        """Name -> module of every layer in which the video attends to the text, in the order of execution."""
        pattern = re.compile(self.attention)
        return {name: module for name, module in denoiser.named_modules() if pattern.fullmatch(name)}

    def default_taps(self, denoiser: nn.Module) -> list[str]:
        """Blocks that guidance reads: the middle and the second up block of a UNet, 25 to 60 % of a transformer's."""
        if self.component == "unet":
            return ["mid_block", "up_blocks.1"]
        blocks = list(dict.fromkeys(re.fullmatch(self.attention, name)["block"] for name in self.modules(denoiser)))
        first, last = math.ceil(0.25 * len(blocks)), math.floor(0.6 * len(blocks))
        return blocks[min(first, len(blocks) - 1) : last + 1] or blocks[-1:]

    def tapped(self, denoiser: nn.Module, taps: Sequence[str] | None) -> dict[str, nn.Module]:
        """The layers of the blocks named in `taps`.

        Raises:
            ValueError: a tap in which no layer attends to the text, or no tap at all.
        """
        if taps is not None and (isinstance(taps, str) or not taps):
            raise ValueError(f"guidance_taps is {taps!r}; a list of one block's name or more, or None")
        modules = self.modules(denoiser)
        chosen = {}
        for tap in self.default_taps(denoiser) if taps is None else taps:
            found = {name: module for name, module in modules.items() if name == tap or name.startswith(f"{tap}.")}
            if not found:
                blocks = dict.fromkeys(re.fullmatch(self.attention, name)["block"] for name in modules)
                raise ValueError(
                    f"guidance_taps has {tap!r}, where nothing attends to text; there is {', '.join(blocks)}"
                )
            chosen |= found
        return {name: module for name, module in modules.items() if name in chosen}

    def grids(self, denoiser: nn.Module, names: Sequence[str], height: int, width: int) -> list[tuple[int, int]]:
        """Rows and columns of the layers `names`, coarsest first, for a token grid of `height` x `width`."""
        if self.component != "unet":
            return [(height, width)]
        deepest = len(denoiser.down_blocks) - 1
        depths = set()
        for name in names:
            part, _, rest = name.partition(".")
            index = int(rest.split(".")[0]) if part != "mid_block" else 0
            depths.add({"down_blocks": index, "mid_block": deepest}.get(part, deepest - index))
        return [_halved(height, width, depth) for depth in sorted(depths, reverse=True)]

    def after(self, denoiser: nn.Module, names: Sequence[str]) -> nn.Module | None:
        """The module that runs next once the last of the layers `names` has run; None after the last block."""
        order = _execution_order(denoiser)
        last = max(next(i for i, (block, _) in enumerate(order) if name.startswith(f"{block}.")) for name in names)
        return order[last + 1][1] if last + 1 < len(order) else None


def _halved(height: int, width: int, times: int) -> tuple[int, int]:
    for _ in range(times):
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return height, width


def _execution_order(denoiser: nn.Module) -> list[tuple[str, nn.Module]]:
    """Blocks and what follows them, as the denoiser runs them."""
    named: list[tuple[str, nn.Module]] = []
    if hasattr(denoiser, "mid_block"):
        for field in ("down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out"):
            part = getattr(denoiser, field, None)
            if isinstance(part, nn.ModuleList):
                named += [(f"{field}.{i}", block) for i, block in enumerate(part)]
            elif part is not None:
                named.append((field, part))
        return named
    blocks = "blocks" if hasattr(denoiser, "blocks") else "transformer_blocks"
    for i, block in enumerate(getattr(denoiser, blocks)):
        named.append((f"{blocks}.{i}", block))
        if hasattr(denoiser, "temporal_transformer_blocks"):
            named.append((f"temporal_transformer_blocks.{i}", denoiser.temporal_transformer_blocks[i]))
    tail = next(field for field in ("norm_out", "norm_final") if hasattr(denoiser, field))
    return [*named, (tail, getattr(denoiser, tail))]


def _frames_second(latents: torch.Tensor, kwargs: Mapping[str, Any], denoiser: nn.Module) -> Grid:
    return latents.shape[2], latents.shape[3], latents.shape[4]


def _patched(latents: torch.Tensor, kwargs: Mapping[str, Any], denoiser: nn.Module) -> Grid:
    patch = denoiser.config.patch_size
    sides = (1, patch, patch) if isinstance(patch, int) else tuple(patch)
    return tuple(size // side for size, side in zip(latents.shape[2:], sides, strict=True))


def _packed(latents: torch.Tensor, kwargs: Mapping[str, Any], denoiser: nn.Module) -> Grid:
    return int(kwargs["num_frames"]), int(kwargs["height"]), int(kwargs["width"])


def _frames_first(latents: torch.Tensor, kwargs: Mapping[str, Any], denoiser: nn.Module) -> Grid:
    patch, patch_t = denoiser.config.patch_size, denoiser.config.patch_size_t or 1
    return latents.shape[1] // patch_t, latents.shape[3] // patch, latents.shape[4] // patch


UNET = r"(?P<block>(?:down_blocks|up_blocks)\.\d+|mid_block)\.attentions\.\d+\.transformer_blocks\.\d+\.attn2"
FAMILIES = (
    Family(
        "animatediff",
        ("UNetMotionModel",),
        "unet",
        "AnimateDiffPipeline",
        UNET,
        _frames_second,
        spatial=True,
        temporal=r".*\.motion_modules\.\d+\.transformer_blocks\.\d+\.attn[12]",
    ),
    Family(
        "text-to-video",
        ("UNet3DConditionModel",),
        "unet",
        "TextToVideoPipeline",
        UNET,
        _frames_second,
        spatial=True,
        temporal=r"(?:.*\.temp_attentions\.\d+|transformer_in)\.transformer_blocks\.\d+\.attn[12]",
    ),
    Family(
        "latte",
        ("LatteTransformer3DModel",),
        "transformer",
        "LattePipeline",
        r"(?P<block>transformer_blocks\.\d+)\.attn2",
        _patched,
        spatial=True,
        frames="video_length",
        temporal=r"temporal_transformer_blocks\.\d+\.attn1",
        several="num_images_per_prompt",
        per_video=("encoder_hidden_states", "timestep"),
    ),
    Family(
        "wan",
        ("WanTransformer3DModel",),
        "transformer",
        "WanPipeline",
        r"(?P<block>blocks\.\d+)\.attn2",
        _patched,
        one_call=False,
        per_video=("encoder_hidden_states", "encoder_hidden_states_image", "timestep"),
        padded=True,
        several="num_videos_per_prompt",
        picture="WanImageToVideoPipeline",
    ),
    Family(
        "ltx",
        ("LTXVideoTransformer3DModel",),
        "transformer",
        "LTXPipeline",
        r"(?P<block>transformer_blocks\.\d+)\.attn2",
        _packed,
        per_video=("encoder_hidden_states", "timestep", "encoder_attention_mask"),
        several="num_videos_per_prompt",
        picture="LTXImageToVideoPipeline",
        axis=-1,
    ),
    Family(
        "cogvideox",
        ("CogVideoXTransformer3DModel",),
        "transformer",
        "CogVideoXPipeline",
        r"(?P<block>transformer_blocks\.\d+)\.attn1",
        _frames_first,
        joint=True,
        per_video=("encoder_hidden_states", "timestep"),
        picture="CogVideoXImageToVideoPipeline",
        axis=2,
    ),
)


def family_of(denoiser: nn.Module) -> Family:
    """The family of a denoiser.

    Raises:
        ValueError: a class that is not in the table.
    """
    name = type(denoiser).__name__
    for family in FAMILIES:
        if name in family.denoisers:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.denoisers)
    raise ValueError(
        f"the base's denoiser is a {name}, which has no text attention that Mojito knows; it takes {known}"
    )

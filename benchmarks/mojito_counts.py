"""Exact counts on the video bases that Mojito steers, on the meta device: no weights, under a minute.

    python benchmarks/mojito_counts.py     # prints the table, rewrites results/mojito_counts.jsonl

Every figure comes from the stock class at full size, with the adapter in it or through the pipeline's own families.
Exit status 1 if one differs from `EXPECTED`, or a base has other layers, taps or grids than stated below.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    LatteTransformer3DModel,
    LTXVideoTransformer3DModel,
    UNet3DConditionModel,
    UNetMotionModel,
    WanTransformer3DModel,
)
from peft import LoraConfig, inject_adapter_in_model
from records import RESULTS, write
from torch import nn

from wm_pipelines.mojito.bases.families import family_of
from wm_pipelines.mojito.guidance.attention import motion_attention_processors
from wm_pipelines.mojito.guidance.state import MotionState
from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.mojito.videocrafter import FpsEmbedding

LATTE = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28,
    "cross_attention_dim": 1152, "attention_bias": True, "sample_size": 64, "patch_size": 2,
    "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False, "norm_eps": 1e-6, "caption_channels": 4096, "video_length": 16,
}  # fmt: skip
WAN_SMALL = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
WAN_5B = {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48}
COGVIDEOX_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}


class Base(NamedTuple):
    """`latent`: of a clip of the size that the base is made for. `layers`: that attend to text. `taps`: first, last
    and number of the blocks that guidance reads by default. `grids`: rows and columns of these, coarsest first."""

    kind: type[nn.Module]
    config: dict[str, Any]
    latent: tuple[int, ...]
    layers: int
    taps: list[str | int]
    grids: list[list[int]]


UNET_TAPS = ["mid_block", "up_blocks.1", 2]
BASES = {
    "AnimateDiff, SD 1.5": Base(
        UNetMotionModel, {"cross_attention_dim": 768}, (1, 4, 16, 64, 64), 16, UNET_TAPS, [[8, 8], [16, 16]]
    ),
    "VideoCrafter2, ModelScope": Base(
        UNet3DConditionModel, {"cross_attention_dim": 1024}, (1, 4, 16, 40, 64), 16, UNET_TAPS, [[5, 8], [10, 16]]
    ),
    "Latte-1": Base(
        LatteTransformer3DModel, LATTE, (1, 4, 16, 64, 64), 28,
        ["transformer_blocks.7", "transformer_blocks.16", 10], [[32, 32]],
    ),
    "Wan 2.1 1.3B": Base(
        WanTransformer3DModel, WAN_SMALL, (1, 16, 21, 60, 104), 30, ["blocks.8", "blocks.18", 11], [[30, 52]]
    ),
    "Wan 2.1 14B, 2.2 A14B": Base(
        WanTransformer3DModel, {}, (1, 16, 21, 90, 160), 40, ["blocks.10", "blocks.24", 15], [[45, 80]]
    ),
    "Wan 2.2 5B": Base(
        WanTransformer3DModel, WAN_5B, (1, 48, 31, 44, 80), 30, ["blocks.8", "blocks.18", 11], [[22, 40]]
    ),
    "LTX-Video": Base(
        LTXVideoTransformer3DModel, {}, (1, 128, 21, 16, 22), 28,
        ["transformer_blocks.7", "transformer_blocks.16", 10], [[16, 22]],
    ),
    "CogVideoX 2B": Base(
        CogVideoXTransformer3DModel, {}, (1, 13, 16, 60, 90), 30,
        ["transformer_blocks.8", "transformer_blocks.18", 11], [[30, 45]],
    ),
    "CogVideoX 5B": Base(
        CogVideoXTransformer3DModel, COGVIDEOX_5B, (1, 13, 16, 60, 90), 42,
        ["transformer_blocks.11", "transformer_blocks.25", 15], [[30, 45]],
    ),
}  # fmt: skip
ANIMATEDIFF, VIDEOCRAFTER, WAN = "AnimateDiff, SD 1.5", "VideoCrafter2, ModelScope", "Wan 2.1 1.3B"

EXPECTED = {
    "UNet3DConditionModel": 1_411_233_860,
    "UNet3DConditionModel, tensors": 1_480,
    "fps embedding": 2_050_560,
    "VideoCrafter2": 1_413_284_420,
    "VideoCrafter2, tensors": 1_484,
    "VideoCrafter2, modules ending in attn2": 33,
    "VideoCrafter2, spatial": 16,
    "VideoCrafter2, temporal": 17,
    "AnimateDiff, modules ending in attn2": 37,
    "AnimateDiff, spatial": 16,
    "AnimateDiff, temporal": 21,
    "AnimateDiff, no mid, modules ending in attn2": 36,
    "AnimateDiff, no mid, spatial": 16,
    "AnimateDiff, no mid, temporal": 20,
    "intensity, timestep, VideoCrafter2": 2_050_560,
    "intensity, text, 1 token": 1_378_304,
    "intensity, text, 4 tokens": 4_527_104,
    "intensity, timestep, Wan 1.3B": 2_755_584,
    "time embedder of Wan 1.3B": 2_755_584,
    "LoRA r=16, VideoCrafter2, text": 1_722_368,
    "LoRA r=16, VideoCrafter2, text, layers": 64,
    "LoRA r=16, VideoCrafter2, temporal": 3_325_952,
    "LoRA r=16, VideoCrafter2, temporal, layers": 136,
    "LoRA r=16, VideoCrafter2, all attention": 6_645_760,
    "LoRA r=16, AnimateDiff, temporal": 4_833_280,
    "LoRA r=16, AnimateDiff, no mid, temporal": 4_505_600,
    "LoRA r=16, Wan 1.3B, text": 5_898_240,
}

PROJECTION = r"\.(to_q|to_k|to_v|to_out\.0)"
TEMPORAL = r".*(transformer_in|temp_attentions\.\d+|motion_modules\.\d+)\.transformer_blocks\.\d+\.attn[12]"


def build(name: str, **changes: Any) -> nn.Module:
    """A base at full size, without storage."""
    with torch.device("meta"):
        return BASES[name].kind(**{**BASES[name].config, **changes})


def parameters(*parts: nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


def attn2(label: str, model: nn.Module) -> dict[str, int]:
    """Modules whose names end in attn2, those of them that the family takes for text attention, and the others."""
    every = [name for name, _ in model.named_modules() if name.endswith("attn2")]
    spatial = family_of(model).modules(model)
    temporal = [name for name in every if name not in spatial]
    return {
        f"{label}, modules ending in attn2": len(every),
        f"{label}, spatial": len(spatial),
        f"{label}, temporal": len(temporal),
    }


def intensity(model: MotionIntensityModel) -> int:
    """The two linear layers of an intensity model; its vector for "not said" is not counted."""
    return parameters(model.mim.linear_1, model.mim.linear_2)


def lora(model: nn.Module, pattern: str) -> tuple[int, int]:
    """Trained values and linear layers of a LoRA of rank 16 on the projections of the attentions that match."""
    model.requires_grad_(False)
    with torch.device("meta"):
        inject_adapter_in_model(LoraConfig(r=16, target_modules=pattern + PROJECTION), model)
    layers = sum(hasattr(module, "base_layer") for module in model.modules())
    return sum(p.numel() for p in model.parameters() if p.requires_grad), layers


def counts() -> dict[str, int]:
    """Every figure of EXPECTED."""
    videocrafter, wan = build(VIDEOCRAFTER), build(WAN)
    with_mid, no_mid = build(ANIMATEDIFF), build(ANIMATEDIFF, use_motion_mid_block=False)
    text = {"inject": "text", "targets": (), "widths": (1024,), "hidden_dim": 1024}
    with torch.device("meta"):
        fps = FpsEmbedding()
        timestep = MotionIntensityModel.from_denoiser(videocrafter)
        tokens = [MotionIntensityModel(tokens=count, **text) for count in (1, 4)]
        on_wan = MotionIntensityModel.from_denoiser(wan, embedding_dim=256, hidden_dim=1536)
    found = {
        "UNet3DConditionModel": parameters(videocrafter),
        "UNet3DConditionModel, tensors": len(videocrafter.state_dict()),
        "fps embedding": parameters(fps),
        "VideoCrafter2": parameters(videocrafter, fps),
        "VideoCrafter2, tensors": len(videocrafter.state_dict()) + len(fps.state_dict()),
        **attn2("VideoCrafter2", videocrafter),
        **attn2("AnimateDiff", with_mid),
        **attn2("AnimateDiff, no mid", no_mid),
        "intensity, timestep, VideoCrafter2": intensity(timestep),
        "intensity, text, 1 token": intensity(tokens[0]),
        "intensity, text, 4 tokens": intensity(tokens[1]),
        "intensity, timestep, Wan 1.3B": intensity(on_wan),
        "time embedder of Wan 1.3B": parameters(wan.condition_embedder.time_embedder),
    }
    for part, pattern in (("temporal", TEMPORAL), ("text", family_of(videocrafter).attention)):
        label = f"LoRA r=16, VideoCrafter2, {part}"
        found[label], found[f"{label}, layers"] = lora(build(VIDEOCRAFTER), pattern)
    return found | {
        "LoRA r=16, VideoCrafter2, all attention": lora(videocrafter, r".*\.attn[12]")[0],
        "LoRA r=16, AnimateDiff, temporal": lora(with_mid, TEMPORAL)[0],
        "LoRA r=16, AnimateDiff, no mid, temporal": lora(no_mid, TEMPORAL)[0],
        "LoRA r=16, Wan 1.3B, text": lora(wan, family_of(wan).attention)[0],
    }


def layout(name: str) -> dict[str, Any]:
    """What the family of a base finds in it at full size; its processors are put in and taken out."""
    base, denoiser = BASES[name], build(name)
    family = family_of(denoiser)
    latent = torch.empty(base.latent, device="meta")
    sizes = dict(zip(("num_frames", "height", "width"), base.latent[2:], strict=True))  # as LTX is told them
    _, height, width = family.grid(latent, sizes, denoiser)
    taps, tapped = family.default_taps(denoiser), list(family.tapped(denoiser, None))
    with motion_attention_processors(family, denoiser, MotionState([], frozenset(tapped))):
        pass
    return {
        "base": name,
        "denoiser": type(denoiser).__name__,
        "parameters": parameters(denoiser),
        "layers": len(family.modules(denoiser)),
        "taps": [taps[0], taps[-1], len(taps)],
        "grids": [list(grid) for grid in family.grids(denoiser, tapped, height, width)],
        "exit before": _name_of(denoiser, family.after(denoiser, tapped)),
    }


def _name_of(denoiser: nn.Module, module: nn.Module | None) -> str | None:
    return next((name for name, child in denoiser.named_modules() if child is module), None)


def main(argv: list[str] | None = None) -> int:
    """Print and record; exit status 1 if a figure differs from `EXPECTED`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "mojito_counts.jsonl")
    out = parser.parse_args(argv).out
    found = counts()
    rows: list[dict[str, Any]] = [
        {"figure": name, "value": found[name], "specified": expected, "holds": found[name] == expected}
        for name, expected in EXPECTED.items()
    ]
    for row in rows:
        verdict = "as specified" if row["holds"] else f"specified {row['specified']:,}"
        print(f"{row['figure']:<48}{row['value']:>14,}  {verdict}")
    for name, base in BASES.items():
        row = layout(name)
        specified = {"layers": base.layers, "taps": base.taps, "grids": base.grids}
        row["holds"] = all(row[field] == value for field, value in specified.items())
        rows.append(row)
        first, last, count = row["taps"]
        print(
            f"{name:<27}{row['parameters']:>15,}  {row['layers']} layers, {count} blocks tapped, {first} to {last}, "
            f"grids {row['grids']}  {'as expected' if row['holds'] else f'expected {specified}'}"
        )
    write(out, rows)
    return int(not all(row["holds"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

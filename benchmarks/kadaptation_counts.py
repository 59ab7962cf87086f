"""Exact parameter counts of KAdaptation and of what it is compared with, on the meta device: no weights, seconds.

    python benchmarks/kadaptation_counts.py     # prints the table, rewrites results/kadaptation_counts.jsonl

Every figure comes from a model that is built with the adapter in it, except those of two methods that are not
implemented here (Adapter, Compacter), which come from their per-layer formulas. Exit status 1 if one differs from
`EXPECTED`.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from records import RESULTS, write
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from wm_pipelines.adapters.kronecker import KroneckerConfig

# classes of the twenty ELEVATER data sets (arXiv 2204.08790), in the order of the published table
CLASSES = (102, 10, 100, 211, 47, 10, 7, 100, 101, 43, 2, 4, 10, 102, 37, 2, 2, 45, 196, 20)
QV, QKVO = ["to_q", "to_v"], ["to_q", "to_k", "to_v", "to_out.0"]
CLIP_QV = ["q_proj", "v_proj"]

EXPECTED = {
    "classes of the 20 data sets": 1_151,
    "linear probe, ViT-B": 29_523,
    "query and value projections, ViT-B/32": 24,
    "rows and columns of those": 36_864,
    "KAdaptation, ViT-B/32, without bias": 40_960,
    "KAdaptation, ViT-B/32": 50_176,
    "KAdaptation, ViT-B/16": 50_176,
    "KAdaptation, ViT-B/32, with head": 79_699,
    "KAdaptation with dense A, ViT-B/32, with head": 141_139,
    "KAdaptation, ViT-L/14": 126_976,
    "KAdaptation, ViT-L/14, with head": 171_232,
    "LoRA r=4, ViT-B/32": 147_456,
    "LoRA r=4, ViT-B/32, with head": 176_979,
    "Adapter, bottleneck 64, ViT-B (formula)": 1_208_064,
    "Adapter, with head (formula)": 1_237_587,
    "Compacter n=4, bottleneck 64, ViT-B (formula)": 48_384,
    "Compacter, with head (formula)": 77_907,
    "full fine-tune, ViT-B/32": 87_849_216,
    "full fine-tune, ViT-B/32, with head": 87_878_739,
    "modules of SD 1.5, q and v": 64,
    "SD 1.5, q and v": 103_744,
    "SD 1.5, q and v, without A": 99_648,
    "SD 1.5, q and v, LoRA r=4": 398_592,
    "modules of SD 1.5, q, k, v and out": 128,
    "SD 1.5, q, k, v and out": 207_488,
    "SD 1.5, q, k, v and out, without A": 199_296,
    "modules of FLUX, q and v": 114,
    "FLUX, q and v": 704_512,
    "FLUX, q and v, without A": 700_416,
}


def clip_vision(width: int, layers: int, patch: int, projection: int) -> CLIPVisionModelWithProjection:
    """The image tower of CLIP ViT-B (768, 12) or ViT-L (1024, 24), without storage."""
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        patch_size=patch,
        projection_dim=projection,
    )
    with torch.device("meta"):
        return CLIPVisionModelWithProjection(config)


def vit_b(patch: int = 32) -> CLIPVisionModelWithProjection:
    return clip_vision(768, 12, patch, 512)


def sd15() -> UNet2DConditionModel:
    """The UNet of Stable Diffusion 1.5, without storage."""
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)


def flux() -> FluxTransformer2DModel:
    """The transformer of FLUX.1, without storage."""
    with torch.device("meta"):
        return FluxTransformer2DModel()


def trained(model: nn.Module, config: PeftConfig) -> dict[str, int]:
    """Trained values, those of them that are no shared A, adapted layers, and the sum of their rows and columns."""
    model.requires_grad_(False)
    with torch.device("meta"):
        inject_adapter_in_model(config, model)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    layers = [module for module in model.modules() if hasattr(module, "base_layer")]
    return {
        "all": sum(sizes.values()),
        "without A": sum(size for name, size in sizes.items() if "kronecker_a" not in name),
        "layers": len(layers),
        "rows and columns": sum(layer.base_layer.in_features + layer.base_layer.out_features for layer in layers),
    }


def kronecker(build: Callable[[], nn.Module], targets: list[str], **options: object) -> dict[str, int]:
    return trained(build(), KroneckerConfig(n=32, r=1, target_modules=targets, **options))


def lora(build: Callable[[], nn.Module], targets: list[str]) -> dict[str, int]:
    return trained(build(), LoraConfig(r=4, target_modules=targets))


def head(width: int) -> float:
    """Weights and biases of a linear head on features of this width, averaged over the data sets."""
    return sum(CLASSES) / len(CLASSES) * (width + 1)


def adapter(width: int = 768, layers: int = 12, bottleneck: int = 64) -> int:
    """Down and up projection with biases and a layer norm, after the MLP of every layer."""
    return layers * (2 * width * bottleneck + bottleneck + width + 2 * width)


def compacter(width: int = 768, layers: int = 12, bottleneck: int = 64, n: int = 4, r: int = 1) -> int:
    """The same with each projection a sum of n Kronecker terms of rank r; the n x n rules are left frozen."""
    projection = r * (width + bottleneck)
    return layers * (2 * projection + bottleneck + width + 2 * width)


def counts() -> dict[str, int]:
    """Every figure of EXPECTED; an average head is rounded after it is added."""
    plain = kronecker(vit_b, CLIP_QV)
    shared = kronecker(vit_b, CLIP_QV, bias="shared")
    dense = kronecker(vit_b, CLIP_QV, bias="shared", factored=False)
    large = kronecker(lambda: clip_vision(1024, 24, 14, 768), CLIP_QV, bias="shared")
    low_rank = lora(vit_b, CLIP_QV)
    full = sum(p.numel() for p in vit_b().parameters())
    two, four, transformer = kronecker(sd15, QV), kronecker(sd15, QKVO), kronecker(flux, QV)
    base, wide = head(512), head(768)
    return {
        "classes of the 20 data sets": sum(CLASSES),
        "linear probe, ViT-B": round(base),
        "query and value projections, ViT-B/32": plain["layers"],
        "rows and columns of those": plain["rows and columns"],
        "KAdaptation, ViT-B/32, without bias": plain["all"],
        "KAdaptation, ViT-B/32": shared["all"],
        "KAdaptation, ViT-B/16": kronecker(lambda: vit_b(16), CLIP_QV, bias="shared")["all"],
        "KAdaptation, ViT-B/32, with head": round(shared["all"] + base),
        "KAdaptation with dense A, ViT-B/32, with head": round(dense["all"] + base),
        "KAdaptation, ViT-L/14": large["all"],
        "KAdaptation, ViT-L/14, with head": round(large["all"] + wide),
        "LoRA r=4, ViT-B/32": low_rank["all"],
        "LoRA r=4, ViT-B/32, with head": round(low_rank["all"] + base),
        "Adapter, bottleneck 64, ViT-B (formula)": adapter(),
        "Adapter, with head (formula)": round(adapter() + base),
        "Compacter n=4, bottleneck 64, ViT-B (formula)": compacter(),
        "Compacter, with head (formula)": round(compacter() + base),
        "full fine-tune, ViT-B/32": full,
        "full fine-tune, ViT-B/32, with head": round(full + base),
        "modules of SD 1.5, q and v": two["layers"],
        "SD 1.5, q and v": two["all"],
        "SD 1.5, q and v, without A": two["without A"],
        "SD 1.5, q and v, LoRA r=4": lora(sd15, QV)["all"],
        "modules of SD 1.5, q, k, v and out": four["layers"],
        "SD 1.5, q, k, v and out": four["all"],
        "SD 1.5, q, k, v and out, without A": four["without A"],
        "modules of FLUX, q and v": transformer["layers"],
        "FLUX, q and v": transformer["all"],
        "FLUX, q and v, without A": transformer["without A"],
    }


def main(argv: list[str] | None = None) -> int:
    """Print and record; exit status 1 if a figure differs from `EXPECTED`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "kadaptation_counts.jsonl")
    out = parser.parse_args(argv).out
    found = counts()
    rows = [
        {"figure": name, "value": found[name], "specified": expected, "holds": found[name] == expected}
        for name, expected in EXPECTED.items()
    ]
    for row in rows:
        verdict = "as specified" if row["holds"] else f"specified {row['specified']:,}"
        print(f"{row['figure']:<48}{row['value']:>12,}  {verdict}")
    write(out, rows)
    return int(not all(row["holds"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

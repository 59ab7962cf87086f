"""Exact parameter counts of CPL on the CLIPs it is used with, on the meta device: no weights, seconds.

    python benchmarks/cpl_counts.py             # prints the table, rewrites results/cpl_counts.jsonl

The released code also keeps a matrix U of joint dimension x classes, which its own clamp makes inert; ours has none.
Its size is in the table because the release stores it, which is why its checkpoints fit one set of classes only.
"""

import argparse
import sys
from pathlib import Path

import torch
from records import RESULTS, write
from transformers import CLIPConfig, CLIPModel

from wm_pipelines.cpl.modeling import CPLPromptLearner

TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}
CLIPS = {
    "ViT-B/16": (512, 512, 8, {"patch_size": 16}),
    "ViT-B/32": (512, 512, 8, {"patch_size": 32}),
    "ViT-L/14": (
        768, 768, 12,
        {"patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
         "num_attention_heads": 16},
    ),
}  # fmt: skip
EXPECTED = {
    "CLIP, ViT-B/16": 149_620_737,
    "CLIP, ViT-B/32": 151_277_313,
    "CLIP, ViT-L/14": 427_616_513,
    "prompt learner, ViT-B/16": 35_360,
    "prompt learner, ViT-B/32": 35_360,
    "prompt learner, ViT-L/14": 77_616,
    "context alone, ViT-B/16": 2_048,
    "released U, Flowers102 base (51)": 26_112,
    "release in all, Flowers102 base (51)": 61_472,
    "release in all, SUN397 base (199)": 137_248,
    "release in all, ImageNet base (500)": 291_360,
}
BASES = {"Flowers102 base (51)": 51, "SUN397 base (199)": 199, "ImageNet base (500)": 500}


def config_of(name: str) -> CLIPConfig:
    """The published configuration of one of CLIPS."""
    width, joint, heads, vision = CLIPS[name]
    text = {
        **TEXT, "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 12,
        "num_attention_heads": heads, "projection_dim": joint,
    }  # fmt: skip
    vision = {"image_size": 224, "hidden_act": "quick_gelu", "projection_dim": joint, **vision}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=joint)


def counts() -> dict[str, int]:
    """Every figure of EXPECTED, counted in models without storage."""
    found = {}
    with torch.device("meta"):
        for name in CLIPS:
            clip = CLIPModel(config_of(name))
            learner = CPLPromptLearner.from_clip(clip.config)
            found[f"CLIP, {name}"] = sum(p.numel() for p in clip.parameters())
            found[f"prompt learner, {name}"] = sum(p.numel() for p in learner.parameters())
            if name == "ViT-B/16":
                found[f"context alone, {name}"] = learner.ctx.numel()
                own, joint = found[f"prompt learner, {name}"], learner.config.joint_dim
    for data, classes in BASES.items():
        found[f"released U, {data}"] = joint * classes
        found[f"release in all, {data}"] = own + joint * classes
    return found


def main(argv: list[str] | None = None) -> int:
    """Print and record; exit status 1 if a figure differs from `EXPECTED`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpl_counts.jsonl")
    args = parser.parse_args(argv)
    found, wrong = counts(), 0
    for name, expected in EXPECTED.items():
        same = found[name] == expected
        wrong += not same
        print(f"{name:<40}{found[name]:>14,}  {'as specified' if same else f'specified {expected:,}'}")
    write(args.out, [{"figure": name, "value": found[name], "specified": value} for name, value in EXPECTED.items()])
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

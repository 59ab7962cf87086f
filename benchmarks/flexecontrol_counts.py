"""Exact parameter counts of FlexEControl on Stable Diffusion 1.5, on the meta device: no weights, seconds.

    python benchmarks/flexecontrol_counts.py            # prints the table, rewrites results/flexecontrol_counts.jsonl

Every figure is counted twice: in the built model, and by the per-layer formula r (in + out) + n^3.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from wm_pipelines.flexecontrol.convert import SD15_UNET
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.decomposition import kronecker_layers
from wm_pipelines.flexecontrol.network.footprint import footprint
from wm_pipelines.runtime.files import atomic

RESULTS = Path(__file__).parent / "results" / "flexecontrol_counts.jsonl"
EXPECTED = {
    "unet": 859_520_964,
    "uni local adapter": 411_903_552,
    "global adapter": 47_213_568,
    "unet + uni local adapter": 1_271_424_516,
    "uni trained": 411_903_552,
    "carrier trained": 63_202_752,
    "paper trained, n=4 r=8": 63_567_040,
    "transformer trained, n=4 r=8": 64_583_488,
    "decomposed linears, paper": 28,
    "decomposed linears, transformer": 70,
    "dense weights of those, paper": 20_725_760,
    "dense weights of those, transformer": 115_752_960,
    "factors, paper n=4 r=4": 183_040,
    "factors, paper n=4 r=8": 364_288,
    "factors, paper n=4 r=16": 726_784,
    "factors, transformer n=4 r=8": 1_380_736,
}


def sd15() -> UNet2DConditionModel:
    """The UNet of Stable Diffusion 1.5 without storage."""
    with torch.device("meta"):
        return UNet2DConditionModel(**SD15_UNET)


def counts() -> dict[str, int]:
    """Every figure of EXPECTED, counted in models."""
    unet = sd15()
    made = {
        p: FlexEControlModel.from_unet(unet, p, global_adapter=True)
        for p in ("uni", "carrier", "paper", "transformer")
    }
    uni = footprint(made["uni"], unet)
    found = {
        "unet": uni.unet,
        "uni local adapter": uni.adapter,
        "global adapter": uni.image_adapter,
        "unet + uni local adapter": uni.resident,
        "uni trained": uni.optimised,
        "carrier trained": footprint(made["carrier"], unet).optimised,
    }
    for preset in ("paper", "transformer"):
        found[f"{preset} trained, n=4 r=8"] = footprint(made[preset], unet).optimised
        layers = dict(kronecker_layers(made[preset]))
        found[f"decomposed linears, {preset}"] = len(layers)
        found[f"dense weights of those, {preset}"] = sum(layer.weight.numel() for layer in layers.values())
    for r in (4, 8, 16):
        found[f"factors, paper n=4 r={r}"] = footprint(FlexEControlModel.from_unet(unet, r=r), unet).decomposed
    found["factors, transformer n=4 r=8"] = footprint(made["transformer"], unet).decomposed
    return found


def formula(model: FlexEControlModel) -> int:
    """Factors by the per-layer formula, from the shapes of the decomposed linears alone."""
    config = model.config
    pairs = len(config.types) if config.fast == "per_type" else 1
    layers = [layer for _, layer in kronecker_layers(model)]
    slow = config.n**3 * (1 if config.share_h == "model" else len(layers))
    return slow + sum(pairs * config.r * (m.in_features + m.out_features) for m in layers)


def main() -> int:
    """Print and record; exit status 1 if a figure differs from `EXPECTED`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    found, wrong = counts(), 0
    lines = []
    for name, expected in EXPECTED.items():
        same = found[name] == expected
        wrong += not same
        print(f"{name:<38}{found[name]:>16,}  {'as specified' if same else f'specified {expected:,}'}")
        lines.append(json.dumps({"figure": name, "value": found[name], "specified": expected}))
    with atomic(args.out) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    unet = sd15()
    for preset in ("paper", "uni"):
        print(f"\npreset {preset}\n{footprint(FlexEControlModel.from_unet(unet, preset), unet)}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

"""What leaving the denoiser after the last tapped layer saves, in multiplications and additions, at full size.

    python benchmarks/mojito_flops.py     # prints the table, rewrites results/mojito_flops.jsonl; no weights, a minute

One iteration of Directional Motion Control is a conditional forward pass up to the last tapped layer, and the gradient
of the energy there with respect to the latent. It is set against the whole forward pass with the gradient of its
output. The pass is the guide's own, on the meta device; the counter is PyTorch's. Gate: at most 0.75 with the
default taps. Exit status 1 if it is missed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mojito_counts import ANIMATEDIFF, BASES, VIDEOCRAFTER, build
from records import RESULTS, write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wm_pipelines.mojito.bases.families import family_of
from wm_pipelines.mojito.guidance import energy
from wm_pipelines.mojito.guidance.attention import motion_attention_processors
from wm_pipelines.mojito.guidance.state import MotionState, Slots
from wm_pipelines.mojito.guidance.steering import DenoiserCall, run_to_last_tap

GATE = 0.75
TAPS = (["mid_block"], ["mid_block", "up_blocks.1"], ["mid_block", "up_blocks.1", "up_blocks.2"])
GATED = TAPS[1]
# shares of a forward pass that were expected for VideoCrafter2, by the last tapped block
SPECIFIED = {"mid_block": 0.379, "up_blocks.1": 0.595}


def inputs(unet: nn.Module, latent: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """A latent, a timestep and a text of 77 tokens; AnimateDiff's pipeline repeats the text for every frame."""
    rows = latent[2] if type(unet).__name__ == "UNetMotionModel" else 1
    text = torch.empty(rows, 77, unet.config.cross_attention_dim, device="meta")
    return torch.empty(latent, device="meta"), torch.empty((), device="meta"), {"encoder_hidden_states": text}


def whole(unet: nn.Module, latent: Sequence[int]) -> tuple[int, int]:
    """Operations of a forward pass, and of the gradient of its output with respect to the latent."""
    z, t, kwargs = inputs(unet, latent)
    z.requires_grad_()
    with FlopCounterMode(display=False) as forward:
        out = unet(z * 1, t, **kwargs).sample  # the counter takes no leaf
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(out.sum(), z)
    return forward.get_total_flops(), backward.get_total_flops()


def guided(unet: nn.Module, latent: Sequence[int], taps: Sequence[str], measuring: bool = True) -> tuple[int, int]:
    """The same of one guided iteration with one object of two tokens; without `measuring`, of the layers' own
    processors up to the same place."""
    family = family_of(unet)
    frames = latent[2]
    slots = torch.zeros(2, dtype=torch.long, device="meta")
    found = Slots(slots, slots, torch.empty(1, frames, 4, device="meta"), torch.ones(1, device="meta"), 8)
    state = MotionState([found], frozenset(family.tapped(unet, taps)), *latent[2:], rows=[0], measuring=measuring)
    z, t, kwargs = inputs(unet, latent)
    z.requires_grad_()
    with motion_attention_processors(family, unet, state), FlopCounterMode(display=False) as forward:
        run_to_last_tap(family, unet, state.tapped, DenoiserCall((z * 1, t), kwargs))
    if not measuring:
        return forward.get_total_flops(), 0
    with FlopCounterMode(display=False) as backward:
        sums = [layer[0] for layer in state.sums.values()]
        torch.autograd.grad(energy.frame_energies(sums, found).sum(), z)
    return forward.get_total_flops(), backward.get_total_flops()


def compare(name: str, unet: nn.Module, latent: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each set of taps."""
    unet.requires_grad_(False).eval()
    forward, backward = whole(unet, latent)
    rows = []
    for taps in TAPS:
        partial = guided(unet, latent, taps)
        own, _ = guided(unet, latent, taps, measuring=False)
        ratio = sum(partial) / (forward + backward)
        specified = SPECIFIED.get(taps[-1]) if name == VIDEOCRAFTER else None
        rows.append(
            {
                "base": name,
                "latent": list(latent),
                "taps": taps,
                "whole": {"forward": forward, "backward": backward},
                "guided": {"forward": partial[0], "backward": partial[1]},
                "ratio": round(ratio, 4),
                "forward share": round(partial[0] / forward, 4),
                "forward share, own attention": round(own / forward, 4),
                "specified share": specified,
                "gate": GATE if taps == GATED else None,
                "holds": ratio <= GATE if taps == GATED else None,
            }
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print and record; exit status 1 if the gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "mojito_flops.jsonl")
    out = parser.parse_args(argv).out
    rows = [row for name in (VIDEOCRAFTER, ANIMATEDIFF) for row in compare(name, build(name), BASES[name].latent)]
    for row in rows:
        verdict = {True: f"<= {GATE}: HOLDS", False: f"> {GATE}: DOES NOT HOLD", None: "not gated"}[row["holds"]]
        stated = f" (specified {row['specified share']:.1%})" if row["specified share"] else ""
        total = sum(row["whole"].values()) / 1e12
        print(
            f"{row['base']:<26} {' '.join(row['taps']):<34} {row['ratio']:.3f} of {total:.2f} TFLOP, {verdict}; "
            f"forward pass {row['forward share']:.1%}, by the layers' own attention "
            f"{row['forward share, own attention']:.1%}{stated}"
        )
    write(out, rows)
    return int(any(row["holds"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())

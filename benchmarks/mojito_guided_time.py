"""What leaving the denoiser after the last tapped layer saves in time, on diorama-video.

    python benchmarks/mojito_guided_time.py     # prints the table, rewrites results/mojito_guided_time.jsonl; a minute

One iteration of Directional Motion Control (a conditional forward pass of a clip of 16 frames up to the last tapped
layer, and the gradient of the energy there with respect to the latent) against the whole forward pass with the
gradient of its output: processor time of one thread, by turns in one run. Gate: at most 0.75 with the default taps,
which `mojito_flops.py` holds the large bases to by operations. Exit status 1 if it is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mojito_flops import GATE, GATED, TAPS
from records import RESULTS, environment, write
from timing import measure, ratio

from wm_pipelines import AutoWMPipeline, MotionObject, embedded
from wm_pipelines.mojito.guidance import energy
from wm_pipelines.mojito.guidance.attention import motion_attention_processors
from wm_pipelines.mojito.guidance.state import MotionState, Slots
from wm_pipelines.mojito.guidance.steering import DenoiserCall, run_to_last_tap
from wm_pipelines.mojito.pipeline import MojitoPipeline

FRAMES, SIDE = 16, 16
CUBE = MotionObject("red cube", boxes=[(0.1, 0.4, 0.4, 0.7), (0.6, 0.4, 0.9, 0.7)], keyframes=(0, FRAMES - 1))


def runs(pipe: MojitoPipeline) -> dict[str, Callable[[], None]]:
    """The whole pass, and the guided iteration with each set of taps."""
    unet, family = pipe.unet.requires_grad_(False).eval(), pipe.family
    ids = pipe.tokenizer("a red cube", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        text = pipe.text_encoder(ids)[0].repeat(FRAMES, 1, 1)
    z = torch.randn(1, 4, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    t, kwargs = torch.tensor(900), {"encoder_hidden_states": text}
    slots = torch.tensor([2, 3])  # "red cube" behind the start token and "a"
    found = Slots(slots, torch.zeros_like(slots), CUBE.frame_boxes(FRAMES)[None], torch.ones(1), 8)

    def whole() -> None:
        torch.autograd.grad(unet(z * 1, t, **kwargs).sample.sum(), z)

    def guided(taps: Sequence[str]) -> Callable[[], None]:
        def iteration() -> None:
            state = MotionState([found], frozenset(family.tapped(unet, taps)), FRAMES, SIDE, SIDE, [0], measuring=True)
            with motion_attention_processors(family, unet, state):
                run_to_last_tap(family, unet, state.tapped, DenoiserCall((z * 1, t), kwargs))
                sums = [layer[0] for layer in state.sums.values()]
                torch.autograd.grad(energy.frame_energies(sums, found).sum(), z)

        return iteration

    return {"whole": whole} | {" ".join(taps): guided(taps) for taps in TAPS}


def main(argv: list[str] | None = None) -> int:
    """Print and record; exit status 1 if the gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder; default: embedded diorama-video")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--out", type=Path, default=RESULTS / "mojito_guided_time.jsonl")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    pipe = AutoWMPipeline.from_pretrained(args.checkpoint or embedded("diorama-video"))
    times = measure(runs(pipe), args.repeats, time.process_time)
    rows = []
    for taps in TAPS:
        found = ratio(times[" ".join(taps)], times["whole"])
        gated = taps == GATED
        holds = found["ratio"] <= GATE if gated else None
        rows.append({"taps": taps, **found, "gate": GATE if gated else None, "holds": holds, **environment()})
        said = {True: f"<= {GATE}: HOLDS", False: f"> {GATE}: DOES NOT HOLD", None: "not gated"}[holds]
        low, high = found["ci95"]
        print(f"{' '.join(taps):<34} {found['ratio']:.3f} [{low:.3f}, {high:.3f}], {said}")
    write(args.out, rows)
    return int(any(row["holds"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())

"""What conditions cost: six against one, beside MultiControlNet; `paper` against `uni` in training; after merging.

    python benchmarks/flexecontrol_cost.py        # rewrites results/flexecontrol_cost.jsonl; a few minutes on one core

Sampling: the maps are given as tensors, 20 DDIM steps with guidance, 64x64 pictures on the embedded diorama-sd (random
weights of its shape where it is not embedded: time does not depend on their values). Runs with one and with six
conditions alternate, the order within a pair too, so that a busy machine slows both; the figure is the median of the
paired ratios with a bootstrap interval. diffusers' StableDiffusionControlNetPipeline runs in the same rounds with one
and with six ControlNets made from the same UNet (MultiControlNetModel), each a full copy at equal width.

A claim that does not hold is printed as not holding; the exit status is 1 then.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from diffusers.utils import logging
from records import RESULTS, environment, interval, median_draws, write
from torch.profiler import ProfilerActivity, profile

from wm_pipelines.adapters.kronecker.layer import KroneckerLinear
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.slots import SlotInput
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline
from wm_pipelines.flexecontrol.training.scenes import SceneTask
from wm_pipelines.hub import embedded, embedded_names
from wm_pipelines.media.conditions import TYPES
from wm_pipelines.runtime.noise import randn
from wm_pipelines.runtime.random import keyed
from wm_pipelines.training import KeyedNoise, Recipe

SIZE = 64
SIX = tuple(t for t in TYPES if t != "pose")
PROMPT = "a red cube and a blue sphere"
MADE = {"feature_channels": (16, 24, 24), "pre_channels": (16, 16), "map_stride": 2, "types": SIX}
CLAIM = 1.05
OURS = "FlexEControl"


def random_base(folder: Path) -> Path:
    """A pipeline folder with random weights in the shapes of diorama-sd."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from wm_pipelines.diorama.tokenizer import build_tokenizer
    from wm_pipelines.diorama.training import SCHEDULE

    tokenizer = build_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(24, 48, 64), down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, layers_per_block=1, norm_num_groups=8,
            mid_block_add_attention=False, sample_size=SIZE,
        )  # fmt: skip
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, projection_dim=128,
                num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=SIZE // 4, block_out_channels=(64, 96, 128), layers_per_block=1, norm_num_groups=8,
            cross_attention_dim=128, attention_head_dim=(2, 3, 4), down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3,
        )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False), requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "base")
    return folder / "base"


def wake(model: torch.nn.Module) -> None:
    """Give every zero-initialised tensor that trains small values, as after training."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.any():
                p.add_(0.02 * randn(tuple(p.shape), "cost", name))


def maps() -> list[torch.Tensor]:
    """Six finished maps (3,64,64), one per type: white outlines on 0, or dense ramps."""
    made = []
    for kind in SIX:
        if kind in ("depth", "seg"):
            made.append(torch.linspace(0, 1, SIZE).expand(3, SIZE, SIZE).clone())
        else:
            made.append(
                (torch.from_numpy(keyed("cost", kind).random((1, SIZE, SIZE))) > 0.9).float().expand(3, -1, -1)
            )
    return made


# ---- sampling ----


def samplers(base: Path, steps: int) -> dict[str, dict[int, Callable[[], Any]]]:
    """{method: {number of conditions: one run}}; every run makes one picture from the same noise."""
    shown = maps()
    plain = StableDiffusionPipeline.from_pretrained(base)
    scheduler = DDIMScheduler.from_config(plain.scheduler.config)
    parts = {name: getattr(plain, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    control = FlexEControlModel.from_unet(plain.unet, n=4, r=8, condition_stride=4, **MADE)
    wake(control)
    control.merge()
    flex = FlexEControlPipeline(**parts, control=control, scheduler=scheduler)
    nets = []
    for _ in SIX:
        net = ControlNetModel.from_unet(plain.unet, conditioning_embedding_out_channels=(16, 16, 24))
        wake(net)
        nets.append(net.eval())
    fixed = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    stock = {
        count: StableDiffusionControlNetPipeline(**parts, scheduler=scheduler, controlnet=which, **fixed)
        for count, which in ((1, nets[0]), (6, nets))
    }
    for pipeline in (flex, *stock.values()):
        pipeline.set_progress_bar_config(disable=True)
    common = {
        "num_inference_steps": steps, "guidance_scale": 4.0, "height": SIZE, "width": SIZE, "output_type": "pt",
        "latents": randn((1, 4, SIZE // 4, SIZE // 4), "cost latents"),
    }  # fmt: skip

    def run_flex(count: int, **options: Any) -> Any:
        given = [Condition(kind, image) for kind, image in zip(SIX[:count], shown, strict=False)]
        return flex(PROMPT, conditions=given, **options, **common)

    def run_stock(count: int) -> Any:
        images = [image[None] for image in shown[:count]]
        return stock[count](PROMPT, image=images if count > 1 else images[0], **common)

    return {
        OURS: {count: partial(run_flex, count) for count in (1, 6)},
        f"{OURS}, conflicts ignored": {count: partial(run_flex, count, on_conflict="ignore") for count in (1, 6)},
        "MultiControlNet": {count: partial(run_stock, count) for count in (1, 6)},
    }


def alternate(one: Callable[[], Any], six: Callable[[], Any], swapped: bool) -> tuple[float, float]:
    """Seconds of a pair of runs, in either order."""
    times = {}
    for name, run in (("six", six), ("one", one)) if swapped else (("one", one), ("six", six)):
        began = time.perf_counter()
        run()
        times[name] = time.perf_counter() - began
    return times["one"], times["six"]


def paired(one: list[float], other: list[float]) -> dict[str, Any]:
    """Median of the ratios other / one with its interval, and the medians of both."""
    ratios = np.array(other) / np.array(one)
    low, high = interval(median_draws(ratios))
    return {
        "ratio": float(np.median(ratios)), "ci95": [low, high], "pairs": len(ratios),
        "seconds": [float(np.median(one)), float(np.median(other))], "ratios": ratios.round(4).tolist(),
    }  # fmt: skip


def sampling(base: Path, pairs: int, steps: int) -> list[dict[str, Any]]:
    """Six conditions against one, both methods in every round."""
    methods = samplers(base, steps)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for runs in methods.values():  # warm up
        for run in runs.values():
            run()
    for i in range(pairs):
        for name, runs in methods.items():
            times[name].append(alternate(runs[1], runs[6], swapped=i % 2 == 1))
    rows = []
    for name, measured in times.items():
        row = {"figure": "six conditions / one", "method": name, "steps": steps}
        row |= paired([a for a, _ in measured], [b for _, b in measured])
        if name == OURS:
            row |= {"claim": f"median <= {CLAIM}", "holds": row["ratio"] <= CLAIM}
        rows.append(row)
    return rows


# ---- training ----


class Trainable:
    """One preset with its optimiser, stepped by hand."""

    def __init__(self, base: Path, preset: str, losses: float, scenes: int, batch: int):
        recipe = Recipe(
            task="flexecontrol", steps=1, batch_size=batch,
            options={
                "base": str(base), "preset": preset, "r": 8, "length": scenes, "types": list(SIX),
                "lambda_ca": losses, "lambda_mask": losses,
            },
        )  # fmt: skip
        self.task, self.batch = SceneTask(recipe), list(range(batch))
        self.parameters = [p for _, p in self.task.trainable()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-5)
        self.count = 0

    def step(self) -> None:
        self.optimiser.zero_grad(set_to_none=False)
        self.task.loss(self.batch, self.count, KeyedNoise(0, self.count))["loss"].backward()
        self.optimiser.step()
        self.count += 1

    def state_bytes(self) -> int:
        """Gradients and optimiser tensors as they lie in memory; to be asked after a step."""
        held = [p.grad for p in self.parameters]
        held += [v for state in self.optimiser.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
        return sum(t.numel() * t.element_size() for t in held)


def training(base: Path, pairs: int, batch: int) -> list[dict[str, Any]]:
    """Optimiser and gradient bytes, and the time of a step, of `paper` against `uni`."""
    made = {
        "uni": Trainable(base, "uni", 0.0, batch, batch),
        "paper": Trainable(base, "paper", 0.0, batch, batch),
        "paper with both losses": Trainable(base, "paper", 0.01, batch, batch),
    }
    for one in made.values():
        one.step()
    rows = [
        {
            "figure": "optimiser + gradient bytes", "method": name, "value": one.state_bytes(),
            "optimised": sum(p.numel() for p in one.parameters),
        }
        for name, one in made.items()
    ]  # fmt: skip
    held = {row["method"]: row["value"] for row in rows}
    for name in list(made)[1:]:
        times = [alternate(made["uni"].step, made[name].step, swapped=i % 2 == 1) for i in range(pairs)]
        rows.append(
            {
                "figure": "training step / uni", "method": name, "batch": batch,
                "bytes_ratio": held[name] / held["uni"], **paired([a for a, _ in times], [b for _, b in times]),
            }
        )  # fmt: skip
    return rows


# ---- merging ----


def operations(model: FlexEControlModel) -> list[tuple[str, str]]:
    """Every operator that one evaluation of the adapter calls, in order, with its input shapes."""
    slots = [SlotInput(kind, image[None]) for kind, image in zip(SIX, maps(), strict=True)]
    sample, width = (
        randn((2, 4, SIZE // 4, SIZE // 4), "cost latents"),
        model.config.unet_config["cross_attention_dim"],
    )
    text = randn((2, 77, width), "cost text")
    with torch.no_grad():
        features = model.condition_features(slots)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            model(sample, 10, text, features)
    events = sorted(profiler.events(), key=lambda e: (e.time_range.start, -e.time_range.end))
    return [(e.name, str(e.input_shapes)) for e in events if e.name.startswith("aten::")]


def merging(base: Path) -> dict[str, Any]:
    """After `merge()`: adapter modules left, and whether its operators equal those of an adapter without factors."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    paper = FlexEControlModel.from_unet(unet, "paper", r=8, condition_stride=4, **MADE)
    plain = FlexEControlModel.from_unet(unet, "carrier", condition_stride=4, **MADE)
    wake(paper)
    before, wanted = operations(paper), operations(plain)
    factors = sum(isinstance(m, KroneckerLinear) for m in paper.modules())
    paper.merge()
    left = [name for name, m in paper.named_modules() if isinstance(m, KroneckerLinear)]
    left += [name for name, _ in paper.named_parameters() if "kronecker" in name]
    after = operations(paper)
    return {
        "figure": "merged adapter", "method": "paper", "decomposed": factors, "left": left,
        "operators": {"before": len(before), "merged": len(after), "without factors": len(wanted)},
        "claim": "no adapter module left, operators equal", "holds": not left and after == wanted,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of the base; default: embedded diorama-sd, else its shapes")
    parser.add_argument("--random", action="store_true", help="random weights even where diorama-sd is embedded")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--train-pairs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS / "flexecontrol_cost.jsonl")
    args = parser.parse_args(argv)
    logging.set_verbosity_error()  # the made-up maps contradict each other, which every run would say
    with tempfile.TemporaryDirectory() as folder:
        trained = not args.random and (args.base or "diorama-sd" in embedded_names())
        base = args.base or (embedded("diorama-sd") if trained else random_base(Path(folder)))
        made = "trained weights" if trained else "random weights of its shape"
        rows = [merging(base), *sampling(base, args.pairs, args.steps)]
        rows += training(base, args.train_pairs, args.batch)
    where = {"base": f"diorama-sd, {made}", "load": _load(), **environment()}
    write(args.out, [{"benchmark": "flexecontrol_cost", **row, **where} for row in rows])
    for row in rows:
        print(_line(row))
    return int(any(row.get("holds") is False for row in rows))


def _load() -> str:
    return (
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: other work ran beside; runs of a pair "
        "alternate, so that it slows both"
    )


def _line(row: dict[str, Any]) -> str:
    text = f"{row['figure']}, {row['method']}: "
    if "ratio" in row:
        low, high = row["ci95"]
        text += f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}], {row['pairs']} pairs, median {row['seconds'][0]:.3f} s "
        text += f"against {row['seconds'][1]:.3f} s"
    elif "value" in row:
        text += f"{row['value']:,} for {row['optimised']:,} parameters"
    else:
        text += f"{row['decomposed']} layers, {len(row['left'])} left, operators {row['operators']}"
    if "bytes_ratio" in row:
        text += f"; bytes / uni {row['bytes_ratio']:.3f}"
    if "holds" in row:
        text += f"; claim ({row['claim']}): {'HOLDS' if row['holds'] else 'DOES NOT HOLD'}"
    return text


if __name__ == "__main__":
    sys.exit(main())

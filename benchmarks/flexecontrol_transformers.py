"""What N = 1, 2, 4, 6 conditions cost in time and memory, on a UNet and on transformers of SD3's and Flux's shape.

    python benchmarks/flexecontrol_transformers.py        # rewrites results/flexecontrol_transformers.jsonl

One row for each base and N: a picture of `--steps` evaluations under conditions over the same evaluations of the base
alone, in CPU time of one thread. The maps are given as tensors, the conditions' map is made once a picture, as in
sampling. Bases and numbers of conditions alternate in a shuffled order, ratios are of the same repeat, the interval is
a bootstrap of their median. Memory is counted, not sampled: the bytes of the weights, and the most bytes of other
tensors that are alive at once. All weights are random, in the shapes below; neither depends on their values.

Claim, fixed before the run: six conditions cost at most 1.05 of what one costs, in time and in memory, on every base.
Exit status 1 if it does not hold.
"""

import argparse
import sys
import time
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from records import RESULTS, environment, write
from timing import measure, ratio
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.slots import SlotInput
from wm_pipelines.flexecontrol.transformer import FlexEControlTransformerModel
from wm_pipelines.media.conditions import TYPES
from wm_pipelines.runtime.noise import randn

COUNTS = (1, 2, 4, 6)
TYPES_USED = tuple(kind for kind in TYPES if kind != "pose")
SIZE, STRIDE, WIDTH = 64, 4, 128  # pixels, pixels a latent cell, channels of the transformers
MADE = {"types": TYPES_USED, "n": 4, "r": 8, "condition_stride": STRIDE, "pre_channels": (16, 16)}
CLAIM = 1.05
UNET, SD3, FLUX = "UNet", "SD3-shaped", "Flux-shaped"


@cache
def slots(count: int) -> tuple[SlotInput, ...]:
    """Finished maps (1,3,64,64), each of its own type; made once, as what is given is no cost of the method."""
    return tuple(SlotInput(kind, randn((1, 3, SIZE, SIZE), "maps", kind).sigmoid()) for kind in TYPES_USED[:count])


def unet(steps: int) -> tuple[list[nn.Module], Callable[[int], None]]:
    """(base and adapter, a picture under so many conditions; 0: of the base alone)."""
    base = UNet2DConditionModel(
        sample_size=SIZE // STRIDE, block_out_channels=(64, 96, 128), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=WIDTH, attention_head_dim=(2, 3, 4), down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    ).eval()  # fmt: skip
    control = FlexEControlModel.from_unet(
        base, preset="transformer", feature_channels=(16, 24, 24), map_stride=2, **MADE
    )
    sample = randn((1, 4, SIZE // STRIDE, SIZE // STRIDE), "latents")
    text = randn((1, 77, WIDTH), "text")

    def run(count: int) -> None:
        features = control.condition_features(slots(count)) if count else None
        for _ in range(steps):
            added = {}
            if features is not None:
                down, mid = control(sample, 500, text, features, return_dict=False)
                added = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            base(sample, 500, text, **added)

    return [base, control], run


def transformer(name: str, steps: int) -> tuple[list[nn.Module], Callable[[int], None]]:
    """As `unet`."""
    cells, text = SIZE // STRIDE, {"encoder_hidden_states": randn((1, 77, WIDTH), "text")}
    heads = {"attention_head_dim": 32, "num_attention_heads": WIDTH // 32, "joint_attention_dim": WIDTH}
    text["pooled_projections"] = randn((1, 64), "pooled")
    if name == SD3:
        base = SD3Transformer2DModel(
            sample_size=cells, in_channels=4, out_channels=4, num_layers=8, caption_projection_dim=WIDTH,
            pooled_projection_dim=64, pos_embed_max_size=cells, **heads,
        )  # fmt: skip
        control = FlexEControlTransformerModel.from_transformer(base, num_layers=4, **MADE)
        given = {"hidden_states": randn((1, 4, cells, cells), "latents"), "timestep": torch.tensor([500.0])}
    else:
        base = FluxTransformer2DModel(
            in_channels=16, num_layers=4, num_single_layers=4, pooled_projection_dim=64, axes_dims_rope=(8, 12, 12),
            **heads,
        )  # fmt: skip
        control = FlexEControlTransformerModel.from_transformer(base, num_layers=2, num_single_layers=2, **MADE)
        rows, columns = torch.meshgrid(torch.arange(cells // 2), torch.arange(cells // 2), indexing="ij")
        ids = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).float()
        given = {"hidden_states": randn((1, len(ids), 16), "latents"), "timestep": torch.tensor([0.5])}
        given |= {"img_ids": ids, "txt_ids": torch.zeros(77, 3)}
    base.eval()

    def run(count: int) -> None:
        if not count:
            for _ in range(steps):
                base(**given, **text)
            return
        with control.applied(base, slots(count)):
            for _ in range(steps):
                base(**given, **text)

    return [base, control], run


class Alive(TorchDispatchMode):
    """Bytes of the tensors that operations make and that are alive; `most` of them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for t in _tensors(out):
            storage = t.untyped_storage()
            if storage._cdata not in self._known and storage._cdata not in given:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]


@torch.no_grad()
def rows_of(steps: int, repeats: int, least: float) -> list[dict[str, Any]]:
    """All rows."""
    made = {UNET: unet(steps), SD3: transformer(SD3, steps), FLUX: transformer(FLUX, steps)}
    runs = {(name, count): (lambda run=run, count=count: run(count)) for name, (_, run) in made.items()
            for count in (0, *COUNTS)}  # fmt: skip
    times = measure(
        {f"{name}, {count}": run for (name, count), run in runs.items()}, repeats, time.process_time, least
    )
    rows = []
    for name, (models, _) in made.items():
        held = [sum(p.numel() * p.element_size() for p in model.parameters()) for model in models]
        alive = {}
        for count in (0, *COUNTS):
            with Alive() as counter:
                runs[name, count]()
            alive[count] = counter.most
        for count in COUNTS:
            row = {"figure": "conditions over the base alone", "base": name, "conditions": count, "steps": steps}
            row |= ratio(times[f"{name}, {count}"], times[f"{name}, 0"])
            rows.append(
                {
                    **row, "weights_bytes": {"base": held[0], "adapter": held[1]}, "alive_bytes": alive[count],
                    "alive_bytes_base": alive[0],
                }
            )  # fmt: skip
        paired = ratio(times[f"{name}, 6"], times[f"{name}, 1"])
        memory = alive[6] / alive[1]
        rows.append(
            {
                "figure": "six conditions over one", "base": name, **paired, "memory": round(memory, 4),
                "claim": f"time and memory <= {CLAIM}", "holds": max(paired["ratio"], memory) <= CLAIM,
            }
        )  # fmt: skip
    return rows


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    text = f"{row['base']}, {row['figure']}: {row['ratio']:.3f} [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]"
    if "conditions" in row:
        weights = row["weights_bytes"]
        return (
            f"{text}, N = {row['conditions']}; weights {weights['base']:,} + {weights['adapter']:,} bytes, "
            f"alive {row['alive_bytes']:,} bytes (the base alone {row['alive_bytes_base']:,})"
        )
    return (
        f"{text}, memory {row['memory']:.3f}; claim ({row['claim']}): {'HOLDS' if row['holds'] else 'DOES NOT HOLD'}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="evaluations of a picture")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--least", type=float, default=0.0, help="seconds of one sample")
    parser.add_argument("--out", type=Path, default=RESULTS / "flexecontrol_transformers.jsonl")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = rows_of(args.steps, args.repeats, args.least)
    where = environment()
    write(args.out, [{"benchmark": "flexecontrol_transformers", **row, **where} for row in rows])
    for row in rows:
        print(line(row))
    return int(any(row.get("holds") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())

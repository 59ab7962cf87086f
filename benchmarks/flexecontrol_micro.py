"""The micro-experiment of FlexEControl: does the decomposed adapter keep up with a full copy, and do its losses bind?

    python benchmarks/flexecontrol_micro.py                     # everything; stop and start it as you like
    python benchmarks/flexecontrol_micro.py --report            # only the report on what is there
    python benchmarks/flexecontrol_micro.py --shard 1/2         # half of the cells, beside another process with 0/2

One small base on Diorama latents is trained once and frozen. A cell is one (arm, seed, number of training scenes);
each finished cell is one row in the results, and cells that have a row are not run again. Arms A to G, thresholds and
sizes were fixed before any run; the verdicts are printed whether they hold or not. If `efficiency` fails, the fallback
that was registered with it, arm T, is run too.

All arms are sampled with binding in the attention (it has no parameters); B and F at the largest number of
scenes also without.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import same_settings
from diffusers import AutoencoderKL
from micro_arms import ARMS, TYPES, Bank, Base, HeldOut, MicroBaseTask, held_out_error, make_arm, sample
from micro_verdicts import Results, plot, report, verdicts
from records import RESULTS, append, environment, read, write

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.flexecontrol.metrics import edge_f1, objects_obeyed
from wm_pipelines.hub import embedded, hash_files
from wm_pipelines.training import KeyedNoise, Recipe, train

SIZES: dict[str, Any] = {
    "base_steps": 4000, "base_scenes": 4000, "steps": 500, "batch": 16, "lr": 1e-3, "held_out": 128, "ddim": 20,
    "guidance": 4.0, "error_draws": 4, "sample_batch": 32,
}  # fmt: skip
QUICK: dict[str, Any] = SIZES | {
    "base_steps": 2, "base_scenes": 4, "steps": 2, "batch": 4, "held_out": 4, "ddim": 2, "error_draws": 1,
}  # fmt: skip
KEPT_BASE = Path(__file__).parent / "flexecontrol_micro_base"
ALSO_UNBOUND = "BF"
CURVE = "AB"

Cell = tuple[str, int, int]


def cells_of(arms: str, seeds: int, counts: list[int]) -> list[Cell]:
    """(arm, seed, scenes), seed by seed, so that an unfinished run has whole seeds."""
    listed = []
    for seed in range(seeds):
        listed += [(arm, seed, counts[-1]) for arm in arms]
        listed += [(arm, seed, n) for n in counts[:-1] for arm in CURVE if arm in arms]
    return listed


def make_base(sizes: dict[str, Any], vae: Path, work: Path) -> Base:
    """The trained base, the one kept beside this script; else trains it first, or goes on with its training."""
    if sizes == SIZES and KEPT_BASE.exists():
        return Base(KEPT_BASE)
    export = work / "base" / "export"
    if not export.exists():
        model = AutoencoderKL.from_pretrained(vae).requires_grad_(False).eval()
        count, steps = sizes["base_scenes"], sizes["base_steps"]
        bank = Bank(model, "train", count, "micro-base", work / "base.scenes", maps=False)
        recipe = Recipe(
            task="diorama-sd", steps=steps, batch_size=sizes["batch"], lr=1e-3, warmup=steps // 20, schedule="cosine",
            weight_decay=0.01, ema=0.998, save_every=250, log_every=50, options={"scenes": count},
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            task = MicroBaseTask(recipe, model, bank, work / "tokenizer")
        train(task, recipe, work / "base")
    return Base(export)


def recipe_of(cell: Cell, sizes: dict[str, Any], base: Base) -> Recipe:
    arm, seed, scenes = cell
    options = {"base": str(base.folder), "length": scenes, "types": list(TYPES), **ARMS[arm][1]}
    steps = sizes["steps"]
    return Recipe(
        task="flexecontrol", seed=seed, steps=steps, batch_size=sizes["batch"], lr=sizes["lr"], warmup=steps // 10,
        schedule="cosine", weight_decay=0.01, save_every=steps, log_every=steps, options=options,
    )  # fmt: skip


def measure(judge: DioramaJudge, pictures: torch.Tensor, held: HeldOut) -> dict[str, list[float | None]]:
    """Per held-out scene: edge F1 against the edges shown, and means over its objects of IoU and binding."""
    found = objects_obeyed(judge, pictures, held.bank.ids, held.bank.scenes)
    scores = {"edge_f1": edge_f1(pictures, held.edges).tolist()}
    for name in ("iou", "bound"):
        scores[name] = [float(np.mean([o[name] for o in row])) for row in found]
    return {name: [None if np.isnan(v) else round(v, 4) for v in values] for name, values in scores.items()}


def modes_of(cell: Cell, world: "World") -> tuple[str, ...]:
    """How the pictures of a cell are sampled: bound, and where the claim is tested also unbound."""
    arm, _, scenes = cell
    return ("attention", "none") if arm in ALSO_UNBOUND and scenes == len(world.bank.scenes) else ("attention",)


def run_cell(cell: Cell, sizes: dict[str, Any], world: "World", work: Path) -> dict[str, Any]:
    """Train and measure one cell."""
    arm, seed, scenes = cell
    recipe = recipe_of(cell, sizes, world.base)
    task, folder = make_arm(arm, recipe, world.base, world.bank), work / f"cell-{arm}-{seed}-{scenes}"
    shutil.rmtree(folder, ignore_errors=True)  # a cell that was stopped starts anew
    started = time.process_time()
    record = train(task, recipe, folder)
    cpu = time.process_time() - started
    began, base = time.monotonic(), world.base.to(task.device)
    control = task.control.eval()
    modes = modes_of(cell, world)
    sampled = {
        mode: measure(
            world.judge,
            sample(
                base, control, world.held, mode == "attention", sizes["ddim"], sizes["guidance"],
                sizes["sample_batch"],
            ),
            world.held,
        )
        for mode in modes
    }  # fmt: skip
    error = held_out_error(base, control, world.held, sizes["error_draws"], sizes["sample_batch"])
    optimised = sum(p.numel() for _, p in task.trainable())
    shutil.rmtree(folder)
    return {
        "kind": "cell", "arm": arm, "seed": seed, "scenes": scenes, "settings": world.settings,
        "optimised": optimised, "state_bytes": 12 * optimised,  # gradient and two Adam moments, float32
        "step_ms": round(1000 * record.wall_time_s / sizes["steps"], 2),
        "step_cpu_ms": round(1000 * cpu / sizes["steps"], 2),
        "evaluate_s": round(time.monotonic() - began, 1),
        "sampled": sampled, "error": [round(v, 5) for v in error.tolist()], **environment(),
    }  # fmt: skip


class World:
    """What all cells share: base, scenes, held-out scenes, judge, and the settings that rows must agree in."""

    def __init__(self, sizes: dict[str, Any], vae: Path, judge: Path, counts: list[int], work: Path):
        self.base = make_base(sizes, vae, work)
        self.bank = Bank(self.base.vae, "train", counts[-1], "micro", work / "train.scenes")
        self.held = HeldOut(Bank(self.base.vae, "test", sizes["held_out"], "micro", work / "test.scenes"), self.base)
        self.judge = DioramaJudge.from_pretrained(judge).eval()
        self.settings = {**sizes, "base": self.base.sha256[:16], "judge": _fingerprint(judge)}


def _fingerprint(folder: Path) -> str:
    return next(h for name, h in sorted(hash_files(folder).items()) if name.endswith(".safetensors"))[:16]


def reference(world: World) -> dict[str, Any]:
    """Ceilings (renders, renders through the VAE), the base without conditions, and chance."""
    base, held, settings = world.base, world.held, world.settings
    rows = torch.arange(len(held.texts))
    truth = held.bank.pictures(rows)
    with torch.no_grad():
        scale = base.vae.config.scaling_factor
        decoded = [base.vae.decode(m / scale).sample for m in held.bank.mean.to(base.vae.device).split(64)]
    seen = {
        "ground-truth renders (ceiling)": truth,
        "renders through the VAE (ceiling)": (torch.cat(decoded).cpu() / 2 + 0.5).clamp(0, 1),
        "base without conditions": sample(
            base, None, held, False, settings["ddim"], settings["guidance"], settings["sample_batch"]
        ),
    }
    figures = {}
    for name, pictures in seen.items():
        scores = {k: np.array(v, dtype=float) for k, v in measure(world.judge, pictures, held).items()}
        figures[name] = {k: float(np.nanmean(v)) for k, v in scores.items()}
        figures[name]["bound_same_shape"] = float(np.nanmean(scores["bound"][::2]))
    chance = [o["chance"] for row in objects_obeyed(world.judge, truth, held.bank.ids, held.bank.scenes) for o in row]
    figures["chance (colours swapped at random)"] = {"bound": float(np.mean(chance))}
    return {"kind": "reference", "settings": settings, "figures": figures, **environment()}


def estimate(cells: list[Cell], sizes: dict[str, Any], world: World) -> float:
    """Seconds that the cells will take, from one training step of each arm and one sampling step."""
    each = {}
    for arm in {arm for arm, _, _ in cells}:
        task = make_arm(arm, recipe_of((arm, 0, len(world.bank.scenes)), sizes, world.base), world.base, world.bank)
        for step in range(2):  # the first one warms up
            began = time.monotonic()
            task.loss(list(range(sizes["batch"])), step, KeyedNoise(0, step))["loss"].backward()
            once = time.monotonic() - began
        began = time.monotonic()
        sample(world.base, task.control.eval(), world.held, True, 1, sizes["guidance"], len(world.held.texts))
        each[arm] = sizes["steps"] * once, sizes["ddim"] * (time.monotonic() - began)
    return sum(each[cell[0]][0] + len(modes_of(cell, world)) * each[cell[0]][1] for cell in cells)


def finish(out: Path, counts: list[int], seeds: int, draws: int) -> Results:
    """Print the report, write its rows and the curve beside the results."""
    results = Results(read(out), draws)
    text, rows = report(results, {arm: name for arm, (name, _) in ARMS.items()}, counts, seeds)
    print(text)
    write(out.with_name(f"{out.stem}_verdicts.jsonl"), [{**row, "draws": draws} for row in rows])
    plot(results, counts, out.with_name(f"{out.stem}_curve.png"))
    return results


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, help="folder of the trained VAE; default: that of embedded diorama-sd")
    parser.add_argument("--judge", type=Path, help="folder of the judge; default: embedded diorama-judge")
    parser.add_argument("--work", type=Path, help="folder of base and scenes (default: runs/micro)")
    parser.add_argument("--out", type=Path, help="results (default: benchmarks/results/flexecontrol_micro.jsonl)")
    parser.add_argument("--arms", default="ABCDEFG")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scenes", default="128,256,512", help="numbers of training scenes; main arms at the last")
    parser.add_argument("--draws", type=int, default=10_000, help="bootstrap draws")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th cell, from i")
    parser.add_argument("--report", action="store_true", help="only report on the rows that are there")
    parser.add_argument("--base-only", action="store_true", help="only train the base")
    parser.add_argument("--quick", action="store_true", help="a smoke run at meaningless sizes")
    args = parser.parse_args(argv)
    if args.quick and not (args.work and args.out):
        parser.error("--quick needs --work and --out, so that it never mixes with real results")
    unknown = set(args.arms) - set(ARMS)
    if unknown:
        parser.error(f"--arms: unknown {sorted(unknown)[0]!r}; there are {', '.join(ARMS)}")
    counts = sorted(int(n) for n in args.scenes.split(","))
    sizes, work = (QUICK if args.quick else SIZES), args.work or Path("runs/micro")
    out = args.out or RESULTS / "flexecontrol_micro.jsonl"
    if args.report:
        finish(out, counts, args.seeds, args.draws)
        return 0
    shard, shards = map(int, args.shard.split("/"))
    if shard and not (KEPT_BASE.exists() or (work / "base" / "export").exists()):
        parser.error("the base is not trained yet: start shard 0 first and this one when it has begun its cells")
    vae = args.vae or embedded("diorama-sd") / "vae"
    if args.base_only:
        make_base(sizes, vae, work)
        return 0
    world = World(sizes, vae, args.judge or embedded("diorama-judge"), counts, work)
    rows = same_settings(parser, out, world.settings)
    if shard == 0 and not any(r["kind"] == "reference" for r in rows):
        append(out, reference(world))

    _run_cells(cells_of(args.arms, args.seeds, counts)[shard::shards], sizes, world, work, out)
    results = finish(out, counts, args.seeds, args.draws)
    efficiency = verdicts(results, counts[-1], counts, args.seeds)[0]
    if shards == 1 and efficiency["complete"] and not efficiency["holds"]:
        print("\nefficiency does not hold: arm T (all transformer linears), as registered")
        _run_cells([("T", seed, counts[-1]) for seed in range(args.seeds)], sizes, world, work, out)
        finish(out, counts, args.seeds, args.draws)
    return 0


def _run_cells(cells: list[Cell], sizes: dict[str, Any], world: World, work: Path, out: Path) -> None:
    done = {(r["arm"], r["seed"], r["scenes"]) for r in read(out) if r["kind"] == "cell"}
    left = [cell for cell in cells if cell not in done]
    if not left:
        return
    expected = estimate(left, sizes, world)
    minutes = f"about {expected / 60:.0f} minutes at this machine's present pace"
    print(f"{len(left)} of {len(cells)} cells to run, {minutes}", flush=True)
    began = time.monotonic()
    for i, cell in enumerate(left, 1):
        append(out, run_cell(cell, sizes, world, work))
        each = (time.monotonic() - began) / i
        print(f"cell {i}/{len(left)} {cell} done; about {each * (len(left) - i) / 60:.0f} minutes left", flush=True)


if __name__ == "__main__":
    sys.exit(main())

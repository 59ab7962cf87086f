"""Local intrinsic dimension of attention and MLP, layer by layer, and whether it tells what to adapt.

    python benchmarks/kadaptation_lid.py     # stop and start it as you like; once all is there, only the report

On the base of kadaptation_micro.py and its transfer task with a hundred pictures of each class: d90 of attention and
of MLP in each of the four layers (projection fastfood). Every training point is one row in the results; points that
have a row are not trained again. Then, on other pictures, a Kronecker adapter goes into the half of the parts with
the lowest d90 and into the half with the highest, with exactly as many parameters. The claim, fixed before any run:
the lowest half beats the highest half. It is printed whether it holds or not. Rates and batch come from a pilot with
other test pictures.
"""

import argparse
import sys
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import same_settings
from kadaptation_arms import ADAPTER_RATES
from kadaptation_micro import BASE_BAR, QUICK, SIZES
from kadaptation_world import CLASSES, Base, make_base, striped_counts
from peft import inject_adapter_in_model
from records import RESULTS, append, environment, read, summary, verdict, verdict_lines, write

from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.kadaptation.subspace.dimension import LocalIntrinsicDimension
from wm_pipelines.kadaptation.subspace.groups import block_groups
from wm_pipelines.kadaptation.subspace.results import GroupDimension, LIDResult
from wm_pipelines.kadaptation.subspace.training import ClassificationTask

LID_SIZES: dict[str, Any] = SIZES | {
    "shots": 100, "validation": 20, "steps": 60, "batch": 32, "lid_rates": (5e-3, 5e-2), "lid_seeds": 3,
}  # fmt: skip
LID_QUICK: dict[str, Any] = LID_SIZES | QUICK | {
    "shots": 2, "validation": 1, "steps": 1, "batch": 4, "lid_seeds": 1, "layers": 2,
}  # fmt: skip
RANKS = {"attention": 5, "mlp": 4}
"""Ranks that give attention (4 x 128 x 5) and MLP (2 x 320 x 4) of a layer the same number of parameters."""
HALVES = ("lowest", "highest")


class Points(MutableMapping):
    """Scores by (group, dimension, seed) that are kept as rows of a file."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path, self.settings = path, settings
        self.known = {
            (row["group"], row["dim"], row["seed"]): [float(c) for c in row["right"]]
            for row in read(path)
            if row["kind"] == "point"
        }
        self.last = time.process_time()

    def __getitem__(self, key: tuple) -> list[float]:
        return self.known[key]

    def __setitem__(self, key: tuple, scores: list[float]) -> None:
        self.known[key] = scores
        now = time.process_time()
        row = {"kind": "point", **dict(zip(("group", "dim", "seed"), key, strict=True))}
        right = "".join(str(int(score)) for score in scores)
        append(
            self.path, row | {"right": right, "cpu_s": round(now - self.last, 2), "settings": self.settings}
            | environment(),
        )  # fmt: skip
        self.last = now
        print(f"{key}: {np.mean(scores):.3f}", flush=True)

    def __delitem__(self, key: tuple) -> None:
        raise TypeError("measured points are kept")

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


def task_of(name: str, sizes: dict[str, Any], rates: tuple[float, ...]) -> ClassificationTask:
    """The transfer task on pictures of its own; one set of test pictures for the dimension, one for the halves."""
    return ClassificationTask(
        striped_counts(f"{name} train", sizes["shots"] * CLASSES),
        striped_counts(f"{name} val", sizes["validation"] * CLASSES),
        striped_counts(f"{name.split()[0]} sealed test", sizes["test"]),
        steps=sizes["steps"], batch=sizes["batch"], head_rate=sizes["head_rate"], rates=rates,
    )  # fmt: skip


def measure(base: Base, sizes: dict[str, Any], points: Points) -> LIDResult:
    with torch.random.fork_rng(devices=[]):
        model = base.classifier(0)
    task = task_of("lid", sizes, sizes["lid_rates"])
    lid = LocalIntrinsicDimension(model, block_groups(model), head=["head"], seeds=sizes["lid_seeds"])
    return lid.measure(task.train, task.evaluate, points)


def halves_of(result: LIDResult) -> dict[str, list[GroupDimension]]:
    """The ranked groups with the lowest and with the highest d90, as many of each; nothing below two groups."""
    ranked = result.ranked()
    half = len(ranked) // 2
    return {"lowest": ranked[:half], "highest": ranked[-half:]} if half else {}


def config_of(groups: list[GroupDimension]) -> KroneckerConfig:
    """Every linear layer of the groups, ranks so that every group costs the same, one set of A for all."""
    ranks = {name: RANKS[group.name.rpartition(".")[2]] for group in groups for name in group.linears}
    # inside the vision tower, where the adapter is injected
    inner = {name.removeprefix("vision_model."): rank for name, rank in ranks.items()}
    return KroneckerConfig(
        n=4, r=1, target_modules=list(inner), shared_sets="all",
        rank_pattern={f"^{name.replace('.', chr(92) + '.')}$": rank for name, rank in inner.items()},
    )  # fmt: skip


def run_half(base: Base, half: str, groups: list[GroupDimension], seed: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """Adapt one half on the pictures of one seed."""
    began, task = time.process_time(), task_of(f"halves {seed}", sizes, ADAPTER_RATES)
    with torch.random.fork_rng(devices=[]):
        model = base.classifier(seed)
        inject_adapter_in_model(config_of(groups), model.vision_model)
    body = [p for p in model.vision_model.parameters() if p.requires_grad]
    head = list(model.head.requires_grad_(True).parameters())
    task.train(model, head, body, seed)
    return {
        "kind": "half", "half": half, "seed": seed, "groups": [g.name for g in groups],
        "trainable": sum(p.numel() for p in body), "right": "".join(str(int(s)) for s in task.evaluate(model)),
        "cpu_s": round(time.process_time() - began, 2), **environment(),
    }  # fmt: skip


def verdicts(rows: list[dict[str, Any]], result: LIDResult, seeds: int, draws: int) -> list[dict[str, Any]]:
    """The claim, and the figures of both halves; `seeds`: asked for."""
    right = {
        half: {r["seed"]: np.array(list(r["right"]), float) for r in rows if r["kind"] == "half" and r["half"] == half}
        for half in HALVES
    }
    said, gap, parts = [], None, None
    for half, found in right.items():
        if found:
            row = next(r for r in rows if r["kind"] == "half" and r["half"] == half)
            figure = summary(np.stack([found[s] for s in sorted(found)]), draws)
            said.append(
                {"kind": "figures", "half": half, "groups": row["groups"], "trainable": row["trainable"],
                 "seeds": sorted(found), "test": figure}
            )  # fmt: skip
    shared = sorted(set(right["lowest"]) & set(right["highest"]))
    if shared:
        gap = summary(np.stack([right["lowest"][s] - right["highest"][s] for s in shared]), draws)
        parts = {
            "parameters, lowest / highest half (= 1)": [
                said[0]["trainable"] / said[1]["trainable"], said[0]["trainable"] == said[1]["trainable"],
            ],
            "accuracy lowest - highest half (interval above 0)": [gap, gap["low"] > 0],
        }  # fmt: skip
    layers = [
        (result[n], result[n.replace("attention", "mlp")]) for n in (g.name for g in result.groups) if "att" in n
    ]
    both = [(a.d90, m.d90) for a, m in layers if a.d90 is not None and m.d90 is not None]
    said.append({"kind": "observation", "layers": len(both), "attention_below_mlp": sum(a < m for a, m in both)})
    return [*said, verdict("adapting the lowest half of the dimensions beats the highest half", parts, gap, seeds)]


def finish(out: Path, result: LIDResult, seeds: int, draws: int) -> None:
    """Print the report, write its rows and the curves beside the results."""
    judged = verdicts(read(out), result, seeds, draws)
    print("\n".join(result.describe()))
    for row in judged:
        if row["kind"] == "figures":
            print(f"{row['half']} half ({', '.join(row['groups'])}), {row['trainable']:,} parameters: {row['test']}")
        elif row["kind"] == "observation":
            print(f"attention has the lower dimension in {row['attention_below_mlp']} of {row['layers']} layers")
    print("\n".join(["Pre-registered claim:", *verdict_lines([judged[-1]], seeds)]))
    write(
        out.with_name(f"{out.stem}_verdicts.jsonl"), [result.to_dict(), *({**row, "draws": draws} for row in judged)]
    )
    result.plot(out.with_name(f"{out.stem}.png"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of a new base (default: runs/kadaptation)")
    parser.add_argument("--out", type=Path, help="results (default: benchmarks/results/kadaptation_lid.jsonl)")
    parser.add_argument("--seeds", type=int, default=10, help="of the comparison of halves")
    parser.add_argument("--draws", type=int, default=10_000, help="bootstrap draws")
    parser.add_argument("--quick", action="store_true", help="a smoke run at meaningless sizes")
    args = parser.parse_args(argv)
    if args.quick and not (args.work and args.out):
        parser.error("--quick needs --work and --out, so that it never mixes with real results")
    sizes, out = (LID_QUICK if args.quick else LID_SIZES), args.out or RESULTS / "kadaptation_lid.jsonl"
    base = make_base(sizes, (args.work or Path("runs/kadaptation")) / "base", kept=not args.quick)
    if base.record["accuracy"] < BASE_BAR and not args.quick:
        parser.error(f"the base names {base.record['accuracy']:.1%} of its pictures; it needs {BASE_BAR:.0%}")
    settings = {**sizes, "lid_rates": list(sizes["lid_rates"]), "base": base.sha256[:16]}
    same_settings(parser, out, settings)
    points = Points(out, settings)
    result = measure(base, sizes, points)
    done = {(row["half"], row["seed"]) for row in read(out) if row["kind"] == "half"}
    for seed in range(args.seeds):
        for half, groups in halves_of(result).items():
            if (half, seed) not in done:
                append(out, run_half(base, half, groups, seed, sizes) | {"settings": settings})
                print(f"{half} half, seed {seed} done", flush=True)
    finish(out, result, args.seeds, args.draws)
    return 0


if __name__ == "__main__":
    sys.exit(main())

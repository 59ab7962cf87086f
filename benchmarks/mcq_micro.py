"""The micro-experiment on questions about videos: do the controls tell reasoning from surface cues?

    python benchmarks/mcq_micro.py                    # everything, about 3 core-hours; stop and start at will
    python benchmarks/mcq_micro.py --report           # only the report on what is there
    python benchmarks/mcq_micro.py --arms text-biased,temporal-balanced --seeds 1
    python benchmarks/mcq_micro.py --smoke            # under a minute, meaningless sizes, nothing kept

Questions of the miniature world (mcq_world.py) at 32 x 32 pixels and 8 frames, models of a few ten thousand parameters
(mcq_arms.py). A cell is one (arm, seed): a model, what it was trained on, and its start.

The first claim was fixed before any run: over five seeds the temporal model gets at least 95 % of the left/right
questions right together with their mirrored, and with their reversed twin, and loses at least 30 points where frames
are shuffled; the order-blind bag of frames gets at most 25 % of the pairs and loses at most 2 points; the model of the
text alone has the same score without the video; the one that is told the state has at least 98 %. Each difference by
exact McNemar tests, p < .01 at every seed.

The second: on questions whose counter-world has another answer (gravity upside down, no inertia, no friction) a model
trained on normal worlds alone falls below chance, and one trained on both worlds does not.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import make_parser, of_shard, parse, run_cells, same_settings
from mcq_arms import CONTROLS, answered, controlled, fit
from mcq_world import KINDS, Data, make_future, make_main
from records import RESULTS, append, environment, read, summary, verdict, verdict_lines, write

from wm_pipelines.evaluation.statistics import mcnemar

SIZES: dict[str, Any] = {
    "train": 10000, "test": 2000, "keys": 1500, "test_keys": 400, "epochs": 8, "future_epochs": 20, "batch": 64,
    "lr": 3e-3, "decay": 0.01, "width": 48,
}  # fmt: skip
QUICK: dict[str, Any] = SIZES | {
    "train": 16, "test": 12, "keys": 2, "test_keys": 2, "epochs": 1, "future_epochs": 1, "batch": 8, "width": 8,
}  # fmt: skip
MAIN = {
    "text-biased": "text alone, biased training", "text-balanced": "text alone, balanced training",
    "bag-balanced": "bag of frames, balanced training", "temporal-balanced": "temporal, balanced training",
    "temporal-biased": "temporal, biased training", "oracle-balanced": "told the state, balanced training",
}  # fmt: skip
WORLDS = {
    "text-normal": "text alone, normal worlds", "text-both": "text alone, both worlds",
    "temporal-normal": "temporal, normal worlds", "temporal-both": "temporal, both worlds",
    "oracle-normal": "told the state, normal worlds", "oracle-both": "told the state, both worlds",
}  # fmt: skip
ARMS = MAIN | WORLDS
TESTS = ("balanced", "biased", "worlds")
Cell = tuple[str, int]


class Worlds:
    """The data, made when they are first asked for and kept in `work`."""

    def __init__(self, sizes: dict[str, Any], work: Path):
        self.sizes, self.work = sizes, work
        self._made: dict[tuple[str, str], Data] = {}

    def get(self, split: str, kind: str) -> Data:
        """`split` is "train" or "test"; `kind` "balanced", "biased", "worlds" (both) or "normal"."""
        if (split, kind) not in self._made:
            self._made[split, kind] = self._make(split, kind)
        return self._made[split, kind]

    def _make(self, split: str, kind: str) -> Data:
        if kind in ("balanced", "biased"):
            return make_main(split, self.sizes[split], kind == "biased", self.work)
        if kind == "normal":
            both = self.get(split, "worlds")
            return both.take(torch.nonzero(both.world == 0)[:, 0])
        return make_future(split, self.sizes["keys" if split == "train" else "test_keys"], self.work)


def items_row(test: str, data: Data, sizes: dict[str, Any]) -> dict[str, Any]:
    """What the report needs to know of the questions of a test."""
    return {
        "kind": "items", "settings": sizes, "test": test, "kinds": [KINDS[k] for k in data.kind],
        "sideways": packed((data.sideways & (data.mirror >= 0) & (data.reverse >= 0)).numpy()),
        "counter": packed((data.world > 0).numpy()), "conflict": packed(data.conflict.numpy()),
        "chance": [round(float(c), 4) for c in 1 / data.there.sum(1)],
    }  # fmt: skip


def run_cell(cell: Cell, worlds: Worlds) -> dict[str, Any]:
    """One arm and seed, trained and asked under every control."""
    arm, seed = cell
    kind, training = arm.split("-")
    sizes = worlds.sizes
    main = arm in MAIN
    data = worlds.get("train", training if training != "both" else "worlds")
    epochs = sizes["epochs"] if main else sizes["future_epochs"] * (1 if training == "both" else 2)
    tests = {name: worlds.get("test", name) for name in (TESTS[:2] if main else TESTS[2:])}
    began = time.process_time()
    net = fit(kind, data, seed, sizes, epochs)
    right = {name: controlled(net, test) for name, test in tests.items()}
    return {
        "kind": "cell", "settings": sizes, "arm": arm, "seed": seed,
        "parameters": sum(p.numel() for p in net.parameters()),
        "seen": float(answered(net, data.take(torch.arange(min(len(data), 1000)))).mean()),
        "accuracy": {name: {c: float(r.mean()) for c, r in found.items()} for name, found in right.items()},
        "right": {name: {c: packed(r) for c, r in found.items()} for name, found in right.items()},
        "cpu_s": round(time.process_time() - began, 1), **environment(),
    }  # fmt: skip


def packed(flags: np.ndarray) -> str:
    """Yes and no of every question, as hexadecimal digits."""
    return np.packbits(flags.astype(bool)).tobytes().hex()


def unpacked(text: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:count].astype(bool)


class Results:
    """Who got what right, by arm, test and control."""

    def __init__(self, rows: list[dict[str, Any]], draws: int):
        self.draws = draws
        self.items = {row["test"]: row for row in rows if row["kind"] == "items"}
        self.cells = {(row["arm"], row["seed"]): row for row in rows if row["kind"] == "cell"}

    def seeds(self, *arms: str) -> list[int]:
        """Those that all these arms have."""
        each = [{seed for arm, seed in self.cells if arm == wanted} for wanted in arms]
        return sorted(set.intersection(*each))

    def flags(self, test: str, name: str) -> np.ndarray:
        row = self.items[test]
        return unpacked(row[name], len(row["kinds"]))

    def right(self, arm: str, test: str, control: str, seeds: list[int]) -> np.ndarray:
        """(seeds, questions), float."""
        count = len(self.items[test]["kinds"])
        rows = [unpacked(self.cells[arm, seed]["right"][test][control], count) for seed in seeds]
        return np.array(rows, float)

    def pairs(self, arm: str, test: str, transform: str, seeds: list[int]) -> np.ndarray:
        """(seeds, left/right questions): the question and its twin both right."""
        both = self.right(arm, test, "full", seeds) * self.right(arm, test, transform, seeds)
        return both[:, self.flags(test, "sideways")]

    def figure(self, values: np.ndarray) -> dict[str, Any]:
        """Mean in per cent or points, with its interval over seeds and questions."""
        return summary(100 * values, self.draws)


def _worst_p(first: np.ndarray, second: np.ndarray) -> float:
    return max(mcnemar(a, b).p for a, b in zip(first, second, strict=True))


def judge_controls(results: Results, seeds: int) -> dict[str, Any]:
    """The first claim."""
    claim = "the controls tell a model that follows the video from one that guesses or sees frames without order"
    arms = ("temporal-balanced", "bag-balanced", "text-balanced", "oracle-balanced")
    both = results.seeds(*arms)
    if not both:
        return verdict(claim, None, None, seeds)
    test, parts = "balanced", {}
    temporal, bag, text, oracle = (results.right(arm, test, "full", both) for arm in arms)
    for transform in ("mirror", "reverse"):
        ours, theirs = (results.pairs(arm, test, transform, both) for arm in arms[:2])
        p = _worst_p(ours, theirs)
        mine, other = results.figure(ours), results.figure(theirs)
        parts[f"temporal, {transform} pairs >= 95"] = (mine, mine["value"] >= 95)
        parts[f"bag, {transform} pairs <= 25 (temporal against bag: p <= {p:.1e})"] = (
            other, other["value"] <= 25 and p < 0.01,
        )  # fmt: skip
    drops = [a - results.right(arm, test, "shuffle", both) for a, arm in ((temporal, arms[0]), (bag, arms[1]))]
    p = _worst_p(temporal, temporal - drops[0])
    lost, kept = results.figure(drops[0]), results.figure(drops[1])
    parts[f"temporal, shuffle drop >= 30 (p <= {p:.1e})"] = (lost, lost["value"] >= 30 and p < 0.01)
    parts["bag, shuffle drop <= 2"] = (kept, kept["value"] <= 2)
    blind = text - results.right("text-balanced", test, "blank", both)
    parts["text alone, full - blank = 0"] = (results.figure(blind), not blind.any())
    told = results.figure(oracle)
    parts["told the state >= 98"] = (told, told["value"] >= 98)
    return verdict(claim, parts, {"seeds": len(both)}, seeds)


def judge_worlds(results: Results, seeds: int) -> dict[str, Any]:
    """The second claim."""
    claim = "knowledge of normal worlds misleads in a counter-world; training on both worlds mends it"
    both = results.seeds("temporal-normal", "temporal-both")
    if not both:
        return verdict(claim, None, None, seeds)
    chosen = results.flags("worlds", "conflict") & results.flags("worlds", "counter")
    if not chosen.any():
        return verdict(claim, None, None, seeds)
    chance = 100 * float(np.array(results.items["worlds"]["chance"])[chosen].mean())
    normal, all_ = (
        results.figure(results.right(arm, "worlds", "full", both)[:, chosen])
        for arm in ("temporal-normal", "temporal-both")
    )
    parts = {
        f"trained on normal worlds: below chance ({chance:.1f}), whole interval": (normal, normal["high"] < chance),
        f"trained on both: not below chance ({chance:.1f}), whole interval": (all_, all_["low"] >= chance),
    }
    return verdict(claim, parts, normal, seeds)


def decompositions(results: Results) -> list[dict[str, Any]]:
    """F - B (vision used), R - F (perception gap), 1 - R (reasoning gap), and on counter-worlds the reliance on
    knowledge: right in the normal world less right in its twin, over pairs with two answers."""
    made = []
    for name, test, training in (("main", "balanced", "balanced"), ("worlds", "worlds", "both"),
                                 ("worlds", "worlds", "normal")):  # fmt: skip
        arms = [f"{kind}-{training}" for kind in ("text", "temporal", "oracle")]
        seeds = results.seeds(*arms)
        if not seeds:
            continue
        blind, full, told = (results.right(arm, test, "full", seeds) for arm in arms)
        counter = results.flags(test, "counter")
        for world in ("normal", "counter") if name == "worlds" else ("normal",):
            at = counter == (world == "counter")
            figures = {"F - B": full - blind, "R - F": told - full, "1 - R": 1 - told}
            made.append({
                "kind": "decomposition", "test": test, "trained": training, "world": world,
                **{key: results.figure(values[:, at]) for key, values in figures.items()},
            })  # fmt: skip
    if "worlds" not in results.items:
        return made
    conflict, counter = results.flags("worlds", "conflict"), results.flags("worlds", "counter")
    for arm in WORLDS:
        if (seeds := results.seeds(arm)) and conflict.any():
            right = results.right(arm, "worlds", "full", seeds)
            gap = right[:, conflict & ~counter] - right[:, conflict & counter]
            made.append({"kind": "reliance", "arm": arm, "consistent - counter": results.figure(gap)})
    return made


def table(results: Results) -> tuple[list[str], list[dict[str, Any]]]:
    """A line for each arm and test."""
    lines, made = [], []
    for arm, what in ARMS.items():
        seeds = results.seeds(arm)
        for test in TESTS if seeds else ():
            if test not in results.cells[arm, seeds[0]]["right"]:
                continue
            figures = {c: results.figure(results.right(arm, test, c, seeds)) for c in CONTROLS}
            for transform in ("mirror", "reverse") if test != "worlds" else ():
                figures[f"{transform} pair"] = results.figure(results.pairs(arm, test, transform, seeds))
            told = "  ".join(f"{c} {f['value']:.1f}" for c, f in figures.items())
            lines.append(f"{what:<34} test {test:<9} {len(seeds)} seeds  {told}")
            made.append({"kind": "figures", "arm": arm, "test": test, "seeds": seeds, **figures})
            kinds = np.array(results.items[test]["kinds"])
            right = results.right(arm, test, "full", seeds).mean(0)
            by_kind = {k: round(100 * float(right[kinds == k].mean()), 1) for k in dict.fromkeys(kinds.tolist())}
            made[-1]["by_kind"] = by_kind
            lines.append(f"{'':<34} " + ", ".join(f"{k} {v}" for k, v in by_kind.items()))
    return lines, made


def _points(figure: dict[str, Any]) -> str:
    return f"{figure['value']:+.1f} [{figure['low']:+.1f}, {figure['high']:+.1f}]"


def finish(out: Path, seeds: int, draws: int) -> None:
    """Print the report; write its rows beside the results."""
    results = Results(read(out), draws)
    lines, made = table(results)
    for row in decompositions(results):
        made.append(row)
        told = ", ".join(f"{k} {_points(v)}" for k, v in row.items() if isinstance(v, dict))
        where = row.get("arm") or f"{row['test']} test, trained on {row['trained']}, {row['world']} worlds"
        lines.append(f"{where}: {told}")
    verdicts = [judge_controls(results, seeds), judge_worlds(results, seeds)]
    print("\n".join([*lines, "", "Claims:", *verdict_lines(verdicts, seeds)]))
    write(out.with_name(f"{out.stem}_verdicts.jsonl"), [*made, *verdicts])


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--smoke" in argv:
        argv.remove("--smoke")
        with tempfile.TemporaryDirectory() as folder:
            return main(["--quick", f"--work={folder}", f"--out={folder}/smoke.jsonl", "--seeds=1", *argv])
    parser = make_parser(__doc__, "mcq_micro", "rendered questions, kept between runs", 5, ARMS, "seed")
    parser.add_argument("--smoke", action=argparse.BooleanOptionalAction, help="a run of seconds; nothing is kept")
    args = parse(parser, argv, ARMS)
    sizes, out = (QUICK if args.quick else SIZES), args.out or RESULTS / "mcq_micro.jsonl"
    if args.report:
        finish(out, args.seeds, args.draws)
        return 0
    rows = same_settings(parser, out, sizes)
    worlds = Worlds(sizes, args.work or Path("runs/mcq_micro"))
    known = {row["test"] for row in rows if row["kind"] == "items"}
    wanted = [t for t in TESTS if any((arm in MAIN) == (t != "worlds") for arm in args.arms)]
    for test in wanted:
        if test not in known:
            append(out, items_row(test, worlds.get("test", test), sizes))
    done = {(row["arm"], row["seed"]) for row in rows if row["kind"] == "cell"}
    cells = [(arm, seed) for seed in range(args.seeds) for arm in args.arms]

    def say(cell: Cell, row: dict[str, Any]) -> str:
        told = "; ".join(f"{t} " + ", ".join(f"{c} {v:.3f}" for c, v in f.items()) for t, f in row["accuracy"].items())
        return f"{cell[0]}, seed {cell[1]}: {told}; {row['cpu_s']} s of CPU"

    run_cells(of_shard(cells, 1, args.shard), done, lambda cell: run_cell(cell, worlds), out, say)
    finish(out, args.seeds, args.draws)
    return 0


if __name__ == "__main__":
    sys.exit(main())

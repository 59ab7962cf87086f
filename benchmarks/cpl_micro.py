"""The micro-experiment of CPL: does its counterfactual loss help CoCoOp on classes that the fit never saw?

    python benchmarks/cpl_micro.py                      # everything; stop and start it as you like
    python benchmarks/cpl_micro.py --report             # only the report on what is there
    python benchmarks/cpl_micro.py --shard 1/2          # half of the seeds, beside another process with 0/2

For each seed a small CLIP is trained on the flat world of shapes.py and frozen. The 36 classes are "a {colour}
{shape}"; 18 are fitted, from 8 pictures each, the other 18 are new. In training the tint of the ground agrees with the
class in 95 % of the pictures, a shortcut; in the tests it agrees as often (iid) or is random (shifted, new). A cell is
one (arm, seed); each finished cell is one row in the results, and cells that have a row are not run again.

The claim: the 95 % interval of the paired difference CPL - CoCoOp on new classes, for the released loss at its own
weight of 1, lies above 0. All arms take the same pictures, order and steps. The others are printed beside it: two
weights of the released loss, three settings of the paper's, random negatives instead of text-nearest ones, and random
masks of the same size (does it matter that the change is small?). Arms, sizes and claim were fixed before any run; the
verdict is printed whether it holds or not.
"""

import itertools
import sys
import time
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import make_parser, of_shard, parse, run_cells, same_settings
from records import RESULTS, append, environment, figure_text, read, summary, verdict, verdict_lines, write
from shapes import COLOURS, KINDS, SHAPES, TINTS, Kind, Scene, place, render
from shapes_clip import shapes_clip

from wm_pipelines.clip.towers import encode_images, encode_texts
from wm_pipelines.cpl.modeling import CPLPromptLearner
from wm_pipelines.cpl.pipeline import CPLPipeline
from wm_pipelines.cpl.solver import counterfactual, greedy_masks
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.noise import randn
from wm_pipelines.runtime.random import keyed

SIZES: dict[str, Any] = {
    "clip_steps": 1500, "clip_batch": 96, "shots": 8, "test": 20, "epochs": 30, "batch": 8, "lr": 0.01, "tint": 0.95,
    "gap_pairs": 60,
}  # fmt: skip
QUICK: dict[str, Any] = SIZES | {
    "clip_steps": 2, "clip_batch": 4, "shots": 1, "test": 1, "epochs": 1, "batch": 18, "gap_pairs": 2,
}  # fmt: skip
ARMS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "zero-shot": ("the prompt before any fit", None),
    "cocoop": ("CoCoOp: lambda 0", {"lambda_cf": 0.0}),
    "released-1": ("CPL released, lambda 1", {"lambda_cf": 1.0}),
    "released-5": ("CPL released, lambda 5", {"lambda_cf": 5.0}),
    "paper-.1-.5": ("CPL paper, tau .1, lambda .5", {"variant": "paper", "tau": 0.1, "lambda_cf": 0.5}),
    "paper-.1-2": ("CPL paper, tau .1, lambda 2", {"variant": "paper", "tau": 0.1, "lambda_cf": 2.0}),
    "paper-.02-1": ("CPL paper, tau .02, lambda 1", {"variant": "paper", "tau": 0.02, "lambda_cf": 1.0}),
    "random-negative": ("released, lambda 1, random negatives", {"lambda_cf": 1.0}),
    "random-mask": ("released, lambda 1, random masks of equal size", {"lambda_cf": 1.0, "mask": "random"}),
}
CLAIM, REFERENCE = "released-1", "cocoop"
TESTS = ("seen iid", "seen shifted", "new")

Cell = tuple[str, int]


def cells_of(arms: list[str], seeds: int) -> list[Cell]:
    """(arm, seed), seed by seed, so that an unfinished run has whole seeds."""
    return [(arm, seed) for seed in range(seeds) for arm in arms]


def halves() -> tuple[list[Kind], list[Kind]]:
    """Seen and new kinds: every colour and every shape is in both, no pair is."""
    place_of = {kind: list(COLOURS).index(kind[0]) + SHAPES.index(kind[1]) for kind in KINDS}
    return [k for k in KINDS if place_of[k] % 2 == 0], [k for k in KINDS if place_of[k] % 2]


def tint_of(kind: Kind) -> int:
    """The tint that goes with a class in training; six classes share one."""
    return (2 * list(COLOURS).index(kind[0]) + SHAPES.index(kind[1])) % len(TINTS)


def scenes_of(kinds: list[Kind], each: int, tint: float, *key: Any) -> tuple[list[Scene], list[int]]:
    """`each` scenes of every kind and their labels; the ground has the class's tint with probability `tint`."""
    scenes, labels = [], []
    for label, kind in enumerate(kinds):
        for n in range(each):
            rng = keyed("cpl micro", *key, label, n)
            own = tint_of(kind) if rng.random() < tint else None
            scenes.append(place(rng, [kind], tint=own))
            labels.append(label)
    return scenes, labels


def names_of(kinds: list[Kind]) -> list[str]:
    return [" ".join(kind) for kind in kinds]


class World:
    """The CLIP of a seed, its training pictures and its three tests."""

    def __init__(self, seed: int, sizes: dict[str, Any], work: Path):
        self.seed, self.sizes = seed, sizes
        self.parts = shapes_clip(seed, sizes["clip_steps"], work, sizes["clip_batch"])
        seen, new = halves()
        self.names = names_of(seen)
        scenes, self.labels = scenes_of(seen, sizes["shots"], sizes["tint"], seed, "train")
        self.pictures = render(scenes)
        self.tests = {}
        for test, kinds, tint in zip(TESTS, (seen, seen, new), (sizes["tint"], 0.0, 0.0), strict=True):
            shown, labels = scenes_of(kinds, sizes["test"], tint, seed, test)
            self.tests[test] = render(shown), torch.tensor(labels), names_of(kinds)

    def pipeline(self) -> CPLPipeline:
        """A new prompt of one token, "a", that starts as plain CLIP: the last layer of its net is zero."""
        learner = CPLPromptLearner.from_clip(self.parts["clip"], self.parts["tokenizer"], 1, "a", self.seed)
        with torch.no_grad():
            learner.meta_net.linear2.weight.zero_()
            learner.meta_net.linear2.bias.zero_()
        pipeline = CPLPipeline(**self.parts, prompt_learner=learner.requires_grad_(False).eval())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def random_negatives(self) -> dict[str, str]:
        """A table that gives each class another one, drawn by the seed."""
        rng = keyed("cpl micro negatives", self.seed)
        return {name: [n for n in self.names if n != name][rng.integers(len(self.names) - 1)] for name in self.names}


def run_cell(arm: str, world: World) -> dict[str, Any]:
    """Fit and test one cell."""
    sizes, options = world.sizes, ARMS[arm][1]
    pipeline, began = world.pipeline(), time.process_time()
    if options is not None:
        if arm == "random-negative":
            options = options | {"similarity": world.random_negatives()}
        pipeline.fit(
            world.pictures, world.labels, world.names, epochs=sizes["epochs"], batch_size=sizes["batch"],
            learning_rate=sizes["lr"], augment=False, seed=world.seed, **options,
        )  # fmt: skip
    spent = time.process_time() - began
    right = {}
    for test, (pictures, labels, names) in world.tests.items():
        logits = pipeline(pictures, names, batch_size=64).logits
        right[test] = (logits.argmax(1) == labels).int().tolist()
    last = pipeline.history[-1] if pipeline.history else {}
    return {
        "kind": "cell", "arm": arm, "seed": world.seed, "settings": sizes, "right": right,
        "last_epoch": {k: round(v, 5) for k, v in last.items()}, "fit_cpu_s": round(spent, 2), **environment(),
    }  # fmt: skip


@torch.no_grad()
def solver_properties(world: World) -> dict[str, Any]:
    """Of the greedy mask on this CLIP: sparsity, flips, and its gap to the smallest flip in 12 dimensions.

    For the gap, features are projected to 12 dimensions by a fixed random rotation, where all masks can be tried.
    """
    clip = world.parts["clip"]
    picture = encode_images(clip, world.pictures * 2 - 1).double()
    text = encode_texts(clip, world.parts["tokenizer"], world.names).double()
    nearest = (text @ text.T).fill_diagonal_(-2).argmax(1)
    labels = torch.tensor(world.labels)
    pairs = keyed("cpl micro pairs", world.seed).integers(len(labels), size=(world.sizes["gap_pairs"], 2))
    rows, others, own = [], [], []
    for i, j in pairs:
        wanted = (labels == nearest[labels[i]]).nonzero().flatten()
        rows.append(i), others.append(int(wanted[j % len(wanted)])), own.append(int(labels[i]))
    whole = greedy_masks(picture[rows], picture[others], text[own], text[nearest[own]])
    turn = torch.linalg.qr(randn((picture.shape[1], 12), "cpl micro turn").double())[0]
    small = [x @ turn for x in (picture[rows], picture[others], text[own], text[nearest[own]])]
    found = greedy_masks(*small)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=12))[1:], dtype=torch.float64)
    gaps, v, other, own_text, other_text = [], *[torch.nn.functional.normalize(x, dim=-1) for x in small]
    for row in range(len(rows)):
        if found.flipped[row]:
            changed = counterfactual(every, v[row], other[row])
            wins = changed @ other_text[row] - changed @ own_text[row] > 1e-12
            gaps.append(int(found.mask[row].sum() - every[wins].sum(1).min()))
    return {
        "kind": "solver", "seed": world.seed, "settings": world.sizes, "pairs": len(rows),
        "dimension": picture.shape[1], "swaps": [len(s) for s in whole.swaps],
        "flip_rate": float(whole.flipped.double().mean()), "gaps_at_12": gaps, **environment(),
    }  # fmt: skip


class Results:
    """Rows of cells by arm; seeds that two arms share are compared with each other, picture by picture."""

    def __init__(self, rows: list[dict[str, Any]], draws: int):
        self.draws = draws
        self.cells: dict[str, dict[int, dict]] = defaultdict(dict)
        for row in rows:
            if row["kind"] == "cell":
                self.cells[row["arm"]][row["seed"]] = row

    def right(self, arm: str, test: str) -> dict[int, np.ndarray]:
        """{seed: (pictures,) 100 where the arm is right}."""
        return {s: 100 * np.array(row["right"][test], float) for s, row in sorted(self.cells.get(arm, {}).items())}

    def figure(self, arm: str, test: str) -> dict[str, Any] | None:
        found = self.right(arm, test)
        return summary(np.stack(list(found.values())), self.draws) if found else None

    def difference(self, one: str, other: str, test: str) -> dict[str, Any] | None:
        """Mean of `one` - `other` in points over shared seeds and pictures with its interval."""
        a, b = self.right(one, test), self.right(other, test)
        shared = sorted(set(a) & set(b))
        return summary(np.stack([a[s] - b[s] for s in shared]), self.draws) if shared else None


def report(results: Results, rows: list[dict[str, Any]], seeds: int) -> tuple[str, list[dict[str, Any]]]:
    """The whole report as text, and as rows: figures of every arm, properties of the solver, the verdict."""
    lines, made = ["accuracy in per cent (chance 5.6), and the difference to CoCoOp on new classes in points"], []
    for arm, (name, _) in ARMS.items():
        figures = {test: results.figure(arm, test) for test in TESTS}
        if not figures["new"]:
            continue
        gap = results.difference(arm, REFERENCE, "new") if arm != REFERENCE else None
        words = "  ".join(f"{test} {figure_text(f)}" for test, f in figures.items())
        lines.append(f"{name:<48}{words}" + (f"  difference {figure_text(gap)}" if gap else ""))
        made.append({"kind": "figures", "arm": arm, **figures, "difference_new": gap})
    solved = [row for row in rows if row["kind"] == "solver"]
    if solved:
        swaps = np.concatenate([row["swaps"] for row in solved])
        gaps = np.concatenate([row["gaps_at_12"] for row in solved])
        minimal = float((gaps == 0).mean()) if len(gaps) else float("nan")
        flips = float(np.mean([row["flip_rate"] for row in solved]))
        lines.append(
            f"\ngreedy mask: {swaps.mean():.1f} of {solved[0]['dimension']} entries swapped, flip rate {flips:.3f}; "
            f"in 12 dimensions minimal in {minimal:.1%} of {len(gaps)} flips, largest gap {gaps.max(initial=0)}"
        )
        made.append({"kind": "solver", "swaps": float(swaps.mean()), "flip_rate": flips, "minimal_at_12": minimal})
    gap = results.difference(CLAIM, REFERENCE, "new")
    parts = gap and {f"{ARMS[CLAIM][0]} - CoCoOp on new classes (interval above 0)": [gap, gap["low"] > 0]}
    judged = [verdict("the counterfactual loss helps on new classes", parts, gap, seeds)]
    lines += ["\nPre-registered claim:", *verdict_lines(judged, seeds)]
    return "\n".join(lines), made + judged


def plot(results: Results, path: Path) -> None:
    """Differences to CoCoOp on new classes with their intervals, one row for each arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = [(arm, gap) for arm in ARMS if arm != REFERENCE and (gap := results.difference(arm, REFERENCE, "new"))]
    figure, axis = pyplot.subplots(figsize=(7, 0.4 * len(found) + 1.2), layout="constrained")
    for row, (_, gap) in enumerate(found):
        axis.plot([gap["low"], gap["high"]], [row, row], color="tab:blue")
        axis.plot(gap["value"], row, "o", color="tab:blue")
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set_yticks(range(len(found)), [ARMS[arm][0] for arm, _ in found])
    axis.invert_yaxis()
    axis.set_xlabel("new classes: accuracy minus CoCoOp's, points")
    with atomic(path) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)


def finish(out: Path, seeds: int, draws: int) -> None:
    """Print the report; write its rows and the plot beside the results."""
    rows = read(out)
    results = Results(rows, draws)
    text, made = report(results, rows, seeds)
    print(text)
    write(out.with_name(f"{out.stem}_verdicts.jsonl"), [{**row, "draws": draws} for row in made])
    if results.cells.get(REFERENCE):
        plot(results, out.with_name(f"{out.stem}.png"))


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, "cpl_micro", "folder of the CLIPs (default: runs/shapes)", 10, ARMS, "seed")
    args = parse(parser, argv, ARMS)
    sizes, out = (QUICK if args.quick else SIZES), args.out or RESULTS / "cpl_micro.jsonl"
    if args.report:
        finish(out, args.seeds, args.draws)
        return 0
    rows = same_settings(parser, out, sizes)
    done = {(row["arm"], row["seed"]) for row in rows if row["kind"] == "cell"}
    solved = {row["seed"] for row in rows if row["kind"] == "solver"}

    @lru_cache(maxsize=1)
    def world(seed: int) -> World:
        made = World(seed, sizes, args.work or Path("runs/shapes"))
        if seed not in solved:
            append(out, solver_properties(made))
        return made

    def say(cell: Cell, row: dict[str, Any]) -> str:
        return f"seed {cell[1]} {cell[0]}, new {100 * np.mean(row['right']['new']):.1f} %, {row['fit_cpu_s']} s of CPU"

    run_cells(
        of_shard(cells_of(args.arms, args.seeds), 1, args.shard), done,
        lambda cell: run_cell(cell[0], world(cell[1])), out, say,
    )  # fmt: skip
    finish(out, args.seeds, args.draws)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The micro-experiment of KAdaptation: what few parameters buy in few-shot transfer, against LoRA and its peers.

    python benchmarks/kadaptation_micro.py              # everything; stop and start it as you like
    python benchmarks/kadaptation_micro.py --report     # only the report on what is there

One small ViT is trained once, to name single objects, and frozen: all arms and all seeds stand on the same one. It is
then moved to counting objects and reading stripes, from five pictures of each of nine classes. A cell is one (arm,
seed); each finished cell is one row in the results, and cells that have a row are not run again. The seed sets the
shots, the validation pictures and the initial values. The 500 test pictures are the same for all.

The learning rate of an arm is chosen first, on seeds of their own: the best mean accuracy on their validation
pictures (five of each class, never trained on), ties to the smaller rate. Accuracy is that of the last step. Arms,
grids and claims were fixed before any run; the verdicts are printed whether they hold or not. What the task looks
like, the head's rate and the grids were chosen in a pilot on other seeds that also looked at test pictures, so the
experiment has test pictures of its own, which nobody had seen.
"""

import sys
import time
from pathlib import Path
from typing import Any

from cells import make_parser, parse, run_cells, same_settings
from kadaptation_arms import ARMS, train_arm
from kadaptation_verdicts import Results, plot, report
from kadaptation_world import CLASSES, Base, make_base, striped_counts
from records import RESULTS, append, environment, read, write

SIZES: dict[str, Any] = {
    "base_steps": 4000, "base_batch": 64, "base_test": 2000, "width": 64, "layers": 4,
    "shots": 5, "test": 500, "steps": 80, "head_rate": 1e-2,
}  # fmt: skip
QUICK: dict[str, Any] = SIZES | {"base_steps": 2, "base_batch": 4, "base_test": 8, "layers": 1, "test": 18, "steps": 2}
BASE_BAR = 0.95
"""Accuracy that the base must have, or nothing is run."""

TUNING_SEEDS = (100, 101, 102)

Cell = tuple[str, int]


def cells_of(arms: list[str], seeds: int) -> list[Cell]:
    """(arm, seed): the seeds that choose rates first, then seed by seed, so that an unfinished run has whole seeds."""
    tuned = list(dict.fromkeys(ARMS[arm].rate_of or arm for arm in arms))
    return [(arm, s) for s in TUNING_SEEDS for arm in tuned] + [(arm, s) for s in range(seeds) for arm in arms]


def data_of(seed: int, sizes: dict[str, Any]) -> dict[str, tuple]:
    """{"train", and "val" or "test"}: (pictures, labels) of a seed; all seeds are tested on the same pictures."""
    few = sizes["shots"] * CLASSES
    train = striped_counts(f"train {seed}", few)
    if seed in TUNING_SEEDS:
        return {"train": train, "val": striped_counts(f"val {seed}", few)}
    return {"train": train, "test": striped_counts("sealed test", sizes["test"])}


def run_cell(cell: Cell, sizes: dict[str, Any], base: Base, settings: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train and measure one arm: at every rate of its grid on a tuning seed, at the chosen one on any other."""
    (arm, seed), began = cell, time.process_time()
    data, rates = data_of(seed, sizes), ARMS[arm].rates
    if seed not in TUNING_SEEDS:
        rates = (Results(read(out), 0).rate(ARMS[arm].rate_of or arm),)
    tried = {rate: train_arm(base, arm, seed, rate, sizes["head_rate"], data, sizes["steps"]) for rate in rates}
    trainable = {found.pop("trainable") for found in tried.values()}
    return {
        "kind": "tuning" if seed in TUNING_SEEDS else "cell", "arm": arm, "seed": seed, "settings": settings,
        "trainable": trainable.pop(), "rates": {f"{rate:g}": found for rate, found in tried.items()},
        "cpu_s": round(time.process_time() - began, 2), **environment(),
    }  # fmt: skip


def finish(out: Path, seeds: int, draws: int) -> None:
    """Print the report, write its rows and the plot beside the results."""
    results = Results(read(out), draws)
    text, rows = report(results, {arm: ARMS[arm].name for arm in ARMS}, seeds)
    print(text)
    write(out.with_name(f"{out.stem}_verdicts.jsonl"), [{**row, "draws": draws} for row in rows])
    plot(results, out.with_name(f"{out.stem}.png"))


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, "kadaptation_micro", "folder of a new base (default: runs/kadaptation)", 10, ARMS)
    parser.add_argument("--base-only", action="store_true", help="only train the base")
    args = parse(parser, argv, ARMS)
    sizes, out = (QUICK if args.quick else SIZES), args.out or RESULTS / "kadaptation_micro.jsonl"
    if args.report:
        finish(out, args.seeds, args.draws)
        return 0
    base = make_base(sizes, (args.work or Path("runs/kadaptation")) / "base", kept=not args.quick)
    if args.base_only:
        return 0
    if base.record["accuracy"] < BASE_BAR and not args.quick:
        parser.error(f"the base names {base.record['accuracy']:.1%} of its pictures; it needs {BASE_BAR:.0%}")
    grids = {arm: list(ARMS[arm].rates) for arm in ARMS}
    settings = {**sizes, "base": base.sha256[:16], "grids": grids}
    rows = same_settings(parser, out, settings, kinds=("base",))
    if not any(row["kind"] == "base" for row in rows):
        append(out, base.record)
    done = {(row["arm"], row["seed"]) for row in rows if row["kind"] != "base"}
    run_cells(
        cells_of(args.arms, args.seeds), done, lambda cell: run_cell(cell, sizes, base, settings, out), out,
        lambda cell, row: f"seed {cell[1]} {cell[0]}, {row['cpu_s']} s of CPU",
    )  # fmt: skip
    finish(out, args.seeds, args.draws)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the micro-experiments share: their arguments, and cells that are run once, also over several starts.

A cell is one combination of an experiment (an arm and a seed, say). Each finished cell is a row in the results, so an
experiment can be stopped and started at will; rows of other settings are never mixed with those of a run.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from records import append, read


def make_parser(
    doc: str, name: str, work: str, seeds: int, arms: Iterable[str] = (), shard: str | None = None
) -> argparse.ArgumentParser:
    """The arguments that all have.

    Args:
        doc: the script's docstring. name: of the script. work: what `--work` holds. seeds: the default number.
        arms: names that `--arms` may list, all of them by default; without any there is no such argument.
        shard: what `--shard i/n` takes every n-th of; without it there is no such argument.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help=work)
    parser.add_argument("--out", type=Path, help=f"results (default: benchmarks/results/{name}.jsonl)")
    if arms:
        parser.add_argument("--arms", default=",".join(arms))
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--draws", type=int, default=10_000, help="bootstrap draws")
    if shard:
        parser.add_argument("--shard", default="0/1", help=f"i/n: every n-th {shard}, from i")
    parser.add_argument("--report", action="store_true", help="only report on the rows that are there")
    parser.add_argument("--quick", action="store_true", help="a smoke run at meaningless sizes")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None, arms: Iterable[str] = ()) -> argparse.Namespace:
    """The arguments, `arms` as a list; the program ends where a smoke run would write to real results."""
    args = parser.parse_args(argv)
    if args.quick and not (args.work and args.out):
        parser.error("--quick needs --work and --out, so that it never mixes with real results")
    if arms:
        args.arms = args.arms.split(",")
        unknown = [arm for arm in args.arms if arm not in arms]
        if unknown:
            parser.error(f"--arms: unknown {unknown[0]!r}; there are {', '.join(arms)}")
    return args


def same_settings(
    parser: argparse.ArgumentParser, out: Path, settings: dict[str, Any], kinds: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of `out`; the program ends if some were made under other settings.

    Args:
        kinds: of rows that have no settings.
    """
    rows = read(out)
    for row in rows:
        if row["kind"] not in kinds and row["settings"] != settings:
            changed = [k for k, v in settings.items() if row["settings"].get(k) != v]
            parser.error(f"{out} holds rows of other settings ({', '.join(changed)}); name another --out")
    return rows


def of_shard(cells: Iterable[tuple], seed: int, shard: str) -> list[tuple]:
    """Those cells whose seed, at position `seed`, is the i-th of every n, for "i/n"."""
    first, every = map(int, shard.split("/"))
    return [cell for cell in cells if cell[seed] % every == first]


def every_nth(cells: Sequence[tuple], shard: str) -> list[tuple]:
    """The cells i, i + n, i + 2 n ..., for "i/n"."""
    first, every = map(int, shard.split("/"))
    return list(cells[first::every])


def run_cells(
    cells: Sequence[tuple], done: set[tuple], run: Callable[[Any], dict[str, Any]], out: Path, say: Callable[..., str]
) -> None:
    """Runs the cells that are not `done`, in their order, and appends each one's row to `out` when it is finished.

    Args:
        run: cell -> its row. say: (cell, row) -> a line about it.
    """
    left = [cell for cell in cells if cell not in done]
    print(f"{len(left)} of {len(cells)} cells to run", flush=True)
    began = time.monotonic()
    for i, cell in enumerate(left, 1):
        row = run(cell)
        append(out, row)
        minutes = (time.monotonic() - began) / i * (len(left) - i) / 60
        print(f"cell {i}/{len(left)}: {say(cell, row)}; about {minutes:.0f} minutes left", flush=True)

"""diorama-video: do objects persist and go where the words say, and does the intensity dial turn the motion?

    python benchmarks/mojito_video.py            # stop and start it as you like; then the report and the verdicts
    python benchmarks/mojito_video.py --shard 1/2 --twin FOLDER    # half of the clips, beside a process with 0/2

Prompts name one object of a pair seen in training. "direction": it moves left, right, towards the camera or away, no
level. "dial": the same kind of prompt at five levels; "no level": the same prompts and seeds without one. "twin": the
same prompts and noise under a checkpoint that was trained as long without a motion intensity model
(`options.inject=null`). A row is one clip, read by diorama-judge; flow is Farneback's inside the object, px per frame;
"broken" is the share of frames in which what has the object's colour fills 40 % of the picture or more.
Gates fixed before any run: direction at least 70 % (chance 25 %), the object in at least 90 % of the frames, means
over the prompts strictly rising with the level, Spearman of level and flow at least 0.5 with the lower end of its
interval above 0.3, mean flow without a level within 10 % of the twin's. One training run: the intervals tell of
prompts and seeds, not of other runs.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import every_nth
from clips import ClipMaker, check_rows, made_by, seen_object
from records import RESULTS, append, detectable, environment, figure_text, read, summary, verdict, verdict_lines, write

from wm_pipelines.evaluation.statistics import interval
from wm_pipelines.mojito.metrics import WAYS, acceleration, direction, object_flow, over_range, persistence, speed
from wm_pipelines.mojito.metrics import track_colour as track
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.random import keyed

BATCH = 4
BROKEN = 0.4  # of the picture: what fills a box like this is no object (150 training clips: 0.18 at most)
LEVELS = (1.0, 3.0, 5.0, 7.0, 9.0)
FIGURES = ("right", "seen", "broken", "flow", "speed", "acceleration", "over")
TWINS = {"direction": "twin direction", "no level": "twin"}  # part of the twin's rows, by the part they stand beside


def case(part: str, index: int) -> tuple[str, str, str]:
    """Prompt, colour, and the way that it names; the four ways come equally often."""
    rng = keyed("mojito video", "direction" if part.endswith("direction") else "dial", index)
    words, colour = seen_object(rng)
    way = WAYS[index % 4]
    return f"{words} moving {way}{' the camera' * (way == 'towards')}", colour, way


@torch.no_grad()
def measure(maker: ClipMaker, part: str, level: float | None, seed: int, indices: list[int]) -> list[dict[str, Any]]:
    """One row a prompt."""
    prompts, colours, ways = zip(*(case(part, i) for i in indices), strict=True)
    rows = []
    made = maker.make(prompts, seed, indices, motion_intensity=level)
    for index, colour, way, (frames, decoded, _) in zip(indices, colours, ways, made, strict=True):
        seen = track(maker.judge, frames, colour)
        went = direction(seen)
        rows.append(
            {
                "part": part,
                "level": level,
                "seed": seed,
                "prompt": index,
                "way": way,
                "went": went,
                "right": float(went == way),
                "seen": persistence(seen),
                "broken": float((box_sizes(seen.boxes) > BROKEN).float().mean()),
                "flow": object_flow(maker.judge, frames, [colour]),
                "promised": None if level is None else maker.pipe.intensity.flow_of(level),
                "speed": speed(seen, frames.shape[-1]),
                "acceleration": acceleration(seen, frames.shape[-1]),
                "over": over_range(decoded),
            }
        )
    return rows


def box_sizes(boxes: torch.Tensor) -> torch.Tensor:
    """Share of the picture that each box (F, 4) covers, NaN where nothing was seen."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def cells(
    directions: int, prompts: int, seeds: int, twin: bool = False
) -> list[tuple[str, float | None, int, list[int]]]:
    """(part, level, seed, prompts) of every batch; the twin's are the last."""

    def batches(count: int) -> list[list[int]]:
        return [list(range(i, min(i + BATCH, count))) for i in range(0, count, BATCH)]

    found = [("direction", None, 0, some) for some in batches(directions)]
    for seed in range(seeds):
        for some in batches(prompts):
            found += [("dial", level, seed, some) for level in LEVELS]
            found.append(("no level", None, seed, some))
    if twin:
        found += [(TWINS[part], level, seed, some) for part, level, seed, some in found if part in TWINS]
    return found


def table(rows: list[dict], part: str, level: float | None, figure: str, prompts: int, seeds: int) -> np.ndarray:
    """(seeds, prompts) of a figure, NaN where it wasn't measured."""
    values = np.full((seeds, prompts), np.nan)
    for row in rows:
        if row["part"] == part and row["level"] == level and row["seed"] < seeds and row["prompt"] < prompts:
            values[row["seed"], row["prompt"]] = row[figure]
    return values


def spearman(levels: np.ndarray, values: np.ndarray) -> float:
    """Rank correlation of two vectors (N,); equal values share their mean rank, NaN pairs are left out."""
    known = np.isfinite(values)
    if known.sum() < 3:
        return float("nan")
    return float(np.corrcoef(_ranks(levels[known]), _ranks(values[known]))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def dial_correlation(flows: np.ndarray, draws: int) -> dict[str, Any]:
    """Spearman of level and flow over all clips, with an interval over seeds and prompts.

    Args:
        flows: (levels, seeds, prompts).
    """
    count, seeds, prompts = flows.shape
    levels = np.broadcast_to(np.arange(count)[:, None, None], flows.shape)
    rng = keyed("dial bootstrap", seeds, prompts)
    found = np.empty(draws)
    for d in range(draws):
        rows, columns = rng.integers(seeds, size=(seeds, 1)), rng.integers(prompts, size=(seeds, prompts))
        found[d] = spearman(levels[:, rows, columns].ravel(), flows[:, rows, columns].ravel())
    found = found[np.isfinite(found)]
    low, high = interval(found)
    value = spearman(levels.ravel(), flows.ravel())
    return {"value": value, "low": low, "high": high, "seeds": seeds, "detectable": detectable(found)}


def report(rows: list[dict], directions: int, prompts: int, seeds: int, draws: int, out: Path) -> None:
    found: list[dict[str, Any]] = []
    arms = [("direction", None, directions, 1), *(("dial", level, prompts, seeds) for level in LEVELS)]
    arms += [("twin direction", None, directions, 1), *((part, None, prompts, seeds) for part in ("no level", "twin"))]
    for part, level, count, repeats in arms:
        grids = {figure: table(rows, part, level, figure, count, repeats) for figure in FIGURES}
        measured = {k: summary(v, draws) for k, v in grids.items() if np.isfinite(v).any()}
        if measured:
            found.append({"kind": "arm", "part": part, "level": level, **measured})
            name = part if level is None else f"{part} {level:g}"
            print(f"{name}: " + ", ".join(f"{k} {figure_text(v)}" for k, v in measured.items()))
    by = {(row["part"], row["level"]): row for row in found}
    known = {(r["part"], r["level"], r["seed"], r["prompt"]) for r in rows}
    planned = cells(directions, prompts, seeds, twin=True)
    missing = {part for part, level, seed, some in planned for i in some if (part, level, seed, i) not in known}
    judged = []
    way = by["direction", None] if "direction" not in missing else None
    parts = way and {
        "clips that go where the words say (at least 0.7)": (way["right"], way["right"]["value"] >= 0.7),
        "frames that show the object (at least 0.9)": (way["seen"], way["seen"]["value"] >= 0.9),
    }
    judged.append(verdict("one object persists and goes where the words say", parts, way and way["right"], 1))
    parts, correlation = None, None
    if "dial" not in missing:
        flows = np.stack([table(rows, "dial", level, "flow", prompts, seeds) for level in LEVELS])
        correlation = dial_correlation(flows, min(draws, 2000))
        rise = min((summary(step, draws) for step in np.diff(flows, axis=0)), key=lambda step: step["value"])
        parts = {
            "smallest rise of the mean flow from level to level, px (above 0)": (rise, rise["value"] > 0),
            "Spearman of level and flow (at least 0.5, interval above 0.3)": (
                correlation,
                correlation["value"] >= 0.5 and correlation["low"] > 0.3,
            ),
        }
    judged.append(verdict("the dial turns the motion", parts, correlation, seeds))
    parts, beside = None, None
    if not missing & {"twin", "no level"}:
        beside = by["no level", None]["flow"]
        share = beside["value"] / by["twin", None]["flow"]["value"]
        parts = {"mean flow without a level, as a share of the twin's (0.9 to 1.1)": (share, 0.9 <= share <= 1.1)}
    judged.append(verdict("without a level the clips move as the twin's do", parts, beside, seeds))
    print("\n".join(line for row in judged for line in verdict_lines([row], 1 if row is judged[0] else seeds)))
    for part, other in TWINS.items():
        count, repeats = (directions, 1) if part == "direction" else (prompts, seeds)
        for figure in FIGURES:
            ours, theirs = (table(rows, name, None, figure, count, repeats) for name in (part, other))
            if np.isfinite(ours - theirs).any():
                difference = summary(ours - theirs, draws)
                found.append({"kind": "beside the twin", "part": part, "figure": figure, **difference})
                print(f"{part}, {figure}, less the twin's: {figure_text(difference)}")
    sizes = f"--directions {directions} --prompts {prompts} --seeds {seeds}"
    entries = [_evaluation(way, f, directions, sizes) for f in ("right", "seen") if way]
    if correlation:
        found.append({"kind": "direction kept", **kept_direction(rows, prompts, seeds, draws)})
        print(f"clips at the other levels that go the way of the middle one: {figure_text(found[-1])}")
        plot([by["dial", level] for level in LEVELS], by.get(("twin", None)), rows, out.with_name(f"{out.stem}.png"))
        entries.append(_evaluation({"spearman": correlation}, "spearman", prompts * seeds * len(LEVELS), sizes))
    write(out.with_name(f"{out.stem}_verdicts.jsonl"), [*found, *judged, {"kind": "record", "evaluation": entries}])


def kept_direction(rows: list[dict], prompts: int, seeds: int, draws: int) -> dict[str, Any]:
    """Share of the other levels at which a prompt and seed goes the way that it goes at the middle level."""
    went = {(r["level"], r["seed"], r["prompt"]): r["went"] for r in rows if r["part"] == "dial"}
    middle = LEVELS[len(LEVELS) // 2]
    values = np.full((seeds, prompts), np.nan)
    for seed in range(seeds):
        for prompt in range(prompts):
            own = {level: went[level, seed, prompt] for level in LEVELS if (level, seed, prompt) in went}
            if len(own) == len(LEVELS):
                values[seed, prompt] = np.mean([way == own[middle] for level, way in own.items() if level != middle])
    return summary(values, draws)


def plot(arms: list[dict[str, Any]], twin: dict[str, Any] | None, rows: list[dict], path: Path) -> None:
    """Flow inside the object over the level: measured with its interval, as promised by the table, and the twin's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    promised = {row["level"]: row["promised"] for row in rows if row["part"] == "dial"}
    middle = np.array([arm["flow"]["value"] for arm in arms])
    low, high = (np.array([arm["flow"][k] for arm in arms]) for k in ("low", "high"))
    figure, axis = pyplot.subplots(figsize=(4.5, 3.2), layout="constrained")
    axis.plot(LEVELS, [promised[level] for level in LEVELS], "--", color="grey", label="training clips of that level")
    axis.errorbar(LEVELS, middle, np.clip([middle - low, high - middle], 0, None), marker="o", capsize=3, label="made")
    if twin:
        axis.axhline(twin["flow"]["value"], linestyle=":", color="grey", label="trained without the dial")
    axis.set(xlabel="motion_intensity", ylabel="flow inside the object, px a frame", ylim=(0, None))
    axis.legend()
    with atomic(path) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)


def _evaluation(row: dict[str, Any], figure: str, count: int, sizes: str) -> dict[str, Any]:
    names = {"right": "direction accuracy", "seen": "persistence", "spearman": "Spearman of level and flow"}
    value = row[figure]
    return {
        "task": "text-to-video",
        "dataset": "Diorama prompts, one moving object",
        "metric": names[figure],
        "value": value["value"],
        "ci95": [value["low"], value["high"]],
        "seeds": list(range(value["seeds"])),
        "n": count,
        "command": f"python benchmarks/mojito_video.py {sizes}",
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder; default: embedded diorama-video")
    parser.add_argument("--out", type=Path, default=RESULTS / "mojito_video.jsonl")
    parser.add_argument("--directions", type=int, default=64, help="prompts of the direction part")
    parser.add_argument("--prompts", type=int, default=32, help="prompts of the dial part")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--draws", type=int, default=10_000, help="bootstrap draws")
    parser.add_argument("--twin", type=Path, help="folder of a checkpoint trained as long with options.inject=null")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th batch, from i")
    parser.add_argument("--report", action="store_true", help="only report on the rows that are there")
    args = parser.parse_args(argv)
    sizes = (args.directions, args.prompts, args.seeds, args.draws)
    if min(sizes) < 1:
        parser.error(f"sizes are {sizes}; each must be 1 or more")
    rows, made = read(args.out), made_by(args.checkpoint)["checkpoint"]
    check_rows([r for r in rows if r["part"] not in TWINS.values()], {"checkpoint": made}, args.out)
    if args.twin:
        twin = made_by(args.twin)["checkpoint"]
        check_rows([r for r in rows if r["part"] in TWINS.values()], {"checkpoint": twin}, args.out)
    done = {(r["part"], r["level"], r["seed"], r["prompt"]) for r in rows}
    whole = cells(args.directions, args.prompts, args.seeds, args.twin is not None)
    left = [
        (part, level, seed, some)
        for part, level, seed, batch in every_nth(whole, args.shard)
        if (some := [p for p in batch if (part, level, seed, p) not in done])
    ]
    if left and not args.report:
        where, makers = environment(), {}
        for part, level, seed, some in left:
            folder = args.twin if part in TWINS.values() else args.checkpoint
            maker = makers[folder] = makers.get(folder) or ClipMaker(folder)
            for row in measure(maker, part, level, seed, some):
                append(args.out, {**row, "checkpoint": maker.checkpoint, **where})
        rows = read(args.out)
    report(rows, args.directions, args.prompts, args.seeds, args.draws, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

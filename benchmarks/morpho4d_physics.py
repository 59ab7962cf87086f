"""The physics report on clips whose truth is known: does it tell valid motion from what cannot be?

    python benchmarks/morpho4d_physics.py               # 200 clips to calibrate, 100 fresh valid ones, 50 a violation
    python benchmarks/morpho4d_physics.py --verdict     # reads the rows: thresholds, areas under the curve, constants

Depth and masks are the renderer's, lifted without a fit, at 64 and 32 pixels. Thresholds come from the 200 alone;
areas under the ROC curve hold the overall score of fresh valid clips against that of each violation (bootstrap over
clips).
Claim: 0.95 or more for each violation.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import ClipMaker, seen_object
from records import RESULTS, append, environment, read

from wm_pipelines.diorama.cameras import camera_matrices
from wm_pipelines.diorama.physics import FAMILIES, sample_physics
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.diorama.violations import VIOLATIONS, sample_violation, still_frames
from wm_pipelines.mojito.metrics import WAYS
from wm_pipelines.morpho4d.physics.footage import floor_depth, judged_masks, world_camera
from wm_pipelines.morpho4d.physics.report import PhysicsReport, clip_physics
from wm_pipelines.morpho4d.physics.thresholds import calibrate
from wm_pipelines.runtime.random import keyed

SIZES = (64, 32)
DRAWS = 2000


def lifted(frames: tuple[Scene, ...], size: int) -> PhysicsReport:
    """The report of a clip that is a scene at rest for each frame."""
    seen = render(list(frames), size=size, maps=("ids", "depth"))
    k, pose = camera_matrices(frames[0], (0.0,), size)
    return clip_physics(seen.ids[:, 0], seen.depth[:, 0], (k, pose[0]), fps=frames[0].fps)


def clip(part: str, index: int) -> tuple[tuple[Scene, ...], dict[str, Any]]:
    """Scenes of a clip, and what is true of it."""
    if part in VIOLATIONS:
        made = sample_violation(part, "morpho4d physics", index)
        return made.frames, {"family": made.setup.family}
    setup = sample_physics(FAMILIES[index % len(FAMILIES)], "morpho4d physics", part, index)
    truth = {"family": setup.family, "shape": setup.scene.objects[0].shape}
    return still_frames(setup.simulated), truth | {f"true_{name}": value for name, value in setup.world.items()}


def row(part: str, index: int, size: int) -> dict[str, Any]:
    frames, truth = clip(part, index)
    found = lifted(frames, size)
    constants = {n: c and [c.value, c.low, c.high] for n, c in found.constants.items()}
    return {"part": part, "index": index, "size": size, **truth, "scores": found.scores, "constants": constants}


def video_rows(count: int, done: set) -> Iterator[dict[str, Any]]:
    """Clips of `diorama-video`: one object each, masks by `diorama-judge`, depth from the floor."""
    maker = ClipMaker(None)
    for index in range(count):
        if ("diorama-video", index, SIZES[0]) in done:
            continue
        words, _ = seen_object(keyed("morpho4d physics", "video", index))
        prompt = f"{words} moving {WAYS[index % 4]}{' the camera' * (WAYS[index % 4] == 'towards')}"
        frames = maker.make([prompt], 0, [index])[0][0]
        masks, names = judged_masks(frames)
        camera = world_camera(len(masks), tuple(masks.shape[1:]))
        found = clip_physics(masks, floor_depth(masks, camera), camera, names)
        about = {"part": "diorama-video", "index": index, "size": SIZES[0], "family": "video", "prompt": prompt}
        yield about | {"objects": found.objects, "scores": found.scores, "constants": {}}


def worst(scores: dict[str, float], thresholds: dict[str, float]) -> float:
    return max(value / thresholds[name] for name, value in scores.items()) / thresholds["overall"]


def area(valid: np.ndarray, broken: np.ndarray) -> list[float]:
    """Area under the ROC curve, and its 95 % bootstrap interval."""

    def of(a: np.ndarray, b: np.ndarray) -> float:
        return float((b[:, None] > a).mean() + (b[:, None] == a).mean() / 2)

    rng = keyed("auc", len(valid), len(broken))
    drawn = [of(rng.choice(valid, len(valid)), rng.choice(broken, len(broken))) for _ in range(DRAWS)]
    return [round(float(v), 4) for v in (of(valid, broken), *np.quantile(drawn, (0.025, 0.975)))]


def summary(rows: list[dict[str, Any]], size: int) -> dict[str, Any]:
    mine = [r for r in rows if r["size"] == size]
    thresholds = calibrate(r["scores"] for r in mine if r["part"] == "calibration")
    fresh = [r for r in mine if r["part"] == "valid"]
    valid = np.array([worst(r["scores"], thresholds) for r in fresh])
    out: dict[str, Any] = {"size": size, "thresholds": {n: round(v, 4) for n, v in thresholds.items()}}
    out["false_alarms"] = round(float((valid > 1).mean()), 3)
    every = []
    for kind in VIOLATIONS:
        broken = np.array([worst(r["scores"], thresholds) for r in mine if r["part"] == kind])
        if len(broken):
            every.append(broken)
            out[kind] = {"auc": area(valid, broken), "found": round(float((broken > 1).mean()), 3), "n": len(broken)}
    if every:
        out["all"] = {"auc": area(valid, np.concatenate(every))}
    out["constants"] = {name: recovered(mine, name) for name in ("gravity", "friction", "restitution")}
    return out


def recovered(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Of valid clips in which the constant is at work: median error and how often the interval holds the truth."""
    families = {"gravity": ("throw",), "friction": ("slide",), "restitution": ("throw",)}[name]
    some = [r for r in rows if r["part"] in ("calibration", "valid") and r["family"] in families]
    if name == "restitution":
        some = [r for r in some if r["shape"] == "sphere"]
    pairs = [(r["constants"][name], r[f"true_{name}"]) for r in some if r["constants"][name]]
    if not pairs:
        return {"n": len(some), "found": 0}
    error = [c[0] - true for c, true in pairs]
    held = [c[1] <= true <= c[2] for c, true in pairs]
    mean = {"bias": float(np.median(error)), "error": float(np.median(np.abs(error))), "held": float(np.mean(held))}
    return {"n": len(some), "found": len(pairs), **{k: round(v, 4) for k, v in mean.items()}}


def plot(found: list[dict[str, Any]], rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(10, 4), sharey=True, layout="constrained")
    for ax, one in zip(axes, found, strict=True):
        parts = ["valid", *VIOLATIONS]
        values = [
            [worst(r["scores"], one["thresholds"]) for r in rows if r["size"] == one["size"] and r["part"] == part]
            for part in parts
        ]
        ax.boxplot(values, tick_labels=[p.replace(" ", "\n") for p in parts])
        ax.set_yscale("log")
        ax.axhline(1, color="red", linewidth=0.8)
        ax.set_title(f"{one['size']} x {one['size']}")
        ax.tick_params(axis="x", labelsize="x-small")
    axes[0].set_ylabel("score (1: 95 % of valid clips)")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=int, default=200)
    parser.add_argument("--valid", type=int, default=100)
    parser.add_argument("--each", type=int, default=50, help="clips of each violation")
    parser.add_argument("--videos", type=int, default=20, help="clips of diorama-video")
    parser.add_argument("--verdict", action="store_true", help="only read what is there")
    parser.add_argument("--out", type=Path, default=RESULTS / "morpho4d_physics.jsonl")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [r for r in read(args.out) if "part" in r]
    done = {(r["part"], r["index"], r["size"]) for r in rows}
    counts = {"calibration": args.calibration, "valid": args.valid, **dict.fromkeys(VIOLATIONS, args.each)}
    cells = [(part, n) for n in range(max(counts.values())) for part, most in counts.items() if n < most]
    where = environment()
    for part, index in [] if args.verdict else cells:
        for size in SIZES:
            if (part, index, size) not in done:
                rows.append({"benchmark": "morpho4d_physics"} | row(part, index, size))
                append(args.out, rows[-1] | where)
    for made in [] if args.verdict or not args.videos else video_rows(args.videos, done):
        rows.append({"benchmark": "morpho4d_physics"} | made)
        append(args.out, rows[-1] | where)
    found = [summary(rows, size) for size in SIZES]
    plot(found, rows, args.out.with_suffix(".png"))
    holds = True
    for one in found:
        print(one)
        for kind in VIOLATIONS:
            good, enough = one[kind]["auc"][0] >= 0.95, one[kind]["n"] >= args.each
            holds &= good and enough
            word = ("HOLDS" if good else "DOES NOT HOLD") if enough else "TOO FEW CLIPS TO SAY"
            print(f"{kind} at {one['size']}, {one[kind]['n']} clips: area {one[kind]['auc']}: {word}")
    videos = [worst(r["scores"], found[0]["thresholds"]) for r in rows if r["part"] == "diorama-video"]
    if videos:
        print(f"diorama-video: median score {np.median(videos):.2f}, {np.mean(np.array(videos) > 1):.2f} above 1")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())

"""The physics report on clips whose truth is known: does it tell valid motion from what cannot be?

    python benchmarks/morpho4d_physics.py               # 200 clips to calibrate, 100 fresh valid ones, 50 a violation
    python benchmarks/morpho4d_physics.py --only-fits   # 24, 16 and 10 a violation through Gaussians
    python benchmarks/morpho4d_physics.py --verdict     # reads the rows: thresholds, areas under the curve, constants

Depth and masks are the renderer's, lifted without a fit, at 64 and 32 pixels; fits are of four cameras around the
clip, 64 x 64, 300 steps. Thresholds come from the 200 (24) alone;
areas under the ROC curve hold the overall score of fresh valid clips against that of each violation (bootstrap over
clips).
Claim: 0.95 or more for each violation.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import ClipMaker, seen_object
from records import RESULTS, append, environment, read
from safetensors import safe_open
from safetensors.torch import save_file

from wm_pipelines.diorama.cameras import camera_matrices, ring_cameras
from wm_pipelines.diorama.physics import FAMILIES, sample_physics
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.diorama.violations import VIOLATIONS, sample_violation, still_frames
from wm_pipelines.mojito.metrics import WAYS
from wm_pipelines.morpho4d.capture import Capture
from wm_pipelines.morpho4d.fitting import FitSettings, fit_scene
from wm_pipelines.morpho4d.gaussians import Cameras
from wm_pipelines.morpho4d.physics.footage import footage_physics
from wm_pipelines.morpho4d.physics.report import clip_physics, scene_physics
from wm_pipelines.morpho4d.physics.thresholds import UNJUDGED, calibrate
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.random import keyed

SIZES = (64, 32)
FIT, VIEWS, STEPS = "fit", 4, 300
DRAWS = 2000


def rendered(part: str, index: int, size: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What a clip shows and its camera, and what is true of it."""
    frames, truth = clip(part, index)
    seen = render(list(frames), size=size, maps=("ids", "depth"))
    k, pose = camera_matrices(frames[0], (0.0,), size)
    maps = {"ids": seen.ids[:, 0].contiguous(), "depth": seen.depth[:, 0].contiguous(), "K": k, "T_cw": pose[0]}
    return maps, truth | {"fps": frames[0].fps}


def kept(part: str, index: int, size: int, folder: Path | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The same, from `folder` where an earlier run has left it there."""
    if folder is None:
        return rendered(part, index, size)
    path = folder / f"{part.replace(' ', '_')}-{index}-{size}.safetensors"
    if not path.exists():
        maps, truth = rendered(part, index, size)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            save_file(maps, partial, metadata={"truth": json.dumps(truth)})
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["truth"])


def clip(part: str, index: int) -> tuple[tuple[Scene, ...], dict[str, Any]]:
    """Scenes of a clip, and what is true of it."""
    if part in VIOLATIONS:
        made = sample_violation(part, "morpho4d physics", index)
        return made.frames, {"family": made.setup.family}
    setup = sample_physics(FAMILIES[index % len(FAMILIES)], "morpho4d physics", part, index)
    truth = {"family": setup.family, "shape": setup.scene.objects[0].shape}
    return still_frames(setup.simulated), truth | {f"true_{name}": value for name, value in setup.world.items()}


def fitted(part: str, index: int, folder: Path | None) -> tuple[Scene4D, torch.Tensor, dict[str, Any]]:
    """The scene that was fitted to what cameras around a clip see, what the first saw, and what is true of it."""
    frames, truth = clip(part, index)
    cameras = ring_cameras(VIEWS, radius=6.4)
    seen = render(list(frames), (0.0,), SIZES[0], ("albedo", "ids", "depth"), cameras=cameras)
    video, ids, depth = (getattr(seen, name)[:, :, 0].swapaxes(0, 1) for name in ("albedo", "ids", "depth"))
    k, pose = camera_matrices(frames[0], (0.0,), SIZES[0], cameras)
    poses = pose.float().expand(-1, len(frames), -1, -1)
    path = folder and folder / f"fit-{part.replace(' ', '_')}-{index}"
    if path and path.exists():
        return Scene4D.from_pretrained(path), ids[0], truth
    capture = Capture(video, Cameras(k.float(), poses, (SIZES[0],) * 2), depth, ids, {}, frames[0].fps)
    scene, _ = fit_scene(capture, FitSettings(steps=STEPS))
    if path:
        scene.save_pretrained(path)
    return scene, ids[0], truth


def fitted_row(part: str, index: int, folder: Path | None) -> dict[str, Any]:
    scene, ids, truth = fitted(part, index, folder)
    found = scene_physics(scene, ids, simulator=True)
    constants = {n: c and [c.value, c.low, c.high] for n, c in found.constants.items()}
    return {"part": part, "index": index, "size": FIT, **truth, "scores": found.scores, "constants": constants}


def row(part: str, index: int, size: int, folder: Path | None) -> dict[str, Any]:
    maps, truth = kept(part, index, size, folder)
    found = clip_physics(maps["ids"], maps["depth"], (maps["K"], maps["T_cw"]), fps=truth.pop("fps"), simulator=True)
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
        found = footage_physics(frames, simulator=False)
        about = {"part": "diorama-video", "index": index, "size": SIZES[0], "family": "video", "prompt": prompt}
        yield about | {"objects": found.objects, "scores": found.scores, "constants": {}}


def worst(scores: dict[str, float], thresholds: dict[str, float]) -> float:
    judged = {name: value for name, value in scores.items() if name not in UNJUDGED}
    return max(value / thresholds.get(name, 1.0) for name, value in judged.items()) / thresholds["overall"]


def area(valid: np.ndarray, broken: np.ndarray) -> list[float]:
    """Area under the ROC curve, and its 95 % bootstrap interval."""

    def of(a: np.ndarray, b: np.ndarray) -> float:
        return float((b[:, None] > a).mean() + (b[:, None] == a).mean() / 2)

    rng = keyed("auc", len(valid), len(broken))
    drawn = [of(rng.choice(valid, len(valid)), rng.choice(broken, len(broken))) for _ in range(DRAWS)]
    return [round(float(v), 4) for v in (of(valid, broken), *np.quantile(drawn, (0.025, 0.975)))]


def simulator_area(valid: list[dict[str, Any]], broken: list[dict[str, Any]]) -> list[float] | None:
    """The area under the curve of the agreement with a simulator alone; None where too few clips have it."""
    both = [[r["scores"]["agreement"] for r in rows if "agreement" in r["scores"]] for rows in (valid, broken)]
    return area(*map(np.array, both)) if min(map(len, both)) >= 10 else None


def summary(rows: list[dict[str, Any]], size: int | str) -> dict[str, Any]:
    mine = [r for r in rows if r["size"] == size]
    thresholds = calibrate(r["scores"] for r in mine if r["part"] == "calibration")
    fresh = [r for r in mine if r["part"] == "valid"]
    valid = np.array([worst(r["scores"], thresholds) for r in fresh])
    out: dict[str, Any] = {"size": size, "thresholds": {n: round(v, 4) for n, v in thresholds.items()}}
    known = [r["scores"]["agreement"] for r in fresh if "agreement" in r["scores"]]
    out["valid_lost"] = [round(float(q), 2) for q in np.quantile(known, (0.25, 0.5, 0.75))] if known else None
    out["false_alarms"] = round(float((valid > 1).mean()), 3)
    every = []
    for kind in VIOLATIONS:
        broken = np.array([worst(r["scores"], thresholds) for r in mine if r["part"] == kind])
        if len(broken):
            every.append(broken)
            out[kind] = {"auc": area(valid, broken), "found": round(float((broken > 1).mean()), 3), "n": len(broken)}
            out[kind]["simulator"] = simulator_area(fresh, [r for r in mine if r["part"] == kind])
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

    figure, axes = pyplot.subplots(1, len(found), figsize=(5 * len(found), 4), sharey=True, layout="constrained")
    for ax, one in zip(axes, found, strict=True):
        parts = ["valid", *VIOLATIONS]
        values = [
            [worst(r["scores"], one["thresholds"]) for r in rows if r["size"] == one["size"] and r["part"] == part]
            for part in parts
        ]
        ax.boxplot(values, tick_labels=[p.replace(" ", "\n") for p in parts])
        ax.set_yscale("log")
        ax.axhline(1, color="red", linewidth=0.8)
        ax.set_title("fitted, 64 x 64" if one["size"] == FIT else f"{one['size']} x {one['size']}")
        ax.tick_params(axis="x", labelsize="x-small")
    axes[0].set_ylabel("score (1: 95 % of valid clips)")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def cells(calibration: int, valid: int, each: int) -> list[tuple[str, int]]:
    counts = {"calibration": calibration, "valid": valid, **dict.fromkeys(VIOLATIONS, each)}
    return [(part, n) for n in range(max(counts.values())) for part, most in counts.items() if n < most]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=int, default=200)
    parser.add_argument("--valid", type=int, default=100)
    parser.add_argument("--each", type=int, default=50, help="clips of each violation")
    parser.add_argument("--videos", type=int, default=20, help="clips of diorama-video")
    parser.add_argument("--fits", type=int, nargs=3, default=(24, 16, 10), help="calibration, valid, each violation")
    parser.add_argument("--only-fits", action="store_true")
    parser.add_argument("--verdict", action="store_true", help="only read what is there")
    parser.add_argument("--maps", type=Path, help="keep what clips show in this folder, to score them again")
    parser.add_argument("--out", type=Path, default=RESULTS / "morpho4d_physics.jsonl")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [r for r in read(args.out) if "part" in r]
    done = {(r["part"], r["index"], r["size"]) for r in rows}
    where = environment()

    def add(found: dict[str, Any]) -> None:
        rows.append({"benchmark": "morpho4d_physics"} | found)
        append(args.out, rows[-1] | where)

    for part, index in [] if args.verdict or args.only_fits else cells(args.calibration, args.valid, args.each):
        for size in SIZES:
            if (part, index, size) not in done:
                add(row(part, index, size, args.maps))
    first, valid, each = args.fits
    for part, index in [] if args.verdict else [*cells(first, 0, 0), *cells(0, valid, each)]:
        if (part, index, FIT) not in done:
            add(fitted_row(part, index, args.maps))
    for made in [] if args.verdict or args.only_fits or not args.videos else video_rows(args.videos, done):
        add(made)
    sizes = (*SIZES, FIT) if any(r["size"] == FIT for r in rows) else SIZES
    found = [summary(rows, size) for size in sizes]
    plot(found, rows, args.out.with_suffix(".png"))
    holds = True
    for one in found:
        print(one)
        for kind in VIOLATIONS:
            needed = each if one["size"] == FIT else args.each
            good, enough = one[kind]["auc"][0] >= 0.95, one[kind]["n"] >= needed
            holds &= good and enough
            word = ("HOLDS" if good else "DOES NOT HOLD") if enough else "TOO FEW CLIPS TO SAY"
            print(f"{kind} at {one['size']}, {one[kind]['n']} clips: area {one[kind]['auc']}: {word}")
    videos = [worst(r["scores"], found[0]["thresholds"]) for r in rows if r["part"] == "diorama-video"]
    if videos:
        print(f"diorama-video: median score {np.median(videos):.2f}, {np.mean(np.array(videos) > 1):.2f} above 1")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())

"""VLM4D's first remedy on the miniature world: fine-tuning on real-like clips, on synthetic-like ones and on both.

    python benchmarks/diorama_vlm_sft.py --base runs/diorama-vlm-pictures/export    # about 2.5 core-hours; resumable
    python benchmarks/diorama_vlm_sft.py --report

VLM4D (arXiv 2508.02095, table 2) fine-tunes on real videos, on synthetic ones, or on both, and tests on real ones. A
gain there may be the text's: a model that never sees a frame learns much from the same questions. So each arm has a
blind twin, trained on the same texts, and what counts is the difference between the two on the same questions. Splits
are by clip. "Real-like" are crowds, moving cameras and events of the physics, "synthetic-like" one object sent along
one way (`wm_pipelines.video_quiz.scenes`). All arms start from one model that has seen single pictures only:

    wm train diorama-vlm --out runs/diorama-vlm-pictures --set options.sources=[pictures] --set options.events=0 \\
        --set options.pictures_first=0 --set steps=2000
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from cells import make_parser, parse, run_cells, same_settings
from records import RESULTS, environment, read

from wm_pipelines.evaluation.statistics import clustered_mean, mcnemar, paired_difference
from wm_pipelines.training import Recipe, build, train
from wm_pipelines.video_quiz.demo import load_parts
from wm_pipelines.video_quiz.metrics import right
from wm_pipelines.video_quiz.scenes import QuizClips

SOURCES = {"real": ["real"], "synthetic": ["synthetic"], "both": ["real", "synthetic"]}
ARMS = ("base", *(f"{name}{way}" for name in SOURCES for way in ("", "-blind")))
TESTS = ("real", "synthetic")
SIZES: dict[str, Any] = {
    "steps": 1200, "batch": 64, "lr": 5e-4, "length": 5000, "events": 100, "test": 1000, "options": {},
}  # fmt: skip
QUICK: dict[str, Any] = SIZES | {
    "steps": 2, "batch": 2, "length": 2, "events": 0, "test": 4,
    "options": {"width": 16, "layers": 1, "heads": 2, "inner": 32, "vision_width": 16, "vision_layers": 1,
                "vision_inner": 32, "size": 32, "families": ["translation", "absent"]},
}  # fmt: skip


def fine_tuned(arm: str, base: Path, sizes: dict[str, Any], work: Path) -> Path:
    """The checkpoint of an arm, trained in `work` where it is not there yet."""
    if arm == "base":
        return base
    name, _, blind = arm.partition("-")
    options = {**sizes["options"], "sources": SOURCES[name], "blind": bool(blind), "pictures_first": 0, "open": 0.0,
               "length": sizes["length"] // len(SOURCES[name]), "cache": str(work / f"{name}.safetensors"),
               "events": 0 if name == "synthetic" else sizes["events"] // len(SOURCES[name])}  # fmt: skip
    recipe = Recipe(
        task="diorama-vlm", steps=sizes["steps"], batch_size=sizes["batch"], lr=sizes["lr"],
        warmup=min(50, sizes["steps"] // 2), schedule="cosine", weight_decay=0.05, betas=(0.9, 0.98),
        init_from=str(base), save_every=100, options=options,
    )  # fmt: skip
    train(build(recipe), recipe, work / arm)
    return work / arm / "export"


def run_arm(arm: str, base: Path, sizes: dict[str, Any], work: Path) -> dict[str, Any]:
    """Which test questions an arm answers right; a blind one is asked without the clip, as it was trained."""
    parts = load_parts(fine_tuned(arm, base, sizes, work))
    control = "blind" if arm.endswith("-blind") else "full"
    rows = {}
    for source in TESTS:
        quiz = QuizClips(
            sizes["test"], source, sizes["events"] * (source == "real"), split="test",
            size=parts[1].image_processor.size["height"], families=sizes["options"].get("families"),
            cache=str(work / f"test-{source}.safetensors"),
        )  # fmt: skip
        rows[source] = right(*parts, quiz, (control,))[control].astype(int).tolist()
    return {"kind": "cell", "settings": sizes, "arm": arm, "right": rows, **environment()}


def report(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each arm and test: its accuracy, and how much of it its blind twin has too."""
    found = {row["arm"]: row["right"] for row in rows if row["kind"] == "cell"}
    lines = []
    for arm in (arm for arm in ARMS if arm in found):
        for test in TESTS:
            mine = np.array(found[arm][test])
            mean = clustered_mean(mine)
            line = f"{arm:<16} {test:<10} {_points(mean)}"
            for name, other in (("over the base", "base"), ("net of blind", f"{arm}-blind")):
                if other in found and other != arm and not arm.endswith("-blind"):
                    theirs = np.array(found[other][test])
                    p = mcnemar(mine, theirs).p
                    line += f"; {name} {_points(paired_difference(mine, theirs), '+')} (p {p:.1e})"
            lines.append(line)
    return lines


def _points(mean, sign: str = "") -> str:
    return f"{100 * mean.value:{sign}.1f} [{100 * mean.low:{sign}.1f}, {100 * mean.high:{sign}.1f}]"


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, "diorama_vlm_sft", "runs and clips, kept between runs", 1, ARMS)
    parser.add_argument("--base", type=Path, help="folder of the model that all arms start from")
    args: argparse.Namespace = parse(parser, argv, ARMS)
    sizes, out = (QUICK if args.quick else SIZES), args.out or RESULTS / "diorama_vlm_sft.jsonl"
    if not args.report:
        if args.base is None:
            parser.error("--base is missing: the folder of the model that all arms start from")
        done = {(row["arm"],) for row in same_settings(parser, out, sizes)}
        work = args.work or Path("runs/diorama-vlm-sft")

        def say(cell: tuple[str], row: dict[str, Any]) -> str:
            return f"{cell[0]}: " + ", ".join(f"{test} {np.mean(r):.3f}" for test, r in row["right"].items())

        cells = [(arm,) for arm in args.arms]
        run_cells(cells, done, lambda cell: run_arm(cell[0], args.base, sizes, work), out, say)
    print("\n".join(report(read(out))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

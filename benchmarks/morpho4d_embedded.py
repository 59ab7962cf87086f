"""The embedded scene `morpho4d`: fitted, taught by the embedded `diorama-clip`, measured, and written with its record.

    python benchmarks/morpho4d_embedded.py                # wm_pipelines/embedded/morpho4d, its page, and the results
    python benchmarks/morpho4d_embedded.py --no-write     # figures only

Eight ring cameras, of which six are fitted and two are held out; 12 frames of 64 x 64, plain colours, a chequered
floor. CLIP looks at the same pictures with light over a plain floor, as it learnt from such. Run it again whenever
`diorama-clip` is another one: the record names its fingerprint.

Measured: PSNR on the held-out cameras; and of words that are looked up in features, not in names, how many choose
exactly the objects that they fit, by colour, by shape and by both, and how many about nothing choose nothing.
"""

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml
from morpho4d import held_out
from records import RESULTS, environment, write

from wm_pipelines import hub
from wm_pipelines.config import EvaluationRecord, TrainingRecord, WMConfig
from wm_pipelines.diorama.scene import COLOURS, SHAPES
from wm_pipelines.hub.cards import write_card
from wm_pipelines.morpho4d.capture import Capture
from wm_pipelines.morpho4d.fitting import FitSettings, fit_scene
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.morpho4d.selection import TextQuery
from wm_pipelines.morpho4d.teacher import ClipTeacher, teach
from wm_pipelines.morpho4d.worlds import capture_scene, embedded_cameras, embedded_world
from wm_pipelines.runtime.files import atomic_folder, write_atomic
from wm_pipelines.training.record import code_commit, hardware, versions

COMMAND = "python benchmarks/morpho4d_embedded.py"
NAME, TEACHER = "morpho4d", "diorama-clip"
HELD = (3, 7)
VIEWS = ("all pixels", "moving pixels", "pixels that a fitted camera has in its picture")
PHRASES = tuple(f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES)


def captures() -> tuple[Capture, torch.Tensor]:
    """What all cameras see, and the same with light over a plain floor (V, T, 3, H, W)."""
    world = embedded_world()
    truth = capture_scene(world, embedded_cameras(), size=64)
    lit = capture_scene(replace(world, floor_pattern="plain"), embedded_cameras(), size=64, lit=True)
    return truth, lit.video


def chosen(scene: Scene4D, query: str, text: TextQuery) -> list[int]:
    """Objects that features say `query` is about; none where they say nothing."""
    try:
        return scene.select(query, text=text).object_ids
    except ValueError:
        return []


def word_figures(scene: Scene4D, teacher: ClipTeacher) -> dict[str, tuple[float, int]]:
    """Share of right answers and how many were asked, by kind of query."""
    text = TextQuery(teacher, PHRASES, temperature=teacher.temperature)
    objects = {i: name.split()[-2:] for i, name in scene.names.items()}
    asked: dict[str, list[tuple[str, list[int]]]] = {"colour": [], "shape": [], "both": [], "nothing": []}
    for words, kind, place in ((COLOURS, "colour", 0), (SHAPES, "shape", 1)):
        for word in words:
            fits = [i for i, name in objects.items() if name[place] == word]
            asked[kind if fits else "nothing"].append((word, fits))
    asked["both"] = [(" ".join(name), [i]) for i, name in objects.items()]
    figures = {}
    for kind, queries in asked.items():
        right = [chosen(scene, query, text) == wanted for query, wanted in queries]
        figures[kind] = (sum(right) / len(right), len(right))
    return figures


def evaluations(scene: Scene4D, truth: Capture, teacher: ClipTeacher) -> list[EvaluationRecord]:
    common = {"dataset": "the embedded scene", "seeds": [0], "command": COMMAND}
    found = [
        EvaluationRecord(task="views from held-out cameras", metric=f"PSNR, {what}, dB", value=round(v, 2), **common)
        for what, v in zip(VIEWS, held_out(scene, truth).values(), strict=True)
    ]
    for kind, (share, count) in word_figures(scene, teacher).items():
        metric = f"right answers, {kind}" if kind != "nothing" else "nothing chosen where nothing fits"
        task = "choosing objects by words, in features"
        found.append(EvaluationRecord(task=task, metric=metric, value=round(share, 4), n=count, **common))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--no-write", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    began = time.perf_counter()
    truth, lit = captures()
    train = [v for v in range(truth.views) if v not in HELD]
    teacher = ClipTeacher.load(hub.embedded(TEACHER))
    taught, heads, concepts = teach(truth.select(train), teacher, lit[train])
    settings = FitSettings(steps=args.steps)
    scene, report = fit_scene(taught, settings)
    scene = replace(scene, heads=heads, concepts=concepts)
    rows = evaluations(scene, truth, teacher)
    for row in rows:
        print(f"{row.task}: {row.metric} {row.value:g}" + (f" of {row.n}" if row.n else ""))
    write(RESULTS / "morpho4d_embedded.jsonl", [
        {"benchmark": "morpho4d_embedded", "teacher": hub.base_ref(TEACHER).fingerprint, "steps": report.steps,
         "gaussians": report.gaussians, "evaluation": [r.model_dump(mode="json") for r in rows]} | environment()
    ])  # fmt: skip
    if args.no_write:
        return 0
    training = TrainingRecord(
        recipe={"task": NAME, "teacher": TEACHER, "held_out_cameras": list(HELD), **asdict(settings)},
        data="one Diorama scene, eight ring cameras, 12 frames, exact depth and ids",
        seed=settings.seed,
        steps=report.steps,
        hardware=hardware(1),
        wall_time_s=round(time.perf_counter() - began, 1),
        code_commit=code_commit(),
        versions=versions(),
    )
    base = hub.base_ref(TEACHER)
    config = WMConfig(method=NAME, paper="arXiv:2510.04390", base_model=base, training=training, evaluation=rows)
    put(scene, config, report.losses)
    return 0


def put(scene: Scene4D, config: WMConfig, losses: list[float]) -> None:
    """The checkpoint, and its page under `model_cards/`."""
    out, page = hub.EMBEDDED_ROOT / NAME, Path(__file__).parents[1] / "model_cards" / NAME
    with atomic_folder(out, whole=True) as partial:
        scene.save_pretrained(partial)
        config = hub.seal(partial, config)
        write_card(partial)
        for path in partial.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    page.mkdir(parents=True, exist_ok=True)
    for name in ("README.md", "wm_config.json"):
        write_atomic(page / name, (out / name).read_text(encoding="utf-8"))
    write_atomic(page / "recipe.yaml", yaml.safe_dump(config.training.recipe, sort_keys=False))
    lines = [f'{{"part": {n}, "loss": {loss:.6f}}}\n' for n, loss in enumerate(losses, 1)]
    write_atomic(page / "log.jsonl", "".join(lines))


if __name__ == "__main__":
    sys.exit(main())

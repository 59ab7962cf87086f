"""`make demo`, the part that looks ahead: three actions on a scene, what was drawn, what was chosen, what is true."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from wm_pipelines import hub
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.dynamics.run import load
from wm_pipelines.media.pages import Shown, write_page
from wm_pipelines.media.pictures import image_grid, save_image
from wm_pipelines.media.sheets import Tile
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.reports import write_json
from wm_pipelines.world_model.outputs import WorldModelOutput
from wm_pipelines.world_model.overlay import order_of
from wm_pipelines.world_model.pipeline import WorldModelPipeline

NAMES = ("world-model", "dynamics")
STATES, CANDIDATES, LARGER = 4, 4, 3
TITLE, PLACE = "World models: what happens next", 3


def demo(
    out: str | os.PathLike = "outputs/demo/world_model",
    seed: int = 0,
    models: tuple[str | os.PathLike, str | os.PathLike] | None = None,
) -> Shown:
    """Writes `strip.png` (a row for each action: the truth, the chosen picture, the rejected ones), its pictures, a
    self-contained `index.html` and `world.json`.

    Args:
        out: folder for them.
        seed: of the scene and of the candidates.
        models: folders of a world model and of a dynamics model; the embedded ones by default.
    """
    lacking = [name for name in NAMES if models is None and name not in hub.embedded_names()]
    if lacking:
        return Shown(TITLE, f"There is no embedded {' and no embedded '.join(lacking)} yet.", PLACE)
    started = time.perf_counter()
    paths = [str(path) for path in models or NAMES]
    world: WorldModelPipeline = AutoWMPipeline.from_pretrained(paths[0])
    judge = load(paths[1])
    data = DioramaDataset("pairs", "test", states=STATES, length=seed + 1, name="demo", size=world.layout.size[0])
    states, actions = data[seed]["rgb"], list(data.chain(seed).phrases(0))
    drawn = world.rollout(
        states[0], actions, CANDIDATES, judge, torch.Generator().manual_seed(seed), return_candidates=True,
        output_type="pt",
    )  # fmt: skip
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    save_image(_larger(states[0]), folder / "scene.png")
    steps, before, rows, tiles = [], states[0], [], [Tile(states[0], "before")]
    for number, (action, truth, step) in enumerate(zip(actions, states[1:], drawn, strict=True), 1):
        chosen = step.images[0][int(step.selected[0])]
        save_image(_larger(truth), folder / f"{number}-true.png")
        said = _said(judge, before, chosen)
        steps.append({"action": action, "said": said, "true": f"{number}-true.png", **_shown(step, number, folder)})
        rows += [truth, *(step.images[0][n] for n in order_of(step))]
        tiles += [Tile(chosen, action), Tile(truth, "truth")]
        before = chosen
    save_image(image_grid([_larger(picture) for picture in rows], 1 + CANDIDATES, gap=4), folder / "strip.png")
    report = {"seed": seed, "steps": steps, "seconds": round(time.perf_counter() - started, 1)}
    write_json(folder / "world.json", report)
    write_page(__package__, "world.html", folder, report)
    passed = sum(step["accepted"] for step in steps)
    return Shown(
        TITLE,
        f"Three actions in a row, {CANDIDATES} candidates each; the dynamics model picks, and accepts {passed} of 3.",
        PLACE,
        row=tiles[:3],
        files=[("strip.png", "a row for each action: the truth, the chosen picture, the rejected ones")],
        page="index.html",
    )


def _said(judge: DynamicsModelPipeline, before: torch.Tensor, after: torch.Tensor) -> str:
    """What the dynamics model sees between two pictures."""
    return judge(before, after, max_new_tokens=32).actions[0]


def _shown(step: WorldModelOutput, number: int, folder: Path) -> dict[str, Any]:
    """The candidates of a step, the chosen one first, as pictures in `folder` with their figures."""
    candidates = []
    for n in order_of(step):
        name = f"{number}-candidate-{n + 1}.png"
        save_image(_larger(step.images[0][n]), folder / name)
        figures = {"score": step.scores, "margin": step.margins}
        numbers = {key: round(float(values[0, n]), 3) for key, values in figures.items()}
        candidates.append({"picture": name, "copy": not bool(step.kept[0, n]), **numbers})
    return {"accepted": bool(step.accepted[0]), "candidates": candidates}


def _larger(picture: torch.Tensor) -> torch.Tensor:
    return picture.repeat_interleave(LARGER, -1).repeat_interleave(LARGER, -2)

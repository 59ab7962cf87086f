"""`make demo`: a learned prompt names pairs of colour and shape that it was never fitted to; what decides a name."""

import os
from pathlib import Path

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import HELD_OUT
from wm_pipelines.media.pages import Shown
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import judged
from wm_pipelines.pipeline import AutoWMPipeline

COUNT, SHOWN = 40, 4


def demo(out: str | os.PathLike = "outputs/demo/cpl", seed: int = 0) -> Shown:
    """Writes `counterfactual.png`: which entries of a picture's feature turn its name into the likeliest other one.

    Args:
        out: folder for it.
        seed: other pictures of the test split.
    """
    data = DioramaDataset(
        split="test", length=COUNT * (seed + 1), num_objects=1, composition="held_out", name="cpl-demo"
    )
    scenes = [data.scene(n) for n in range(COUNT * seed, COUNT * (seed + 1))]
    pictures = render(scenes, maps=("rgb",)).rgb[:, 0]
    truth = [f"{s.objects[0].colour} {s.objects[0].shape}" for s in scenes]
    pipe = AutoWMPipeline.from_pretrained("cpl")
    pipe.set_progress_bar_config(disable=True)
    names = sorted(f"{colour} {shape}" for colour, shape in HELD_OUT)
    answer = pipe(pictures, names)
    tiles = [judged(*each) for each in zip(pictures, answer.labels, truth, strict=True)]
    other = next(n for n, true in enumerate(truth) if true != truth[0])
    told = pipe.explain(pictures[0], pictures[other], truth[0], truth[other])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    save_image(told.image, folder / "counterfactual.png")
    right = sum(tile.tone == "good" for tile in tiles)
    turned = (
        f"{len(told.swapped)} of {len(told.mask)} entries of its feature are exchanged for those of a {truth[other]}"
    )
    return Shown(
        title="CPL: a prompt with its counterfactuals",
        said=f"{right} of {COUNT} pictures of pairs that it was not fitted to get their name among {len(names)}.",
        place=7,
        row=tiles[:SHOWN],
        files=[("counterfactual.png", f"a {truth[0]} until {turned}: red, the darker the more telling")],
    )

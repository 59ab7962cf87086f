"""`make demo`: how many objects are there? Sixteen pictures of each count taught what no caption ever said."""

import os
from pathlib import Path

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.render import render
from wm_pipelines.media.pages import Shown
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import judged, sheet
from wm_pipelines.pipeline import AutoWMPipeline

NAMES = ("one", "two", "three", "four")  # what the embedded classifier says, by the number of objects
COUNT, SHOWN = 60, 10


def demo(out: str | os.PathLike = "outputs/demo/kadaptation", seed: int = 0) -> Shown:
    """Writes `pictures.png`, the first test pictures with what the embedded classifier says of them.

    Args:
        out: folder for it.
        seed: other pictures of the test split.
    """
    data = DioramaDataset(
        split="test", length=COUNT * (seed + 1), num_objects=tuple(range(1, len(NAMES) + 1)), name="kadaptation-demo"
    )
    scenes = [data.scene(n) for n in range(COUNT * seed, COUNT * (seed + 1))]
    pictures, truth = render(scenes, maps=("rgb",)).rgb[:, 0], [NAMES[len(s.objects) - 1] for s in scenes]
    pipe = AutoWMPipeline.from_pretrained("kadaptation")
    pipe.set_progress_bar_config(disable=True)
    found = pipe(pictures).labels
    tiles = [judged(*each) for each in zip(pictures, found, truth, strict=True)]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("", [[tile] for tile in tiles[n : n + 5]]) for n in range(0, SHOWN, 5)]
    save_image(sheet([""] * 5, rows), folder / "pictures.png")
    right = sum(tile.tone == "good" for tile in tiles)
    return Shown(
        title="KAdaptation: a classifier from a few pictures",
        said=f"{right} of {COUNT} scenes are counted rightly, after 16 pictures of each count.",
        place=6,
        row=tiles[:5],
        files=[("pictures.png", "what it says, green where that is right")],
    )

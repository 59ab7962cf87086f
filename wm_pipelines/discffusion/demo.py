"""`make demo`: five captions of one picture, put in order by the base that draws such pictures."""

import os
from pathlib import Path

import torch

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.render import render
from wm_pipelines.discffusion.overlay import draw_words
from wm_pipelines.discffusion.pipeline import DiscffusionPipeline
from wm_pipelines.discffusion.scenes import foils_of
from wm_pipelines.hub import embedded
from wm_pipelines.media.pages import Shown
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import Tile
from wm_pipelines.runtime.files import write_atomic


@torch.no_grad()
def demo(out: str | os.PathLike = "outputs/demo/discffusion", seed: int = 0) -> Shown:
    """Writes `picture.png`, `words.png` (where the words of the best caption look) and `ranking.txt` into `out`."""
    data = DioramaDataset(split="test", length=1000, num_objects=2, patterns=("plain",), name="discffusion-demo")
    made = next(found for n in range(seed, len(data)) if (found := foils_of(data.scene(n), n)))
    texts, scenes = made
    picture = render(scenes[0], size=64, maps=("rgb",)).rgb[0, 0]
    pipe = DiscffusionPipeline.from_pretrained(str(embedded("diorama-sd")))
    pipe.set_progress_bar_config(disable=True)
    ranking = pipe.rank(picture, texts, score="dc", timesteps=10, seed=seed)
    best = texts[ranking.order[0]]
    maps = pipe(picture, best, timesteps=10, seed=seed, maps=True).maps[0]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    save_image(picture, folder / "picture.png")
    save_image(draw_words(picture, maps, pipe.words(best)), folder / "words.png")
    lines = [f"{float(ranking.score[i]):+.4f}  {texts[i]}{'  (true)' if i == 0 else ''}" for i in ranking.order]
    write_atomic(folder / "ranking.txt", "\n".join(lines) + "\n")
    verdict, tone = ("the true caption", "good") if ranking.best == 0 else ("a false caption", "bad")
    return Shown(
        title="Discffusion: a generator that judges",
        said=f"Without training it puts {verdict} of five first: “{best}”.",
        place=5,
        row=[Tile(picture, best, tone)],
        files=[("words.png", "where the words of that caption look")],
    )

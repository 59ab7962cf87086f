"""`make demo`: which of five captions is true? A base that draws pictures judges them, with an adapter and without."""

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
from wm_pipelines.media.sheets import judged, sheet
from wm_pipelines.pipeline import AutoWMPipeline

CASES, TIMESTEPS = 8, 10


@torch.no_grad()
def demo(out: str | os.PathLike = "outputs/demo/discffusion", seed: int = 0) -> Shown:
    """Writes `captions.png` (pictures with the caption that the embedded adapter puts first of five) and `words.png`
    (where the words of the first one look) into `out`.

    Args:
        out: folder for them.
        seed: of the noise, and the first scene of the test split.
    """
    data = DioramaDataset(
        split="test", length=1000 + seed, num_objects=2, patterns=("plain",), name="discffusion-demo"
    )
    told = (made for n in range(seed, len(data)) if (made := foils_of(data.scene(n), n)))
    cases = [next(told) for _ in range(CASES)]
    pictures = render([scenes[0] for _, scenes in cases], size=64, maps=("rgb",)).rgb[:, 0]
    captions = [texts for texts, _ in cases]
    plain = DiscffusionPipeline.from_pretrained(str(embedded("diorama-sd")))
    tuned: DiscffusionPipeline = AutoWMPipeline.from_pretrained("discffusion")
    before, after = (_best(pipe, pictures, captions, seed) for pipe in (plain, tuned))
    truth = [texts[0] for texts in captions]
    tiles = [judged(*each) for each in zip(pictures, after, truth, strict=True)]
    maps = tuned(pictures[0], after[0], timesteps=TIMESTEPS, seed=seed, maps=True).maps[0]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    half = CASES // 2
    save_image(sheet([""], [("", [tiles[:half]]), ("", [tiles[half:]])]), folder / "captions.png")
    save_image(draw_words(pictures[0], maps, tuned.words(after[0])), folder / "words.png")
    right, untuned = (sum(map(str.__eq__, found, truth)) for found in (after, before))
    return Shown(
        title="Discffusion: a generator that judges",
        said=f"Tuned on 400 scenes it puts the true one of five captions first in {right} of {CASES}; "
        f"without, in {untuned}.",
        place=5,
        row=tiles[:5],
        files=[
            ("captions.png", "the caption that it puts first, green where that is the true one"),
            ("words.png", "where the words of the first one look"),
        ],
    )


def _best(pipe: DiscffusionPipeline, pictures: torch.Tensor, captions: list[list[str]], seed: int) -> list[str]:
    """For each picture the caption that is put first."""
    pipe.set_progress_bar_config(disable=True)
    ranks = (pipe.rank(*each, timesteps=TIMESTEPS, seed=seed) for each in zip(pictures, captions, strict=True))
    return [texts[int(rank.best)] for texts, rank in zip(captions, ranks, strict=True)]

"""`make demo`: one caption and its foils, scored part by part."""

import os
import warnings
from pathlib import Path

from wm_pipelines.comclip.overlay import stack_subimages
from wm_pipelines.diorama.boxes import diorama_boxes
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import clear_relations
from wm_pipelines.media.pages import Shown
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import Tile, sheet
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.text.phrasing import with_article

SIZE = 64


def demo(out: str | os.PathLike = "outputs/demo/comclip", seed: int = 0) -> Shown:
    """Writes `parts.png`, what each part of the true caption sees, with its weight.

    Args:
        out: folder for it.
        seed: another scene of the test split.
    """
    data = DioramaDataset(split="test", length=10_000, num_objects=2, patterns=("plain",), name="comclip-demo")
    found = (scene for n in range(len(data)) if _told(scene := data.scene(n)))
    scene = next(scene for n, scene in enumerate(found) if n == seed)
    relation, a, b = _told(scene)
    true = f"{with_article(f'{a.colour} {a.shape}')} {relation} {with_article(f'{b.colour} {b.shape}')}"
    exchanged = f"{with_article(f'{b.colour} {a.shape}')} {relation} {with_article(f'{a.colour} {b.shape}')}"
    picture = render(scene, size=SIZE, maps=("rgb",)).rgb[0, 0]
    pipe = AutoWMPipeline.from_pretrained("comclip")
    boxes = diorama_boxes(scene, size=SIZE)
    with warnings.catch_warnings():  # the foil's things have no box: that is what it is scored for
        warnings.filterwarnings("ignore", "no box for")
        own, foil = (pipe(picture, text, boxes, missing="blank") for text in (true, exchanged))
    seen, lines = stack_subimages(picture, own)
    tiles = [Tile(part, line.partition(": ")[2]) for part, line in zip(seen, lines[1 : len(seen) + 1], strict=True)]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    save_image(sheet([""], [(true, [tiles])]), folder / "parts.png")
    scores = [float(result.score[0]) for result in (own, foil)]
    return Shown(
        title="ComCLIP: does the caption fit, part by part?",
        said=f"“{true}” {scores[0]:.2f}; colours exchanged {scores[1]:.2f}.",
        place=8,
        row=[Tile(picture, true, "good" if scores[0] > scores[1] else "bad"), *tiles[:3]],
        files=[("parts.png", "what each part of the caption sees, and its weight")],
    )


def _told(scene) -> tuple | None:
    """A clear relation of two things that differ in colour and shape, with both; None where there is none."""
    a, b = scene.objects
    said = sorted(predicate for predicate, subject, _ in clear_relations(scene) if subject == a.id)
    alike = a.colour == b.colour or a.shape == b.shape
    return (said[0], a, b) if said and not alike else None

"""Pictures of one solid each, labelled by a word for it (our design)."""

from dataclasses import replace

import torch

from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, SHAPES, sample_scene

WORDS = {"colour": tuple(COLOURS), "shape": SHAPES}


def labelled_solids(word: str, count: int, size: int = 64, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    """`count` pictures for each colour or each shape; all else about the solid, its place and the light is drawn.

    Args:
        word: "colour" or "shape", by which they are labelled.
        size: side in pixels. seed: of all that is drawn; the first pictures are the same whatever `count` is.

    Returns:
        float32 `(N, 3, size, size)` in [0, 1], and N labels, class by class.

    Raises:
        ValueError: another word, or a count below 1.
    """
    if word not in WORDS:
        raise ValueError(f"`word` must be one of {', '.join(WORDS)}, got {word!r}")
    if type(count) is not int or count < 1:
        raise ValueError(f"`count` must be a positive integer, got {count!r}")
    scenes, labels = [], []
    for label in WORDS[word]:
        for n in range(count):
            scene = sample_scene("labelled", seed, label, n, num_objects=1, composition="all")
            solid = replace(scene.objects[0], **{word: label})
            scenes.append(replace(scene, objects=(solid,)))
            labels.append(label)
    return render(scenes, size=size, maps=("rgb",)).rgb[:, 0], labels

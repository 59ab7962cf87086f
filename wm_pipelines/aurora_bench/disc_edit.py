"""DiscEdit (Krojer et al., arXiv 2407.03471, section 4.3): an editor should change a picture less for an instruction
that is already true of it than for one that is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.aurora_bench.editors import Draw, drawn
from wm_pipelines.aurora_bench.items import check_side, picture, sentence
from wm_pipelines.data.tables import check_inside, read_json
from wm_pipelines.evaluation.statistics import clustered_mean
from wm_pipelines.runtime.random import keyed
from wm_pipelines.runtime.readers import located

SAMPLES, SEED = 4, 42
Features = Callable[[torch.Tensor], torch.Tensor]
"""A picture `(3, H, W)` to whatever distances are taken between, such as a VAE's latents."""


@dataclass(frozen=True)
class DiscItem:
    """A picture, an instruction that is already true of it, and one that demands a change."""

    name: str
    true: str
    demand: str
    read: Callable[[], torch.Tensor]


def read_disc_edit(path: str | Path, root: str | Path | None = None, side: int | None = None) -> list[DiscItem]:
    """The authors' lists: {input or image, pos, neg or prompt}; rows without `pos` are left out, as they do.

    Args:
        root: folder that the pictures' names are relative to; that of `path` by default. side: as for `read_bench`.

    Raises:
        ValueError: another layout, or missing pictures: names one and counts the others.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    check_side(side)
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a list of rows with input, pos and neg")
    found, missing = [], []
    for n, row in enumerate(rows):
        with located(f"{path}, row {n}"):
            if not isinstance(row, dict):
                raise ValueError(f"it is a {type(row).__name__}, not an object")
            if not row.get("pos"):
                continue
            name = check_inside(row.get("input", row.get("image")))
            true, demand = sentence(row, "pos"), sentence(row, "neg" if row.get("neg") else "prompt")
        if not (root / name).is_file():
            missing.append(name)
        found.append(DiscItem(f"{n}:{name}", true, demand, lambda file=root / name: picture(file, side)))
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ValueError(f"the picture {missing[0]!r}{others} of {path} are missing under {root}")
    if not found:
        raise ValueError(f"{path} has no row with `pos`")
    return found


def twin_disc_items(count: int, size: int = 64, split: str = "test") -> list[DiscItem]:
    """The same in the miniature world: "make the cube red" of a red cube, and of another colour.

    Raises:
        ValueError: `count` below 1.
    """
    from wm_pipelines.diorama.render import render
    from wm_pipelines.diorama.scene import COLOURS, sample_scene

    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"`count` is {count!r}; it must be an integer, 1 or more")
    found: list[DiscItem] = []
    draw = 0
    while len(found) < count:
        key = ("disc edit twin", split, draw)
        draw += 1
        scene, rng = sample_scene(*key, num_objects=(1, 2, 3)), keyed(*key, "words")
        shapes = [o.shape for o in scene.objects]
        single = [o for o in scene.objects if shapes.count(o.shape) == 1]
        if not single:
            continue
        thing = single[rng.integers(len(single))]
        others = [colour for colour in COLOURS if colour not in {o.colour for o in scene.objects}]
        other = others[rng.integers(len(others))]
        found.append(
            DiscItem(
                f"{split}:{draw - 1}",
                f"make the {thing.shape} {thing.colour}",
                f"make the {thing.shape} {other}",
                lambda scene=scene: render(scene, size=size, maps=("rgb",)).rgb[0, 0],
            )
        )
    return found


def disc_edit(
    draw: Draw,
    items: Sequence[DiscItem],
    features: Features = torch.Tensor.flatten,
    samples: int = SAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """Share of samples in which the instruction that is already true changes the picture less.

    Args:
        draw: see `editors.as_draw`. samples: drawn of each item, with the seeds `seed`, `seed` + 1 and so on.
        features: distances are L2 between what it gives; the authors take the latents of Stable Diffusion's VAE, and
            pixels are taken here without another.

    Returns:
        `accuracy`, with `low` and `high` over items (None for one item); `ties`, the share of samples in which both
        distances are equal, which count as wrong: an editor that copies has 1; `n` items, `samples` of each. Chance is
        0.5.

    Raises:
        ValueError: no item, a number of samples below 1, or as `editors.drawn`.
    """
    if not items:
        raise ValueError("`items` is empty; at least one is needed")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"`samples` is {samples!r}; it must be an integer, 1 or more")
    right, ties, names = [], 0, []
    for item in items:
        source = item.read()
        here = features(source)
        for n in range(samples):
            away = [
                float((features(drawn(draw, source, words, seed + n)) - here).square().sum().sqrt())
                for words in (item.true, item.demand)
            ]
            right.append(float(away[0] < away[1]))
            ties += away[0] == away[1]
            names.append(item.name)
    found = clustered_mean(right, names) if len(set(names)) > 1 else None
    return {
        "accuracy": sum(right) / len(right),
        "low": found.low if found else None,
        "high": found.high if found else None,
        "ties": ties / len(right),
        "n": len(items),
        "samples": samples,
    }

"""Where each word of a caption attends, laid over the picture."""

from collections.abc import Sequence

import PIL.Image
import torch
from PIL import ImageDraw

from wm_pipelines.media.drawing import draw_heat
from wm_pipelines.media.pictures import Picture

TILE, LINE, MOST = 128, 16, 12


def draw_words(picture: Picture, maps: torch.Tensor, words: Sequence[tuple[int, str]]) -> PIL.Image.Image:
    """A tile for each of the first twelve words: the picture with the map of its token, red at its own maximum.

    Args:
        maps: `(tokens, h, w)`, as `DiscffusionOutput.maps` holds them. words: (token, word) as `pipeline.words` gives.
    """
    shown = list(words)[:MOST]
    page = PIL.Image.new("RGB", (TILE * max(1, len(shown)), TILE + LINE), "white")
    pen = ImageDraw.Draw(page)
    for n, (token, word) in enumerate(shown):
        tile = draw_heat(picture, maps[token]).resize((TILE, TILE), PIL.Image.Resampling.BILINEAR)
        page.paste(tile, (n * TILE, 0))
        pen.text((n * TILE + 4, TILE + 2), word, fill="black")
    return page

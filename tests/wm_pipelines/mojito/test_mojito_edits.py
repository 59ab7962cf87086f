"""Edits after the softmax: what they do to each probability, against a loop over cells and tokens."""

import math

import pytest
import torch

from wm_pipelines.mojito.guidance.edits import edited_attention
from wm_pipelines.mojito.guidance.state import Slots

GRID = (4, 4)
BOX = (0.0, 0.0, 0.5, 0.5)  # cells (0,0), (0,1), (1,0), (1,1), wholly


def guide():
    boxes = torch.tensor([[BOX]])
    return Slots(torch.tensor([1, 2]), torch.tensor([0, 0]), boxes, torch.ones(1), 5)


def probabilities(style):
    """P (L, N) of one head: values that are the identity make the output the probabilities."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 1, 16, 5, generator=generator), torch.randn(1, 5, 5, generator=generator)
    plain = (q[0, 0] @ k[0].T / math.sqrt(5)).softmax(-1)
    return edited_attention(q, k, torch.eye(5)[None], guide(), GRID, None, style)[0, 0], plain


def bump(cell):
    x, y = (cell % 4 + 0.5) / 4, (cell // 4 + 0.5) / 4
    return math.exp(-(((x - 0.25) * 6) ** 2 + ((y - 0.25) * 6) ** 2) / 2)


@pytest.mark.parametrize("style", ["trailblazer", "freetraj"])
def test_each_probability_is_as_stated(style):
    found, plain = probabilities(style)
    for cell in range(16):
        inside = cell in (0, 1, 4, 5)
        for token in range(5):
            own = token in (1, 2)
            if style == "trailblazer":
                expected = plain[cell, token] * (1 if inside or not own else 0.001)
                expected += 0.15 * plain[:, token].max() * bump(cell) if inside and own else 0
            else:
                kept = plain[cell, [0, 3, 4]].sum()
                expected = 0.2 if inside else 0 if own else plain[cell, token] / kept
                expected += 0.25 / (0.25 * 2) * bump(cell) if inside and own else 0
            assert float(found[cell, token]) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("style", ["trailblazer", "freetraj"])
def test_the_pipeline_takes_the_style(bases, style):
    from wm_pipelines.mojito.trajectories.objects import MotionObject

    pipe, size = bases("animatediff")
    cube = [MotionObject("red cube", boxes=BOX)]

    def run(**more):
        generator = torch.Generator().manual_seed(0)
        return pipe(
            "a red cube", cube, num_inference_steps=2, output_type="latent", generator=generator, **size,
            guidance_fraction=0.0, bias_fraction=0.5, **more,
        ).frames  # fmt: skip

    assert not torch.equal(run(), run(bias_style=style))
    with pytest.raises(ValueError, match="bias_style='peekaboo'; choose from logit, trailblazer, freetraj"):
        run(bias_style="peekaboo")
    with pytest.raises(ValueError, match="belong to bias_style='logit'"):
        run(bias_style=style, bias_in=1.0)

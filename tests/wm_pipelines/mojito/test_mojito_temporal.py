"""Attention over time that knows the boxes, on every base that has such attention."""

import pytest
import torch
from torch import nn

from wm_pipelines.kernels import box_masks
from wm_pipelines.mojito.guidance.state import MotionState, Slots
from wm_pipelines.mojito.guidance.temporal import TemporalAttnProcessor
from wm_pipelines.mojito.trajectories import MotionObject

FAMILIES = ("animatediff", "text-to-video", "latte")
MOVING = [MotionObject("red cube", boxes=[(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)], keyframes=(0, 3))]
STILL = [MotionObject("red cube", boxes=(0, 0, 0.5, 0.5))]


def run(pipe, size, objects, **more):
    given = {"num_inference_steps": 2, "output_type": "latent", "guidance_iterations": 0, **size, **more}
    return pipe("a red cube moving right", objects, generator=torch.Generator().manual_seed(1), **given).frames


@pytest.mark.parametrize("family", FAMILIES)
def test_it_acts_where_a_box_moves_and_only_there(bases, family):
    pipe, size = bases(family)
    plain = run(pipe, size, STILL)
    torch.testing.assert_close(run(pipe, size, STILL, temporal_weight=5.0), plain, rtol=0, atol=1e-4)
    moving = run(pipe, size, MOVING, temporal_weight=5.0)
    assert torch.equal(run(pipe, size, MOVING), plain) and (moving - plain).abs().max() > 1e-3
    assert torch.equal(run(pipe, size, MOVING), plain)  # the layers' own processors are back


def test_a_layer_gives_what_its_definition_says():
    torch.manual_seed(0)
    rows, cells, frames, heads, width = 2, 16, 4, 2, 8
    from diffusers.models.attention_processor import Attention

    attn = Attention(query_dim=heads * width, heads=heads, dim_head=width)
    boxes = MOVING[0].frame_boxes(frames)[None]
    slots = Slots(torch.tensor([1]), torch.tensor([0]), boxes, torch.ones(1), 3)
    state = MotionState([slots], frames=frames, height=4, width=4, rows=[None, 0])
    x = torch.randn(rows * cells, frames, heads * width)
    with torch.no_grad():
        found = TemporalAttnProcessor(attn.processor, state, weight=3.0)(attn, x)
        inside = box_masks(boxes, (4, 4))[0].T  # (cells, F)
        bias = -3.0 * (inside[:, :, None] - inside[:, None, :]).abs()
        mask = torch.cat([torch.zeros_like(bias), bias])[:, None]
        q, k, v = (to(x).unflatten(-1, (heads, -1)).transpose(1, 2) for to in (attn.to_q, attn.to_k, attn.to_v))
        out = nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        torch.testing.assert_close(found, attn.to_out[0](out), rtol=1e-4, atol=1e-5)
        state.measuring = True
        assert torch.equal(TemporalAttnProcessor(attn.processor, state, weight=3.0)(attn, x), attn(x))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("wan", {"temporal_weight": 1.0}, "temporal_weight needs attention over time of its own"),
        ("animatediff", {"temporal_weight": -1.0}, "temporal_weight=-1.0; it must be from 0 to inf"),
    ],
)
def test_bad_input_is_refused(bases, family, changes, message):
    pipe, size = bases(family)
    with pytest.raises(ValueError, match=message):
        run(pipe, size, STILL, **changes)

"""Flow of known shifts, inside objects and over the frame; levels and their table."""

import pytest
import torch

from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene, SceneObject
from wm_pipelines.media.flow import dense_flow, level_of, measure_flow, percentile_table


def moving_right(speed, frames=6):
    cube = SceneObject(1, "cube", "red", motion=(Motion("translate", 0, frames - 1, "right", speed),))
    out = render(Scene((cube,), duration=frames), range(frames), maps=("rgb", "ids", "flow"))
    return out.rgb[0], out.ids[0] == 1, out.flow[0]


def test_inside_the_object_it_reads_what_the_renderer_knows():
    for speed in (0.4, 1.0):
        rgb, mask, truth = moving_right(speed)
        true = truth.square().sum(1).sqrt()[:-1][mask[:-1]].mean()
        assert measure_flow(rgb, mask).mean() == pytest.approx(float(true), rel=0.3)
        assert (dense_flow(rgb)[:, 0][mask[:-1]].mean() > 0) and measure_flow(rgb).shape == (5,)


def test_a_still_clip_reads_zero_and_an_empty_mask_nan():
    rgb, mask, _ = moving_right(0.5)
    still = rgb[:1].repeat(3, 1, 1, 1)
    assert torch.equal(measure_flow(still), torch.zeros(2))
    assert measure_flow(rgb, torch.zeros_like(mask)).isnan().all()


def test_levels():
    nearly = percentile_table([0.0] * 5 + [1e-7] * 10 + list(range(1, 40)))
    assert nearly[0] == 0 and all(low < high for low, high in zip(nearly, nearly[1:], strict=False))
    assert level_of(0.0, nearly) == 0.0
    table = percentile_table([0.0, 1.0, 2.0, 3.0, 4.0])
    assert len(table) == 11 and table[0] == 0 and table[5] == 2 and table[10] == 4
    still = percentile_table([0.0] * 3 + [1.0] * 8)
    assert still[0] == 0 and still[1] > 0 and level_of(0.0, still) == 0
    assert [level_of(v, table) for v in (-1.0, 2.0, 3.0, 9.0)] == [0.0, 5.0, 7.5, 10.0]


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (4, 1, 8, 8), (3, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="2 frames or more"):
        dense_flow(torch.zeros(shape))

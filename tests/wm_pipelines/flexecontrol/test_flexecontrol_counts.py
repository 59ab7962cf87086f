"""Exact counts on Stable Diffusion 1.5 (meta device): the figures of the method's page."""

import runpy
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.decomposition import kronecker_layers
from wm_pipelines.flexecontrol.network.footprint import footprint

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "flexecontrol_counts.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT), run_name="counts")


@pytest.fixture(scope="module")
def sd15(script):
    return script["sd15"]()


def test_every_specified_figure_is_counted(script):
    assert script["counts"]() == script["EXPECTED"]


@pytest.mark.parametrize(("preset", "n", "r"), [("paper", 1, 1), ("paper", 16, 5), ("transformer", 8, 2)])
def test_formula_for_other_n_and_r(script, sd15, preset, n, r):
    model = FlexEControlModel.from_unet(sd15, preset, n=n, r=r)
    count = footprint(model, sd15).decomposed
    assert count == script["formula"](model)
    if preset == "paper":
        assert count == 45_312 * r + 28 * n**3


def test_formula_per_type_and_with_one_h(script, sd15):
    per_type = FlexEControlModel.from_unet(sd15, fast="per_type")
    assert footprint(per_type, sd15).decomposed == script["formula"](per_type) == 7 * 45_312 * 8 + 28 * 64
    one = FlexEControlModel.from_unet(sd15, share_h="model")
    assert footprint(one, sd15).decomposed == script["formula"](one) == 45_312 * 8 + 64


def test_nothing_is_allocated(sd15):
    model = FlexEControlModel.from_unet(sd15, global_adapter=True)
    assert all(p.is_meta for p in model.parameters())
    assert {layer.weight.shape for _, layer in kronecker_layers(model)} > {(320, 768), (1280, 1280)}


def test_predicted_memory_reproduces_the_baseline_figure(sd15):
    """The paper counts the frozen UNet as trainable; with that count the formula gives its 20.47 GB to 0.25."""
    uni = footprint(FlexEControlModel.from_unet(sd15, "uni"), sd15)
    assert (4 * uni.resident + 12 * uni.resident) / 1e9 == pytest.approx(20.47, abs=0.25)
    paper = footprint(FlexEControlModel.from_unet(sd15), sd15)
    assert uni.state_bytes == 12 * 411_903_552 and paper.state_bytes == 12 * 63_567_040
    assert paper.resident == uni.resident + paper.decomposed
    assert paper.predicted_bytes < uni.predicted_bytes
    assert "63,567,040  (15.4% of the adapter)" in str(paper)


def test_small_base_counts_add_up(tiny_sd):
    unet = tiny_sd["unet"]
    model = FlexEControlModel.from_unet(
        unet, n=2, r=1, condition_stride=4, feature_channels=(4, 6, 8), pre_channels=(4, 5)
    )
    count = footprint(model, unet)
    assert isinstance(unet, UNet2DConditionModel) and count.image_adapter == 0
    encoder = sum(
        p.numel()
        for name, p in unet.named_parameters()
        if name.startswith(("conv_in", "time_embedding", "down_blocks", "mid_block"))
    )
    # the copy has no affine in the six norms that FDN replaces
    lost = 2 * (8 + 8 + 8 + 16 + 16 + 16)
    assert count.adapter == encoder - lost + count.optimised

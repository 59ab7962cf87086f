"""What is refused, before the denoiser runs at all."""

import copy

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import SlicedAttnProcessor

from wm_pipelines import DiscffusionPipeline
from wm_pipelines.discffusion.capture import cross_sites
from wm_pipelines.media.pictures import to_pil


@pytest.fixture
def untouched(judge):
    """The judge, whose UNet must not be called."""

    def refuse(*_):
        raise AssertionError("the denoiser ran")

    judge.unet.register_forward_pre_hook(refuse)
    return judge


CALLS = {
    "several of both": (dict(texts=["a cube", "a cone", "a red cube"]), "`pairwise`"),
    "unequal numbers": (dict(texts=["a cube", "a cone", "a red cube"], pairwise=True), "`pairwise`"),
    "pairwise as text": (dict(pairwise="yes"), "`pairwise`"),
    "no caption": (dict(texts=[]), "`texts`"),
    "an empty caption": (dict(texts=["a cube", "  "]), "`texts`"),
    "a number as caption": (dict(texts=["a cube", 3]), "`texts`"),
    "another score": (dict(score="clip"), "`score`.*lse, dc, lse\\+dc"),
    "another mask": (dict(token_mask="words"), "`token_mask`"),
    "other sites": (dict(sites="some"), "`sites`"),
    "another pool": (dict(on="maps"), "`on`"),
    "zero lambda": (dict(lse_lambda=0), "`lse_lambda`"),
    "infinite weight": (dict(bias_weight=float("inf")), "`bias_weight`"),
    "cond_only as number": (dict(cond_only=1), "`cond_only`"),
    "no timestep": (dict(timesteps=0), "`timesteps`"),
    "a negative seed": (dict(seed=-1), "`seed`"),
    "no batch": (dict(batch_size=0), "`batch_size`"),
    "an odd size": (dict(size=(60, 64)), "`size`"),
    "another range": (dict(value_range=(0, 255)), "`value_range`"),
    "no range": (dict(value_range=None), "`value_range`"),
    "pairwise as number": (dict(pairwise=0), "`pairwise` is 0"),
    "truncate as text": (dict(truncate="no"), "`truncate` is 'no'"),
    "maps as number": (dict(maps=1), "`maps` is 1"),
    "noise as text": (dict(shared_noise="False"), "`shared_noise`"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_refused(untouched, pictures, name):
    given, message = CALLS[name]
    unclear = "both" in name or "pairwise" in given
    with pytest.raises(ValueError, match=message):
        plain = {"images": pictures(2), "texts": ["a cube", "a cone"], "pairwise": None if unclear else False}
        untouched(**{**plain, **given})


def test_pictures_are_refused(untouched, pictures):
    good = pictures(1)[0]
    for bad, message in (
        ([], "empty"),
        ([good * 2 - 1], r"`images`\[0\].*\[0, 1\]"),
        ([good, torch.zeros(3, 60, 64)], r"`images`\[1\] is 60x64.*multiples of 16.*size="),
        ([good * float("nan")], "NaN"),
        ([np.zeros((64, 64, 5))], "shape"),
        (["picture.png"], "not str"),
    ):
        with pytest.raises(ValueError, match=message):
            untouched(bad, "a cube")
    with pytest.raises(ValueError, match="float tensors"):
        untouched((good * 255).byte(), "a cube", value_range=(-1, 1))


def test_signed_pictures_are_read_when_it_is_said(judge, pictures):
    picture = pictures(1)[0].clamp(0.5, 1)  # bright: nothing below 0 betrays the range
    plain = judge(picture, "a cube", timesteps=[500]).score
    torch.testing.assert_close(judge(picture * 2 - 1, "a cube", timesteps=[500], value_range=(-1, 1)).score, plain)


def test_a_picture_is_stretched_only_when_asked(judge):
    assert judge(torch.rand(3, 50, 70), "a cube", timesteps=[500], size=(64, 64)).score.isfinite().all()


def test_a_long_caption_is_named(untouched, pictures):
    long = " ".join(["a red cube left of"] * 20)
    with pytest.raises(ValueError, match=r"caption 1 has \d+ tokens; the text encoder takes 77; pass truncate=True"):
        untouched(pictures(1), ["a cube", long])
    with pytest.raises(ValueError, match="caption 1 has"):
        untouched.rank(pictures(1)[0], ["a cube", long])


def test_a_cut_caption_is_scored(judge, pictures):
    long = " ".join(["a red cube left of"] * 20)
    assert judge(pictures(1), long, timesteps=[500], truncate=True).score.isfinite().all()


def test_rankings_need_a_query_and_candidates(untouched, pictures):
    for query, candidates, message in (
        (pictures(1)[0], [], "`candidates`"),
        ("a cube", [], "`candidates`"),
        (pictures(2), ["a cube"], "`query`"),
        (pictures(1)[0], pictures(2), "`texts`"),
        (pictures(1)[0], "cube", "`candidates` must be a list.*'cube'"),
        ("a cube", to_pil(pictures(1)[0]), "`candidates` must be a list"),
        ("a cube", {"a cube": 1}, "`candidates` must be a list"),
        ("a cube", None, "`candidates` must be a list"),
    ):
        with pytest.raises(ValueError, match=message):
            untouched.rank(query, candidates)
    with pytest.raises(ValueError, match="`eliminate` is 'no'"):
        untouched.rank("a cube", pictures(2), eliminate="no")
    with pytest.raises(ValueError, match="unknown option `colour`"):
        untouched.rank("a cube", pictures(2), colour="red")


def test_a_foreign_processor_is_named(untouched, pictures):
    name, layer = next(iter(cross_sites(untouched.unet, "released").items()))
    layer.set_processor(SlicedAttnProcessor(2))
    with pytest.raises(ValueError, match=f"our processor on site {name}; found SlicedAttnProcessor"):
        untouched(pictures(1), "a cube")


def test_bases_that_cannot_judge_are_refused(tiny_sd):
    from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel

    def made(**parts):
        return DiscffusionPipeline(**{**tiny_sd, **parts})

    with pytest.raises(ValueError, match="prediction_type='sample'"):
        made(scheduler=tiny_sd["scheduler"].from_config(tiny_sd["scheduler"].config, prediction_type="sample"))
    with pytest.raises(ValueError, match="alphas_cumprod"):
        made(scheduler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="neither a unet nor a transformer"):
        made(unet=None)
    blind = UNet2DConditionModel(
        block_out_channels=(8, 16), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        mid_block_type=None, norm_num_groups=4, cross_attention_dim=16, attention_head_dim=4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="no cross-attention"):
        made(unet=blind).denoiser.sites("released")
    painting = copy.deepcopy(dict(tiny_sd["unet"].config)) | {"in_channels": 9}
    with pytest.raises(ValueError, match="in_channels=9"):
        made(unet=UNet2DConditionModel.from_config(painting))


TRIPLES = {
    "none": ([], "`triples`"),
    "a text": ("abc", "`triples`"),
    "two parts": ([("p", "a cube")], r"`triples`\[0\]"),
    "no foil": ([("p", "a cube", [])], "empty list of foils"),
    "mixed foils": ([("p", "a cube", ["a cone", torch.zeros(3, 64, 64)])], "one kind"),
    "a broken picture": ([("p", "a cube", torch.zeros(3, 60, 64))], r"`triples`\[0\]"),
    "a foil without words": ([("p", "a cube", " ")], "`texts`"),
}


@pytest.mark.parametrize("name", TRIPLES)
def test_triples_are_refused(untouched, pictures, name):
    given, message = TRIPLES[name]
    if isinstance(given, list):
        given = [tuple(pictures(1)[0] if isinstance(x, str) and x == "p" else x for x in triple) for triple in given]
    with pytest.raises(ValueError, match=message):
        untouched.fit(given)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0}, {"r": 0}, {"margin": -1}, {"learning_rate": -1.0}, {"batch_size": 0}, {"seed": -1},
        {"seed": 2**70}, {"config": {"r": 4}}, {"gradient_checkpointing": 1}, {"value_range": None},
    ],
)  # fmt: skip
def test_settings_are_refused(untouched, pictures, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        untouched.fit([(pictures(1)[0], "a cube", "a cone")], **options)


def test_there_is_nothing_to_save_before_a_fit(judge, tmp_path):
    with pytest.raises(ValueError, match="call fit"):
        judge.save_adapter(tmp_path / "a")

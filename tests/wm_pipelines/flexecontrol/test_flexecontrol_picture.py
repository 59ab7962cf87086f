"""Sampling from a picture and within a mask: the stock pipelines without conditions, conditions on top."""

import PIL.Image
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)

from wm_pipelines.flexecontrol.conditions.condition import Condition

PROMPT = "a red cube left of a blue sphere"
SCHEDULERS = [DDIMScheduler, EulerAncestralDiscreteScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler]


def photo(seed=0, size=(64, 64)):
    noise = torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))
    return PIL.Image.fromarray((noise * 255).byte().permute(1, 2, 0).numpy())


@pytest.fixture
def hole():
    """White in the right half."""
    mask = PIL.Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    return mask


@pytest.fixture
def both(tiny_sd, flex_pipe):
    """`both(stock class, scheduler, **options)`: pictures of the stock pipeline and of ours."""

    def run(kind, scheduler, seeds=(0,), prompt=PROMPT, **options):
        rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        stock = kind(**{**tiny_sd, **rest, "scheduler": scheduler.from_config(tiny_sd["scheduler"].config)})
        flex_pipe.scheduler = scheduler.from_config(tiny_sd["scheduler"].config)
        options = {"num_inference_steps": 4, "output_type": "pt", **options}
        pictures = []
        for pipe in (stock, flex_pipe):
            pipe.set_progress_bar_config(disable=True)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            generator = generators if len(seeds) > 1 else generators[0]
            pictures.append(pipe(prompt, generator=generator, **options).images)
        return pictures

    return run


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_without_conditions_it_is_the_stock_image_to_image(both, scheduler, strength):
    expected, found = both(StableDiffusionImg2ImgPipeline, scheduler, image=photo(), strength=strength)
    assert torch.equal(expected, found)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_without_conditions_it_is_the_stock_inpainting(both, hole, scheduler, strength):
    options = {"image": photo(), "mask_image": hole, "strength": strength}
    expected, found = both(StableDiffusionInpaintPipeline, scheduler, **options)
    assert torch.equal(expected, found)


@pytest.mark.filterwarnings("ignore:You have passed:FutureWarning")
@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_several_pictures_and_generators_too(both, hole, kind):
    extra = {"mask_image": hole} if kind is StableDiffusionInpaintPipeline else {}
    extra["guidance_scale"] = 1.0
    for options in (
        {"image": photo(), "num_images_per_prompt": 2},
        {"image": photo(), "num_images_per_prompt": 2, "seeds": (3, 4)},
        {"image": [photo(), photo(1)], "prompt": [PROMPT, "a cone"]},
        {"image": [photo(), photo(1)], "prompt": [PROMPT, "a cone"], "seeds": (3, 4)},
    ):
        expected, found = both(kind, DDIMScheduler, **{"strength": 0.6, **options, **extra})
        assert torch.equal(expected, found), options


def test_the_default_strengths_are_the_stock_ones(both, hole):
    assert torch.equal(*both(StableDiffusionImg2ImgPipeline, DDIMScheduler, image=photo()))
    assert torch.equal(*both(StableDiffusionInpaintPipeline, DDIMScheduler, image=photo(), mask_image=hole))


def test_pictures_of_one_prompt_start_from_its_own_picture(sample):
    images = [torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]
    options = {"num_inference_steps": 10, "strength": 0.1, "output_type": "latent", "num_images_per_prompt": 2}
    made = sample([PROMPT, PROMPT], image=images, **options).images
    alone = [sample(PROMPT, image=image, **{**options, "num_images_per_prompt": 1}).images[0] for image in images]
    for row, own in zip(made, (0, 0, 1, 1), strict=True):
        far = [float((row - one).square().mean()) for one in alone]
        assert far[own] < far[1 - own]


def test_conditions_and_phrases_act_from_a_picture(sample, square, hole):
    condition = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 0.5))
    for given in ({"strength": 0.6}, {"mask_image": hole}):
        plain = sample(image=photo(), **given)
        steered = sample(image=photo(), conditions=condition, **given)
        assert (plain.images - steered.images).abs().max() > 1e-3
        assert steered.attention_maps[0]["red cube"][4:].max() == 0
    late = Condition("canny", square(), start=0.5)
    report = sample(image=photo(), conditions=late, strength=0.5, num_inference_steps=8).report
    assert report["steps"] == 4 and report["prompts"][0]["conditions"][0]["active_steps"] == [2, 3]


def test_what_the_mask_keeps_is_kept(sample, square, hole):
    """In latents, where the mask's border is exact."""
    empty = PIL.Image.new("L", (64, 64), 0)
    options = {"image": photo(), "conditions": Condition("canny", square()), "output_type": "latent"}
    kept = sample(mask_image=empty, **options).images
    half = sample(mask_image=hole, **options).images
    assert torch.equal(half[..., :8], kept[..., :8]) and not torch.equal(half[..., 8:], kept[..., 8:])


def test_the_output_has_the_size_of_the_picture(sample, square):
    tall = torch.nn.functional.pad(square(), (0, 16, 0, 32))
    made = sample(image=photo(size=(96, 80)), conditions=Condition("canny", tall), strength=0.4)
    assert made.images.shape == (1, 3, 96, 80)


@pytest.mark.parametrize(
    ("match", "given"),
    [
        ("strength needs image", {"strength": 0.5}),
        ("mask_image needs image", {"mask_image": torch.ones(64, 64)}),
        (r"strength=0; it must lie in \(0, 1\]", {"image": photo(), "strength": 0}),
        (r"strength=1.5; it must lie in \(0, 1\]", {"image": photo(), "strength": 1.5}),
        ("strength=0.1 of 3 steps leaves none", {"image": photo(), "strength": 0.1}),
        ("output is 62x64; height and width must be positive multiples", {"image": photo(size=(62, 64))}),
        ("image #1 is 64x64; it must have the size of the output, 96x64", {"image": photo(), "height": 96}),
        ("image #2 is 32x64", {"image": [photo(), photo(size=(32, 64))], "num_images_per_prompt": 2}),
        ("image has 2 entries for 1 pictures", {"image": [photo(), photo()]}),
        ("image has 0 entries", {"image": []}),
        ("mask_image is 32x32; it must have the size of image", {"image": photo(), "mask_image": torch.ones(32, 32)}),
        (r"image: picture values run from -1", {"image": torch.full((3, 64, 64), -1.0)}),
        ("mask_image: .*NaN", {"image": photo(), "mask_image": torch.full((64, 64), torch.nan)}),
        ("latents are the noise of a call without image", {"image": photo(), "latents": torch.zeros(1, 4, 16, 16)}),
    ],
)
def test_bad_starts_are_refused(sample, match, given):
    with pytest.raises(ValueError, match=match):
        sample(**given)

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.modeling import FlexEControlModel

PROMPT = "a red cube left of a blue sphere"


@pytest.fixture
def counted(flex_pipe, monkeypatch):
    """How often the adapter's two entry points ran."""
    calls = {"condition_features": 0, "forward": 0}
    for name in calls:
        original = getattr(FlexEControlModel, name)

        def count(self, *args, _name=name, _original=original, **kwargs):
            calls[_name] += 1
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(FlexEControlModel, name, count)
    return calls


@pytest.mark.parametrize(
    ("kind", "prediction", "guidance"),
    [
        (DDIMScheduler, "epsilon", 5.0),
        (DDIMScheduler, "v_prediction", 1.0),
        (EulerDiscreteScheduler, "v_prediction", 5.0),
        (DPMSolverMultistepScheduler, "epsilon", 5.0),
    ],
)
def test_without_conditions_it_is_stable_diffusion(tiny_sd, flex_pipe, sample, kind, prediction, guidance):
    scheduler = kind.from_config(tiny_sd["scheduler"].config, prediction_type=prediction)
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    plain = StableDiffusionPipeline(**{**tiny_sd, **rest, "scheduler": scheduler})
    plain.set_progress_bar_config(disable=True)
    flex_pipe.scheduler = kind.from_config(scheduler.config)
    options = {"guidance_scale": guidance, "negative_prompt": "a green cone", "num_images_per_prompt": 2}
    generator = torch.Generator().manual_seed(0)
    expected = plain(PROMPT, generator=generator, num_inference_steps=3, output_type="pt", **options).images
    assert torch.equal(sample(PROMPT, **options).images, expected)


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_conditions_act_under_every_scheduler(flex_pipe, sample, square, kind):
    flex_pipe.scheduler = kind.from_config(flex_pipe.scheduler.config)
    with_map = sample(conditions=Condition("canny", square())).images
    assert torch.isfinite(with_map).all()
    assert (with_map - sample().images).abs().max() > 1e-3


def test_features_are_computed_once_per_active_set(sample, square, counted):
    sample(conditions=[Condition("canny", square()), Condition("depth", square())])
    assert counted == {"condition_features": 1, "forward": 3}
    late = Condition("depth", square(), start=0.3)
    sample(conditions=[Condition("canny", square()), late])
    assert counted == {"condition_features": 3, "forward": 6}


def test_a_window_is_a_run_of_steps_and_the_adapter_rests_outside(sample, square, counted):
    middle = Condition("canny", square(), start=0.25, end=0.75)
    report = sample(conditions=middle, num_inference_steps=8).report
    assert report["prompts"][0]["conditions"][0]["active_steps"] == [2, 3, 4, 5]
    assert counted["forward"] == 4


def test_a_schedule_sets_the_strength_of_each_step(sample, square, counted, flex_pipe):
    """Held flat it is the strength; steps with equal factors share their features; where it is 0 the adapter rests."""
    at_half = sample(conditions=Condition("canny", square(), strength=0.5)).images
    assert torch.equal(sample(conditions=Condition("canny", square(), schedule=[0.5, 0.5])).images, at_half)
    counted.update(condition_features=0, forward=0)
    falling = Condition("canny", square(), schedule=[1, 0])
    report = sample(conditions=falling, num_inference_steps=5).report
    (entry,) = report["prompts"][0]["conditions"]
    assert entry["active_steps"] == [0, 1, 2, 3] and entry["schedule"] == [1.0, 0.0]
    assert counted == {"condition_features": 4, "forward": 4}
    only_first = sample(conditions=Condition("canny", square(), end=1 / 3)).images
    assert torch.equal(sample(conditions=Condition("canny", square(), schedule=[1, 0, 0])).images, only_first)


@pytest.mark.parametrize("schedule", [[], "1, 0", [1, 2], [-0.1], [0, 0], [True], 0.5, [float("nan")]])
def test_a_schedule_that_is_none_is_refused(square, schedule):
    with pytest.raises(ValueError, match="schedule"):
        Condition("canny", square(), schedule=schedule)


def test_a_condition_of_strength_0_leaves_stable_diffusion(sample, square, counted):
    output = sample(conditions=Condition("canny", square(), phrase="red cube", strength=0.0), output_attention=False)
    assert torch.equal(output.images, sample().images)
    assert counted == {"condition_features": 0, "forward": 0}


def test_conditioning_scale_zero_leaves_the_adapter_out(sample, square, counted):
    output = sample(conditions=Condition("canny", square()), controlnet_conditioning_scale=0)
    assert torch.equal(output.images, sample().images)
    assert counted["forward"] == 0


def test_order_of_conditions_does_not_matter(sample, square):
    conditions = [Condition("canny", square()), Condition("canny", square(30, 30)), Condition("seg", square(4, 40))]
    forward, backward = sample(conditions=conditions).images, sample(conditions=conditions[::-1]).images
    assert (forward - backward).abs().max() < 1e-5


def test_strength_zero_beside_another_condition_is_removal(sample, square):
    kept, removed = Condition("canny", square()), Condition("canny", square(30, 30), strength=0)
    assert torch.equal(sample(conditions=[kept, removed]).images, sample(conditions=kept).images)


def test_overlaps_may_be_averaged(sample, square):
    twice = [Condition("canny", square(), region=(0, 0, 1, 1))] * 2
    once = sample(conditions=twice[:1]).images
    assert (sample(conditions=twice, normalise_overlap=True).images - once).abs().max() < 1e-5
    assert (sample(conditions=twice).images - once).abs().max() > 1e-3


def test_without_guidance_conditions_and_phrases_act(sample, square):
    condition = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 0.5))
    output = sample(conditions=condition, guidance_scale=1.0)
    assert output.attention_maps[0]["red cube"][4:].max() == 0
    assert (output.images - sample(guidance_scale=1.0).images).abs().max() > 1e-3


def test_a_region_moves_what_its_condition_says(sample, square):
    whole = sample(conditions=Condition("depth", torch.ones(3, 64, 64)))
    left = sample(conditions=Condition("depth", torch.ones(3, 64, 64), region=(0, 0, 0.5, 1)))
    assert (whole.images - left.images).abs().max() > 0.01
    assert [o.report["prompts"][0]["conditions"][0]["coverage"] for o in (whole, left)] == [1.0, 0.5]


def test_the_unconditional_branch_keeps_the_conditions(flex_pipe, sample, square, monkeypatch):
    seen = []
    original = FlexEControlModel.forward

    def watch(self, sample, *args, **kwargs):
        down, mid = original(self, sample, *args, **{**kwargs, "return_dict": False})
        seen.append((len(sample), mid.abs().flatten(1).amax(1)))
        return down, mid

    monkeypatch.setattr(FlexEControlModel, "forward", watch)
    sample(conditions=Condition("canny", square()), num_inference_steps=1)
    assert seen[0][0] == 2 and bool((seen[0][1] > 0).all())


def test_conditions_per_prompt_equal_separate_calls(sample, square, tiny_sd):
    prompts = ["a red cube", "a blue sphere", "a green cone"]
    lists = [
        [Condition("canny", square()), Condition("depth", square(4, 4, 40))],
        [Condition("depth", square(20, 20), start=0.5), Condition("depth", square(2, 2), region=(0, 0, 0.5, 1))],
        [],
    ]
    noise = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    together = sample(prompts, conditions=lists, latents=noise).images
    for i, prompt in enumerate(prompts):
        alone = sample(prompt, conditions=lists[i], latents=noise[i : i + 1]).images
        assert (together[i] - alone[0]).abs().max() < 1e-4, prompt


def test_per_type_weights_follow_the_windows_and_each_row(tiny_sd, sample, square):
    from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline
    from wm_pipelines.runtime.noise import randn

    control = FlexEControlModel.from_unet(
        tiny_sd["unet"], r=1, fast="per_type", condition_stride=4, feature_channels=(4, 4, 4), pre_channels=(4, 4)
    )
    with torch.no_grad():
        for name, parameter in control.trainable_parameters().items():
            if "zero_conv" in name or name.endswith("kronecker_u"):
                parameter.copy_(0.3 * randn(tuple(parameter.shape), name))
            elif "feature_extractor" in name:
                parameter.mul_(4)
    seen = []
    set_type_weights = control.set_type_weights

    def watch(weights):
        seen.append(None if weights is None else [round(float(w), 4) for w in weights.flatten()])
        set_type_weights(weights)

    control.set_type_weights = watch
    pipe = FlexEControlPipeline(**tiny_sd, control=control)
    pipe.set_progress_bar_config(disable=True)
    conditions = [Condition("canny", square(), strength=1.5), Condition("depth", square(), strength=0.5, end=0.5)]
    sample(pipe=pipe, conditions=conditions, num_inference_steps=2)
    assert seen == [[1.5, 0, 0, 0, 0, 0.5, 0], [1.5, 0, 0, 0, 0, 0, 0], None]

    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    lists = [[conditions[0]], [conditions[1]]]
    together = sample(["a red cube", "a red cube"], pipe=pipe, conditions=lists, latents=noise).images
    for i in range(2):
        alone = sample("a red cube", pipe=pipe, conditions=lists[i], latents=noise[i : i + 1]).images
        assert (together[i] - alone[0]).abs().max() < 1e-4


def test_without_steps_and_guidance_the_record_decides(flex_pipe):
    from wm_pipelines.config import WMConfig

    def report(**given):
        return flex_pipe("a red cube", output_type="latent", **given).report

    settings = {"num_inference_steps": 2, "guidance_scale": 3}
    flex_pipe.wm_config = WMConfig(method="flexecontrol", method_config=settings)
    assert (report()["steps"], report()["guidance_scale"]) == (2, 3.0)
    assert (report(num_inference_steps=1)["steps"], report(guidance_scale=1.0)["guidance_scale"]) == (1, 1.0)
    flex_pipe.wm_config = WMConfig(method="flexecontrol")
    assert report(num_inference_steps=1)["guidance_scale"] == 7.5


def test_windows_of_a_single_step_and_of_no_strength_are_fine(flex_pipe, square):
    from wm_pipelines.flexecontrol.conditions.condition import Condition

    for condition in (
        Condition("canny", square(), start=0.25, end=0.5),
        Condition("canny", square(), start=0.3, end=0.4, strength=0.0),
    ):
        flex_pipe("a red cube", conditions=condition, num_inference_steps=4, output_type="latent")

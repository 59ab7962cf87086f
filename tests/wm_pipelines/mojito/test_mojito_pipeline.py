"""MojitoPipeline on the stock class of every family, at test size."""

import copy
import json
import logging
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, EulerDiscreteScheduler

from wm_pipelines.config import WMConfig
from wm_pipelines.mojito.bases.calls import StockCall
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.trajectories.objects import MotionObject

FAMILIES = ("animatediff", "text-to-video", "latte", "wan", "ltx", "cogvideox")
PROMPT = "a red cube moving right"
GUIDED = {"guidance_fraction": 0.5, "guidance_iterations": 2, "allow_joint": True}


def corner(phrase="red cube", **more):
    return MotionObject(phrase, boxes=(0.0, 0.0, 0.5, 0.5), **more)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def run(pipe, size, prompt=PROMPT, objects=None, seed=1, **more):
    more = {"num_inference_steps": 4, "output_type": "latent", **size, **more}
    return pipe(prompt, objects, generator=generator(seed), **more)


def processors(pipe):
    return [module.processor for module in pipe.family.modules(pipe.denoiser).values()]


@pytest.fixture
def animated(bases):
    """An AnimateDiff pipeline of the test's own over the session's modules."""
    pipe, size = bases("animatediff")
    scheduler = pipe.scheduler.from_config(pipe.scheduler.config)
    own = MojitoPipeline(**{**pipe.components, "scheduler": scheduler})
    own.set_progress_bar_config(disable=True)
    return own, size


@pytest.mark.parametrize("family", FAMILIES)
def test_without_objects_it_is_the_stock_pipeline_bit_for_bit(bases, family):
    pipe, size = bases(family)
    named = {pipe.family.frames if name == "num_frames" else name: value for name, value in size.items()}
    stock = pipe.stock()(PROMPT, num_inference_steps=4, output_type="latent", generator=generator(), **named).frames
    assert torch.equal(run(pipe, size).frames, stock)
    measured = run(pipe, size, objects=[corner()], **{**GUIDED, "guidance_iterations": 0})
    assert torch.equal(measured.frames, stock)  # measuring moves nothing
    assert measured.report[0].iterations == 0 and [len(step) for step in measured.report[0].energy] == [1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_lowers_the_energy_and_puts_everything_back(bases, family):
    pipe, size = bases(family)
    before, step = processors(pipe), pipe.scheduler.step
    flags = [p.requires_grad for p in pipe.denoiser.parameters()]
    out = run(pipe, size, objects=[corner()], **GUIDED)
    report = out.report[0]
    assert not torch.equal(out.frames, run(pipe, size).frames)
    assert all(later < earlier for row in report.energy for earlier, later in zip(row, row[1:], strict=False))
    assert report.iterations == 4 and report.boxes.shape == (1, report.in_box.shape[1], 4)
    assert ((report.in_box > 0) & (report.in_box < 1)).all()
    assert processors(pipe) == before and pipe.scheduler.step == step
    assert [p.requires_grad for p in pipe.denoiser.parameters()] == flags and report.forwards == 4
    assert torch.equal(run(pipe, size, objects=[corner()], **GUIDED).frames, out.frames)


@pytest.mark.parametrize("family", FAMILIES)
def test_bias_puts_attention_into_the_box_without_a_gradient(bases, family):
    pipe, size = bases(family)
    shares = []
    for strength in (0.0, 4.0):
        out = run(
            pipe,
            size,
            objects=[corner()],
            **{**GUIDED, "guidance_iterations": 0},
            bias_in=strength,
            bias_out=strength,
            bias_fraction=0.5,
        )
        shares.append(out.report[0].in_box.mean())
    assert shares[1] > 2 * shares[0]


def test_a_batch_of_many_is_many_batches_of_one(animated):
    pipe, size = animated
    prompts = [PROMPT, "a blue sphere moving left"]
    objects = [[corner()], [MotionObject("blue sphere", points=(0.7, 0.7), size=(0.3, 0.3)), corner("left")]]
    together = pipe(
        prompts, objects, num_inference_steps=3, output_type="latent", **GUIDED, **size,
        generator=[generator(1), generator(2)],
    )  # fmt: skip
    for v, prompt in enumerate(prompts):
        alone = run(pipe, size, prompt, objects[v], seed=v + 1, num_inference_steps=3, **GUIDED)
        torch.testing.assert_close(alone.frames[0], together.frames[v], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            torch.tensor(alone.report[0].energy), torch.tensor(together.report[v].energy), rtol=0, atol=1e-5
        )


def test_the_energies_of_a_batch_end_where_each_video_ends_alone(animated):
    pipe, size = animated
    prompts, objects = [PROMPT] * 2, [[corner()], [MotionObject("red cube", boxes=(0.25, 0.25, 0.75, 0.75))]]
    settings = {**GUIDED, "guidance_iterations": 4, "guidance_eta": 300.0, "num_inference_steps": 2}
    after_one = [run(pipe, size, PROMPT, objects[v], seed=v + 1, **settings).report[0].energy[0][1] for v in (0, 1)]
    settings["guidance_threshold"] = sum(after_one) / 2  # one update takes one video below it, and not the other
    together = pipe(
        prompts, objects, output_type="latent", generator=[generator(1), generator(2)], **size, **settings
    ).report
    counts = set()
    for v in (0, 1):
        alone = run(pipe, size, PROMPT, objects[v], seed=v + 1, **settings).report[0]
        assert [len(step) for step in alone.energy] == [len(step) for step in together[v].energy]
        counts.add(len(alone.energy[0]))
    assert len(counts) == 2


@pytest.mark.parametrize("family", ["wan", "ltx"])
def test_several_videos_of_each_prompt_have_its_objects(bases, family):
    pipe, size = bases(family)
    prompts = [PROMPT, "a blue sphere moving left"]
    objects = [[corner()], [MotionObject("blue sphere", boxes=(0.5, 0.5, 1.0, 1.0))]]
    together = pipe(
        prompts, objects, num_inference_steps=2, output_type="latent", num_videos_per_prompt=2, **GUIDED, **size,
        generator=[generator(seed) for seed in range(4)],
    )  # fmt: skip
    assert len(together.report) == 4
    for v in (1, 2):  # the second video of the first prompt, the first of the second
        alone = run(pipe, size, prompts[v // 2], objects[v // 2], seed=v, num_inference_steps=2, **GUIDED)
        torch.testing.assert_close(alone.frames[0], together.frames[v], rtol=0, atol=1e-4)
        assert torch.equal(alone.report[0].boxes, together.report[v].boxes)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DDIMScheduler])
def test_another_scheduler_is_guided_by_the_same_rule(animated, scheduler):
    pipe, size = animated
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    report = run(pipe, size, objects=[corner()], **GUIDED).report[0]
    assert report.energy[0][1] < report.energy[0][0]


def test_the_update_is_the_stated_rule(animated):
    """One update by hand: the latents after it, from the gradient of the energy by finite differences."""
    pipe, size = animated
    seen = []

    def keep(p, i, t, tensors):
        seen.append(tensors["latents"])
        return {}

    settings = {"guidance_fraction": 0.01, "guidance_iterations": 1, "num_inference_steps": 2}
    run(pipe, size, objects=[corner()], guidance_eta=30.0, callback_on_step_end=keep, **settings)
    moved = seen[0]
    seen.clear()
    run(pipe, size, objects=[corner()], guidance_eta=0.0, callback_on_step_end=keep, **settings)
    assert not torch.equal(moved, seen[0])
    start = torch.randn(1, 4, 4, 16, 16, generator=generator(1))
    direction = torch.randn(start.shape, generator=generator(3))

    def energy(latents):
        out = run(pipe, size, objects=[corner()], latents=latents, **{**settings, "guidance_iterations": 0})
        return out.report[0].energy[0][0] * 4

    slope = (energy(start + 0.01 * direction) - energy(start - 0.01 * direction)) / 0.02
    # what one update moved along `direction`, seen through the reported energies of the moved start
    alpha = pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps[0]]
    rate = 30.0 * (1 - float(alpha))
    entered = []
    hook = pipe.unet.register_forward_hook(lambda module, args, kwargs, out: entered.append(args[0]), with_kwargs=True)
    try:
        run(pipe, size, objects=[corner()], latents=start, guidance_eta=30.0, **settings)
    finally:
        hook.remove()
    # the guide's own pass ends by an exception, so the first whole one is the step's, unconditional row first
    move = entered[0][1] - start[0]
    assert torch.equal(move, entered[0][0] - start[0])
    assert float((move * direction[0]).sum()) == pytest.approx(-rate * slope, rel=0.02)


def test_a_step_below_the_threshold_is_left_as_it_is(animated):
    pipe, size = animated
    out = run(pipe, size, objects=[corner()], **GUIDED, guidance_threshold=1.0)
    assert torch.equal(out.frames, run(pipe, size).frames)
    assert out.report[0].iterations == 0 and [len(step) for step in out.report[0].energy] == [1, 1]


def test_phrases_are_counted_in_the_prompt_that_the_base_encodes(animated, bases):
    pipe, _ = animated
    latte = bases("latte")[0].stock()
    prompt = " A Red Cube on the floor "
    assert [StockCall(latte, bases("latte")[0].family, {}).convert(prompt)] == latte._text_preprocessing(prompt)
    stock = copy.deepcopy(pipe).stock()
    stock.tokenizer.add_tokens(["<thing>", "<thing>_1"])  # as textual inversion names an embedding of two vectors
    assert StockCall(stock, pipe.family, {}).convert("a <thing> cube") == "a <thing> <thing>_1 cube"


def test_the_pass_ends_after_the_last_tap(animated):
    pipe, size = animated
    calls = []
    hook = pipe.unet.up_blocks[2].register_forward_hook(lambda *_: calls.append(1))
    try:
        run(pipe, size, objects=[corner()], guidance_taps=["mid_block"], **GUIDED)
    finally:
        hook.remove()
    assert len(calls) == 4  # the four steps themselves, none of the four guided passes


def test_gradient_checkpointing_changes_nothing(animated):
    pipe, size = animated
    plain = run(pipe, size, objects=[corner()], **GUIDED)
    pipe.unet.enable_gradient_checkpointing()
    pipe.unet.train()
    try:
        checkpointed = run(pipe, size, objects=[corner()], **GUIDED)
    finally:
        pipe.unet.eval()
        pipe.unet.disable_gradient_checkpointing()
    torch.testing.assert_close(checkpointed.frames, plain.frames, rtol=0, atol=1e-5)


def test_dict_and_tuple_and_reports_as_json(animated):
    pipe, size = animated
    out = run(pipe, size, objects=[corner()], output_type="pt", **GUIDED)
    frames, reports = run(pipe, size, objects=[corner()], output_type="pt", return_dict=False, **GUIDED)
    assert torch.equal(out.frames, frames) and out.frames.shape == (1, 4, 3, 64, 64)
    assert reports[0].flow.shape == (3,) and reports[0].iou is None
    assert json.loads(json.dumps(reports[0].to_dict()))["iterations"] == 4


def test_a_detector_gives_the_iou(animated):
    pipe, size = animated

    def detector(frames, phrase):
        assert phrase == "red cube" and frames.shape == (4, 3, 64, 64)
        found = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.25], [0.5, 0.5, 1, 1], [float("nan")] * 4])
        return found

    out = run(pipe, size, objects=[corner()], output_type="pt", detector=detector, **GUIDED)
    torch.testing.assert_close(out.report[0].iou, torch.tensor([[1.0, 0.5, 0.0, 0.0]]))


def test_callbacks_see_the_pipeline_and_cancel(animated):
    pipe, size = animated
    seen = []

    def stop(p, i, t, tensors):
        seen.append((p, i, tensors["latents"].shape))
        p._interrupt = i == 1
        return {}

    run(pipe, size, objects=[corner()], callback_on_step_end=stop, **GUIDED)
    assert [i for _, i, _ in seen] == [0, 1] and seen[0][0] is pipe


def test_an_error_inside_puts_everything_back(animated):
    pipe, size = animated
    before, step = processors(pipe), pipe.scheduler.step

    def fail(p, i, t, tensors):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        run(pipe, size, objects=[corner()], callback_on_step_end=fail, **GUIDED)
    assert processors(pipe) == before and pipe.scheduler.step == step


def test_it_works_under_inference_mode(animated):
    pipe, size = animated
    plain = run(pipe, size, objects=[corner()], **GUIDED)
    with torch.inference_mode():
        assert torch.equal(run(pipe, size, objects=[corner()], **GUIDED).frames, plain.frames)


def test_the_offload_sequence_names_every_component_that_runs_by_itself(bases):
    pipe, _ = bases("animatediff")
    modules = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    inside = {"motion_adapter", *pipe._exclude_from_cpu_offload}  # the adapter's modules are the denoiser's
    sequence = pipe.model_cpu_offload_seq.split("->")
    assert modules <= {*sequence, *inside} and not set(sequence) & inside


def test_model_offload_runs_in_sequence(bases):
    """On a CPU the hooks move nothing, but their chain runs."""
    pipe, size = bases("animatediff")
    own = MojitoPipeline(**{k: copy.deepcopy(v) for k, v in pipe.components.items()})
    own.set_progress_bar_config(disable=True)
    plain = run(own, size, objects=[corner()], **GUIDED).frames
    own.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert torch.equal(run(own, size, objects=[corner()], **GUIDED).frames, plain)


def test_half_precision_and_group_offload(bases):
    pipe, size = bases("animatediff")
    own = MojitoPipeline(**{k: copy.deepcopy(v) for k, v in pipe.components.items()})
    own.set_progress_bar_config(disable=True)
    plain = run(own, size, objects=[corner()], **GUIDED)
    cpu = torch.device("cpu")
    own.enable_group_offload(cpu, cpu, offload_type="leaf_level", exclude_modules=["motion_adapter"])
    torch.testing.assert_close(run(own, size, objects=[corner()], **GUIDED).frames, plain.frames, rtol=0, atol=1e-4)
    half = MojitoPipeline(**{k: copy.deepcopy(v) for k, v in pipe.components.items()}).to(torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    out = run(half, size, objects=[corner()], **GUIDED)
    assert out.frames.dtype == torch.bfloat16 and out.frames.isfinite().all()


def test_it_saves_and_loads_bit_equal(animated, tmp_path):
    pipe, size = animated
    out = run(pipe, size, objects=[corner()], **GUIDED)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = MojitoPipeline.from_pretrained(str(tmp_path / "pipe"))
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(run(loaded, size, objects=[corner()], **GUIDED).frames, out.frames)


@pytest.mark.slow
def test_in_a_fresh_process_it_is_bit_equal_too(animated, tmp_path):
    pipe, size = animated
    out = run(pipe, size, objects=[corner()], **GUIDED)
    pipe.save_pretrained(tmp_path / "pipe")
    options = {**GUIDED, **size, "num_inference_steps": 4, "output_type": "latent"}
    fresh = f"""
import torch
from wm_pipelines import MojitoPipeline, MotionObject
torch.set_num_threads({torch.get_num_threads()})
cube = MotionObject("red cube", boxes=(0.0, 0.0, 0.5, 0.5))
pipe = MojitoPipeline.from_pretrained({str(tmp_path / "pipe")!r})
out = pipe({PROMPT!r}, [cube], generator=torch.Generator().manual_seed(1), **{options!r})
torch.save(out.frames, {str(tmp_path / "frames.pt")!r})
"""
    subprocess.run([sys.executable, "-c", fresh], check=True, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "frames.pt"), out.frames)


def test_the_record_says_how_it_is_sampled_and_steered(animated):
    pipe, size = animated
    given = {"guidance_scale": 3.0, "num_inference_steps": 4}
    steered = {"guidance_eta": 5.0, "guidance_iterations": 1, "guidance_fraction": 0.5}
    explicit = run(pipe, size, objects=[corner()], **given, **steered)
    guidance = {name.removeprefix("guidance_"): value for name, value in steered.items()}
    values = {"method": "mojito", "pipeline": "MojitoPipeline", "method_config": {**given, "guidance": guidance}}
    pipe.wm_config = WMConfig(**values)
    recorded = run(pipe, size, objects=[corner()], num_inference_steps=None, guidance_scale=None)
    assert torch.equal(recorded.frames, explicit.frames) and recorded.report[0].iterations == 2
    other = run(pipe, size, objects=[corner()], guidance_scale=6.0)
    assert not torch.equal(other.frames, explicit.frames)


def test_the_record_steers_the_end_of_the_text_with_a_lone_object(animated):
    """Unset, the record's positions join one object as far as there is room, and none of several; a number is used."""
    pipe, size = animated

    def tokens(prompt=PROMPT, objects=None, **more):
        out = run(pipe, size, prompt, objects or [corner()], num_inference_steps=1, **{**GUIDED, **more})
        said = [line for line in out.report[0].warnings if "trailing" in line]
        return out, out.plan[0].slots.tokens.tolist(), said

    without, alone, _ = tokens()
    asked, joined, _ = tokens(trailing_tokens=3)
    end = len(pipe.tokenizer(PROMPT).input_ids) - 1
    assert joined == [*alone, end, end + 1, end + 2] and not torch.equal(asked.frames, without.frames)

    guidance = {"trailing_tokens": 3}
    pipe.wm_config = WMConfig(method="mojito", pipeline="MojitoPipeline", method_config={"guidance": guidance})
    recorded, found, warnings = tokens()
    assert found == joined and torch.equal(recorded.frames, asked.frames) and not warnings
    assert tokens(trailing_tokens=0)[1] == alone
    long = "a red cube" + " and" * 71  # the end of text is at 75, of 77 positions
    assert tokens(long)[1] == [*alone, 75, 76]

    two = [corner(), MotionObject("blue sphere", boxes=(0.5, 0.5, 1, 1))]
    prompt = "a red cube left of a blue sphere"
    _, apart, warnings = tokens(prompt, two)
    assert len(apart) == len(set(apart)) and not warnings
    _, shared, warnings = tokens(prompt, two, trailing_tokens=2)
    assert len(shared) == len(apart) + 4
    assert warnings == [
        "trailing_tokens=2: the same text positions are pulled into the boxes of 2 objects at once; "
        "they are meant for a lone one"
    ]


def test_noise_is_shared_by_the_frames_where_the_record_says_so(animated, bases):
    pipe, size = animated
    plain = run(pipe, size)
    pipe.wm_config = WMConfig(method="mojito", pipeline="MojitoPipeline", method_config={"shared_noise": 0.36})
    shared = run(pipe, size)
    assert not torch.equal(shared.frames, plain.frames)
    rng, shape = generator(), plain.frames.shape
    own = torch.randn(shape, generator=rng)
    common = torch.randn((*shape[:2], 1, *shape[3:]), generator=rng)
    again = run(pipe, size, latents=0.6 * common + 0.8 * own)
    torch.testing.assert_close(again.frames, shared.frames)
    pair = pipe(
        [PROMPT, PROMPT], generator=[generator(1), generator(2)], num_inference_steps=4, output_type="latent", **size
    )
    torch.testing.assert_close(pair.frames[:1], shared.frames, rtol=1e-4, atol=1e-4)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    first, second = run(pipe, size).frames, run(pipe, size).frames
    assert torch.equal(first, second)  # this scheduler's sigma is another once it knows its steps
    mixed = run(pipe, size, latents=0.6 * common + 0.8 * own).frames
    torch.testing.assert_close(mixed, first, rtol=1e-3, atol=1e-3)
    other, other_size = bases("latte")
    other = MojitoPipeline(**other.components)
    other.wm_config = pipe.wm_config
    with pytest.raises(ValueError, match="shared_noise=0.36 is for AnimateDiff"):
        run(other, other_size)


def test_two_objects_weights_and_smoothness_run(animated):
    pipe, size = animated
    prompt = "a red cube left of a blue sphere"
    objects = [corner(weight=2.0), MotionObject("blue sphere", boxes=(0.5, 0.5, 1, 1))]
    plain = run(pipe, size, prompt, objects, **GUIDED)
    smooth = run(pipe, size, prompt, objects, smooth_weight=10.0, **GUIDED)
    assert plain.report[0].in_box.shape == (2, 4) and not torch.equal(plain.frames, smooth.frames)


def test_conflicts_are_said_before_the_first_step(animated, caplog):
    pipe, size = animated
    right = MotionObject("red cube", boxes=[(0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5)], keyframes=(0, 3))
    prompts = ["a red cube moving left", PROMPT]
    said = pipe.conflicts(prompts, [[right], [right]], **size)
    assert len(said) == 2 and "left" in said[0][0] and len(said[0]) == len(said[1]) + 1
    assert pipe.conflicts(PROMPT, [], **size) == [[]]
    seen = []
    with caplog.at_level(logging.WARNING):
        hook = pipe.unet.register_forward_pre_hook(lambda *_: seen.append(len(caplog.records)))
        try:
            out = run(pipe, size, prompts[0], [right], **{**GUIDED, "guidance_iterations": 0})
        finally:
            hook.remove()
    assert out.report[0].conflicts == said[0] and seen[0] == len(said[0])
    assert said[0][0] in caplog.records[0].getMessage()
    with pytest.raises(ValueError, match="phrase 'cone' not found"):
        pipe.conflicts(PROMPT, [corner("cone")], **size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": [corner("green cone")]}, "phrase 'green cone' not found in prompt"),
        (
            {"objects": [corner("sphere")], "prompt": "a cube " * 40 + "a sphere"},
            "tokens, the text encoder takes 77",
        ),
        ({"objects": [corner("red"), corner("red")]}, "objects\\[1\\] and objects\\[0\\] have the same words"),
        ({"objects": [corner()], "prompt": None, "prompt_embeds": torch.zeros(1, 77, 16)}, "need a prompt"),
        ({"objects": "red cube"}, "objects must be a list of MotionObject, got str"),
        ({"objects": [MotionObject("red cube", boxes=(0.5, 0, 0.4, 1))]}, "x1<=x0"),
        ({"motion_intensity": 11}, "motion_intensity=11; a level from 0 to 10"),
        ({"motion_intensity": 3.0}, "no MIM weights"),
        ({"motion_intensity": [1.0, 2.0]}, "motion_intensity has 2 values for 1 prompts"),
        ({"intensity_schedule": [1, 0]}, "intensity_schedule scales motion_intensity, which is not given"),
        ({"intensity_schedule": "1, 0"}, "intensity_schedule must be a list of factors from 0 to 1, got '1, 0'"),
        ({"intensity_schedule": [2.0]}, "intensity_schedule must be a list of factors from 0 to 1, got \\[2.0\\]"),
        ({"guidance_eta": float("nan")}, "guidance_eta=nan"),
        ({"guidance_fraction": 1.5}, "guidance_fraction=1.5; it must be from 0 to 1"),
        ({"guidance_iterations": -1}, "guidance_iterations=-1"),
        ({"guidance_taps": ["up_blocks.9"], "objects": [corner()]}, "guidance_taps has 'up_blocks.9'.*mid_block"),
        ({"guidance_taps": [], "objects": [corner()]}, "guidance_taps is \\[\\]; a list of one block's name or more"),
        ({"num_frames": 17}, "num_frames=17, but the motion adapter has positions for 16 frames"),
        ({"detector": len}, "detector needs objects to look for"),
        ({"detector": len, "objects": [corner()], "output_type": "latent"}, "detector needs decoded frames"),
        ({"objects": [[corner()], []], "prompt": [PROMPT] * 2}, "objects has an empty list for one prompt"),
        ({"trailing_tokens": -1, "objects": [corner()]}, "trailing_tokens=-1; a whole number, 0 or more"),
        ({"trailing_tokens": True, "objects": [corner()]}, "trailing_tokens=True; a whole number"),
        ({"trailing_tokens": 80, "objects": [corner()]}, "trailing_tokens=80; the text leaves room for"),
        (
            {"trailing_tokens": 65, "objects": [corner("red"), corner("cube")]},
            "132 tokens, trailing ones included; at most 128",
        ),
        ({"num_frames": 0}, "num_frames must be a positive integer, got 0"),
        ({"max_sequence_length": 8}, "AnimateDiffPipeline takes no max_sequence_length"),
        ({"num_videos_per_prompt": 2}, "AnimateDiffPipeline makes one video of each prompt; repeat the prompt"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt=0; a whole number of at least 1"),
        ({"prompt": 3}, "prompt must be a str"),
        ({"height": 63, "objects": [corner()]}, "height=63; it must be a multiple of 4"),
    ],
)
def test_bad_input_is_refused_before_sampling(animated, changes, message):
    pipe, size = animated
    arguments = {"prompt": PROMPT, **size, **changes}
    hook = pipe.unet.register_forward_pre_hook(lambda *_: pytest.fail("the denoiser ran"))
    try:
        with pytest.raises(ValueError, match=message):
            pipe(num_inference_steps=1, **arguments)
    finally:
        hook.remove()


def test_bases_that_cannot_be_steered_are_refused(animated, bases):
    pipe, size = animated
    joint, joint_size = bases("cogvideox")
    with pytest.raises(ValueError, match="joint text-video attention: pass allow_joint=True"):
        run(joint, joint_size, objects=[corner()])
    wan, wan_size = bases("wan")
    for objects in ([corner()], None):
        with pytest.raises(ValueError, match="num_frames=8 does not fit the base's temporal stride of 4: use 4k\\+1"):
            run(wan, {**wan_size, "num_frames": 8}, objects=objects)
    with pytest.raises(ValueError, match="phrase 'cube' lies past the limit of 16 tokens"):
        run(wan, wan_size, "a red " * 8 + "cube", [corner("cube")])
    joint.transformer.register_to_config(patch_size_t=2)
    try:
        with pytest.raises(ValueError, match="joins 2 latent frames in one token"):
            run(joint, joint_size, objects=[corner()], allow_joint=True)
    finally:
        joint.transformer.register_to_config(patch_size_t=None)
    latte, latte_size = bases("latte")
    with pytest.raises(ValueError, match="LattePipeline takes no num_videos_per_prompt"):
        run(latte, latte_size, num_videos_per_prompt=2)
    with pytest.raises(ValueError, match="timesteps is empty"):
        run(latte, latte_size, timesteps=[])
    with pytest.raises(ValueError, match="clean_caption=True rewrites the prompt"):
        run(latte, latte_size, objects=[corner()], clean_caption=True)
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(ValueError, match="EDMEulerScheduler, whose latents are of unknown parametrisation"):
        run(pipe, size, objects=[corner()])
    with pytest.raises(ValueError, match="pass unet or transformer, got neither"):
        MojitoPipeline(None, None, None, None)


def test_a_picture_base_without_adapter_or_attention_is_refused(tiny_sd):
    from diffusers import UNet2DModel

    with pytest.raises(ValueError, match="pass a motion_adapter with it"):
        MojitoPipeline(**tiny_sd)
    plain = UNet2DModel(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    with pytest.raises(ValueError, match="UNet2DModel, which has no text attention that Mojito knows"):
        MojitoPipeline(**{**tiny_sd, "unet": plain})


def test_a_processor_that_does_more_is_refused(animated):
    shared, size = animated
    # diffusers leaves the fused layers in the modules when it takes them apart
    pipe = MojitoPipeline(**{**shared.components, "unet": copy.deepcopy(shared.unet)})
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.fuse_qkv_projections()
    with pytest.raises(ValueError, match="FusedAttnProcessor2_0.*unload or unfuse"):
        run(pipe, size, objects=[corner()])
    pipe.unet.unfuse_qkv_projections()
    assert run(pipe, size, objects=[corner()], **GUIDED).report[0].iterations == 4  # taken apart, it is plain again

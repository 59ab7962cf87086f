"""What a callback sees and sets on the pipeline, for every family; what a call gives back beside its frames."""

import inspect

import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback

from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.trajectories import MotionObject

FAMILIES = ("animatediff", "text-to-video", "latte", "wan", "ltx", "cogvideox")
PROMPT = "a red cube moving right"


def sample(pipe, size, scales=None, **more):
    """The latents after each step of a call whose callback sets `scales[step]`, and the scales it saw."""
    seen, latents = [], []

    def callback(p, step, t, tensors):
        assert p is pipe and p.do_classifier_free_guidance
        seen.append(p.guidance_scale)
        latents.append(tensors["latents"])
        if scales and step in scales:
            p._guidance_scale = scales[step]
        return {}

    given = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": 5.0, **size, **more}
    pipe(PROMPT, generator=torch.Generator().manual_seed(1), callback_on_step_end=callback, **given)
    return latents, seen


@pytest.mark.parametrize("family", FAMILIES)
def test_the_guidance_scale_that_a_callback_sets_acts_from_the_next_step(bases, family):
    pipe, size = bases(family)
    plain, seen = sample(pipe, size)
    assert seen == [5.0] * 3 and pipe.guidance_scale == 5.0
    changed, seen = sample(pipe, size, scales={0: 2.0})
    assert seen == [5.0, 2.0, 2.0]
    assert torch.equal(changed[0], plain[0]) and not torch.equal(changed[1], plain[1])
    back, _ = sample(pipe, size, scales={0: 2.0, 1: 5.0}, guidance_scale=5.0)
    assert torch.equal(back[1], changed[1]) and not torch.equal(back[2], changed[2])
    again, _ = sample(pipe, size)
    assert all(torch.equal(a, b) for a, b in zip(again, plain, strict=True))  # the next call begins with its own


def test_a_callback_class_of_diffusers_ends_classifier_free_guidance(bases):
    pipe, size = bases("text-to-video")
    rows = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        pipe(
            PROMPT,
            num_inference_steps=4,
            output_type="latent",
            callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1),
            **size,
        )
    finally:
        hook.remove()
    assert rows == [2, 2, 1, 1]


def test_the_plan_is_what_was_steered_by(bases):
    pipe, size = bases("animatediff")
    items = [
        MotionObject("red cube", boxes=[(0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5)], keyframes=(0, 3)),
        MotionObject("floor", boxes=(0.0, 0.5, 1.0, 1.0)),
    ]
    prompt = "a red cube moving left on the floor"
    out = pipe(prompt, items, num_inference_steps=2, output_type="latent", guidance_iterations=1, **size)
    (plan,), (report,) = out.plan, out.report
    assert plan.phrases == ["red cube", "floor"] and plan.objects == tuple(items)
    assert torch.equal(plan.boxes, torch.stack([item.frame_boxes(4) for item in items]))
    assert report.boxes is plan.latent_boxes and report.conflicts == plan.conflicts != []
    words = pipe.tokenizer.convert_ids_to_tokens(pipe.tokenizer(prompt).input_ids)
    named = ["".join(words[t] for t in plan.slots.tokens[plan.slots.owners == o]) for o in (0, 1)]
    assert named == ["red</w>cube</w>", "floor</w>"]
    assert pipe(prompt, num_inference_steps=1, output_type="latent", **size).plan is None


def test_every_argument_of_every_stock_call_is_spelled_out(bases):
    takes = inspect.signature(MojitoPipeline.__call__).parameters
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in takes.values())
    for family in FAMILIES:
        pipe, _ = bases(family)
        theirs = inspect.signature(type(pipe.stock()).__call__).parameters
        named = {n for n, p in theirs.items() if p.kind is not p.VAR_KEYWORD} - {"video_length"}
        assert named <= set(takes), family
    with pytest.raises(TypeError, match="strength"):
        pipe(PROMPT, strength=1)

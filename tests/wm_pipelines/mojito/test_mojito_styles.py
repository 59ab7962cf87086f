"""Every style of bias with guidance off and on, on every family: it samples, or is refused by name before."""

import pytest
import torch

from wm_pipelines.config import WMConfig
from wm_pipelines.mojito.guidance.edits import STYLES, edited_attention
from wm_pipelines.mojito.guidance.state import Slots
from wm_pipelines.mojito.trajectories.objects import MotionObject

FAMILIES = ("animatediff", "text-to-video", "latte", "wan", "ltx", "cogvideox")
CUBE = MotionObject("red cube", boxes=(0.0, 0.0, 0.5, 0.5))
SPHERE = MotionObject("blue sphere", boxes=(0.4, 0.3, 1.0, 1.0))


def sample(pipe, size, style, guided, objects=(CUBE, SPHERE), prompt="a red cube and a blue sphere", **more):
    return pipe(
        prompt, list(objects), num_inference_steps=2, output_type="latent", **size,
        generator=torch.Generator().manual_seed(0), allow_joint=True, bias_style=style, bias_fraction=1.0,
        bias_in=2.0 * (style == "logit"), bias_out=1.0 * (style == "logit"),
        guidance_fraction=1.0 * guided, guidance_threshold=0.0, guidance_iterations=2, **more,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_style_with_and_without_guidance(bases, family):
    pipe, size = bases(family)
    found = {}
    for style in STYLES:
        for guided in (False, True):
            out = sample(pipe, size, style, guided)
            frames = found[style, guided] = torch.as_tensor(out.frames)
            assert torch.isfinite(frames).all(), (style, guided)
            # two updates in each of two steps, or none
            assert [len(step) for step in out.report[0].energy] == [2, 2] * guided, (style, guided)
            assert out.report[0].iterations == 4 * guided, (style, guided)
    # no two are the same: each style acts, and guidance moves what each of them makes
    kinds = list(found)
    for i, one in enumerate(kinds):
        for other in kinds[i + 1 :]:
            assert not torch.equal(found[one], found[other]), (one, other)


@pytest.mark.parametrize("style", ["trailblazer", "freetraj"])
@pytest.mark.parametrize("trailing", [1, 2])
def test_a_phrase_that_is_the_whole_text(bases, style, trailing):
    """With the end of text it is all that Latte attends to; what the padding would be is not there to be edited."""
    pipe, size = bases("latte")
    for guided in (False, True):
        if trailing == 2:
            message = "trailing_tokens=2; LattePipeline drops what follows the 3 tokens of a single prompt"
            with pytest.raises(ValueError, match=message):
                sample(pipe, size, style, guided, [CUBE], "red cube", trailing_tokens=2)
            continue
        out = sample(pipe, size, style, guided, [CUBE], "red cube", trailing_tokens=1)
        assert torch.isfinite(torch.as_tensor(out.frames)).all()
    pipe.wm_config = WMConfig(method="mojito", method_config={"guidance": {"trailing_tokens": 2}})
    try:  # what the record says goes no further than the text does
        recorded = sample(pipe, size, style, True, [CUBE], "red cube")
    finally:
        pipe.wm_config = None
    assert recorded.plan[0].slots.tokens.tolist() == [0, 1, 2]
    with_padding = sample(pipe, size, style, True, [CUBE], "red cube", trailing_tokens=2, mask_feature=False)
    assert torch.isfinite(torch.as_tensor(with_padding.frames)).all()


@pytest.mark.parametrize("style", ["trailblazer", "freetraj"])
@pytest.mark.parametrize("whole", [False, True])
def test_gradients_of_an_edit_are_those_of_finite_differences(style, whole):
    """`whole`: both objects' phrases are all there is to attend to, so with freetraj only v has a gradient."""
    owners = torch.tensor([0, 0, 1, 1, 1])
    tokens = torch.tensor([0, 1, 2, 3, 4] if whole else [1, 2, 2, 3, 4])
    keys = 5 if whole else 7
    boxes = torch.tensor([[[0.0, 0.0, 0.6, 0.6]], [[0.3, 0.3, 1.0, 0.9]]])
    guide = Slots(tokens, owners, boxes, torch.ones(2), keys)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*size, generator=generator) for size in ((1, 2, 9, 4), (2, keys, 4), (2, keys, 4)))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    weight = torch.randn(1, 2, 9, 4, generator=generator)

    def value(*given):
        return (edited_attention(*given, guide, (3, 3), None, style) * weight).sum()

    grads = torch.autograd.grad(value(*leaves), leaves)
    for at, grad in enumerate(grads):
        assert torch.isfinite(grad).all()
        assert grad.any() == (at == 2 or style == "trailblazer" or not whole)
        along = torch.randn(grad.shape, generator=generator)
        step = 1e-3
        moved = [[t + s * step * along if i == at else t for i, t in enumerate((q, k, v))] for s in (1, -1)]
        slope = (value(*moved[0]).double() - value(*moved[1]).double()) / (2 * step)
        assert float(slope) == pytest.approx(float((grad * along).sum()), rel=0.02, abs=2e-3)


def test_guidance_in_bf16_is_warned_of(bases, caplog):
    """Its gradient points elsewhere; measuring alone, and a call without objects, follow none."""
    import copy

    pipe, size = bases("animatediff")
    pipe = copy.deepcopy(pipe).to(torch.bfloat16)
    words = "load the denoiser in float32 to steer"
    options = {"num_inference_steps": 1, "output_type": "latent", **size}
    pipe("a red cube", [CUBE], guidance_iterations=0, **options)
    pipe("a red cube", [CUBE], guidance_fraction=0.0, **options)
    pipe("a red cube", **options)
    assert words not in caplog.text
    pipe("a red cube", [CUBE], guidance_iterations=1, **options)
    assert words in caplog.text
    caplog.clear()
    sample(bases("animatediff")[0], size, "logit", True, [CUBE], "a red cube")
    assert words not in caplog.text

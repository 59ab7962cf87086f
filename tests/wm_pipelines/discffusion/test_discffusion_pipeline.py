import math

import pytest
import torch

from wm_pipelines import DiscffusionPipeline, embedded
from wm_pipelines.discffusion.capture import text_logits
from wm_pipelines.runtime.noise import randn

STEPS = [100, 500, 900]


def by_hand(judge, picture, text, t, noise):
    """A_t and B_t of the release, for one pair, from what hooks see of the six last layers."""
    seen = {}
    last = {name: module for name, module in judge.unet.named_modules() if name.endswith("attn2")}
    keep = [n for n in last if n.startswith(("down_blocks.1", "mid_block", "up_blocks.2"))]
    hooks = [
        last[n].register_forward_pre_hook(
            lambda m, args, kw, n=n: seen.__setitem__(n, text_logits(m, args[0], kw["encoder_hidden_states"])),
            with_kwargs=True,
        )
        for n in keep
    ]
    latents = judge.vae.encode(picture[None] * 2 - 1).latent_dist.mode() * judge.vae.config.scaling_factor
    alpha = judge.scheduler.alphas_cumprod[t]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    means, norms = [], []
    for words in ("", text):
        ids = judge.tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
        predicted = judge.unet(noisy, t, judge.text_encoder(ids)[0]).sample
        norms.append((noise - predicted).norm())
        means.append(torch.stack([seen[n].logsumexp(-1).mean() for n in keep]).mean())
    for hook in hooks:
        hook.remove()
    return (means[0] + means[1]) / 2, norms[0] - norms[1]


@torch.no_grad()
def test_the_two_parts_are_the_definition(judge, pictures, captions):
    picture = pictures(1)[0]
    out = judge(picture, captions[1], timesteps=STEPS, seed=3)
    for k, t in enumerate(STEPS):
        lse, dc = by_hand(judge, picture, captions[1], t, randn((4, 16, 16), "discffusion", 3, k)[None])
        assert float(out.steps[0, k, 0]) == pytest.approx(float(lse), abs=1e-5)
        assert float(out.steps[1, k, 0]) == pytest.approx(float(dc), abs=1e-4)
    assert float(out.score) == pytest.approx(float(out.lse + out.dc), abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"shared_noise": False}, {"score": "lse", "token_mask": "content"}])
def test_a_score_does_not_depend_on_its_company(judge, pictures, captions, options):
    shown = [*pictures(3), torch.full((3, 32, 48), 0.5)]
    together = judge(shown, captions, pairwise=True, timesteps=STEPS, batch_size=3, **options)
    grid = judge(shown, captions, pairwise=False, timesteps=STEPS, **options)
    for n, (picture, text) in enumerate(zip(shown, captions, strict=True)):
        alone = judge(picture, text, timesteps=STEPS, **options)
        assert float(together.score[n]) == pytest.approx(float(alone.score), abs=1e-4)
        assert float(grid.score[n, n]) == pytest.approx(float(alone.score), abs=1e-4)


def test_passes_are_counted_and_the_empty_caption_runs_once_for_each_picture(judge, pictures, captions):
    n = len(STEPS)
    assert judge.rank(pictures(1)[0], captions, timesteps=STEPS).forwards == n * (4 + 1)
    assert judge.rank(captions[0], pictures(3), timesteps=STEPS).forwards == n * 2 * 3
    assert judge(pictures(2), captions, pairwise=False, timesteps=STEPS).forwards == n * 2 * (4 + 1)
    assert judge(pictures(1), captions, timesteps=STEPS, shared_noise=False).forwards == n * 2 * 4
    lone = judge.rank(pictures(1)[0], captions, timesteps=STEPS, score="lse", cond_only=True)
    assert (lone.forwards, lone.dc) == (n * 4, None)
    calls = []
    hook = judge.unet.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    told = judge.rank(pictures(1)[0], captions, timesteps=STEPS, batch_size=2).forwards
    hook.remove()
    assert sum(calls) == told and max(calls) <= 2


def test_a_ranking_is_the_order_of_the_scores_and_a_tie_is_no_answer(judge, pictures, captions):
    ranking = judge.rank(pictures(1)[0], captions, timesteps=STEPS)
    scores = judge(pictures(1)[0], captions, timesteps=STEPS).score
    torch.testing.assert_close(ranking.score, scores, atol=1e-4, rtol=0)
    assert ranking.order == scores.argsort(descending=True).tolist() and ranking.best == ranking.order[0]
    tied = judge.rank(pictures(1)[0], [captions[0], captions[0]], timesteps=STEPS, batch_size=1)
    assert tied.order == [0, 1] and tied.best is None


def test_elimination_gives_the_survivors_their_full_scores(judge, pictures, captions):
    full = judge.rank(pictures(1)[0], captions, timesteps=40)
    raced = judge.rank(pictures(1)[0], captions, timesteps=40, eliminate=True)
    assert raced.order[0] == full.order[0] and raced.forwards <= full.forwards
    for c in range(4):
        if raced.seen[c] == 40:
            assert float(raced.score[c]) == pytest.approx(float(full.score[c]), abs=1e-4)


def test_zero_logits_give_the_logarithm_of_the_tokens(judge, pictures, captions):
    with torch.no_grad():
        for name, module in judge.unet.named_modules():
            if name.endswith("attn2"):
                module.to_q.weight.zero_()
    picture = pictures(1)[0]
    assert float(judge(picture, captions[1], "lse", timesteps=[500]).score) == pytest.approx(math.log(77), abs=1e-5)
    few = judge(picture, captions[0], "lse", timesteps=[500], token_mask="content")
    assert float(few.score) == pytest.approx(math.log(3), abs=1e-5)  # a, red, cube
    no_bos = judge(picture, captions[0], "lse", timesteps=[500], token_mask="no_bos", lse_lambda=2.0)
    assert float(no_bos.score) == pytest.approx(math.log(76) / 2, abs=1e-5)
    probs = judge(picture, captions[0], "lse", timesteps=[500], on="probs")
    assert float(probs.score) == pytest.approx(math.log(77) + 1 / 77, abs=1e-5)


def test_v_predictions_are_read_as_noise(judge, pictures, captions):
    """A UNet that answers with v = √ᾱ ε - √(1-ᾱ) z of its input must look like the one that answers with ε."""
    plain = judge(pictures(1)[0], captions[0], "dc", timesteps=STEPS)
    unet, alphas = judge.unet, judge.scheduler.alphas_cumprod
    own = unet.forward

    def as_v(sample, t, states, **kwargs):
        out, alpha = own(sample, t, states, **kwargs), alphas[t].view(-1, 1, 1, 1)
        out.sample = (out.sample - (1 - alpha).sqrt() * sample) / alpha.sqrt()
        return out

    unet.forward = as_v
    scheduler = judge.scheduler.from_config(judge.scheduler.config, prediction_type="v_prediction")
    other = DiscffusionPipeline(**{**judge.components, "scheduler": scheduler})
    other.set_progress_bar_config(disable=True)
    again = other(pictures(1)[0], captions[0], "dc", timesteps=STEPS)
    torch.testing.assert_close(again.steps, plain.steps, atol=2e-3, rtol=1e-4)


def test_maps_are_shares_of_attention_and_do_not_change_scores(judge, pictures, captions):
    plain = judge(pictures(2), captions[:2], pairwise=True, timesteps=STEPS)
    out = judge(pictures(2), captions[:2], pairwise=True, timesteps=STEPS, maps=True)
    torch.testing.assert_close(out.score, plain.score)
    assert [tuple(m.shape) for m in out.maps] == [(77, 16, 16)] * 2
    torch.testing.assert_close(out.maps[0].sum(0), torch.ones(16, 16), atol=1e-4, rtol=0)
    assert judge.words(captions[0]) == [(1, "a"), (2, "red"), (3, "cube")]


def test_reading_changes_no_prediction_and_leaves_no_trace(judge, pictures, captions):
    before = {name: m.processor for name, m in judge.unet.named_modules() if name.endswith("attn2")}
    args = randn((1, 4, 16, 16), "a"), torch.tensor([5]), randn((1, 77, 16), "b")
    plain = judge.unet(*args).sample
    judge(pictures(1)[0], captions[0], timesteps=STEPS)
    assert torch.equal(judge.unet(*args).sample, plain)
    assert all(judge.unet.get_submodule(name).processor is own for name, own in before.items())


def test_rivals_have_intervals_and_lone_pairs_do_not(judge, pictures, captions):
    lone = judge(pictures(3), captions[:3], pairwise=True, timesteps=STEPS)
    assert lone.difference is None and lone.standard_error.shape == (3,)
    assert judge(pictures(1), captions[0], timesteps=STEPS).difference is None
    row = judge(pictures(1)[0], captions, timesteps=STEPS)
    assert (row.difference > 0).sum() == 1 and row.difference_ci95.shape == (4, 2)
    grid = judge(pictures(2), captions, pairwise=False, timesteps=STEPS)
    assert grid.difference.shape == (2, 4) and grid.difference_ci95.shape == (2, 4, 2)
    assert (grid.difference > 0).sum(1).tolist() == [1, 1]


def test_the_embedded_base_loads_and_judges(pictures):
    pipe = DiscffusionPipeline.from_pretrained(embedded("diorama-sd"))
    pipe.set_progress_bar_config(disable=True)
    out = pipe.rank(pictures(1)[0], ["a red cube", "a blue sphere"], timesteps=[500])
    assert sorted(out.order) == [0, 1] and out.score.isfinite().all()
    with pytest.raises(ValueError, match="zeppelin"):
        pipe(pictures(1)[0], "a red zeppelin", timesteps=1)


@pytest.mark.parametrize("call", [
    lambda judge, picture: judge(picture, "a cube", timesteps=[500]),
    lambda judge, picture: judge([picture] * 2, ["a cube", "a cone"], "lse", pairwise=True, cond_only=True),
    lambda judge, picture: judge.rank(picture, ["a cube", "a cone"], timesteps=10, eliminate=True),
    lambda judge, picture: judge.rank("a cube", [picture], timesteps=[500]),
])  # fmt: skip
@torch.no_grad()
def test_a_score_that_is_not_finite_is_no_zero(judge, pictures, call):
    judge.unet.conv_in.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="image 0.*not finite.*float32"):
        call(judge, pictures(1)[0])


def test_a_temperature_that_overflows_is_told(judge, pictures):
    with pytest.raises(FloatingPointError, match="lse_lambda=1e\\+38"):
        judge(pictures(1)[0], "a cube", timesteps=[500], lse_lambda=1e38)

"""The intensity model: identity before training, each way of injection, the rows of a guided batch, errors, files."""

import pytest
import torch
from diffusers import MotionAdapter, UNetMotionModel

from wm_pipelines.mojito.intensity import applied
from wm_pipelines.mojito.modeling import MotionIntensityModel, position_terms, temporal_norms
from wm_pipelines.runtime.noise import randn

FRAMES = 3


@pytest.fixture(scope="module")
def denoiser(tiny_sd):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = MotionAdapter(
            block_out_channels=(8, 16, 16),
            motion_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=4,
            motion_max_seq_length=8,
        )
    return UNetMotionModel.from_unet2d(tiny_sd["unet"], adapter).eval()


def inputs(rows=2):
    context = randn((rows, 7, 16), "context").repeat_interleave(FRAMES, dim=0)
    return randn((rows, 4, FRAMES, 8, 8), "sample"), torch.full((rows,), 500), context


def awake(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.3 * randn(tuple(parameter.shape), "awake", name))
    return model


@torch.no_grad()
def run(denoiser, sample, t, context):
    return denoiser(sample, t, encoder_hidden_states=context).sample


def make(denoiser, inject, **config):
    return MotionIntensityModel.from_denoiser(denoiser, inject, embedding_dim=8, hidden_dim=12, **config)


@pytest.mark.parametrize("text_dim", [None, 16])
@pytest.mark.parametrize("inject", ["timestep", "text", "temporal"])
def test_untrained_changes_nothing_and_trained_does(denoiser, inject, text_dim):
    sample, t, context = inputs()
    model = make(denoiser, inject, text_dim=text_dim, tokens=2)
    plain = run(denoiser, sample, t, context)
    for level in (None, 0.0, 7.5):
        with applied(model, denoiser, [level]):
            assert torch.equal(run(denoiser, sample, t, context), plain)
    awake(model)
    seen = []
    for level in (None, 0.0, 7.5):
        with applied(model, denoiser, [level]):
            seen.append(run(denoiser, sample, t, context))
    assert not any(torch.allclose(a, b, atol=1e-5) for a, b in ((plain, seen[0]), seen[:2], seen[1:]))
    assert torch.equal(run(denoiser, sample, t, context), plain)


@pytest.mark.parametrize("inject", ["timestep", "text", "temporal"])
def test_each_clip_has_its_own_level_in_both_halves_of_a_guided_batch(denoiser, inject):
    sample, t, context = inputs(4)
    model = awake(make(denoiser, inject, text_dim=16))
    with applied(model, denoiser, [1.0, None]):
        together = run(denoiser, sample, t, context)
    for row, level in enumerate([1.0, None, 1.0, None]):
        frames = slice(row * FRAMES, (row + 1) * FRAMES)
        with applied(model, denoiser, [level]):
            alone = run(denoiser, sample[row : row + 1], t[:1], context[frames])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_positions_say_where_and_when(denoiser):
    terms = position_terms(3, 2, 4)
    assert terms.shape == (8, 3, 5)
    assert terms[0].tolist() == [[-1, -1, -1, 1, 1], [0, -1, -1, 0, 0], [1, -1, -1, -1, -1]]
    assert terms[7, 2].tolist() == [1, 1, 1, 1, 1] and torch.equal(position_terms(1, 1, 1), torch.zeros(1, 1, 5))
    sample, t, context = inputs()
    model = make(denoiser, "temporal", positions=True)
    plain = run(denoiser, sample, t, context)
    with applied(model, denoiser, [3.0]):
        assert torch.equal(run(denoiser, sample, t, context), plain)
    name, width = next(iter(zip(model.config.targets, model.config.widths, strict=True)))
    with torch.no_grad():
        model.mim.linear_2.bias[5 * width : 6 * width] = 1.0  # t * x on the first norm
    seen = []
    norm = dict(denoiser.named_modules())[name]
    handle = norm.register_forward_hook(lambda m, a, out: seen.append(out))
    run(denoiser, sample, t, context)
    handle.remove()
    with applied(model, denoiser, [3.0]):
        handle = norm.register_forward_hook(lambda m, a, out: seen.append(out))
        run(denoiser, sample, t, context)
        handle.remove()
    size = int((len(seen[0]) / len(sample)) ** 0.5)
    wanted = position_terms(FRAMES, size, size)[..., 3:4].repeat(len(sample), 1, seen[0].shape[-1])
    torch.testing.assert_close(seen[1] - seen[0], wanted, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="positions is True"):
        make(denoiser, "timestep", positions=True)


def test_whitened_captions_lie_apart_where_they_differ_least(denoiser, tmp_path):
    draws = torch.randn(200, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = (3 + draws * torch.logspace(0, -1.3, 16)).float()
    model = awake(make(denoiser, "temporal", text_dim=16))
    model.fit_text(states)
    spread = ((states - model.mim.text_mean) @ model.mim.text_whitening.T).std(0)
    torch.testing.assert_close(spread, torch.ones(16), atol=0.02, rtol=0)
    model.save_pretrained(tmp_path)
    again = MotionIntensityModel.from_pretrained(tmp_path)
    assert torch.equal(again([1.0], states[:1]), model([1.0], states[:1]))
    half = MotionIntensityModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    torch.testing.assert_close(half([1.0], states[:1]).float(), model([1.0], states[:1]), atol=0.1, rtol=0.1)
    for bad, word in (
        (torch.ones(4, 8), "text_dim = 16"),
        (states[:1], "2 or more"),
        (torch.ones(4, 16), "all equal"),
        (torch.ones(16), "finite"),
        (torch.full((4, 16), float("nan")), "finite"),
    ):
        with pytest.raises(ValueError, match=word):
            model.fit_text(bad)


def test_text_is_read_at_the_last_token(denoiser):
    sample, t, context = inputs()
    model = awake(make(denoiser, "temporal", text_dim=16))
    assert torch.equal(model([1.0], context[:1, -1]), model([1.0], context[:1, -1].clone()))
    with pytest.raises(ValueError, match="text is missing; text_dim is 16"):
        model([1.0])
    with pytest.raises(ValueError, match="text is given; text_dim is None"):
        make(denoiser, "temporal")([1.0], context[:1, -1])
    with applied(model, denoiser, [1.0]):
        a = run(denoiser, sample, t, context)
    silent = make(denoiser, "temporal")
    silent.mim.load_state_dict({k: v for k, v in model.mim.state_dict().items() if not k.startswith("text")})
    with applied(silent, denoiser, [1.0]):
        assert not torch.allclose(run(denoiser, sample, t, context), a, atol=1e-5)


def test_positional_context_and_the_gradient(denoiser):
    sample, t, context = inputs()
    model = awake(make(denoiser, "text", tokens=3))
    with applied(model, denoiser, [4.0]), torch.no_grad():
        assert torch.equal(denoiser(sample, t, context).sample, denoiser(sample, t, encoder_hidden_states=context)[0])
    for gradient in (False, True):
        with applied(model, denoiser, [4.0], gradient=gradient):
            out = denoiser(sample, t, context).sample.square().mean()
        grads = torch.autograd.grad(out, list(model.parameters()), allow_unused=True)
        assert all((g is not None and bool(g.any())) == gradient for g in grads if g is None or g.numel() != 12)


def test_hooks_are_gone_after_an_error(denoiser):
    sample, t, context = inputs(3)
    model = awake(make(denoiser, "temporal"))
    plain = run(denoiser, sample, t, context)
    with pytest.raises(ValueError, match="2 levels do not divide a batch of 3"), applied(model, denoiser, [1.0, 2.0]):
        run(denoiser, sample, t, context)
    assert torch.equal(run(denoiser, sample, t, context), plain)


def test_unet3d_has_temporal_norms_and_a_time_embedding():
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()
    norms = temporal_norms(unet)
    assert norms and all("temp_attentions" in name or "transformer_in" in name for name in norms)
    sample, context = randn((1, 4, FRAMES, 8, 8), "3d"), randn((1, 7, 16), "3d context")
    for inject in ("timestep", "temporal", "text"):
        model = make(unet, inject)
        with torch.no_grad():
            plain = unet(sample, 10, context).sample
            with applied(model, unet, [2.0]):
                assert torch.equal(unet(sample, 10, context).sample, plain)
            with applied(awake(model), unet, [2.0]):
                assert not torch.allclose(unet(sample, 10, context).sample, plain, atol=1e-5)


def test_published_size_of_the_timestep_form():
    model = MotionIntensityModel()
    assert sum(p.numel() for p in model.parameters()) == 2_050_560 + 1280  # the MLP of VideoCrafter2, and `null`


def test_files(denoiser, tmp_path):
    table = [float(i) for i in range(11)]
    model = awake(make(denoiser, "temporal", text_dim=16, level_percentiles=table, flow={"estimator": "farneback"}))
    model.save_pretrained(tmp_path)
    again = MotionIntensityModel.from_pretrained(tmp_path)
    assert {"mim.linear_1.weight", "mim.linear_2.bias", "mim.null", "mim.text.weight"} <= set(again.state_dict())
    text = randn((1, 16), "files")
    assert torch.equal(model([None], text), again([None], text))
    assert again.flow_of(2.5) == 2.5 and dict(again.config.flow) == {"estimator": "farneback"}


def test_bad_input(denoiser, tiny_sd):
    model = make(denoiser, "temporal")
    for level in (-0.1, 10.5, float("nan"), "fast"):
        with pytest.raises(ValueError, match="None or a number from 0 to 10"), applied(model, denoiser, [level]):
            pass
    with pytest.raises(ValueError, match="levels is empty"), applied(model, denoiser, []):
        pass
    with pytest.raises(ValueError, match="doesn't have"), applied(model, tiny_sd["unet"], [1.0]):
        pass
    with pytest.raises(ValueError, match="has no such place"):
        make(tiny_sd["unet"], "temporal")
    with pytest.raises(ValueError, match="inject is 'wish'"):
        MotionIntensityModel(inject="wish")
    with pytest.raises(ValueError, match="tokens is 5"):
        MotionIntensityModel(inject="text", targets=[], widths=[16], tokens=5)
    with pytest.raises(ValueError, match="levels 0 to 10 need 11"):
        MotionIntensityModel(level_percentiles=[1.0])
    with pytest.raises(ValueError, match="one width for each"):
        MotionIntensityModel(targets=["a", "b"])
    with pytest.raises(ValueError, match="say nothing of flow"):
        model.flow_of(3)

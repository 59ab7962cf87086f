"""FlexEControlModel: the carrier, its slots, its presets, its files, and what it refuses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

from wm_pipelines.adapters.kronecker.layer import KroneckerLinear
from wm_pipelines.flexecontrol.modeling import TYPES, FlexEControlModel, SlotInput
from wm_pipelines.flexecontrol.network.blocks import FDN
from wm_pipelines.flexecontrol.network.carrier import is_copy

SIZES = dict(n=2, r=1, condition_stride=4, feature_channels=(4, 6, 8), pre_channels=(4, 5), map_stride=2)


def make(unet, **options):
    return FlexEControlModel.from_unet(unet, **{**SIZES, **options})


def waken(model, seed=0, scale=0.2):
    """Move every own parameter off its initial value, so that nothing is zero by construction."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not is_copy(name):
                p.add_(scale * torch.randn(p.shape, generator=generator))
    return model


def images(count=1, seed=1, size=64):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def latents(count=1, size=16):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 4, size, size, generator=generator), torch.randn(count, 7, 16, generator=generator)


def run(model, slots=None, count=1):
    sample, text = latents(count)
    with torch.no_grad():
        features = model.condition_features(slots or [SlotInput("canny", images())])
        return model(sample, 500, text, features)


def mid(model, *args, **kwargs):
    return run(model, *args, **kwargs).mid_block_res_sample


@pytest.fixture(scope="module")
def awake(tiny_sd):
    return waken(make(tiny_sd["unet"]))


# ---- carrier ----


def test_residuals_are_zero_at_init_and_leave_the_unet_bit_equal(tiny_sd):
    unet, model = tiny_sd["unet"], make(tiny_sd["unet"])
    out = run(model)
    assert len(out.down_block_res_samples) == 6
    assert not any(r.any() for r in (*out.down_block_res_samples, out.mid_block_res_sample))
    sample, text = latents()
    with torch.no_grad():
        plain = unet(sample, 500, text).sample
        controlled = unet(
            sample,
            500,
            text,
            down_block_additional_residuals=out.down_block_res_samples,
            mid_block_additional_residual=out.mid_block_res_sample,
        ).sample
    assert torch.equal(plain, controlled)


def test_stock_encoder_is_reproduced_when_fdn_is_made_a_group_norm(tiny_sd):
    """With gamma and beta carrying the UNet's own norm affine, the copy is the UNet's encoder."""
    unet, model = tiny_sd["unet"], make(tiny_sd["unet"])
    with torch.no_grad():
        for block, stock in zip(model.down_blocks, unet.down_blocks, strict=True):
            for fdn, norm in (
                (block.resnets[0].norm1, stock.resnets[0].norm1),
                (block.resnets[0].norm2, stock.resnets[0].norm2),
            ):
                fdn.conv_gamma.weight.zero_()
                fdn.conv_beta.weight.zero_()
                fdn.conv_gamma.bias.copy_(norm.weight - 1)
                fdn.conv_beta.bias.copy_(norm.bias)
        for zero in (*model.zero_convs, model.zero_conv_mid):
            nn.init.dirac_(zero.weight)
        sample, text = latents(2)
        seen = []
        handle = unet.mid_block.register_forward_hook(lambda module, args, output: seen.append(output))
        unet(sample, 500, text)
        handle.remove()
        out = model(sample, 500, text, model.condition_features([SlotInput("canny", images())]))
    assert torch.allclose(out.mid_block_res_sample, seen[0], atol=1e-5)


def test_fdn_is_the_formula():
    fdn = FDN(8, 3, groups=4, eps=1e-5)
    h, f = torch.randn(4, 8, 5, 5), torch.randn(2, 3, 5, 5)
    expected = F.group_norm(h, 4) * (1 + fdn.conv_gamma(f.repeat(2, 1, 1, 1))) + fdn.conv_beta(f.repeat(2, 1, 1, 1))
    assert torch.allclose(fdn(h, f), expected, atol=1e-6)
    # the default bias of gamma and beta stays, so zero features are not the identity
    assert not torch.allclose(fdn(h, torch.zeros_like(f)), F.group_norm(h, 4))


def test_both_halves_of_guidance_share_the_features(awake):
    sample, text = latents(2)
    with torch.no_grad():
        features = awake.condition_features([SlotInput("canny", images(2))])
        doubled = awake(torch.cat([sample, sample]), 500, torch.cat([text, text]), features)
        single = awake(sample, 500, text, features)
    both = torch.cat([single.mid_block_res_sample] * 2)
    assert torch.allclose(doubled.mid_block_res_sample, both, atol=1e-6)


@pytest.mark.parametrize(
    ("stride", "pre", "size"), [(1, (4,), 16), (2, (4,), 32), (4, (4, 5), 64), (8, (4, 4, 4), 128)]
)
def test_features_lie_on_the_unet_levels(tiny_sd, stride, pre, size):
    model = make(tiny_sd["unet"], condition_stride=stride, pre_channels=pre)
    features = model.condition_features([SlotInput("depth", images(size=size))])
    assert [tuple(f.shape[1:]) for f in features] == [(4, 16, 16), (6, 8, 8), (8, 4, 4)]
    assert model.multiple == 4 * stride


def test_features_do_not_depend_on_the_timestep_and_residuals_do(awake):
    sample, text = latents()
    with torch.no_grad():
        features = awake.condition_features([SlotInput("canny", images())])
        kept = [f.clone() for f in features]
        a, b = (awake(sample, t, text, features).mid_block_res_sample for t in (1, 900))
    assert not torch.equal(a, b)
    assert all(torch.equal(x, y) for x, y in zip(features, kept, strict=True))


def test_scale_and_tuple(awake):
    sample, text = latents()
    with torch.no_grad():
        features = awake.condition_features([SlotInput("canny", images())])
        whole = awake(sample, 5, text, features)
        half = awake(sample, 5, text, features, conditioning_scale=0.5)
        ramp = awake(sample, 5, text, features, conditioning_scale=[0, 0, 0, 0, 0, 0, 2])
        down, middle = awake(sample, 5, text, features, return_dict=False)
    assert torch.equal(half.mid_block_res_sample, 0.5 * whole.mid_block_res_sample)
    assert torch.equal(ramp.mid_block_res_sample, 2 * whole.mid_block_res_sample)
    assert not any(r.any() for r in ramp.down_block_res_samples)
    assert torch.equal(middle, whole.mid_block_res_sample) and len(down) == 6
    with pytest.raises(ValueError, match="conditioning_scale has 2 values; allowed: one, or 7"):
        awake(sample, 5, text, features, conditioning_scale=[1, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fast", ["shared", "per_type"])
def test_half_precision_stays_close(tiny_sd, dtype, fast):
    model = waken(make(tiny_sd["unet"], fast=fast), scale=0.1)
    model.set_type_weights({"canny": 1.0})
    sample, text = latents()
    expected = mid(model)
    half = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        features = half.condition_features([SlotInput("canny", images())])
        got = half(sample.to(dtype), 500, text.to(dtype), features).mid_block_res_sample
    assert got.dtype == dtype
    assert (got.float() - expected).norm() < 0.05 * expected.norm()


# ---- slots ----


def test_one_image_per_type_is_the_concatenated_convolution_bit_for_bit(awake):
    stack = torch.cat([images(seed=10 + i) for i in range(7)], dim=1)
    slots = [SlotInput(t, images(seed=10 + i)) for i, t in enumerate(TYPES)]
    with torch.no_grad():
        expected = awake.feature_extractor(stack)
        got = awake.condition_features(slots)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_same_type_twice_is_the_sum_of_its_kernel_slices(awake):
    seen = []
    conv = awake.feature_extractor.pre_extractor[0]
    handle = conv.register_forward_hook(lambda module, args, output: seen.append(output))
    a, b = images(seed=3), images(seed=4)
    with torch.no_grad():
        awake.condition_features([SlotInput("lines", a, 0.7), SlotInput("depth", a), SlotInput("lines", b, 1.5)])
    handle.remove()
    lines, depth = conv.weight[:, 3:6], conv.weight[:, 15:18]
    expected = conv.bias[:, None, None] + sum(
        s * F.conv2d(x, k, padding=1) for s, x, k in ((0.7, a, lines), (1.5, b, lines), (1.0, a, depth))
    )
    assert torch.allclose(seen[0], expected, atol=1e-5)


def test_order_does_not_matter(awake):
    slots = [SlotInput("canny", images(seed=i), 0.3 + i) for i in range(3)] + [SlotInput("seg", images(seed=9))]
    assert torch.allclose(mid(awake, slots), mid(awake, slots[::-1]), atol=1e-4)


def test_strength_zero_is_exact_removal(awake):
    keep = SlotInput("canny", images(seed=1))
    gone = SlotInput("canny", images(seed=2), strength=0.0)
    gone_row = SlotInput("depth", images(seed=2), strength=torch.zeros(1))
    assert torch.equal(mid(awake, [keep, gone, gone_row]), mid(awake, [keep]))
    # one strength per sample of the batch
    pair = SlotInput("depth", images(2, seed=5), strength=torch.tensor([0.0, 1.0]))
    features = awake.condition_features([SlotInput("canny", images(2, seed=1)), pair])
    alone = awake.condition_features([SlotInput("canny", images(2, seed=1))])
    assert torch.allclose(features[0][0], alone[0][0], atol=1e-6)
    assert not torch.allclose(features[0][1], alone[0][1], atol=1e-3)


def test_region_fills_with_the_background_then_masks(tiny_sd):
    model = waken(make(tiny_sd["unet"], backgrounds=[1.0] + [0.0] * 6))
    region = torch.zeros(1, 1, 64, 64)
    region[..., 16:48, 16:48] = 1
    region[..., :8, :8] = 0.5
    image = images()
    expected = region * (region * image + (1 - region) * 1.0)
    with torch.no_grad():
        a = model.condition_features([SlotInput("canny", image, region=region)])
        b = model.condition_features([SlotInput("canny", expected)])
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a, b, strict=True))


def test_normalise_overlap_and_mask_features(awake):
    image, half = images(), torch.zeros(1, 1, 64, 64)
    half[..., :32] = 1
    twice = [SlotInput("canny", image), SlotInput("canny", image)]
    once = awake.condition_features([SlotInput("canny", image)])
    normalised = awake.condition_features(twice, normalise_overlap=True)
    assert torch.allclose(normalised[0], once[0], atol=1e-6)
    assert not torch.allclose(awake.condition_features(twice)[0], once[0], atol=1e-3)
    masked = awake.condition_features([SlotInput("canny", image, region=half)], mask_features=True)
    assert not masked[0][..., 8:].any() and masked[0][..., :8].any()


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ([], "at least one slot"),
        ([SlotInput("hedge", images())], "unknown condition type 'hedge'; known: canny"),
        ([SlotInput("canny", images(size=60))], "#1 is 60x60; height and width must be multiples of 16"),
        ([SlotInput("canny", images()), SlotInput("canny", images(size=32))], "#2 is 32x32"),
        ([SlotInput("canny", images()[:, :1])], "allowed: \\(1 or 1, 3, H, W\\)"),
        ([SlotInput("canny", images(), region=torch.ones(1, 64, 64))], "region of condition 'canny' #1"),
        ([SlotInput("canny", images(2), strength=torch.ones(3))], "strength of condition 'canny' #1|has shape"),
    ],
)
def test_bad_slots(awake, slots, message):
    with pytest.raises(ValueError, match=message):
        awake.condition_features(slots)


def test_features_of_another_size_are_refused(awake):
    sample, text = latents(3)
    with pytest.raises(ValueError, match="in batches of 2"):
        awake(sample, 5, text, awake.condition_features([SlotInput("canny", images(2))]))
    with pytest.raises(ValueError, match="features are for a latent of"):
        awake(sample, 5, text, awake.condition_features([SlotInput("canny", images(size=32))]))


# ---- presets and gradients ----


def loss_of(model, count=1):
    sample, text = latents(count)
    out = model(sample, 500, text, model.condition_features([SlotInput("canny", images())]))
    return sum(r.square().mean() for r in (*out.down_block_res_samples, out.mid_block_res_sample))


def test_update_is_zero_at_init_with_a_living_gradient(tiny_sd):
    model = make(tiny_sd["unet"])
    with torch.no_grad():  # open the gates, or nothing upstream has a gradient at step 0
        for zero in (*model.zero_convs, model.zero_conv_mid):
            nn.init.dirac_(zero.weight)
    layers = [m for m in model.modules() if isinstance(m, KroneckerLinear)]
    assert len(layers) == 3 * 4  # two levels with one block each, and the middle
    assert not any(layer.delta_weight().any() for layer in layers)
    model.check_can_learn()
    loss_of(model).backward()
    assert all(layer.kronecker_u.grad.abs().max() > 0 for layer in layers)
    assert not any(layer.kronecker_v.grad.any() or layer.kronecker_a.grad.any() for layer in layers)
    assert all(layer.weight.grad is None for layer in layers)


def test_dead_initialisation_is_refused(tiny_sd):
    model = make(tiny_sd["unet"])
    model.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_q").kronecker_v.data.zero_()
    with pytest.raises(ValueError, match="mid_block.*attn2.to_q.*both zero: adapter cannot learn"):
        model.check_can_learn()


@pytest.mark.parametrize(
    ("preset", "trained", "frozen"),
    [
        ("paper", ["kronecker_u", "conv_gamma", "feature_extractor", "zero_convs", "zero_conv_mid"], ["conv_in."]),
        ("carrier", ["conv_beta", "feature_extractor", "zero_convs"], ["to_q.weight", "time_embedding"]),
        ("transformer", ["ff.net.2.kronecker_u", "attn1.to_v.kronecker_a"], ["ff.net.2.weight", "attn1.to_v.weight"]),
        ("uni", ["conv_in.", "time_embedding", "to_q.weight", "conv_gamma", "mid_block"], ["global_projection"]),
    ],
)
def test_presets_set_requires_grad(tiny_sd, preset, trained, frozen):
    model = make(tiny_sd["unet"], preset=preset, global_adapter=True, global_embed_dim=12)
    wanted = model.trainable_parameters()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(wanted)
    assert all(any(mark in name for name in wanted) for mark in trained)
    assert not any(mark in name for name in wanted for mark in frozen)
    apart = model.trainable_parameters("global")
    assert not set(apart) & set(wanted) and all(name.startswith("global_projection.") for name in apart)
    model.set_trainable("global")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(apart)


def test_copy_is_a_copy(tiny_sd):
    unet = copy.deepcopy(tiny_sd["unet"])
    model = make(unet)
    with torch.no_grad():
        unet.conv_in.weight.zero_()
    assert model.conv_in.weight.any()


def test_initialisation_is_keyed_by_the_seed_alone(tiny_sd):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = make(tiny_sd["unet"], seed=3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    b, c = make(tiny_sd["unet"], seed=3), make(tiny_sd["unet"], seed=4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    name = "feature_extractor.pre_extractor.0.weight"
    assert not torch.equal(a.get_parameter(name), c.get_parameter(name))


def test_gradient_checkpointing_gives_the_same_gradients(tiny_sd):
    plain = waken(make(tiny_sd["unet"]))
    checked = copy.deepcopy(plain)
    checked.enable_gradient_checkpointing()
    assert all(block.gradient_checkpointing for block in checked.down_blocks)
    for model in (plain, checked):
        loss_of(model.train()).backward()
    for name, p in plain.trainable_parameters().items():
        assert torch.allclose(p.grad, checked.get_parameter(name).grad, atol=1e-6), name


def test_global_tokens(tiny_sd):
    model = make(tiny_sd["unet"], global_adapter=True, global_embed_dim=12)
    tokens = model.global_tokens(torch.randn(2, 12))
    assert tuple(tokens.shape) == (2, 4, 16)
    assert model.global_tokens(torch.zeros(2, 12)).any()  # biases: absent is not zero
    with pytest.raises(ValueError, match=r"embeds must be \(B, 12\)"):
        model.global_tokens(torch.randn(2, 11))
    with pytest.raises(ValueError, match="no global adapter"):
        make(tiny_sd["unet"]).global_tokens(torch.randn(2, 12))
    with pytest.raises(ValueError, match="no global adapter"):
        make(tiny_sd["unet"]).trainable_parameters("global")


def test_a_lora_stacks_on_top(tiny_sd):
    from peft import LoraConfig

    model = waken(make(tiny_sd["unet"], preset="carrier"))
    before = mid(model)
    model.add_adapter(LoraConfig(r=1, target_modules=r".*attn2\.to_(q|k|v)", init_lora_weights=False))
    model.set_trainable()
    assert not torch.equal(mid(model), before)
    trained = model.trainable_parameters()
    assert sum("lora_" in name for name in trained) == 2 * 3 * 3 and not any("base_layer" in name for name in trained)
    model.delete_adapters("default")
    assert torch.allclose(mid(model), before)


# ---- merging ----


def adapter_free(model):
    return not any(isinstance(m, KroneckerLinear) for m in model.modules())


def test_merge_leaves_plain_linears_and_unmerge_is_exact(tiny_sd):
    model = waken(make(tiny_sd["unet"], preset="transformer"))
    before, state = mid(model), {k: v.clone() for k, v in model.state_dict().items()}
    model.merge()
    assert adapter_free(model)
    assert type(model.get_submodule("mid_block.attentions.0.transformer_blocks.0.ff.net.2")) is nn.Linear
    assert torch.allclose(mid(model), before, atol=1e-5)
    with pytest.raises(ValueError, match="already merged"):
        model.merge()
    with pytest.raises(ValueError, match="unmerge"):
        model.save_pretrained("unused")
    model.unmerge()
    after = model.state_dict()
    assert after.keys() == state.keys() and all(torch.equal(after[k], v) for k, v in state.items())
    assert torch.equal(mid(model), before)


def test_merged_profile_is_that_of_the_unadapted_model(tiny_sd):
    def ops(model):
        sample, text = latents()
        with torch.no_grad():
            features = model.condition_features([SlotInput("canny", images())])
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                model(sample, 500, text, features)
        return [event.name for event in profile.events()]

    model = make(tiny_sd["unet"])
    unadapted = ops(make(tiny_sd["unet"], preset="carrier"))
    assert ops(model) != unadapted
    model.merge()
    assert ops(model) == unadapted


def test_merge_rounds_once(tiny_sd):
    model = waken(make(tiny_sd["unet"])).to(torch.float16)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    layer = model.get_submodule(name)
    wide = copy.deepcopy(layer).double()
    exact = wide.weight + torch.einsum(
        "iop,isr,iqr->ospq", wide.kronecker_a, wide.kronecker_u, wide.kronecker_v
    ).reshape(wide.weight.shape)
    model.merge()
    assert torch.equal(model.get_submodule(name).weight, exact.to(torch.float16))


# ---- factors per type ----


def test_per_type_mixes_the_active_types(tiny_sd):
    model = waken(make(tiny_sd["unet"], fast="per_type"))
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    layer = model.get_submodule(name)
    assert tuple(layer.kronecker_u.shape) == (7, 2, 8, 1) and tuple(layer.kronecker_a.shape) == (2, 2, 2)

    def update():
        return model.get_submodule(name).delta_weight()

    model.set_type_weights(None)
    assert not update().any()
    model.set_type_weights({"canny": 2.0})
    canny = update()
    model.set_type_weights(["depth"])
    depth = update()
    model.set_type_weights({"canny": 1.5, "depth": 0.5})
    assert torch.allclose(update(), 0.75 * canny + 0.25 * depth, atol=1e-6)
    with pytest.raises(ValueError, match="unknown condition type 'hedge'"):
        model.set_type_weights({"hedge": 1.0})
    with pytest.raises(ValueError, match=">= 0"):
        model.set_type_weights({"canny": -1.0})


def test_per_type_mixture_per_sample(tiny_sd):
    model = waken(make(tiny_sd["unet"], fast="per_type"))
    slots = [SlotInput("canny", images())]
    rows = torch.zeros(3, 7)
    rows[0, 0], rows[1, 5] = 0.4, 2.0
    model.set_type_weights(rows)
    together = mid(model, slots, count=3)
    for i, weights in enumerate(({"canny": 1}, {"depth": 1}, None)):
        model.set_type_weights(weights)
        assert torch.allclose(mid(model, slots, count=3)[i], together[i], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_per_type_merge_needs_types(tiny_sd):
    model = waken(make(tiny_sd["unet"], fast="per_type"))
    with pytest.raises(ValueError, match=r"needs types=\[...\] from canny"):
        model.merge()
    model.set_type_weights({"canny": 3.0, "seg": 1.0})
    before = mid(model)
    model.merge({"canny": 3.0, "seg": 1.0})
    assert adapter_free(model) and torch.allclose(mid(model), before, atol=1e-5)
    model.set_type_weights({"canny": 3.0, "seg": 1.0})  # what it is merged for
    model.set_type_weights(None)
    with pytest.raises(ValueError, match="merged for the mixture"):
        model.set_type_weights({"canny": 1.0})
    model.unmerge()
    model.set_type_weights({"canny": 1.0})


def test_one_h_for_the_whole_model(tiny_sd, tmp_path):
    model = waken(make(tiny_sd["unet"], share_h="model"))
    assert sum(name.endswith("kronecker_a") for name in model.state_dict()) == 1
    model.save_pretrained(tmp_path)
    assert torch.equal(mid(FlexEControlModel.from_pretrained(tmp_path)), mid(model))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(p for name, p in twin.named_parameters() if name.endswith("kronecker_a")).zero_()
    assert not any(m.delta_weight().any() for m in twin.modules() if isinstance(m, KroneckerLinear))


# ---- files ----


@pytest.mark.parametrize("preset", ["paper", "uni", "transformer"])
@pytest.mark.parametrize("fast", ["shared", "per_type"])
def test_saved_and_loaded_is_bit_equal(tiny_sd, tmp_path, preset, fast):
    model = waken(make(tiny_sd["unet"], preset=preset, fast=fast, global_adapter=True, global_embed_dim=8))
    model.save_pretrained(tmp_path)
    loaded = FlexEControlModel.from_pretrained(tmp_path)
    assert dict(loaded.config)["preset"] == preset and loaded.config.types == list(TYPES)
    for m in (model, loaded):
        m.set_type_weights({"canny": 1.0})
    assert torch.equal(mid(loaded), mid(model))
    assert {k for k, p in loaded.named_parameters() if p.requires_grad} == set(model.trainable_parameters())


def test_slim_leaves_the_copy_out_and_needs_the_unet(tiny_sd, tmp_path):
    unet = tiny_sd["unet"]
    model = waken(make(unet))
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "slim", slim=True)
    weights = "diffusion_pytorch_model.safetensors"
    sizes = [(tmp_path / kind / weights).stat().st_size for kind in ("full", "slim")]
    assert sizes[1] < 0.6 * sizes[0]
    with pytest.raises(ValueError, match="slim checkpoint.*pass unet="):
        FlexEControlModel.from_pretrained(tmp_path / "slim")
    loaded = FlexEControlModel.from_pretrained(tmp_path / "slim", unet=unet)
    assert torch.equal(mid(loaded), mid(model))
    half = FlexEControlModel.from_pretrained(tmp_path / "slim", unet=unet, torch_dtype=torch.float16)
    assert half.dtype == half.conv_in.weight.dtype == torch.float16
    assert not model.config.slim and not loaded.config.slim
    loaded.save_pretrained(tmp_path / "again")  # a loaded slim model is whole
    assert torch.equal(mid(FlexEControlModel.from_pretrained(tmp_path / "again")), mid(model))
    with pytest.raises(ValueError, match="preset 'uni' trains it"):
        make(unet, preset="uni").save_pretrained(tmp_path / "uni", slim=True)


def test_another_base_is_refused(tiny_sd, tmp_path):
    model = make(tiny_sd["unet"])
    model.save_pretrained(tmp_path, slim=True)
    other = UNet2DConditionModel.from_config({**tiny_sd["unet"].config, "cross_attention_dim": 24})
    with pytest.raises(ValueError, match="for another base: its cross_attention_dim is 16, this base's 24"):
        FlexEControlModel.from_pretrained(tmp_path, unet=other)


def test_a_checkpoint_with_missing_tensors_is_refused(tiny_sd, tmp_path):
    from safetensors.torch import load_file, save_file

    make(tiny_sd["unet"]).save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["zero_conv_mid.weight"]
    save_file(state, path)
    with pytest.raises(ValueError, match="lacks 1 tensors of its own config, first 'zero_conv_mid.weight'"):
        FlexEControlModel.from_pretrained(tmp_path)


# ---- bases ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(in_channels=9), "9 input channels \\(an inpainting UNet\\)"),
        (dict(addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=40),
         "addition_embed_type='text_time' \\(SDXL"),
        (dict(num_class_embeds=3), "num_class_embeds=3"),
        (dict(resnet_time_scale_shift="scale_shift"), "resnet_time_scale_shift='scale_shift'"),
        (dict(down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "AttnDownBlock2D")), "AttnDown"),
    ],
)  # fmt: skip
def test_bases_that_cannot_carry_it_are_refused_by_name(tiny_sd, change, message):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**_kwargs(tiny_sd["unet"]), **change})
    with pytest.raises(ValueError, match=message):
        make(unet)


def _kwargs(unet):
    return {k: v for k, v in unet.config.items() if not k.startswith("_")}


def test_a_dit_is_refused_by_name():
    from diffusers import PixArtTransformer2DModel

    with torch.device("meta"):
        dit = PixArtTransformer2DModel(num_layers=1, num_attention_heads=2, attention_head_dim=4)
    with pytest.raises(ValueError, match="base is PixArtTransformer2DModel.*DiT"):
        FlexEControlModel.from_unet(dit)


def test_a_base_with_a_lora_is_refused(tiny_sd):
    from peft import LoraConfig

    unet = copy.deepcopy(tiny_sd["unet"])
    unet.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))
    with pytest.raises(ValueError, match="unload its adapters"):
        make(unet)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n=5), r"attn2.to_q: n=5 does not divide in_features=8; choose from 1, 2, 4, 8"),
        (dict(r=0), "r must be at least 1"),
        (dict(preset="papper"), "preset must be one of paper, uni, transformer, carrier; got 'papper'"),
        (dict(fast="slow"), "fast must be one of shared, per_type"),
        (dict(types=["canny", "canny"]), "types must be distinct"),
        (dict(condition_stride=3), "power of two"),
        (dict(pre_channels=(4,)), "pre_channels needs 2 widths for condition_stride 4"),
        (dict(feature_channels=(4, 4)), r"feature_channels needs one width per UNet level \(3\)"),
        (dict(feature_channels=None), r"must be given for widths \(8, 16, 16\) at condition_stride 4"),
    ],
)
def test_bad_options(tiny_sd, options, message):
    with pytest.raises(ValueError, match=message):
        make(tiny_sd["unet"], **options)

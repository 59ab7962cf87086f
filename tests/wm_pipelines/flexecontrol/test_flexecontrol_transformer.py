"""FlexEControl's adapter on transformers of SD3's and Flux's shape: the copy, what trains, files, stock pipelines."""

import copy

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn

from wm_pipelines.adapters.kronecker.layer import KroneckerLinear
from wm_pipelines.flexecontrol.network.slots import SlotInput
from wm_pipelines.flexecontrol.transformer import FlexEControlTransformerModel

SIZES = {"n": 2, "r": 1, "pre_channels": (4, 4, 6), "types": ("canny", "depth")}


@pytest.fixture(scope="module")
def tiny():
    """`tiny(name)`: a seeded base, and two of its blocks copied."""
    made = {}

    def build(name):
        if name in made:
            return made[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if name == "sd3":
                base = SD3Transformer2DModel(
                    sample_size=16, patch_size=2, in_channels=4, num_layers=4, attention_head_dim=8, out_channels=4,
                    num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=16, pos_embed_max_size=16,
                    pooled_projection_dim=8, qk_norm="rms_norm",
                )  # fmt: skip
            else:
                base = FluxTransformer2DModel(
                    patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
                    num_attention_heads=2, joint_attention_dim=12, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6),
                )  # fmt: skip
        single = {} if name == "sd3" else {"num_single_layers": 1}
        base.requires_grad_(False).eval()
        made[name] = base, FlexEControlTransformerModel.from_transformer(base, 2, **single, **SIZES)
        return made[name]

    return build


@pytest.fixture(params=["sd3", "flux"])
def pair(request, tiny):
    return tiny(request.param)


def awake(model):
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.trainable_parameters().values():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model


def slots(count=1):
    generator = torch.Generator().manual_seed(1)
    return [
        SlotInput(SIZES["types"][i % 2], torch.rand(1, 3, 64, 64, generator=generator), strength=1 - 0.1 * i)
        for i in range(count)
    ]


def given(base, count=1):
    """Arguments of one evaluation for pictures of 64x64."""
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(count, 5, 12, generator=generator)
    shared = {"encoder_hidden_states": text, "pooled_projections": torch.randn(count, 8, generator=generator)}
    if isinstance(base, SD3Transformer2DModel):
        sample = torch.randn(count, 4, 8, 8, generator=generator)
        return {"hidden_states": sample, "timestep": torch.full((count,), 500.0), **shared}
    grid = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), -1).flatten(0, 1)
    ids = torch.cat([torch.zeros(16, 1), grid], 1)
    sample = torch.randn(count, 16, 16, generator=generator)
    return {
        "hidden_states": sample, "timestep": torch.full((count,), 0.5), "img_ids": ids, "txt_ids": torch.zeros(5, 3),
        **shared,
    }  # fmt: skip


@torch.no_grad()
def evaluate(base, model=None, conditions=None, count=1, **options):
    if model is None:
        return base(**given(base, count)).sample
    with model.applied(base, conditions or slots(), **options):
        return base(**given(base, count)).sample


def test_an_untrained_adapter_leaves_the_base_bit_equal(pair):
    base, model = pair
    plain = evaluate(base)
    assert torch.equal(evaluate(base, model), plain)
    trained = evaluate(base, awake(model))
    assert not torch.allclose(trained, plain) and trained.isfinite().all()
    assert torch.equal(evaluate(base), plain)
    assert torch.equal(evaluate(base, awake(model), conditioning_scale=0.0), plain)


def test_the_copied_blocks_are_the_bases(pair):
    """With the condition's map at zero the carrier goes on with what the base has after each block."""
    base, model = pair
    seen = []
    hooks = [block.register_forward_hook(lambda m, a, out: seen.append(out)) for block in base.transformer_blocks]
    twin = copy.deepcopy(model)
    for layer in twin.carrier.controlnet_blocks:
        layer.weight.data.copy_(torch.eye(len(layer.weight)))
    with torch.no_grad():
        base(**given(base))
        feature = torch.zeros_like(twin.condition_features(slots()))
        found = twin(feature=feature, **given(base))
    for hook in hooks:
        hook.remove()
    residuals = next(iter(found.values()))
    assert len(residuals) == 2
    for residual, (_, hidden) in zip(residuals, seen, strict=False):
        torch.testing.assert_close(residual, hidden, rtol=1e-5, atol=1e-6)


def test_every_linear_of_the_copied_blocks_has_factors_and_nothing_else_of_the_copy_trains(pair):
    base, model = pair
    decomposed = {name for name, m in model.named_modules() if isinstance(m, KroneckerLinear)}
    linears = {name for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    blocks = {name for name in linears if "transformer_blocks." in name}
    # of SD3's last copied block the text goes nowhere; of Flux's a single block takes it
    ends = ("blocks.1.attn.add_q_proj", "blocks.1.attn.to_add_out", "blocks.1.ff_context")
    unused = {name for name in blocks if isinstance(base, SD3Transformer2DModel) and any(end in name for end in ends)}
    assert decomposed == {name for name in blocks - unused if ".norm" not in name} and decomposed
    model = awake(model).train()
    model.set_trainable()
    with model.applied(base, slots()):
        base(**given(base)).sample.square().mean().backward()
    wanted = model.trainable_parameters()
    for name, p in model.named_parameters():
        assert (p.grad is not None and bool(p.grad.any())) == (name in wanted), name
    held = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in wanted.values()) < held


def test_any_number_of_conditions_costs_one_pass(pair):
    base, model = pair
    model, passes = awake(model), []
    model.carrier.register_forward_hook(lambda *_: passes.append(1))
    one, six = evaluate(base, model, slots(1)), evaluate(base, model, slots(6))
    assert len(passes) == 2 and not torch.allclose(one, six)
    torch.testing.assert_close(evaluate(base, model, slots(6)[::-1]), six, rtol=1e-4, atol=1e-5)


def test_guidance_shares_the_map(pair):
    base, model = pair
    model = awake(model)
    both = evaluate(base, model, count=2)
    wide = [SlotInput(s.type, s.image.expand(2, -1, -1, -1)) for s in slots()]
    torch.testing.assert_close(evaluate(base, model, wide, count=2), both, rtol=1e-5, atol=1e-6)
    three = [SlotInput(s.type, s.image.expand(3, -1, -1, -1)) for s in slots()]
    with pytest.raises(ValueError, match="feature is"):
        evaluate(base, model, three, count=2)


def test_it_comes_back_from_its_folder(pair, tmp_path):
    base, model = pair
    model = awake(model)
    model.save_pretrained(tmp_path)
    loaded = FlexEControlTransformerModel.from_pretrained(tmp_path)
    assert torch.equal(evaluate(base, loaded), evaluate(base, model))
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == set(model.trainable_parameters())


@pytest.mark.parametrize(("name", "kind"), [("sd3", StableDiffusion3Pipeline), ("flux", FluxPipeline)])
def test_a_stock_pipeline_obeys_the_conditions(tiny, name, kind):
    base, model = tiny(name)
    parts = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    if name == "sd3":
        parts |= {"text_encoder_3": None, "tokenizer_3": None}
    pipe = kind(transformer=base, scheduler=FlowMatchEulerDiscreteScheduler(), **parts)
    pipe.set_progress_bar_config(disable=True)
    text = {key: given(base)[key] for key in ("encoder_hidden_states", "pooled_projections")}
    embeds = {"prompt_embeds": text["encoder_hidden_states"], "pooled_prompt_embeds": text["pooled_projections"]}
    if name == "sd3":
        embeds |= {f"negative_{key}": torch.zeros_like(value) for key, value in embeds.items()}

    def run():
        generator = torch.Generator().manual_seed(0)
        size = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent"}
        return pipe(**embeds, **size, generator=generator).images

    plain = run()
    with awake(model).applied(base, slots(2)):
        assert not torch.allclose(run(), plain)
    assert torch.equal(run(), plain)


def test_what_can_not_be_is_refused(tiny, tiny_sd):
    (sd3, on_sd3), (flux, _) = tiny("sd3"), tiny("flux")
    make = FlexEControlTransformerModel.from_transformer
    for base, layers, options, match in (
        (tiny_sd["unet"], 1, {}, "base is a UNet2DConditionModel; the adapter stands on SD3Transformer2DModel"),
        (sd3, 3, {}, "num_layers=3; so many that this SD3Transformer2DModel adds each of the residuals: 1, 2$"),
        (flux, 1, {"num_single_layers": 3}, "num_single_layers=3; so many .*: 0, 1, 2$"),
        (flux, 1, {"types": ("canny", "canny")}, "types must be distinct"),
        (flux, 1, {"pre_channels": (4,)}, "pre_channels needs 3 widths"),
    ):
        with pytest.raises(ValueError, match=match):
            make(base, layers, **{**SIZES, **options})
    for base, match in ((flux, "the transformer is a FluxTransformer2DModel"),):
        with pytest.raises(ValueError, match=match), on_sd3.applied(base, slots()):
            pass
    other = SD3Transformer2DModel(**{k: v for k, v in sd3.config.items() if k[0] != "_"} | {"num_layers": 2})
    with pytest.raises(ValueError, match="the transformer has num_layers=2; this adapter was made for 4"):
        with on_sd3.applied(other, slots()):
            pass
    with (
        pytest.raises(ValueError, match="multiples of 16"),
        on_sd3.applied(sd3, [SlotInput("canny", torch.zeros(1, 3, 72, 64))]),
    ):
        pass

"""Phrases in the cross-attention: recording, binding, and leaving no trace."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn

from wm_pipelines.flexecontrol.modeling import FlexEControlModel, SlotInput
from wm_pipelines.flexecontrol.steering.attention import PhraseAttention, phrase_attention

UP = "UNet2DConditionModel.up_blocks."
DOWN = "FlexEControlModel.down_blocks."


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state(bind=False, record=2, rows=1, regions=True, length=7):
    index = torch.zeros(rows, 2, length, dtype=torch.bool)
    index[:, 0, 1:3] = True
    index[:, 1, 4:6] = True
    halves = torch.zeros(rows, 2, 64, 64)
    halves[:, 0, :, :32] = 1
    halves[:, 1, :, 32:] = 1
    return PhraseAttention(index, halves if regions else None, bind, record, (16, 16))


@pytest.fixture(scope="module")
def control(tiny_sd):
    model = FlexEControlModel.from_unet(
        tiny_sd["unet"], n=2, r=1, condition_stride=4, feature_channels=(4, 6, 8), pre_channels=(4, 5), map_stride=2
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "zero_conv" in name or name.endswith("kronecker_u"):
                p.copy_(0.3 * seeded(*p.shape, seed=len(name)))
    return model


def step(unet, control, phrase_state=None, batch=2, text_length=7):
    """One guided step: rows are [unconditional, conditional]."""
    sample, text = seeded(batch, 4, 16, 16), seeded(batch, text_length, 16, seed=1)
    slots = [SlotInput("canny", torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)))]

    def run():
        residuals = control(sample, 500, text, control.condition_features(slots))
        return unet(
            sample,
            500,
            text,
            down_block_additional_residuals=residuals.down_block_res_samples,
            mid_block_additional_residual=residuals.mid_block_res_sample,
        ).sample

    if phrase_state is None:
        return run()
    with phrase_attention([unet, control], phrase_state):
        return run()


def test_recording_changes_nothing_but_rounding(tiny_sd, control):
    unet, recorded = tiny_sd["unet"], state()
    with torch.no_grad():
        plain, watched = step(unet, control), step(unet, control, recorded)
    assert torch.equal(plain[0], watched[0])  # the unconditional row, bit for bit
    assert torch.allclose(plain[1], watched[1], atol=1e-5)
    # only layers on the grid latent / 2, of both models
    names = [f"{DOWN}1", "UNet2DConditionModel.down_blocks.1", f"{UP}1", f"{UP}1"]
    assert sorted(name.split(".attentions")[0] for name in recorded.maps) == sorted(names)
    assert all(tuple(m.shape) == (1, 2, 8, 8) for m in recorded.maps.values())


def test_maps_are_the_mean_over_heads_and_phrase_tokens(tiny_sd):
    unet = tiny_sd["unet"]
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    attn, seen = unet.get_submodule(name), []
    handle = attn.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((args[0], kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    recorded = state(rows=2)
    with torch.no_grad(), phrase_attention([unet], recorded):
        unet(seeded(2, 4, 16, 16), 10, seeded(2, 7, 16, seed=1))
    handle.remove()
    hidden, text = seen[0]
    with torch.no_grad():
        query, key = attn.head_to_batch_dim(attn.to_q(hidden)), attn.head_to_batch_dim(attn.to_k(text))
        scores = attn.get_attention_scores(query, key).unflatten(0, (2, attn.heads)).mean(1)
    expected = torch.stack([scores[..., 1:3].mean(-1), scores[..., 4:6].mean(-1)], 1).unflatten(-1, (8, 8))
    assert torch.allclose(recorded.maps[f"UNet2DConditionModel.{name}"], expected, atol=1e-6)


def test_binding_keeps_cells_from_the_phrases_of_other_places(tiny_sd, control):
    unet, bound = tiny_sd["unet"], state(bind=True)
    with torch.no_grad():
        plain, tied = step(unet, control), step(unet, control, bound)
    assert torch.equal(plain[0], tied[0])
    assert not torch.allclose(plain[1], tied[1], atol=1e-3)
    for maps in bound.maps.values():
        assert not maps[0, 0, :, 4:].any() and maps[0, 0, :, :4].min() > 0
        assert not maps[0, 1, :, :4].any() and maps[0, 1, :, 4:].min() > 0


def test_binding_without_recording_is_the_same_attention(tiny_sd, control):
    """Scaled-dot-product attention with a bias against the explicit softmax."""
    unet = tiny_sd["unet"]
    with torch.no_grad():
        fused = step(unet, control, state(bind=True, record=None))
        explicit = step(unet, control, state(bind=True, record=2))
    assert torch.allclose(fused, explicit, atol=1e-5)


def test_swapping_regions_swaps_who_sees_what(tiny_sd, control):
    swapped = state(bind=True)
    swapped.regions = swapped.regions.flip(1)
    with torch.no_grad():
        step(tiny_sd["unet"], control, swapped)
    assert not any(m[0, 0, :, :4].any() or m[0, 1, :, 4:].any() for m in swapped.maps.values())


def test_a_thin_region_survives_pooling_and_an_empty_one_blocks(tiny_sd, control):
    thin = state(bind=True)
    thin.regions = torch.zeros_like(thin.regions)
    thin.regions[0, 0, 21, :] = 1  # one pixel high
    with torch.no_grad():
        out = step(tiny_sd["unet"], control, thin)
    for maps in thin.maps.values():
        assert maps[0, 0, 2].min() > 0 and not maps[0, 0, [0, 1, 3, 4, 5, 6, 7]].any()
        assert not maps[0, 1].any()
    assert out.isfinite().all()


def test_tokens_past_the_prompt_belong_to_no_phrase(tiny_sd, control):
    """Appended image tokens are attended to, never recorded or bound."""
    unet, recorded = tiny_sd["unet"], state(bind=True)
    with torch.no_grad():
        step(unet, control, recorded, text_length=11)
        bias = recorded.bias((8, 8), 11, torch.zeros(1))
    assert not bias[..., 7:].any() and torch.isinf(bias[..., 1:3]).any()
    with pytest.raises(ValueError, match="the text has 5 tokens, token_index has 7"), torch.no_grad():
        step(unet, control, state(), text_length=5)


def test_a_phrase_without_tokens_has_an_empty_map(tiny_sd, control):
    dropped = state()
    dropped.token_index[:, 1] = False
    with torch.no_grad():
        step(tiny_sd["unet"], control, dropped)
    assert not any(m[:, 1].any() for m in dropped.maps.values())


def test_processors_come_back_also_after_an_exception(tiny_sd, control):
    unet = tiny_sd["unet"]
    before = [module.processor for m in (unet, control) for module in m.modules() if hasattr(module, "processor")]
    with pytest.raises(RuntimeError, match="stop"), phrase_attention([unet, control], state()):
        assert any(not isinstance(p, AttnProcessor2_0) for p in unet.attn_processors.values())
        raise RuntimeError("stop")
    after = [module.processor for m in (unet, control) for module in m.modules() if hasattr(module, "processor")]
    assert len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True))


def test_layers_that_neither_record_nor_bind_run_their_own_processor(tiny_sd):
    class Counting(AttnProcessor):
        calls = 0

        def __call__(self, *args, **kwargs):
            Counting.calls += 1
            return super().__call__(*args, **kwargs)

    unet = copy.deepcopy(tiny_sd["unet"])
    layers = [m for name, m in unet.named_modules() if name.endswith("attn2")]
    for layer in layers:
        layer.set_processor(Counting())
    with torch.no_grad(), phrase_attention([unet], state(rows=2)):
        unet(seeded(2, 4, 16, 16), 10, seeded(2, 7, 16, seed=1))
    assert Counting.calls == len(layers) - 3


def test_a_lora_in_the_layer_is_used(tiny_sd, control):
    from peft import LoraConfig

    unet = copy.deepcopy(tiny_sd["unet"])
    with torch.no_grad():
        before = step(unet, control, state(bind=True))
        unet.add_adapter(LoraConfig(r=1, target_modules=r".*attn2\.(to_q|to_out\.0)", init_lora_weights=False))
        with_lora = step(unet, control, state(bind=True))
        explicit = step(unet, control, state(bind=True, record=None))
    assert not torch.allclose(before, with_lora, atol=1e-3)
    assert torch.allclose(with_lora, explicit, atol=1e-5)


def test_gradients_reach_the_adapter_through_its_own_and_the_up_maps_only(tiny_sd, control):
    """With a frozen base the maps of the UNet's down blocks say nothing to the adapter."""
    unet, recorded = tiny_sd["unet"], state()
    step(unet, control, recorded)
    for name, maps in recorded.maps.items():
        if name.startswith("UNet2DConditionModel.down_blocks"):
            assert not maps.requires_grad
            continue
        control.zero_grad()
        maps.square().mean().backward(retain_graph=True)
        assert control.feature_extractor.pre_extractor[0].weight.grad.abs().max() > 0, name
    control.zero_grad()


def test_checkpointing_keeps_the_maps_when_backward_runs_inside(tiny_sd, control):
    grads = []
    for checkpointing in (False, True):
        model = copy.deepcopy(control)
        if checkpointing:
            model.enable_gradient_checkpointing()
        recorded = state(rows=2)
        sample, text = seeded(2, 4, 16, 16), seeded(2, 7, 16, seed=1)
        with phrase_attention([model], recorded):
            model(sample, 5, text, model.condition_features([SlotInput("canny", torch.ones(1, 3, 64, 64))]))
            recorded.mean_map().square().mean().backward()
        grads.append(model.feature_extractor.pre_extractor[0].weight.grad)
    assert torch.allclose(*grads, atol=1e-7) and grads[0].any()


@pytest.mark.parametrize("record", [2, None])
def test_half_precision(tiny_sd, record):
    """The softmax of a recorded map is float32 whatever the model is."""
    unet = copy.deepcopy(tiny_sd["unet"])
    sample, text = seeded(2, 4, 16, 16), seeded(2, 7, 16, seed=1)
    outputs = {}
    for dtype in (torch.float32, torch.bfloat16):
        bound = state(bind=True, record=record, rows=2)
        with torch.no_grad(), phrase_attention([unet.to(dtype)], bound):
            outputs[dtype] = unet(sample.to(dtype), 10, text.to(dtype)).sample
        assert all(m.dtype == torch.float32 for m in bound.maps.values())
    got, expected = outputs[torch.bfloat16].float(), outputs[torch.float32]
    assert (got - expected).norm() < 0.05 * expected.norm()


def test_mean_map_selects_layers(tiny_sd, control):
    recorded = state()
    with torch.no_grad():
        step(tiny_sd["unet"], control, recorded)
    up = [m for name, m in recorded.maps.items() if name.startswith(UP)]
    assert len(up) == 2 and torch.allclose(recorded.mean_map([UP]), sum(up) / 2)
    assert torch.allclose(recorded.mean_map(), sum(recorded.maps.values()) / 4)
    assert recorded.mean_map(["nothing"]) is None


def test_odd_latents_round_up():
    odd = PhraseAttention(torch.zeros(1, 1, 7, dtype=torch.bool), None, False, 2, (10, 6))
    assert odd.grid(60) == (1, 10, 6) and odd.grid(15) == (2, 5, 3) and odd.grid(6) == (4, 3, 2)
    with pytest.raises(ValueError, match=r"no downsampling of latent_hw=\(10, 6\) has 16 cells"):
        odd.grid(16)


def test_bad_input(tiny_sd, control):
    index = torch.zeros(1, 2, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match="token_index must be a bool tensor"):
        PhraseAttention(index.float(), None, False, 2, (16, 16))
    with pytest.raises(ValueError, match=r"\(B, P\) = \(1, 2\)"):
        PhraseAttention(index, torch.ones(1, 3, 64, 64), True, 2, (16, 16))
    with pytest.raises(ValueError, match="batch has 3 rows; the phrases are for 1"), torch.no_grad():
        step(tiny_sd["unet"], control, state(), batch=3)
    with pytest.raises(ValueError, match="two models of one class"), phrase_attention([control, control], state()):
        pass
    odd = copy.deepcopy(tiny_sd["unet"])

    class Foreign(nn.Module):
        pass

    odd.mid_block.attentions[0].transformer_blocks[0].attn2.processor = Foreign()
    with pytest.raises(ValueError, match="mid_block.*attn2 has a Foreign"), phrase_attention([odd], state()):
        pass

"""Merging: rounded once, undone bit for bit from the smaller of two records, refused where it would lose the base."""

import copy

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig, KroneckerLinear
from wm_pipelines.adapters.kronecker.merging import Undo, merge_weight

HALVES = [torch.bfloat16, torch.float16, torch.float32]


def bits(tensor):
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def scaled(layer, ratio):
    """Sets the scale so that the update is this share of the weight."""
    size = layer.base_layer.weight.float().norm() / layer.get_delta_weight("default").norm()
    layer.set_scale("default", float(ratio * size * layer.scaling["default"] / layer.spec["default"].scale))


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
@pytest.mark.parametrize(("changed", "sparse"), [(0, True), (4, True), (24, False)])
def test_undo_keeps_the_smaller_record(dtype, changed, sparse):
    before = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    before[0, 0] = -0.0
    after = before.clone()
    after.view(-1)[:changed] = torch.where(before.view(-1)[:changed] == 0, 0.0, 2 * before.view(-1)[:changed])
    undo = Undo(before, after)
    assert (undo.places is not None) == sparse
    assert undo.nbytes == (changed * (4 + before.element_size()) if sparse else before.nbytes)
    kept = after.clone()
    assert torch.equal(bits(undo.restore(after)), bits(before)) and torch.equal(after, kept)
    assert undo.restore(after.float()).dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("ratio", [1e-1, 1e-3])
@pytest.mark.filterwarnings("ignore:rounding to")
def test_fifty_cycles_leave_every_bit(make_stack, randomise, dtype, ratio):
    model = randomise(inject_adapter_in_model(KroneckerConfig(n=4, target_modules=["q"]), make_stack().to(dtype)))
    layer = model.blocks[0].q
    scaled(layer, ratio)
    before = layer.base_layer.weight.clone()
    for _ in range(50):
        layer.merge()
        assert not torch.equal(layer.base_layer.weight, before)
        layer.unmerge()
        assert torch.equal(bits(layer.base_layer.weight.data), bits(before))


@pytest.mark.filterwarnings("ignore:rounding to")
def test_a_small_update_of_a_half_base_keeps_less_than_a_copy(make_stack, randomise):
    model = randomise(
        inject_adapter_in_model(KroneckerConfig(n=4, target_modules=["q"]), make_stack(width=64).to(torch.bfloat16))
    )
    layer = model.blocks[0].q
    for ratio, sparse in ((1e-4, True), (1e-1, False)):
        scaled(layer, ratio)
        layer.merge()
        assert layer.undo_bytes and (layer.undo_bytes < layer.base_layer.weight.nbytes) == sparse
        layer.unmerge()
        assert layer.undo_bytes == 0


@pytest.mark.filterwarnings("ignore:Already following adapters")
def test_one_record_covers_several_merges_and_a_cast(make_stack, randomise):
    model = randomise(get_peft_model(make_stack(), KroneckerConfig(n=4, target_modules=["q"])))
    model.add_adapter("other", KroneckerConfig(n=4, target_modules=["q"], bias="own"))
    model.set_adapter("other")
    randomise(model, seed=3)
    layer = model.base_model.model.blocks[1].q
    before = copy.deepcopy(layer.base_layer.state_dict())
    layer.merge(adapter_names=["default"])
    layer.merge(adapter_names=["other"])
    assert layer.merged_adapters == ["default", "other"]
    twin = copy.deepcopy(layer).half()
    for merged, dtype in ((layer, torch.float32), (twin, torch.float16)):
        merged.unmerge()
        assert all(torch.equal(t, before[key].to(dtype)) for key, t in merged.base_layer.state_dict().items())


def test_the_layer_without_peft_undoes_bit_for_bit():
    torch.manual_seed(0)
    layer = KroneckerLinear.from_linear(nn.Linear(24, 16).to(torch.bfloat16), n=4, r=2)
    nn.init.normal_(layer.kronecker_u)
    before = layer.weight.clone()
    for _ in range(50):
        layer.merge()
        layer.unmerge()
    assert torch.equal(bits(layer.weight.data), bits(before))
    layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="base weight is fp8 \\(torch.float8_e4m3fn\\): merging disabled"):
        layer.merge()


def test_quantised_bases_are_refused_before_any_layer_is_merged(make_stack, randomise):
    model = randomise(get_peft_model(make_stack(), KroneckerConfig(n=4, target_modules=["q", "v"])))
    first, last = model.base_model.model.blocks[0].q, model.base_model.model.blocks[2].v
    before = first.base_layer.weight.clone()
    message = "`blocks.2.v`: base weight is {}: merging disabled, using side path"
    last.base_layer.weight.data = last.base_layer.weight.data.to(torch.float8_e5m2)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match=message.format("fp8 \\(torch.float8_e5m2\\)")):
            merge()
    # as bitsandbytes stores it: bytes, and the name of the format on the parameter
    packed = nn.Parameter(torch.zeros(24 * 24 // 2, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_type = "nf4"
    last.base_layer.weight = packed
    with pytest.raises(ValueError, match=message.format("nf4")):
        model.merge_adapter()
    with pytest.raises(ValueError, match="base weight is nf4: merging disabled, using side path"):
        last.merge()
    assert torch.equal(first.base_layer.weight, before) and not first.merged


def test_what_rounding_loses_is_measured():
    weight = torch.rand(256, 256, generator=torch.Generator().manual_seed(1)) - 0.5
    delta = torch.randn(256, 256, generator=torch.Generator().manual_seed(2))
    delta *= 1e-2 * weight.norm() / delta.norm()
    merged, lost = merge_weight(weight.bfloat16(), delta)
    realised = merged.double() - weight.bfloat16().double() - delta.double()
    assert merged.dtype == torch.bfloat16 and lost == pytest.approx(float(realised.norm() / delta.norm()), rel=1e-4)
    assert merge_weight(weight, delta)[1] < 1e-4 < lost

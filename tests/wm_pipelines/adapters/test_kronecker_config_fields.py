"""Fields of KroneckerConfig that mean what PEFT means by them."""

import copy
import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.adapters.kronecker.layer import AdaptedLinear


def adapted_names(model):
    base = model.get_base_model()
    return {name for name, module in base.named_modules() if isinstance(module, AdaptedLinear)}


@pytest.mark.parametrize("factored", [True, False])
def test_weights_that_are_drawn_change_the_output_at_once(make_stack, inputs, factored):
    model = get_peft_model(
        make_stack(), KroneckerConfig(n=4, factored=factored, init_weights=False, target_modules=["q", "v"])
    )
    assert not torch.allclose(model(inputs), make_stack()(inputs), atol=1e-3)
    model(inputs).square().sum().backward()
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="`init_weights` is False, which draws every factor; `init` is 'authors_rel"):
        KroneckerConfig(init_weights=False, init="authors_release")


@pytest.mark.parametrize("pattern", ["blocks", ["blocks"], ["h", "blocks"]])
def test_a_pattern_of_layers(make_stack, pattern):
    config = KroneckerConfig(n=4, target_modules=["q", "v"], layers_to_transform=[0, 2], layers_pattern=pattern)
    model = get_peft_model(make_stack(), config)
    assert adapted_names(model) == {f"blocks.{i}.{kind}" for i in (0, 2) for kind in "qv"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers_pattern": "h"}, "`layers_to_transform` must also be specified"),
        ({"layers_to_transform": 1, "target_modules": "q|v"}, "`layers_to_transform` cannot be used when"),
        ({"layers_to_transform": 1, "layers_pattern": ["(a*)*"]}, "`layers_pattern`"),
    ],
)
def test_patterns_of_layers_that_say_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        KroneckerConfig(**{"n": 4, "target_modules": ["q"], **options})


def gpt2(tied=True):
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 40, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=tied)).eval()


def train(model, steps=3):
    tokens = torch.arange(12).view(2, 6)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        optimiser.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimiser.step()
    return model(input_ids=tokens).logits


@pytest.mark.parametrize("given", [[1, 3], {"wte": [1, 3]}])
def test_rows_of_an_embedding_train(tmp_path, given):
    model = get_peft_model(gpt2(), KroneckerConfig(n=4, target_modules=["c_attn"], trainable_token_indices=given))
    before = copy.deepcopy(model.get_input_embeddings().original_module.weight)
    logits = train(model)
    merged = copy.deepcopy(model).merge_and_unload()
    changed = (merged.transformer.wte.weight != before).any(1).nonzero().flatten().tolist()
    assert changed == [1, 3] and merged.lm_head.weight is merged.transformer.wte.weight
    torch.testing.assert_close(merged(torch.arange(12).view(2, 6)).logits, logits, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["trainable_token_indices"] == given
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path)
    torch.testing.assert_close(loaded(torch.arange(12).view(2, 6)).logits, logits)


@pytest.mark.parametrize("saved", [["wte"], ["lm_head"], ["lm_head", "wte"]])
def test_saved_embeddings_stay_tied(tmp_path, saved):
    config = KroneckerConfig(n=4, target_modules=["c_attn"], modules_to_save=saved, ensure_weight_tying=True)
    if saved == ["wte"]:
        config.modules_to_save = ["transformer.wte", "lm_head"]
    model = get_peft_model(gpt2(), config)
    logits = train(model)
    wte, head = (m.modules_to_save["default"].weight for m in (model.get_input_embeddings(), model.lm_head))
    assert wte is head and not torch.equal(wte, gpt2().lm_head.weight)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path)
    torch.testing.assert_close(loaded(input_ids=torch.arange(12).view(2, 6)).logits, logits)


def test_what_can_not_be_tied_is_refused():
    config = KroneckerConfig(n=4, target_modules=["c_attn", "lm_head"], ensure_weight_tying=True)
    with pytest.raises(ValueError, match=r"`ensure_weight_tying`: a target shares.*\(lm_head\).*modules_to_save"):
        get_peft_model(gpt2(), config)
    with pytest.warns(UserWarning, match="no tied modules were found"):
        get_peft_model(gpt2(tied=False), KroneckerConfig(n=4, target_modules=["c_attn"], ensure_weight_tying=True))


def test_the_config_is_what_its_file_says(tmp_path):
    config = KroneckerConfig(n=4, fused={"c_attn": ("q", "k", "v")}, target_modules=["c_attn"])
    config.save_pretrained(tmp_path)
    written = KroneckerConfig.from_json_file(str(tmp_path / "adapter_config.json"))
    assert {**config.to_dict(), "target_modules": ["c_attn"]} == written
    assert KroneckerConfig.from_pretrained(tmp_path) == config


def test_a_name_that_torch_has_taken_is_refused(make_stack):
    model = make_stack()
    with pytest.raises(ValueError, match="`adapter_name` 'half' is an attribute of torch's modules"):
        get_peft_model(model, KroneckerConfig(n=4, target_modules=["q"]), "half")
    assert type(model.blocks[0].q) is torch.nn.Linear
    wrapped = get_peft_model(model, KroneckerConfig(n=4, target_modules=["q"]))
    with pytest.raises(ValueError, match="`adapter_name` 'half' is an attribute of torch's modules"):
        wrapped.add_adapter("half", KroneckerConfig(n=4, target_modules=["q"]))
    assert list(wrapped.peft_config) == ["default"]

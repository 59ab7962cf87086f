"""LoRA for both directions: switched and switched back, taken out and put in, saved and read, and what is refused."""

import json

import pytest
import torch

from wm_pipelines.dynamics.adapters import (
    LINEAR,
    active,
    adapter_names,
    add_adapter,
    bare,
    load_adapter,
    save_adapter,
)

TOKENS = torch.tensor([[1, 4, 2, 6, 3]])


@pytest.fixture(params=["plain", "liquid", "chameleon", "emu3"])
def model(request, token_models):
    with torch.random.fork_rng(devices=[]):
        return token_models.make_model(request.param)


def read(model):
    with torch.no_grad():
        return model.model(input_ids=TOKENS)[0]


def logits(model):
    with torch.no_grad():
        return read(model) @ model.get_output_embeddings().weight.T


def stir(model, name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if f".{name}." in key and "lora_A" not in key:
                parameter.normal_(generator=generator)


def test_each_direction_reads_with_its_own(model):
    before = read(model)
    for seed, name in enumerate(("dynamics", "world")):
        add_adapter(model, name, rank=2, targets=LINEAR)
        stir(model, name, seed)
    assert adapter_names(model) == ["dynamics", "world"]
    found = {}
    for name in ("dynamics", "world", None):
        with active(model, name):
            found[name] = read(model)
    assert torch.equal(found[None], before)
    assert not torch.equal(found["dynamics"], before) and not torch.equal(found["dynamics"], found["world"])
    assert not any("vqmodel" in name for name, _ in model.named_parameters() if "lora" in name)


def test_what_acted_before_acts_again_whatever_happens(model):
    for seed, name in enumerate(("dynamics", "world")):
        add_adapter(model, name, rank=2)
        stir(model, name, seed)
    wants = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with active(model, "dynamics"):
        wanted = read(model)
        with pytest.raises(KeyError), active(model, "world"):
            assert not torch.equal(read(model), wanted)
            raise KeyError
        assert torch.equal(read(model), wanted)
        with active(model, None):
            pass
        assert torch.equal(read(model), wanted)
    assert wants == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(ValueError, match="`adapter` 'policy' is not in the model; it has dynamics, world"):
        with active(model, "policy"):
            pass


def test_without_its_layers_a_model_has_stock_names(model):
    names = set(model.state_dict())
    add_adapter(model, "world", rank=2)
    stir(model, "world")
    acted = read(model)
    with bare(model):
        assert set(model.state_dict()) == names
    assert torch.equal(read(model), acted)


def test_a_file_gives_the_same_again_as_peft_names_it(model, token_models, tmp_path):
    from safetensors.torch import load_file

    add_adapter(model, "world", rank=2, alpha=3.0)
    stir(model, "world")
    save_adapter(model, "world", tmp_path / "saved")
    acted, values = read(model), load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") and ".world." not in name for name in values)
    with bare(model):
        fresh = type(model)(model.config).eval()
        fresh.load_state_dict(model.state_dict())
    load_adapter(fresh, tmp_path / "saved", "other")
    with active(fresh, "other"):
        assert torch.equal(read(fresh), acted)


def test_an_output_layer_of_its_own_goes_where_its_adapter_goes(model, token_models, tmp_path, recwarn):
    """It acts with that adapter alone, is taken out and put in with it, and no input embedding moves with it."""
    before, names, embedded = logits(model), set(model.state_dict()), model.get_input_embeddings().weight.clone()
    add_adapter(model, "world", rank=2, train_lm_head=True)
    add_adapter(model, "dynamics", rank=2)
    with active(model, "world"):
        assert torch.equal(logits(model), before)
    for seed, name in enumerate(("world", "dynamics")):
        stir(model, name, seed)
    plain = model.get_output_embeddings().original_module.weight
    with active(model, "dynamics"):
        assert model.get_output_embeddings().weight is plain and not torch.equal(logits(model), before)
        with active(model, "world"):
            assert model.get_output_embeddings().weight.shape == plain.shape
            assert not torch.equal(model.get_output_embeddings().weight, plain)
            acted = logits(model)
        assert model.get_output_embeddings().weight is plain
    with active(model, None):
        assert torch.equal(logits(model), before)
    assert torch.equal(model.get_input_embeddings().weight, embedded)
    with bare(model):
        assert set(model.state_dict()) == names
        fresh = type(model)(model.config).eval()
        fresh.load_state_dict(model.state_dict())
    save_adapter(model, "world", tmp_path / "saved")
    load_adapter(fresh, tmp_path / "saved", "other")
    with active(fresh, "other"):
        assert torch.equal(logits(fresh), acted)
    with active(fresh, None):
        assert torch.equal(logits(fresh), before)
    assert not [warning for warning in recwarn if "tie_word_embeddings" in str(warning.message)]
    config = tmp_path / "saved" / "adapter_config.json"
    for layers in (["embed_tokens"], ["lm_head", "model"], "lm_head"):
        config.write_text(json.dumps({**json.loads(config.read_text()), "modules_to_save": layers}))
        with pytest.raises(ValueError, match="holds whole layers.*lm_head alone is taken"):
            load_adapter(fresh, tmp_path / "saved", "third")


def test_what_is_refused(model, tmp_path):
    add_adapter(model, "world", rank=2)
    with pytest.raises(ValueError, match="`name` 'world' is taken"):
        add_adapter(model, "world")
    with pytest.raises(ValueError, match="`rank` is 0"):
        add_adapter(model, "dynamics", rank=0)
    with pytest.raises(ValueError, match=r"`targets` \('nothing',\) are not in"):
        add_adapter(model, "dynamics", targets=("nothing",))
    save_adapter(model, "world", tmp_path / "saved")
    with pytest.raises(ValueError, match="is taken"):
        load_adapter(model, tmp_path / "saved", "world")
    config = tmp_path / "saved" / "adapter_config.json"
    text = config.read_text()
    config.write_text(json.dumps({**json.loads(text), "peft_type": "IA3"}))
    with pytest.raises(ValueError, match="is no LoRA of PEFT"):
        load_adapter(model, tmp_path / "saved", "dynamics")
    config.write_text(json.dumps({**json.loads(text), "r": 4}))
    with pytest.raises(ValueError, match="doesn't fit"):
        load_adapter(model, tmp_path / "saved", "dynamics")
    config.write_text(text)
    (tmp_path / "saved" / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no readable adapter_model.safetensors"):
        load_adapter(model, tmp_path / "saved", "policy")
    assert adapter_names(model) == ["world"] or "policy" not in adapter_names(model)

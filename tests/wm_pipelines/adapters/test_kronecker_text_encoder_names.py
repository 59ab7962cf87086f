"""Text encoders: names with the level `text_model` and without it, in files that come and in files that go."""

import copy
import json
import warnings

import pytest
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from peft import LoKrConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from wm_pipelines.adapters.kronecker import KroneckerConfig, load_lokr, save_lora

# the files of these tests hold both factors whole; what the warning says has a test of its own
pytestmark = pytest.mark.filterwarnings("ignore:.*holds both LoKr factors whole:UserWarning")

WORDS = torch.tensor([[0, 3, 5, 2]])
KINDS = {"flat": CLIPTextModel, "with projection": CLIPTextModelWithProjection}
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@pytest.fixture(scope="module")
def encoders():
    torch.manual_seed(0)
    sizes = CLIPTextConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, vocab_size=9,
        max_position_embeddings=4, projection_dim=8, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return {name: kind(sizes).eval() for name, kind in KINDS.items()}


@pytest.fixture
def encoder(encoders):
    return lambda name: copy.deepcopy(encoders[name])


@torch.no_grad()
def call(model):
    return model(WORDS).last_hidden_state


def plain_name(name):
    """A module's name without the level."""
    return name.removeprefix("text_model.")


def lokr_file(model, path, prefix, level, dots, targets=("q_proj", "fc1")):
    """A file of LyCORIS with the level or without, and ΔW by module name without it."""
    tensors, deltas = {}, {}
    generator = torch.Generator().manual_seed(1)
    for name, layer in ((plain_name(n), m) for n, m in model.named_modules() if n.endswith(targets)):
        key = f"text_model.{name}" if level else name
        key = prefix + (key if dots else key.replace(".", "_"))
        w1 = torch.randn(2, 2, generator=generator)
        w2 = torch.randn(layer.out_features // 2, layer.in_features // 2, generator=generator)
        tensors |= {f"{key}.lokr_w1": w1, f"{key}.lokr_w2": w2}
        deltas[name] = torch.kron(w1, w2)
    save_file(tensors, path)
    return deltas


def check_deltas(model, deltas):
    layers = {plain_name(name): layer for name, layer in model.named_modules() if hasattr(layer, "spec")}
    assert layers.keys() == deltas.keys() and deltas
    for name, layer in layers.items():
        torch.testing.assert_close(layer.get_delta_weight("default"), deltas[name])


PREFIXES = [
    *((p, False) for p in ("lora_te_", "lora_te1_", "lora_te2_", "lycoris_")),
    *((p, True) for p in ("text_encoder.", "text_encoder_2.", "")),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [True, False])
@pytest.mark.parametrize(("prefix", "dots"), PREFIXES, ids=str)
def test_lokr_file_in_every_spelling(encoder, tmp_path, kind, level, prefix, dots):
    model, base = encoder(kind), encoder(kind)
    deltas = lokr_file(model, tmp_path / "a.safetensors", prefix, level, dots)
    load_lokr(model, tmp_path / "a.safetensors")
    check_deltas(model, deltas)
    for name, module in base.named_modules():
        if plain_name(name) in deltas:
            module.weight.data += deltas[plain_name(name)]
    torch.testing.assert_close(call(model), call(base), rtol=1e-4, atol=1e-5)


def test_one_encoder_of_two_in_a_file(encoder, tmp_path):
    first = lokr_file(encoder("flat"), tmp_path / "a.safetensors", "lora_te1_", True, False)
    second = lokr_file(encoder("flat"), tmp_path / "b.safetensors", "lora_te2_", True, False, ("v_proj",))
    save_file({**load_file(tmp_path / "a.safetensors"), **load_file(tmp_path / "b.safetensors")}, tmp_path / "c")
    with pytest.raises(ValueError, match="`prefix` must be one of \\['lora_te1_', 'lora_te2_'\\]"):
        load_lokr(encoder("flat"), tmp_path / "c")
    for prefix, deltas in (("lora_te1_", first), ("lora_te2_", second), ("lora_te2", second)):
        check_deltas(load_lokr(encoder("flat"), tmp_path / "c", prefix=prefix), deltas)


@pytest.mark.parametrize(("source", "target"), [("flat", "with projection"), ("with projection", "flat")])
def test_peft_folder_of_the_other_class(encoder, randomise, tmp_path, source, target):
    """As a folder that was written under transformers 4, where both classes had the level."""
    config = LoKrConfig(r=1, alpha=3, target_modules=["q_proj"], rank_pattern={"layers.1.self_attn.q_proj": 2})
    theirs = randomise(get_peft_model(encoder(source), config))
    theirs.save_pretrained(tmp_path)
    model = load_lokr(encoder(target), tmp_path)
    layers = {n: m for n, m in theirs.base_model.model.named_modules() if n.endswith("q_proj")}
    check_deltas(model, {plain_name(n): m.get_delta_weight("default") for n, m in layers.items()})


def test_a_layer_in_neither_form_is_named(encoder, tmp_path):
    lokr_file(encoder("flat"), tmp_path / "a.safetensors", "lora_te_", True, False)
    tensors = load_file(tmp_path / "a.safetensors")
    tensors |= {f"lora_te_text_model_encoder_layers_7_mlp_fc1.lokr_w{i}": torch.ones(2, 2) for i in (1, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="1 modules of .* such as .'lora_te_text_model_encoder_layers_7_mlp_fc1'."):
        load_lokr(encoder("flat"), tmp_path / "a.safetensors")


# ---- what we write ----


def adapted(model, randomise, **options):
    return randomise(inject_adapter_in_model(KroneckerConfig(n=4, target_modules=TARGETS, **options), model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["lora_te", "lora_te1", "lora_te2"])
@pytest.mark.parametrize("form", ["kohya", "diff"])
def test_kohya_names(encoder, randomise, tmp_path, kind, prefix, form):
    model = adapted(encoder(kind), randomise)
    stored = load_file(save_lora(model, tmp_path, format=form, prefix=prefix))
    blocks = [f"{prefix}_text_model_encoder_layers_{i}" for i in range(2)]
    parts = ["self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2"]
    assert {key.partition(".")[0] for key in stored} == {f"{block}_{part}" for block in blocks for part in parts}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["kohya", "diffusers"])
@pytest.mark.parametrize("second", [False, True])
def test_diffusers_reads_it(encoder, randomise, tmp_path, kind, form, second):
    """Its own reader of either format, into the first text encoder or the second; same output."""
    model = adapted(encoder(kind), randomise)
    prefix = {"kohya": ("lora_te1", "lora_te2"), "diffusers": ("text_encoder", "text_encoder_2")}[form][second]
    path = save_lora(model, tmp_path, format=form, prefix=prefix)
    loader = StableDiffusionXLLoraLoaderMixin if second else StableDiffusionLoraLoaderMixin
    state, alphas = loader.lora_state_dict(str(tmp_path), weight_name=path.name)
    other = encoder(kind)
    loader.load_lora_into_text_encoder(
        state, network_alphas=alphas, text_encoder=other, prefix="text_encoder_2" if second else "text_encoder"
    )
    expected = call(model)
    assert not torch.allclose(expected, call(encoder(kind)), atol=1e-2)
    torch.testing.assert_close(call(other), expected, rtol=1e-4, atol=1e-5)


def test_the_prefix_of_a_text_encoder(encoder, randomise, tmp_path):
    flat, projected = (adapted(encoder(kind), randomise) for kind in KINDS)
    for form, begin in (("kohya", "lora_te_text_model_"), ("diffusers", "text_encoder.text_model.")):
        assert all(key.startswith(begin) for key in load_file(save_lora(flat, tmp_path, format=form)))
        with pytest.raises(ValueError, match="`prefix` must be given for a CLIPTextModelWithProjection: '"):
            save_lora(projected, tmp_path, format=form)


def test_a_peft_file_keeps_the_names_of_the_model(encoder, randomise, tmp_path):
    """It is for PeftModel.from_pretrained on the same class."""
    stored = load_file(save_lora(adapted(encoder("flat"), randomise), tmp_path))
    assert all(key.startswith("base_model.model.encoder.layers.") for key in stored)


# ---- both factors whole ----


def whole_file(path, alpha=None, header=None):
    key = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    tensors = {f"{key}.lokr_w1": torch.ones(2, 2), f"{key}.lokr_w2": torch.randn(4, 4)}
    if alpha is not None:
        tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, path, metadata=header)
    return torch.kron(tensors[f"{key}.lokr_w1"], tensors[f"{key}.lokr_w2"])


@pytest.mark.parametrize(
    ("alpha", "header", "words"),
    [
        (8, None, "it says alpha=8. The scale 1 was taken"),
        (None, {"ss_network_dim": "16", "ss_network_alpha": "4"}, "rank 16 and alpha 4 in its header"),
        (4, {"ss_network_dim": "16", "ss_network_alpha": "4"}, "alpha=4, rank 16 and alpha 4 in its header"),
        (None, {"lora_adapter_metadata": json.dumps({"text_encoder.r": 8, "text_encoder.lora_alpha": 2})}, "rank 8"),
        # what agrees with a scale of 1: LyCORIS sets alpha to the rank there
        (16, {"ss_network_dim": "16", "ss_network_alpha": "16"}, None),
        (1, None, None),
        (None, None, None),
        (None, {"ss_network_dim": "Dynamic", "ss_network_alpha": "None", "ss_tag": "{"}, None),
    ],
)
def test_what_was_assumed_is_said(encoder, tmp_path, alpha, header, words):
    path, model = tmp_path / "style.safetensors", encoder("flat")
    delta = whole_file(path, alpha, header)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_lokr(model, path)
    said = [str(w.message) for w in caught if "both LoKr factors whole" in str(w.message)]
    assert len(said) == (words is not None)
    if words:
        assert str(path) in said[0] and words in said[0] and "as LyCORIS and ComfyUI do" in said[0]
    torch.testing.assert_close(model.encoder.layers[0].self_attn.q_proj.get_delta_weight("default"), delta)


def test_a_product_has_a_rank_and_needs_no_word(encoder, tmp_path):
    key = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    parts = {"lokr_w1": torch.ones(2, 2), "lokr_w2_a": torch.ones(4, 2), "lokr_w2_b": torch.ones(2, 4)}
    parts["alpha"] = torch.tensor(8.0)
    save_file({f"{key}.{name}": t for name, t in parts.items()}, tmp_path / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_lokr(encoder("flat"), tmp_path / "a.safetensors")


@pytest.mark.parametrize(("alpha", "told"), [(12, True), (8, False)])
def test_a_peft_folder_says_its_scale(encoder, randomise, tmp_path, alpha, told):
    """PEFT multiplies by alpha/r also where nothing of rank r is left in the file."""
    theirs = randomise(get_peft_model(encoder("flat"), LoKrConfig(r=8, alpha=alpha, target_modules=["q_proj"])))
    theirs.save_pretrained(tmp_path)
    model = encoder("flat")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_lokr(model, tmp_path)
    said = [str(w.message) for w in caught if "both LoKr factors whole" in str(w.message)]
    assert len(said) == told
    if told:
        assert f"it says r=8 and alpha={alpha}. The scale alpha/r was taken, as PEFT does" in said[0]
    torch.testing.assert_close(call(model), theirs(WORDS).last_hidden_state, rtol=1e-4, atol=1e-5)

"""Every wrong use of the adapter gives one clear ValueError, and leaves the model as it was."""

import copy
import json
import pickle

import pytest
import torch
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.utils import PeftType
from safetensors.torch import load_file, save_file
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig, load_adapter, register, save_adapter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "`n` must be a positive integer, got 0"),
        ({"r": 1.5}, "`r` must be a positive integer, got 1.5"),
        ({"terms": -1}, "`terms` must be a positive integer, got -1"),
        ({"alpha": 0.0}, "`alpha`: alpha must be finite and above 0, got 0.0"),
        ({"alpha_pattern": {"q": float("nan")}}, "`q`: alpha must be finite"),
        ({"alpha": None}, "`alpha`: alpha must be finite and above 0, got None"),
        ({"target_modules": 5}, "`target_modules` must be a list of names or a regex, got 5"),
        ({"shared_sets": {"(": "a"}}, "`shared_sets`: '\\(' is not a regular expression"),
        ({"dropout": 1.0}, "`dropout` must be in \\[0, 1\\), got 1.0"),
        ({"bias": "all"}, "`bias` must be one of"),
        ({"init": "zeros"}, "`init` must be one of"),
        ({"shared_sets": "some"}, "`shared_sets` must be 'target', 'all', 'none' or a dict"),
    ],
)
def test_config(options, message):
    with pytest.raises(ValueError, match=message):
        KroneckerConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n": 5},
            "`blocks.0.q`: n=5 does not divide in_features=24; choose from 1, 2, 3, 4, 6, 8, 12, 24; common "
            "divisors of all 6 targets: \\[1, 2, 3, 4, 6, 8, 12, 24\\]",
        ),
        (
            {"n": 4, "target_modules": ["q", "head"]},
            "`head`: n=4 does not divide out_features=6; choose from 1, 2, 3, 6; "
            "common divisors of all 4 targets: \\[1, 2, 3, 6\\]",
        ),
        ({"target_modules": ["qq", "heads"]}, "\\['heads', 'qq'\\] matched 0 Linear layers; nearest names: head, q"),
        ({"target_modules": "x.*"}, "matched 0 Linear layers"),
        ({"target_modules": None}, "`target_modules` must be given: there is no default for model type 'custom'"),
        ({"shared_sets": {".*q": "a"}}, "gives `blocks.0.v` 0 sets \\[\\], it must be one"),
        ({"shared_sets": {".*q": "a", ".*": "b"}}, "gives `blocks.0.q` 2 sets \\['a', 'b'\\]"),
        ({"fused": {"q": ("a",) * 7}}, "`blocks.0.q`: 24 rows do not split into the 7 parts"),
        ({"fused": {"q": ("a", "b")}}, "none of its parts \\('a', 'b'\\) is in fused_targets"),
        ({"modules_to_save": ["v"]}, "`modules_to_save` has 'v', with which `kronecker_v` ends, no layer"),
        ({"modules_to_save": ["head", "locks"]}, "`modules_to_save` has 'locks', with which `blocks` ends, no layer"),
        ({"target_modules": ["x" * 9000]}, "matched 0 Linear layers; nearest names"),
        ({"target_modules": ["q", "blocks"]}, "`blocks` is a ModuleList; Kronecker adapters take linear layers only"),
    ],
)
def test_targets(make_stack, options, message):
    model = make_stack()
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message) as said:
        get_peft_model(model, KroneckerConfig(**{"n": 4, "target_modules": ["q", "v"], **options}))
    assert len(str(said.value)) < 4000
    assert list(model.state_dict()) == keys and all(p.requires_grad for p in model.parameters())


def test_modules_that_are_not_called():
    attention = nn.Sequential(nn.MultiheadAttention(8, 2), nn.LayerNorm(4))
    for target in ("0", "out_proj"):
        with pytest.raises(ValueError, match="nn.MultiheadAttention reads in_proj_weight"):
            get_peft_model(attention, KroneckerConfig(n=4, target_modules=[target]))
    with pytest.raises(ValueError, match="`1` is a LayerNorm; Kronecker adapters take linear layers only"):
        get_peft_model(attention, KroneckerConfig(n=4, target_modules=["1"]))


def test_adapter_of_another_size(make_stack, randomise, tmp_path):
    model = randomise(get_peft_model(make_stack(), KroneckerConfig(n=6, target_modules=["q", "v"])))
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    for change, message in (
        (
            {"n": 4, "n_in": 4, "n_out": 4, "terms": 4},
            "adapter was trained with n=6, terms=6, config says n=4, terms=4",
        ),
        ({"r": 3}, "adapter was trained with shape \\(6, 4, 1\\), config says shape \\(6, 4, 3\\)"),
    ):
        path.write_text(
            json.dumps(
                {**KroneckerConfig(n=6, target_modules=["q", "v"]).to_dict(), **change, "target_modules": ["q", "v"]}
            )
        )
        with pytest.raises(ValueError, match=message):
            PeftModel.from_pretrained(make_stack(), tmp_path)


BROKEN_CONFIGS = {
    "cut": lambda fields: json.dumps(fields)[:40],
    "empty": lambda fields: "",
    "a list": lambda fields: "[]",
    "no type": lambda fields: json.dumps({**fields, "peft_type": None}),
    "unknown type": lambda fields: json.dumps({**fields, "peft_type": "KRON"}),
    "text for a number": lambda fields: json.dumps({**fields, "n": "4"}),
    "a list for a dict": lambda fields: json.dumps({**fields, "fused": [1]}),
}


@pytest.mark.parametrize("change", BROKEN_CONFIGS)
def test_broken_config_file(make_stack, tmp_path, change):
    model = inject_adapter_in_model(KroneckerConfig(n=4, target_modules=["q"]), make_stack())
    path = save_adapter(model, tmp_path) / "adapter_config.json"
    path.write_text(BROKEN_CONFIGS[change](json.loads(path.read_text())))
    with pytest.raises(ValueError, match="adapter_config.json is not a PEFT config: "):
        load_adapter(make_stack(), tmp_path)


def test_broken_weights_file(make_stack, tmp_path):
    model = inject_adapter_in_model(KroneckerConfig(n=4, target_modules=["q"]), make_stack())
    path = save_adapter(model, tmp_path) / "adapter_model.safetensors"
    tensors = load_file(path)
    other = make_stack()
    keys = list(other.state_dict())
    for name, message in (
        ("kronecker_v", "`blocks.1.q.kronecker_v` holds values that are not finite"),
        ("lora_A", "does not fit the model: missing \\[\\], unexpected"),
    ):
        key = f"base_model.model.blocks.1.q.{name}"
        save_file({**tensors, key: torch.full((4, 6, 1), torch.nan)}, path)
        with pytest.raises(ValueError, match=message):
            load_adapter(other, tmp_path)
        assert list(other.state_dict()) == keys
    torch.save(tensors, path)
    with pytest.raises(ValueError, match="can't be read.*Only safetensors files are"):
        load_adapter(other, tmp_path)


def test_dead_adapter(make_stack, inputs):
    model = get_peft_model(make_stack(), KroneckerConfig(n=4, target_modules=["q"]))
    dead = {k: t * 0 for k, t in get_peft_model_state_dict(model).items()}
    with pytest.raises(ValueError, match="adapter cannot learn \\(dead initialisation\\)"):
        set_peft_model_state_dict(model, dead)
    with pytest.warns(UserWarning, match="only biases learn"):
        released = get_peft_model(
            make_stack(), KroneckerConfig(n=4, target_modules=["q"], bias="own", init="authors_release")
        )
    set_peft_model_state_dict(released, get_peft_model_state_dict(released))
    optimizer = torch.optim.SGD([p for p in released.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        released(inputs).square().mean().backward()
        optimizer.step()
    learns = {
        n.split(".kronecker_")[1]: p.grad.any().item() for n, p in released.named_parameters() if p.requires_grad
    }
    assert learns == {
        "u.default": False,
        "v.default": False,
        "a_out.default": False,
        "a_in.default": False,
        "bias.default": True,
    }


def test_config_file_round_trip(tmp_path):
    config = KroneckerConfig(
        n=8,
        r=2,
        terms=5,
        n_in=4,
        factored=False,
        bias="shared",
        shared_sets={"a.*": "x"},
        target_modules=["q", "v"],
        exclude_modules=["out"],
        rank_pattern={"q": 3},
        fused={"to_kv": ("k", "v")},
        fused_targets=("v",),
    )
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert loaded == config and type(loaded) is KroneckerConfig
    assert (loaded.terms, loaded.n_in, loaded.n_out) == (5, 4, 8)


def test_registration_is_idempotent():
    register()
    register()
    assert PeftType("KRONECKER") is PeftType.KRONECKER is PeftType["KRONECKER"]
    assert list(PeftType).count("KRONECKER") == 1 and copy.deepcopy(PeftType.KRONECKER) is PeftType.KRONECKER
    assert pickle.loads(pickle.dumps(KroneckerConfig(n=8))) == KroneckerConfig(n=8)


@pytest.mark.parametrize("name", ["terms", "n_in", "n_out"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_sizes_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer"):
        KroneckerConfig(n=2, target_modules=["0"], **{name: value})


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "1", None, True])
def test_weights_that_are_no_numbers_are_refused(weight):
    from peft import get_peft_model
    from torch import nn

    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), KroneckerConfig(n=2, target_modules=["0"]))
    with pytest.raises(ValueError, match="each must be a finite number"):
        model.add_weighted_adapter(["default"], [weight], "c")
    with pytest.raises(ValueError, match="without a full stop"):
        model.add_weighted_adapter(["default"], [1.0], "b.c")

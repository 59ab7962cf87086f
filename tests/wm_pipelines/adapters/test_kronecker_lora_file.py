"""Adapter folders as one LoRA file: the same update, times its block's strength, read back by diffusers, PEFT."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file

from wm_pipelines.adapters.kronecker import KroneckerConfig, save_adapter
from wm_pipelines.adapters.kronecker.lora_file import export_lora, read_block_strengths
from wm_pipelines.hub.user_parts import add_lora


@pytest.fixture(scope="module")
def adapters(tiny_sd, tmp_path_factory):
    """(folder of a UNet's adapter, folder of its text encoder's), with the exact update of every module."""
    folders, deltas = [], {}
    for n, (part, targets) in enumerate((("unet", ["to_q", "to_v"]), ("text_encoder", ["q_proj", "fc1"]))):
        model = inject_adapter_in_model(
            KroneckerConfig(n=2, r=2, target_modules=targets), copy.deepcopy(tiny_sd[part])
        )
        generator = torch.Generator().manual_seed(n)
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "kronecker_" in name:
                    tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        folders.append(tmp_path_factory.mktemp(part))
        save_adapter(model, folders[-1])
        for name, module in model.named_modules():
            if hasattr(module, "spec"):
                deltas[f"{part}.{name}"] = module.get_delta_weight("default").detach()
    return *folders, deltas


def changes(tiny_sd, file, ours=False):
    """What diffusers' own loader, or ours, changes in every weight, by its module's name."""
    pipeline = StableDiffusionPipeline(
        **copy.deepcopy(tiny_sd), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    if ours:
        add_lora(pipeline, file)
    else:
        pipeline.load_lora_weights(load_file(file))
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    found = {}
    for part in ("unet", "text_encoder"):
        before = tiny_sd[part].state_dict()
        for name, weight in getattr(pipeline, part).state_dict().items():
            if name.endswith(".weight") and not torch.equal(weight, before[name]):
                found[f"{part}.{name.removesuffix('.weight')}"] = weight - before[name]
    return found


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_both_parts_are_read_back_exactly(adapters, tiny_sd, tmp_path, format):
    """Kohya's by our reader: diffusers 0.42 finds no attention of a text encoder of transformers 5 in it."""
    unet, text, deltas = adapters
    made = export_lora(unet, tmp_path / "a.safetensors", text_encoder=text, format=format)
    found = changes(tiny_sd, tmp_path / "a.safetensors", ours=format == "kohya")
    assert found.keys() == deltas.keys() and made["modules"] == len(deltas)
    for name, delta in deltas.items():
        torch.testing.assert_close(found[name], delta, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("strength", "text_strength"), [(1.0, 0.0), (-0.5, 2.0), (0.0, 1.0)])
def test_strengths_of_parts_and_blocks_multiply_and_zero_leaves_out(
    adapters, tiny_sd, tmp_path, strength, text_strength
):
    unet, text, deltas = adapters
    blocks = {"down_blocks": 0.5, "down_blocks.1": 3.0, "mid_block": 0.0, "encoder.layers.1": 2.0}
    export_lora(
        unet, tmp_path / "a.safetensors", text_encoder=text, strength=strength, text_encoder_strength=text_strength,
        blocks=blocks, format="diffusers",
    )  # fmt: skip
    found = changes(tiny_sd, tmp_path / "a.safetensors")
    for name, delta in deltas.items():
        part, module = name.split(".", 1)
        own = {"down_blocks.0": 0.5, "down_blocks.1": 3.0, "encoder.layers.1": 2.0}
        factor = 0.0 if "mid_block" in module else next((f for b, f in own.items() if b in module), 1.0)
        factor *= strength if part == "unet" else text_strength
        assert (name in found) == (factor != 0)
        if factor:
            torch.testing.assert_close(found[name], factor * delta, rtol=1e-4, atol=5e-6)


def test_peft_reads_a_folder_of_any_model(make_stack, randomise, inputs, tmp_path):
    model = randomise(get_peft_model(make_stack(), KroneckerConfig(n=4, target_modules=["q", "v"]))).eval()
    model.save_pretrained(tmp_path / "kronecker")
    export_lora(tmp_path / "kronecker", tmp_path / "lora", format="peft")
    torch.testing.assert_close(
        PeftModel.from_pretrained(make_stack(), tmp_path / "lora").eval()(inputs), model(inputs), rtol=1e-4, atol=1e-5
    )


def test_a_rank_that_loses_must_be_allowed(adapters, tmp_path):
    with pytest.raises(ValueError, match="no exact LoRA form of rank 1"):
        export_lora(adapters[0], tmp_path / "a.safetensors", rank=1)
    assert not (tmp_path / "a.safetensors").exists()
    assert export_lora(adapters[0], tmp_path / "a.safetensors", rank=1, allow_lossy=True)["rank"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx"}, "`format` must be one of kohya, diffusers, peft"),
        ({"rank": 0}, "`rank` must be a positive integer"),
        ({"blocks": {"down_blocks.7": 1.0}}, r"`blocks` has 'down_blocks.7'.*there are down_blocks.0"),
        ({"blocks": {"down_blocks.": 1.0}}, "`blocks` has"),
        ({"strength": 0.0}, "nothing to write"),
        ({"format": "peft", "text_encoder": True}, "`text_encoder` must be None"),
        ({"text_encoder": "same"}, "not an adapter of a CLIP text encoder"),
        ({"swapped": True}, "`adapter` is of a CLIP tower"),
    ],
)
def test_what_can_not_be_is_refused_before_a_file_is_there(adapters, tmp_path, options, message):
    unet, text, _ = adapters
    options = dict(options)
    source = text if options.pop("swapped", False) else unet
    if "text_encoder" in options:
        options["text_encoder"] = unet if options["text_encoder"] == "same" else text
    with pytest.raises(ValueError, match=message):
        export_lora(source, tmp_path / "a.safetensors", **options)
    assert not list(tmp_path.iterdir())


def test_block_strengths_are_read_line_by_line():
    text = "down_blocks.1 = 0.5\n\n# a remark\n mid_block=-1e-1 # and another\n"
    assert (
        read_block_strengths(text) == {"down_blocks.1": 0.5, "mid_block": -0.1} and read_block_strengths(" \n") == {}
    )


@pytest.mark.parametrize("line", ["down_blocks.1", "= 1", "a = b", "a = nan", "a = inf", "a = 1\na = 2", "a == 1"])
def test_a_line_that_is_none_is_named_by_its_number(line):
    with pytest.raises(ValueError, match="`blocks` has .* on line [12]"):
        read_block_strengths(line)

"""A LoRA and a VAE of others in a loaded pipeline: as diffusers itself puts them there, and nothing left over."""

import copy
import json

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from wm_pipelines import AutoWMPipeline, WMConfig
from wm_pipelines.hub.conversion import vae_source
from wm_pipelines.hub.user_parts import add_lora, read_vae, save_whole

TARGETS = {"unet": ["to_q", "to_out.0", "conv1"], "text_encoder": ["q_proj", "fc2"]}


def stock(tiny_sd):
    return StableDiffusionPipeline(
        **copy.deepcopy(tiny_sd), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


@pytest.fixture(scope="module")
def lora(tiny_sd, tmp_path_factory):
    """(file as diffusers writes it, the weights of a pipeline into which diffusers fused it at 0.7)."""
    pipeline = stock(tiny_sd)
    states = {}
    for n, (part, targets) in enumerate(TARGETS.items()):
        model = getattr(pipeline, part)
        model.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=targets))
        generator = torch.Generator().manual_seed(n)
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "lora_" in name:
                    tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
        states[f"{part}_lora_layers"] = get_peft_model_state_dict(model)
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionPipeline.save_lora_weights(folder, **states)
    file = folder / "pytorch_lora_weights.safetensors"
    fused = stock(tiny_sd)
    fused.load_lora_weights(load_file(file))
    fused.fuse_lora(lora_scale=0.7)
    fused.unload_lora_weights()
    return file, {part: getattr(fused, part).state_dict() for part in TARGETS}


def far(pipeline, wanted):
    return max(
        float((tensor - wanted[part][name]).abs().max())
        for part in TARGETS
        for name, tensor in getattr(pipeline, part).state_dict().items()
    )


def test_a_lora_is_merged_as_diffusers_fuses_it(tiny_sd, lora):
    pipeline = stock(tiny_sd)
    count = add_lora(pipeline, lora[0], 0.7)
    assert count > 20 and far(pipeline, lora[1]) < 1e-5 < far(stock(tiny_sd), lora[1])
    add_lora(pipeline, lora[0], -0.7)
    assert far(pipeline, {part: tiny_sd[part].state_dict() for part in TARGETS}) < 1e-5


@pytest.mark.parametrize("alpha", [None, 1.5])
def test_names_and_alpha_of_kohya_are_read_too(tiny_sd, lora, tmp_path, alpha):
    renamed = {}
    for key, tensor in load_file(lora[0]).items():
        part, rest = key.split(".", 1)
        rest, end = rest.rsplit(".lora_A" if ".lora_A" in rest else ".lora_B", 1)[0], ".lora_A" in rest
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part]
        rest = rest if part == "unet" or rest.startswith("text_model") else f"text_model.{rest}"
        name = prefix + rest.replace(".", "_")
        renamed[f"{name}.lora_{'down' if end else 'up'}.weight"] = tensor
        if alpha:
            renamed[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(renamed, tmp_path / "k.safetensors")
    pipeline = stock(tiny_sd)
    add_lora(pipeline, tmp_path / "k.safetensors", 0.7 * (3 / alpha if alpha else 1))
    assert far(pipeline, lora[1]) < 1e-5


@pytest.mark.parametrize("damage", ["other module", "other kind", "half", "rank", "width", "no safetensors"])
def test_a_lora_that_does_not_fit_changes_nothing(tiny_sd, lora, tmp_path, damage):
    state = load_file(lora[0])
    key = sorted(key for key in state if key.startswith("unet") and "to_q.lora_A" in key)[0]
    if damage == "other module":
        state[key.replace("down_blocks.0", "down_blocks.9")] = state.pop(key)
    elif damage == "other kind":
        state[key.replace("lora_A.weight", "dora_scale")] = torch.ones(3)
    elif damage == "half":
        del state[key]
    elif damage == "rank":
        state[key] = state[key][:2].clone()
    elif damage == "width":
        state[key] = state[key][:, :4].clone()
    file = tmp_path / "x.safetensors"
    save_file(state, file) if damage != "no safetensors" else torch.save(state, file)
    pipeline = stock(tiny_sd)
    with pytest.raises(ValueError, match="place|belong together|whose weight is|can't be read"):
        add_lora(pipeline, file)
    assert far(pipeline, {part: tiny_sd[part].state_dict() for part in TARGETS}) == 0


def other_vae(tiny_sd):
    torch.manual_seed(7)
    return AutoencoderKL.from_config(tiny_sd["vae"].config).eval()


@pytest.mark.parametrize("form", ["diffusers", "original", "original with a prefix"])
def test_a_vae_is_read_under_either_names(tiny_sd, tmp_path, form):
    vae, state = other_vae(tiny_sd), {}
    for name, tensor in vae.state_dict().items():
        key = name if form == "diffusers" else vae_source(name, 3)
        state[("first_stage_model." if "prefix" in form else "") + key] = tensor
    if form == "original":
        state["loss.logvar"] = torch.zeros(())
    save_file(state, tmp_path / "v.safetensors")
    read = read_vae(tmp_path / "v.safetensors", tiny_sd["vae"])
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(read.decode(x).sample, vae.decode(x).sample) and read.config == tiny_sd["vae"].config


def test_a_vae_of_another_build_is_refused(tiny_sd, tmp_path):
    state = {vae_source(name, 3): tensor for name, tensor in other_vae(tiny_sd).state_dict().items()}
    del state["decoder.conv_out.weight"]
    save_file(state, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"v.safetensors does not fit the pipeline's VAE: checkpoint lacks 1 keys"):
        read_vae(tmp_path / "v.safetensors", tiny_sd["vae"])
    with pytest.raises(ValueError, match="VAE is a NoneType"):
        read_vae(tmp_path / "v.safetensors", None)


def test_a_stock_pipeline_is_saved_with_the_record_it_came_with(tiny_sd, lora, tmp_path):
    stock(tiny_sd).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="loaded without a record"):
        save_whole(StableDiffusionPipeline.from_pretrained(tmp_path / "base"), tmp_path / "copy")
    from wm_pipelines.hub import seal

    figure = {"task": "t", "dataset": "d", "metric": "m", "value": 1.0}
    seal(tmp_path / "base", WMConfig(method="diorama-sd", pipeline="StableDiffusionPipeline", evaluation=[figure]))
    pipeline = AutoWMPipeline.from_pretrained(tmp_path / "base")
    add_lora(pipeline, lora[0], 0.7)
    save_whole(pipeline, tmp_path / "copy")
    again = AutoWMPipeline.from_pretrained(tmp_path / "copy")
    assert far(again, lora[1]) < 1e-5
    assert json.loads((tmp_path / "copy" / "wm_config.json").read_text())["evaluation"] == []

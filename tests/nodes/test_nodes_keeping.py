"""What a graph fits or loads outlives it: saved, offered by the loader, and the same when it comes back.

Runs in each ComfyUI that COMFYUI_PATH names; see `comfy_homes.py`.
"""

import copy

import pytest
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def comfy(comfyui, server_module, tiny_sd, tmp_path_factory):
    """A ComfyUI with a tiny pipeline of pictures, a Kronecker adapter of its UNet, a VAE and a motion adapter."""
    import torch
    from diffusers import AutoencoderKL, MotionAdapter, StableDiffusionPipeline
    from peft import inject_adapter_in_model

    from wm_pipelines import WMConfig
    from wm_pipelines.adapters.kronecker import KroneckerConfig, save_adapter
    from wm_pipelines.hub import seal

    base = tmp_path_factory.mktemp("comfyui")
    models = base / "models" / "wm_pipelines"
    StableDiffusionPipeline(
        **tiny_sd, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(models / "tiny-sd")
    seal(models / "tiny-sd", WMConfig(method="diorama-sd", pipeline="StableDiffusionPipeline"))
    adapted = inject_adapter_in_model(KroneckerConfig(n=2, target_modules=["to_q"]), copy.deepcopy(tiny_sd["unet"]))
    for name, tensor in adapted.named_parameters():
        if "kronecker_" in name:
            torch.nn.init.normal_(tensor, generator=torch.Generator().manual_seed(0))
    save_adapter(adapted, models / "tiny-adapter")
    MotionAdapter(
        block_out_channels=(8, 16, 16), motion_layers_per_block=1, motion_num_attention_heads=2,
        motion_norm_num_groups=4, motion_max_seq_length=16,
    ).save_pretrained(models / "tiny-motion")  # fmt: skip
    (base / "models" / "vae").mkdir()
    save_file(AutoencoderKL.from_config(tiny_sd["vae"].config).state_dict(), base / "models" / "vae" / "v.safetensors")
    server = server_module.Comfy(base, comfyui)
    yield server
    server.close()


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def load(model, **more):
    return node("WM_LoadPipeline", model=model, base="as recorded", dtype="float32", **more)


def save(source, name, existing="refuse", what="whole pipeline"):
    return node("WM_SavePipeline", pipeline=[source, 0], name=name, what=what, existing=existing)


def texts(comfy, prompt):
    entry = comfy.run(prompt)
    assert entry["status"]["status_str"] == "success", (entry["status"], comfy.tail())
    return {key: found["text"][0] for key, found in entry["outputs"].items() if "text" in found}


def failure(comfy, prompt):
    entry = comfy.run(prompt)
    return next(data for kind, data in entry["status"]["messages"] if kind == "execution_error")["exception_message"]


@pytest.mark.parametrize("what", ["what was fitted", "whole pipeline"])
def test_a_saved_fit_says_the_same_when_it_is_loaded(comfy, workflows, what):
    prompt = copy.deepcopy(workflows["wm_kadaptation"][1])
    name = what.replace(" ", "_")
    prompt["20"] = save("4", name, what=what)
    before = texts(comfy, prompt)
    assert before["20"] == f"wm_pipelines/{name}"
    again = {"4": load(name), **{key: prompt[key] for key in ("5", "6", "7", "8")}}
    after = texts(comfy, again)
    assert {key: after[key] for key in ("7", "8")} == {key: before[key] for key in ("7", "8")}


def test_a_name_that_is_taken_or_leads_away_stops_the_run(comfy):
    prompt = {"1": load("tiny-sd"), "2": save("1", "taken")}
    texts(comfy, prompt)
    prompt["1"]["inputs"]["dtype"] = "bfloat16"
    assert "'taken' is there already" in failure(comfy, prompt)
    prompt["2"]["inputs"].update(name="../../away", existing="replace")
    assert "is not a folder's name" in failure(comfy, prompt)
    prompt["2"]["inputs"].update(name="taken", existing="add a number")
    assert texts(comfy, prompt)["2"] == "wm_pipelines/taken_2"
    assert not (comfy.base / "away").exists()


def test_an_exported_lora_goes_back_into_a_pipeline_with_a_vae(comfy, tiny_sd):
    """Kronecker to LoRA, by the node; LoRA and VAE into a pipeline, by the loader; and all of it saved."""
    import torch

    export = node(
        "WM_ExportLoRA", adapter="tiny-adapter", filename_prefix="tiny", strength=1.0, blocks="up_blocks = 0",
        format="kohya", rank=0, allow_lossy=False, dtype="float32", text_encoder="none", text_encoder_strength=1.0,
    )  # fmt: skip
    assert texts(comfy, {"1": export})["1"].startswith("tiny_00001_.safetensors: ")
    loaded = load("tiny-sd", lora="tiny_00001_.safetensors", lora_strength=0.5, vae="v.safetensors")
    texts(comfy, {"1": loaded, "2": save("1", "with-parts")})
    folder = comfy.base / "output" / "wm_pipelines" / "with-parts"
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    changed = {name for name, tensor in tiny_sd["unet"].state_dict().items() if not torch.equal(tensor, unet[name])}
    assert changed and all("to_q" in name and not name.startswith("up_blocks") for name in changed)
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    given = load_file(comfy.base / "models" / "vae" / "v.safetensors")
    assert all(torch.equal(vae[name], tensor) for name, tensor in given.items())


def test_pictures_become_a_video_under_a_motion_adapter(comfy, snapshot):
    specs = snapshot["WM_MojitoSample"]["input"]["required"]
    defaults = {name: options["default"] for name, (_, options) in specs.items() if "default" in options}
    small = {"prompt": "a red cube", "steps": 2, "width": 32, "height": 32, "num_frames": 4}
    prompt = {
        "1": load("tiny-sd", motion_adapter="tiny-motion"),
        "2": save("1", "moving"),
        "3": node("WM_MojitoSample", pipeline=["1", 0], **{**defaults, **small}),
        "4": node("PreviewImage", images=["3", 1]),
    }
    assert texts(comfy, prompt)["2"] == "wm_pipelines/moving"
    prompt["1"] = load("moving")
    del prompt["2"]
    entry = comfy.run(prompt)
    assert len(entry["outputs"]["4"]["images"]) == 4

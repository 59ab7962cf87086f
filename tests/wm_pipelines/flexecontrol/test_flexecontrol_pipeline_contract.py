"""What every diffusers pipeline is expected to do, asked of FlexEControlPipeline."""

import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback
from safetensors.torch import load_file, save_file

from wm_pipelines.config import WMConfig
from wm_pipelines.diorama.words import VOCABULARY
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.outputs import FlexEControlPipelineOutput
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline

PROMPT = "a red cube left of a blue sphere"

FRESH = """
import sys, torch
from safetensors.torch import load_file, save_file
from wm_pipelines import Condition, FlexEControlPipeline
folder, given, made, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
pipe = FlexEControlPipeline.from_pretrained(folder)
given = load_file(given)
condition = Condition("canny", given["map"], phrase="red cube")
out = pipe("a red cube left of a blue sphere", conditions=condition, latents=given["latents"], num_inference_steps=2,
           output_type="pt", on_conflict="ignore")
save_file({"images": out.images.contiguous(), "map": out.attention_maps[0]["red cube"].contiguous()}, made)
"""


@pytest.mark.slow
def test_saved_and_loaded_in_a_fresh_process_it_draws_the_same(flex_pipe, sample, square, tmp_path):
    given = {"map": square(), "latents": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))}
    condition = Condition("canny", given["map"], phrase="red cube")
    here = sample(PROMPT, conditions=condition, latents=given["latents"], num_inference_steps=2)
    flex_pipe.save_pretrained(tmp_path / "pipe")
    save_file(given, tmp_path / "given.safetensors")
    arguments = [tmp_path / "pipe", tmp_path / "given.safetensors", tmp_path / "made.safetensors"]
    command = [sys.executable, "-c", FRESH, *map(str, arguments), str(torch.get_num_threads())]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert run.returncode == 0, run.stderr[-2000:]
    there = load_file(tmp_path / "made.safetensors")
    assert torch.equal(there["images"], here.images)
    assert torch.equal(there["map"], here.attention_maps[0]["red cube"])


def test_dict_and_tuple_hold_the_same_and_the_report_is_json(sample, square):
    arguments = {"conditions": Condition("canny", square(), phrase="red cube"), "num_inference_steps": 1}
    named = sample(**arguments)
    assert isinstance(named, FlexEControlPipelineOutput)
    images, flags, maps, conflicts, report, prepared = sample(**arguments, return_dict=False)
    assert torch.equal(images, named.images) and flags is None and conflicts == named.conflicts == []
    assert torch.equal(maps[0]["red cube"], named.attention_maps[0]["red cube"])
    assert torch.equal(prepared[0][0].image, named.prepared[0][0].image)
    report, other = (json.loads(json.dumps(r)) for r in (report, named.report))
    assert report.pop("seconds") >= 0 and other.pop("seconds") >= 0
    assert report == other and report["seeds"] == [0] and report["size"] == [64, 64]


def test_one_of_many_equals_one_alone(flex_pipe, square):
    prompts = ["a red cube", "a blue sphere left of a red cube"]
    conditions = [Condition("canny", square(), phrase="red cube"), Condition("depth", square(20, 20))]
    options = {"conditions": conditions, "num_inference_steps": 2, "output_type": "pt", "on_conflict": "ignore"}

    def seeded(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    many = flex_pipe(prompts, num_images_per_prompt=2, generator=seeded(0, 1, 2, 3), **options)
    assert many.report["seeds"] == [0, 1, 2, 3] and len(many.images) == 4
    for i in (0, 3):
        alone = flex_pipe(prompts[i // 2], generator=seeded(i), **options)
        assert (many.images[i] - alone.images[0]).abs().max() < 1e-4
        difference = many.attention_maps[i]["red cube"] - alone.attention_maps[0]["red cube"]
        assert difference.abs().max() < 1e-4


def test_the_same_seed_draws_the_same_and_another_another(sample, square):
    condition = Condition("canny", square())
    first, again, other = (sample(conditions=condition, seed=s, num_inference_steps=1).images for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_output_types(sample):
    pictures = {kind: sample(output_type=kind, num_inference_steps=1).images for kind in ("pil", "np", "pt", "latent")}
    assert isinstance(pictures["pil"][0], PIL.Image.Image) and pictures["pil"][0].size == (64, 64)
    assert isinstance(pictures["np"], np.ndarray) and pictures["np"].shape == (1, 64, 64, 3)
    assert pictures["pt"].shape == (1, 3, 64, 64) and pictures["latent"].shape == (1, 4, 16, 16)
    assert np.allclose(pictures["np"], pictures["pt"].permute(0, 2, 3, 1).numpy())


def test_other_sizes(sample, square):
    tall = torch.nn.functional.pad(square(), (0, 16, 0, 32))
    output = sample(conditions=Condition("canny", tall, phrase="red cube"), height=96, width=80, num_inference_steps=1)
    assert output.images.shape == (1, 3, 96, 80)
    assert output.attention_maps[0]["red cube"].shape == (12, 10)


def test_embeddings_instead_of_texts(flex_pipe, sample, square):
    condition = Condition("canny", square())
    with torch.no_grad():
        positive, negative = flex_pipe.encode_prompt(PROMPT, negative_prompt="a cone")
    by_text = sample(PROMPT, conditions=condition, negative_prompt="a cone", num_inference_steps=1)
    embeds = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    by_embeds = sample(None, conditions=condition, num_inference_steps=1, **embeds)
    assert torch.equal(by_text.images, by_embeds.images)
    assert not torch.equal(by_text.images, sample(conditions=condition, num_inference_steps=1).images)


def test_clip_skip_takes_an_earlier_layer(flex_pipe, sample, tiny_sd):
    with torch.no_grad():
        skipped, _ = flex_pipe.encode_prompt(PROMPT, clip_skip=1)
        ids = tiny_sd["tokenizer"](PROMPT, padding="max_length", return_tensors="pt").input_ids
        hidden = tiny_sd["text_encoder"](ids, output_hidden_states=True).hidden_states
        norm = getattr(tiny_sd["text_encoder"], "text_model", tiny_sd["text_encoder"]).final_layer_norm
        assert torch.equal(skipped, norm(hidden[-2]))
    plain = sample(num_inference_steps=1).images
    assert torch.equal(sample(clip_skip=0, num_inference_steps=1).images, plain)
    assert not torch.equal(sample(clip_skip=1, num_inference_steps=1).images, plain)


def test_eta_reaches_ddim(sample):
    assert not torch.equal(sample(eta=1.0).images, sample().images)


def test_a_callback_sees_and_replaces_tensors(sample, square):
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors), pipe.num_timesteps, pipe.guidance_scale))
        assert tensors["prompt_embeds"].shape == (2, 77, 16) and tensors["negative_prompt_embeds"].shape == (1, 77, 16)
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else {}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    output = sample(
        conditions=Condition("canny", square()),
        num_inference_steps=2,
        output_type="latent",
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=names,
    )
    assert [entry[0] for entry in seen] == [0, 1] and seen[0][1] > seen[1][1]
    assert seen[0][2:] == (sorted(names), 2, 7.5)
    assert output.images.abs().max() == 0


def test_a_callback_can_cancel(sample, square):
    steps = []

    def cancel(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1
        return {}

    condition = Condition("canny", square())
    output = sample(conditions=condition, num_inference_steps=6, callback_on_step_end=cancel, output_type="latent")
    assert steps == [0, 1] and torch.isfinite(output.images).all()
    assert output.report["prompts"][0]["conditions"][0]["active_steps"] == [0, 1]
    assert len(sample(num_inference_steps=1).images) == 1


def test_guidance_may_be_cut_off_half_way(sample, square):
    condition = Condition("canny", square(), phrase="red cube")
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    output = sample(conditions=condition, num_inference_steps=4, callback_on_step_end=cutoff)
    assert torch.isfinite(output.images).all()
    assert not torch.equal(output.images, sample(conditions=condition, num_inference_steps=4).images)


def test_from_pipe_shares_components_both_ways(flex_pipe, tiny_sd, tiny_control):
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    plain = StableDiffusionPipeline(**tiny_sd, **rest)
    steered = FlexEControlPipeline.from_pipe(plain, control=tiny_control)
    back = StableDiffusionPipeline.from_pipe(flex_pipe)
    for name in ("unet", "vae", "text_encoder", "tokenizer"):
        assert getattr(steered, name) is tiny_sd[name] and getattr(back, name) is tiny_sd[name]
    assert steered.control is tiny_control


def test_a_stock_checkpoint_takes_the_adapter_and_keeps_its_vocabulary(tiny_sd, tiny_control, sample, tmp_path):
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**tiny_sd, **rest).save_pretrained(tmp_path)
    WMConfig(method="diorama-sd", vocabulary=list(VOCABULARY)).save(tmp_path)
    loaded = FlexEControlPipeline.from_pretrained(tmp_path, control=tiny_control)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.requires_safety_checker is False and loaded.safety_checker is None
    assert torch.equal(sample(pipe=loaded, num_inference_steps=1).images, sample(num_inference_steps=1).images)
    with pytest.raises(ValueError, match="'sphene', which this checkpoint does not know; the nearest .* is 'sphere'"):
        sample("a blue sphene", pipe=loaded)
    with pytest.raises(ValueError, match="control"):
        FlexEControlPipeline.from_pretrained(tmp_path)


def as_single_file(unet):
    """The UNet's weights under the names of the original Stable Diffusion files; one layer per block."""
    inner = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
    inner |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    names = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    names |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    for level in range(3):
        names[f"down_blocks.{level}.resnets.0"] = f"input_blocks.{1 + 2 * level}.0"
        names[f"down_blocks.{level}.attentions.0"] = f"input_blocks.{1 + 2 * level}.1"
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{2 + 2 * level}.0.op"
        for layer in range(2):
            names[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{2 * level + layer}.0"
            names[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{2 * level + layer}.1"
        place = 2 if level else 1  # the first up block has no attention before its upsampler
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{2 * level + 1}.{place}.conv"
    for ours, theirs in (("resnets.0", 0), ("attentions.0", 1), ("resnets.1", 2)):
        names[f"mid_block.{ours}"] = f"middle_block.{theirs}"
    renamed = {}
    for key, value in unet.state_dict().items():
        prefix = next(name for name in names if key.startswith(f"{name}."))
        part, rest = names[prefix], key.removeprefix(f"{prefix}.")
        if ".resnets." in key:
            layer, rest = rest.split(".", 1)
            part += f".{inner[layer]}"
        renamed[f"model.diffusion_model.{part}.{rest}"] = value.contiguous()
    return renamed


def test_single_file_checkpoints_load_beside_an_adapter(flex_pipe, tiny_sd, tiny_control, tmp_path):
    flex_pipe.save_pretrained(tmp_path / "pipe")
    save_file(as_single_file(tiny_sd["unet"]), tmp_path / "model.safetensors")
    given = {name: part for name, part in tiny_sd.items() if name != "unet"}
    loaded = FlexEControlPipeline.from_single_file(
        str(tmp_path / "model.safetensors"), config=str(tmp_path / "pipe"), control=tiny_control, **given
    )
    assert loaded.control is tiny_control and loaded.vae is tiny_sd["vae"]
    for key, value in tiny_sd["unet"].state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[key], value), key


def test_the_example_of_the_docstring_runs(tmp_path, monkeypatch):
    PIL.Image.effect_mandelbrot((80, 64), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    code = FlexEControlPipeline.__doc__.split("```py\n")[1].split("```")[0]
    lines = [line.removeprefix(" " * 8) for line in code.splitlines() if line.strip()]
    assert len(lines) <= 6
    exec("\n".join(lines), {})
    with PIL.Image.open(tmp_path / "cube.png") as picture:
        assert picture.size == (64, 64)

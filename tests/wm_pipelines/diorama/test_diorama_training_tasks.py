"""The tasks behind the base checkpoints: they learn, and what they export loads plainly."""

import pytest
import torch
from safetensors import safe_open

from wm_pipelines.training import Recipe, build, train


def run(task, tmp_path, **options):
    recipe = Recipe(task=task, steps=2, batch_size=2, lr=1e-3, options=options)
    made = build(recipe)
    before = {name: p.detach().clone() for name, p in made.trainable()}
    record = train(made, recipe, tmp_path / task)
    assert record.steps == 2 and any((p != before[name]).any() for name, p in made.trainable())
    return tmp_path / task / "export", made


def test_vae_scales_its_latents_to_unit_spread_and_the_base_loads_plainly(tmp_path):
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    folder, task = run("diorama-vae", tmp_path, length=6, channels=[8, 8, 8])
    vae = AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        latents = vae.encode(task.images.pictures(range(6)) * 2 - 1).latent_dist.mean
    assert abs((latents * vae.config.scaling_factor).std().item() - 1) < 0.05

    folder, task = run("diorama-sd", tmp_path, length=6, vae=str(folder))
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    assert {m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    assert pipe.scheduler.config.prediction_type == "v_prediction" and pipe.safety_checker is None
    with safe_open(folder / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # as transformers 4 wants them
    for mine, loaded in zip(task.text_encoder.parameters(), pipe.text_encoder.parameters(), strict=True):
        torch.testing.assert_close(loaded, mine, rtol=1e-3, atol=1e-4)
    weights = pipe.unet.state_dict()
    for name, value in task.unet.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)  # fp16 on disk


def test_sd_needs_its_vae():
    with pytest.raises(ValueError, match="options.vae is missing"):
        build(Recipe(task="diorama-sd", steps=1, batch_size=1))


def test_judge_exports_what_it_learnt(tmp_path):
    from wm_pipelines.diorama.judge import DioramaJudge

    folder, task = run("diorama-judge", tmp_path, length=4)
    weights = DioramaJudge.from_pretrained(folder).state_dict()
    for name, value in task.judge.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)

"""`wm train diorama-video` at tiny size: what is trained, what is left behind, where it starts from."""

import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline
from safetensors.torch import load_file

from wm_pipelines.cli import main
from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.training import KeyedNoise, Recipe, build, train


@pytest.fixture(scope="module")
def base_folder(tiny_sd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    StableDiffusionPipeline(
        **tiny_sd, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
    return str(folder)


def recipe(base_folder, steps=1, **more):
    options = {"base": base_folder, "length": 4, "clip_frames": 5, "frames": 3, "positions": False}
    options |= {"heads": 2, "hidden_dim": 8}
    return Recipe(
        task="diorama-video", steps=steps, batch_size=2, lr=1e-2, options=options | more.pop("options", {}), **more
    )


def test_training_moves_adapter_and_dial_alone_and_both_load(base_folder, tiny_sd, tmp_path):
    task = build(recipe(base_folder, steps=3))
    frozen = {n: p.clone() for n, p in task.unet.named_parameters() if "motion_modules" not in n}
    before = {n: p.clone() for m in task.modules().values() for n, p in m.named_parameters()}
    train(task, recipe(base_folder, steps=3), tmp_path)
    assert all(torch.equal(p, frozen[n]) for n, p in task.unet.named_parameters() if n in frozen)
    moved = {n for m in task.modules().values() for n, p in m.named_parameters() if not torch.equal(p, before[n])}
    assert any("proj_out" in n for n in moved) and any(n.endswith("attn1.to_q.weight") for n in moved)
    assert {"mim.linear_2.weight", "mim.text.weight"} <= moved
    export = tmp_path / "export"
    assert all(t.dtype == torch.float16 for t in load_file(export / "diffusion_pytorch_model.safetensors").values())
    intensity = MotionIntensityModel.from_pretrained(export, subfolder="intensity")
    assert torch.equal(intensity.mim.linear_2.bias, task.intensity.mim.linear_2.bias.half().float())
    assert intensity.config.text_dim == 16 and len(intensity.config.level_percentiles) == 11
    assert intensity.config.flow["estimator"] == "farneback"
    pipe = AnimateDiffPipeline(**tiny_sd, motion_adapter=MotionAdapter.from_pretrained(export))
    pipe.set_progress_bar_config(disable=True)
    frames = pipe("a red cube", num_frames=3, height=64, width=64, num_inference_steps=1, output_type="pt").frames
    assert frames.shape == (1, 3, 3, 64, 64)


def test_the_untrained_denoiser_is_the_base_in_every_frame(base_folder, tiny_sd):
    task = build(recipe(base_folder))
    sample = torch.randn(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    context = task.encode(["a red cube moving left"])
    with torch.no_grad():
        video = task.unet(sample, torch.tensor([400]), context.repeat(3, 1, 1)).sample
        for frame in range(3):
            picture = tiny_sd["unet"](sample[:, :, frame], torch.tensor([400]), context).sample
            torch.testing.assert_close(video[:, :, frame], picture, rtol=1e-4, atol=1e-5)


def test_samples_are_windows_with_their_level_and_backwards_says_so(base_folder):
    task = build(recipe(base_folder, options={"backwards": 1.0, "level_drop": 0.0, "text_drop": 0.0}))
    forward = build(recipe(base_folder, options={"backwards": 0.0, "level_drop": 1.0, "text_drop": 1.0}))
    turned = 0
    for index in range(4):
        latents, text, level = task.sample(index, KeyedNoise(0, 0))
        same, empty, none = forward.sample(index, KeyedNoise(0, 0))
        assert latents.shape == (3, 4, 16, 16) and 0 <= level <= 10 and text
        assert empty == "" and none is None
        turned += torch.equal(latents, same.flip(0)) and not torch.equal(latents, same)
    assert turned >= 2


def test_twin_without_dial_and_start_from_weights(base_folder, tmp_path):
    train(build(recipe(base_folder)), recipe(base_folder), tmp_path / "a")
    more = recipe(base_folder, init_from=str(tmp_path / "a" / "export"))
    task = build(more)
    assert task.load_weights(more.init_from)["parameters"] > 0
    saved = load_file(tmp_path / "a" / "export" / "intensity" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(task.intensity.mim.linear_2.weight, saved["mim.linear_2.weight"].float())
    twin = recipe(base_folder, options={"inject": None})
    train(build(twin), twin, tmp_path / "twin")
    assert not (tmp_path / "twin" / "export" / "intensity").exists()


def test_command_line(base_folder, tmp_path, monkeypatch):
    sets = {"options.base": base_folder, "options.length": 2, "options.clip_frames": 4, "options.frames": 4}
    sets |= {"options.heads": 2, "options.hidden_dim": 4, "steps": 1, "warmup": 0, "batch_size": 1}
    words = [w for key, value in sets.items() for w in ("--set", f"{key}={value}")]
    monkeypatch.setattr("sys.argv", ["wm", "train", "diorama-video", "--out", str(tmp_path), *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert (tmp_path / "export" / "intensity" / "config.json").is_file() and (tmp_path / "record.json").is_file()


def test_bad_options(base_folder):
    with pytest.raises(ValueError, match="options.frames is 3 of 5, but options.positions tells a clip's first frame"):
        build(recipe(base_folder, options={"positions": True}))
    with pytest.raises(ValueError, match="options.frames is 9; 2 to options.clip_frames"):
        build(recipe(base_folder, options={"frames": 9}))
    with pytest.raises(ValueError, match="options.shared_noise is -0.5"):
        build(recipe(base_folder, options={"shared_noise": -0.5}))
    with pytest.raises(ValueError, match="unknown 'flames'"):
        build(recipe(base_folder, options={"flames": 9}))

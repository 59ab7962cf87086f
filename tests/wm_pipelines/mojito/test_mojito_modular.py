"""Modular Diffusers blocks: equal to the pipeline on every kind of base, saved and loaded without code."""

import json

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image
from torch import nn

from wm_pipelines.mojito.modular import PARTS, MojitoBlocks, MojitoDenoiseStep, MojitoModularPipeline
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.trajectories.objects import MotionObject

PROMPT = "a red cube moving right"
CUBE = MotionObject("red cube", boxes=[(0.0, 0.2, 0.5, 0.7), (0.5, 0.2, 1.0, 0.7)], keyframes=[0, 3])
NAMES = ("animatediff", "text-to-video", "latte", "wan", "ltx", "cogvideox")


def modular_of(pipe, blocks=None):
    parts = {name: part for name, part in pipe.components.items() if name in PARTS}
    made = MojitoModularPipeline.from_parts(blocks, **parts, expand_timesteps=pipe.config.expand_timesteps)
    made.set_progress_bar_config(disable=True)
    return made


def run(pipe, seed=0, **options):
    options = {"num_inference_steps": 2, "output_type": "pt", "guidance_iterations": 1, **options}
    generator = torch.Generator().manual_seed(seed)
    if isinstance(pipe, MojitoPipeline):
        out = pipe(PROMPT, generator=generator, **options)
        return out.frames, out.report
    found = pipe(prompt=PROMPT, generator=generator, output=["frames", "report"], **options)
    return found["frames"], found["report"]


def assert_equal(found, expected):
    assert torch.equal(found[0], expected[0])
    assert [r.to_dict() for r in found[1]] == [r.to_dict() for r in expected[1]]


@pytest.mark.parametrize("name", NAMES)
def test_the_blocks_equal_the_pipeline(bases, name):
    pipe, size = bases(name)
    modular = modular_of(pipe)
    assert_equal(run(modular, **size), run(pipe, **size))
    options = {**size, "objects": [CUBE], "allow_joint": True, "guidance_scale": 3.0}
    expected = run(pipe, **options)
    assert expected[1][0].energy
    assert_equal(run(modular, **options), expected)


@pytest.mark.parametrize("name", ["wan, picture held", "ltx", "cogvideox, picture"])
def test_pictures_and_clocks_are_the_pipelines(bases, name):
    if name.startswith("wan"):
        pytest.importorskip("ftfy")
    pipe, size = bases(name)
    picture = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    options = {**size, "image": picture, "objects": [CUBE], "allow_joint": True, "dual_clock": (0.0, 0.5)}
    assert_equal(run(modular_of(pipe), **options), run(pipe, **options))


def test_noise_that_a_decoder_asks_for_is_the_pipelines(bases):
    """LTX decoders that know a timestep take noise, from the generator as the loop has left it."""
    import copy

    from diffusers import AutoencoderKLLTXVideo

    pipe, size = bases("ltx")
    known = {name: value for name, value in pipe.vae.config.items() if not name.startswith("_")}
    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(**known | {"timestep_conditioning": True}).eval()
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    noisy = MojitoPipeline(**{**parts, "vae": vae, "scheduler": copy.deepcopy(pipe.scheduler)})
    noisy.set_progress_bar_config(disable=True)
    options = {**size, "decode_timestep": 0.05, "decode_noise_scale": 0.3}
    frames, _ = run(noisy, **options)
    assert torch.equal(run(modular_of(noisy), **options)[0], frames)
    assert not torch.equal(run(noisy, **{**options, "decode_noise_scale": 0.2})[0], frames)


def alike(loaded, saved):
    """A file doesn't say which weights want gradients, and torch sums in another order where they do."""
    for name, part in saved.components.items():
        if isinstance(part, nn.Module):
            for mine, theirs in zip(getattr(loaded, name).parameters(), part.parameters(), strict=True):
                mine.requires_grad_(theirs.requires_grad)


def test_a_modular_folder_comes_back_without_code(bases, tmp_path):
    pipe, size = bases("animatediff")
    modular = modular_of(pipe)
    modular.update_components(scheduler=EulerDiscreteScheduler.from_config(pipe.scheduler.config))
    options = {**size, "objects": [CUBE]}
    expected = run(modular, **options)
    modular.save_pretrained(tmp_path / "saved")
    files = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert ".safetensors" in files and files <= {".safetensors", ".json", ".txt"}
    index = json.loads((tmp_path / "saved" / "modular_model_index.json").read_text())
    assert index["_blocks_class_name"] == "MojitoBlocks" and "auto_map" not in index
    loaded = MojitoModularPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is EulerDiscreteScheduler
    alike(loaded, modular)
    assert_equal(run(loaded, **options), expected)


@pytest.mark.parametrize("name", ["wan", "latte"])
def test_a_folder_of_a_transformer_comes_back(bases, tmp_path, name):
    pipe, size = bases(name)
    modular = modular_of(pipe)
    modular.save_pretrained(tmp_path)
    loaded = MojitoModularPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.tokenizer) is type(pipe.tokenizer)
    alike(loaded, modular)
    assert_equal(run(loaded, **size), run(modular, **size))


def test_the_record_of_a_checkpoint_is_kept(tmp_path):
    """It recommends steps, guidance and the noise that frames share."""
    from wm_pipelines import AutoWMPipeline

    pipe = AutoWMPipeline.from_pretrained("diorama-video")
    pipe.set_progress_bar_config(disable=True)
    modular = modular_of(pipe)
    modular.save_pretrained(tmp_path)
    loaded = MojitoModularPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.wm_config.method_config == pipe.wm_config.method_config
    assert loaded.wm_config.vocabulary == pipe.wm_config.vocabulary
    options = {"num_inference_steps": 2, "num_frames": 2, "output_type": "latent", "motion_intensity": 4.0}
    options["intensity_schedule"] = [1, 0.5]
    assert_equal(run(loaded, **options), run(pipe, **options))


def test_a_block_can_be_put_in_between(bases):
    pipe, size = bases("animatediff")

    class Still(MojitoDenoiseStep):
        takes = {"latents": ...}

        def run(self, pipe, block):
            block.latents = block.latents[:, :, :1].expand_as(block.latents)

    blocks = MojitoBlocks()
    blocks.sub_blocks.insert("still", Still(), 4)
    frames, _ = run(modular_of(pipe, blocks), **size)
    assert torch.equal(frames[:, :1].expand_as(frames), frames)


def test_bad_input_is_refused_as_in_the_pipeline(bases):
    pipe, size = bases("animatediff")
    modular = modular_of(pipe)
    for options, match in (
        ({"fps": 8}, "this base has no fps embedding"),
        ({"guidance_eta": -1}, "guidance_eta=-1"),
        ({"objects": [MotionObject("green cone", boxes=[(0, 0, 1, 1)] * 4)]}, "green cone"),
        ({"decode_timestep": 0.1}, "AnimateDiffPipeline takes no decode_timestep"),
    ):
        with pytest.raises(ValueError, match=match):
            run(modular, **size, **options)
    parts = {name: getattr(modular, name) for name in PARTS}
    with pytest.raises(ValueError, match="the pipeline lacks vae"):
        MojitoModularPipeline.from_parts(**{**parts, "vae": None})
    with pytest.raises(ValueError, match="the pipeline has no use for prior"):
        MojitoModularPipeline.from_parts(**parts, prior=1)
    with pytest.raises(ValueError, match="pass unet or transformer, got neither"):
        MojitoModularPipeline.from_parts(**{**parts, "unet": None})

"""`wm train mojito`: a folder of captioned videos, the intensity model alone or with an update of the attention."""

import pytest
import torch
from diffusers import MotionAdapter, StableDiffusionPipeline
from safetensors.torch import load_file

from wm_pipelines.config import WMConfig
from wm_pipelines.media.video import write_video
from wm_pipelines.methods import methods
from wm_pipelines.mojito.training.folder import ClipFolder
from wm_pipelines.runtime.noise import randn
from wm_pipelines.training import KeyedNoise, Recipe, build, train


@pytest.fixture(scope="module")
def parts(tiny_sd, tmp_path_factory):
    """Folders of a base and of a motion adapter for it."""
    base, adapter = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    StableDiffusionPipeline(
        **tiny_sd, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        MotionAdapter(
            block_out_channels=(8, 16, 16),
            motion_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=4,
            motion_max_seq_length=8,
        ).save_pretrained(adapter)
    return str(base), str(adapter)


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    (folder / "videos").mkdir(parents=True)
    for index in range(2):
        square = torch.zeros(7, 3, 64, 64)
        for t in range(7):
            square[t, :, 20:36, 10 + (index + 1) * t : 26 + (index + 1) * t] = 1
        write_video(list(square), folder / "videos" / f"{index}.mp4", fps=8)
    (folder / "anno.txt").write_text("0\ta slow square\n1\ta fast square\n")
    return folder


def recipe(parts, clips, steps=1, **options):
    base, adapter = parts
    options = {"base": base, "motion_adapter": adapter, "data": str(clips), "size": 64, "frames": 3} | options
    return Recipe(task="mojito", steps=steps, batch_size=2, lr=1e-2, options={"hidden_dim": 8, **options})


@pytest.mark.parametrize(
    ("update", "rank", "inject"), [("none", 1, "timestep"), ("lora", 2, "temporal"), ("kronecker", 2, None)]
)
def test_what_is_trained_and_merged(parts, clips, tmp_path, update, rank, inject):
    own = recipe(parts, clips, steps=2, update=update, rank=rank, inject=inject)
    task = build(own)
    assert {"update"} <= set(task.modules()) if update != "none" else set(task.modules()) == {"intensity"}
    record = train(task, own, tmp_path / "run")
    assert record.data == "folder of 2 captioned videos, 3 frames of each"
    before = MotionAdapter.from_pretrained(parts[1]).half().state_dict()
    after = load_file(tmp_path / "run" / "export" / "diffusion_pytorch_model.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert bool(changed) == (update != "none") and all(".to_" in name for name in changed)
    assert (tmp_path / "run" / "export" / "intensity").is_dir() == (inject is not None)
    if update == "lora":  # merged, the weights say what the layers with their update said
        block = task.adapter.up_blocks[0].motion_modules[0].transformer_blocks[0].attn1
        x = randn((1, 3, 16), "merged")
        weight = after["up_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.weight"].float()
        torch.testing.assert_close(block.to_q(x), x @ weight.T, rtol=1e-2, atol=1e-2)


def test_it_reads_the_whitened_captions_and_shares_noise_if_asked(parts, clips):
    own = recipe(parts, clips, inject="temporal", positions=True, read_text=True, shared_noise=0.5)
    task = build(own)
    assert not torch.equal(task.intensity.mim.text_mean, torch.zeros_like(task.intensity.mim.text_mean))
    assert task.intensity.config.positions and task.loss([0, 1], 0, KeyedNoise(0, 0))["loss"].isfinite()
    with pytest.raises(ValueError, match="options.shared_noise is 1.0"):
        build(recipe(parts, clips, shared_noise=1.0))


def test_levels_rank_the_clips(parts, clips):
    task = build(recipe(parts, clips))
    assert task.clips.levels == pytest.approx([0.0, 10.0], abs=0.01) and task.clips.table[0] < task.clips.table[10]
    assert task.clips.latents.shape == (2, 3, 4, 16, 16)


def test_record():
    values = methods()["mojito"].record("mojito", {"base": "diorama-sd", "size": 64, "frames": 8})
    assert WMConfig(method="mojito", **values).method_config.num_frames == 8
    assert values["base_model"].embedded == "diorama-sd"


def test_bad_input(parts, clips):
    with pytest.raises(ValueError, match="options.data is missing"):
        build(recipe(parts, clips, data=None))
    with pytest.raises(ValueError, match="options.update is 'full'"):
        build(recipe(parts, clips, update="full"))
    with pytest.raises(ValueError, match="0.mp4 is 64x64; options.size is 32"):
        build(recipe(parts, clips, size=32))
    with pytest.raises(ValueError, match="0.mp4 has 7 frames; 3 at 2 a second need 9"):
        build(recipe(parts, clips, fps=2.0))
    (clips / "anno.txt").write_text("0 no tab\n")
    with pytest.raises(ValueError, match="line 1 is not 'id TAB caption'"):
        ClipFolder(clips)
    (clips / "anno.txt").write_text("2\tgone\n")
    with pytest.raises(ValueError, match="videos/2.mp4 is missing"):
        ClipFolder(clips)
    with pytest.raises(ValueError, match="no anno.txt"):
        ClipFolder(clips / "videos")

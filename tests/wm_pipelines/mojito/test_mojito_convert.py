"""VideoCrafter2's converter, on files built from the key layout of the authors' model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wm_pipelines.mojito.convert import (
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    convert,
    fps_source,
    text_source,
    to_text_encoder,
    to_unet,
    to_vae,
    unet_source,
    vae_source,
)
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.videocrafter import VideoCrafterDDIMScheduler

FULL = dict(base=320, mult=(1, 2, 4, 4), layers=2, context=1024, head=64)
SMALL = dict(base=32, mult=(1, 2), layers=1, context=16, head=32)
SMALL_UNET = dict(
    sample_size=[8, 16],
    block_out_channels=(32, 64),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    cross_attention_dim=16,
    attention_head_dim=32,
)
SMALL_VAE = dict(
    block_out_channels=(8, 16),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    layers_per_block=1,
    norm_num_groups=4,
)


def key_table(base, mult, layers, context, head):
    """Name -> shape, written out in the source's own numbering, not through the converter."""
    table, time = {}, 4 * base

    def affine(key, channels):
        table[f"{key}.weight"] = table[f"{key}.bias"] = (channels,)

    def weight(key, *shape, bias=True):
        table[f"{key}.weight"] = shape
        if bias:
            table[f"{key}.bias"] = (shape[0],)

    def resblock(key, into, out):
        affine(f"{key}.in_layers.0", into)
        weight(f"{key}.in_layers.2", out, into, 3, 3)
        weight(f"{key}.emb_layers.1", out, time)
        affine(f"{key}.out_layers.0", out)
        weight(f"{key}.out_layers.3", out, out, 3, 3)
        if into != out:
            weight(f"{key}.skip_connection", out, into, 1, 1)
        for i, place in enumerate((2, 3, 3, 3), 1):  # conv1 has no dropout
            affine(f"{key}.temopral_conv.conv{i}.0", out)
            weight(f"{key}.temopral_conv.conv{i}.{place}", out, out, 3, 1, 1)

    def transformer(key, channels, inner, context, *one):
        affine(f"{key}.norm", channels)
        weight(f"{key}.proj_in", inner, channels, *one)
        weight(f"{key}.proj_out", channels, inner, *one)
        block = f"{key}.transformer_blocks.0"
        for attn, width in (("attn1", inner), ("attn2", context)):
            for name, columns in (("to_q", inner), ("to_k", width), ("to_v", width)):
                weight(f"{block}.{attn}.{name}", inner, columns, bias=False)
            weight(f"{block}.{attn}.to_out.0", inner, inner)
        weight(f"{block}.ff.net.0.proj", 8 * inner, inner)
        weight(f"{block}.ff.net.2", inner, 4 * inner)
        for norm in ("norm1", "norm2", "norm3"):
            affine(f"{block}.{norm}", inner)

    def attentions(block, channels):
        transformer(f"{block}.1", channels, channels, context)
        transformer(f"{block}.2", channels, channels, channels)

    for name in ("time_embed", "fps_embedding"):
        weight(f"{name}.0", time, base)
        weight(f"{name}.2", time, time)
    weight("input_blocks.0.0", base, 4, 3, 3)
    transformer("init_attn.0", base, 8 * head, 8 * head, 1)
    skips, number, channels = [base], 1, base
    for level, factor in enumerate(mult):
        for _ in range(layers):
            resblock(f"input_blocks.{number}.0", channels, factor * base)
            channels = factor * base
            if level < len(mult) - 1:
                attentions(f"input_blocks.{number}", channels)
            skips.append(channels)
            number += 1
        if level < len(mult) - 1:
            weight(f"input_blocks.{number}.0.op", channels, channels, 3, 3)
            skips.append(channels)
            number += 1
    resblock("middle_block.0", channels, channels)
    attentions("middle_block", channels)
    resblock("middle_block.3", channels, channels)
    number = 0
    for level in reversed(range(len(mult))):
        for layer in range(layers + 1):
            resblock(f"output_blocks.{number}.0", channels + skips.pop(), mult[level] * base)
            channels = mult[level] * base
            place = 1
            if level < len(mult) - 1:
                attentions(f"output_blocks.{number}", channels)
                place = 3
            if level and layer == layers:
                weight(f"output_blocks.{number}.{place}.conv", channels, channels, 3, 3)
            number += 1
    affine("out.0", base)
    weight("out.2", 4, base, 3, 3)
    return table


def size(shape):
    return int(torch.Size(shape).numel())


def small_text(tokenizer):
    return dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, hidden_act="gelu",
        vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length,
    )  # fmt: skip


@pytest.fixture(scope="module")
def small_state(tiny_sd):
    """A whole small checkpoint, its names with the source's prefixes."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    generator = torch.Generator().manual_seed(0)
    shapes = {UNET_PREFIX + key: shape for key, shape in key_table(**SMALL).items()}
    with torch.device("meta"):
        vae = AutoencoderKL(**SMALL_VAE)
        # OpenCLIP has one layer more
        text = CLIPTextModel(CLIPTextConfig(**{**small_text(tiny_sd["tokenizer"]), "num_hidden_layers": 3}))
    for name, p in vae.state_dict().items():
        one = (1, 1) if "attentions" in name and "norm" not in name and p.ndim == 2 else ()
        shapes[VAE_PREFIX + vae_source(name, 2)] = (*p.shape, *one)
    for name, p in text.state_dict().items():
        key, third = text_source(name)
        shapes[TEXT_PREFIX + key] = tuple(p.shape) if third is None else (3 * p.shape[0], *p.shape[1:])
    shapes |= {TEXT_PREFIX + "text_projection": (16, 16), TEXT_PREFIX + "logit_scale": (), "scale_arr": (1400,)}
    return {key: 0.2 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def folders(small_state, tiny_sd, tmp_path_factory):
    """The checkpoint's file, a tokenizer's folder, and what `convert` made of them."""
    root = tmp_path_factory.mktemp("vc2")
    torch.save({"state_dict": small_state, "epoch": 3}, root / "model.ckpt")
    tiny_sd["tokenizer"].save_pretrained(root / "tokenizer")
    configs = {"unet": SMALL_UNET, "vae": SMALL_VAE, "text": small_text(tiny_sd["tokenizer"])}
    convert(root / "model.ckpt", root / "tokenizer", root / "out", configs)
    return root


def test_the_key_map_is_a_bijection_at_full_size():
    table = key_table(**FULL)
    assert len(table) == 1_484 and sum(size(shape) for shape in table.values()) == 1_413_284_420
    state = {UNET_PREFIX + key: torch.empty(shape, device="meta") for key, shape in table.items()}
    unet, fps = to_unet(state)
    names = [unet_source(name) for name in unet.state_dict()]
    assert len(names) == len(set(names)) == 1_480
    assert set(names) | {fps_source(name) for name in fps.state_dict()} == set(table)
    parameters = [sum(p.numel() for p in part.parameters()) for part in (unet, fps)]
    assert parameters == [1_411_233_860, 2_050_560] and unet.config.sample_size == [40, 64]


def test_the_round_trip_is_bit_equal(small_state):
    unet, fps = to_unet(small_state, SMALL_UNET)
    table = key_table(**SMALL)
    back = {unet_source(name, 1): p.reshape(table[unet_source(name, 1)]) for name, p in unet.state_dict().items()}
    back |= {fps_source(name): p for name, p in fps.state_dict().items()}
    assert back.keys() == table.keys()
    assert all(torch.equal(p, small_state[UNET_PREFIX + key]) for key, p in back.items())
    assert not any(p.requires_grad for p in unet.parameters()) and not unet.training


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("transformer_in.proj_in.weight", "init_attn.0.proj_in.weight"),
        ("down_blocks.0.resnets.1.norm1.weight", "input_blocks.2.0.in_layers.0.weight"),
        ("down_blocks.1.temp_convs.0.conv2.3.bias", "input_blocks.4.0.temopral_conv.conv2.3.bias"),
        ("down_blocks.1.downsamplers.0.conv.bias", "input_blocks.6.0.op.bias"),
        ("mid_block.resnets.1.conv2.weight", "middle_block.3.out_layers.3.weight"),
        ("mid_block.temp_attentions.0.norm.bias", "middle_block.2.norm.bias"),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.3.conv.weight"),
        ("up_blocks.3.attentions.2.proj_out.bias", "output_blocks.11.1.proj_out.bias"),
    ],
)
def test_names_are_those_of_the_authors_blocks(ours, theirs):
    assert unet_source(ours) == theirs


def test_vae_and_text_encoder_are_what_diffusers_own_converters_give(small_state, tiny_sd):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, convert_open_clip_checkpoint

    vae = to_vae(small_state, SMALL_VAE)
    stock = convert_ldm_vae_checkpoint(small_state, dict(vae.config))
    assert stock.keys() == vae.state_dict().keys()
    assert all(torch.equal(p, stock[name].reshape(p.shape)) for name, p in vae.state_dict().items())
    text = to_text_encoder(small_state, small_text(tiny_sd["tokenizer"]))
    stock = convert_open_clip_checkpoint(text, small_state, TEXT_PREFIX)
    for name, p in text.state_dict().items():
        assert torch.equal(p, stock[f"text_model.{name.removeprefix('text_model.')}"]), name


def test_the_folder_loads_plainly_and_samples(folders, small_state):
    pipe = MojitoPipeline.from_pretrained(folders / "out")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == pipe.fps_embedding.dtype == torch.float32
    assert type(pipe.scheduler) is VideoCrafterDDIMScheduler and pipe.scheduler.config.steps_offset == 1
    assert pipe.tokenizer.pad_token == "!" and pipe.vae.config.scaling_factor == 0.18215
    stored = small_state[UNET_PREFIX + "fps_embedding.2.weight"].half().float()
    assert torch.equal(pipe.fps_embedding.linear_2.weight, stored)
    runs = [
        pipe("a red cube", num_frames=2, num_inference_steps=2, output_type="latent", fps=fps,
             generator=torch.Generator().manual_seed(0)).frames
        for fps in (None, 28, 8)
    ]  # fmt: skip
    assert runs[0].shape == (1, 4, 2, 8, 16) and torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert sorted(path.name for path in folders.iterdir()) == ["model.ckpt", "out", "tokenizer"]


def test_keys_and_shapes_that_do_not_fit_are_named(small_state):
    short = dict(small_state)
    del short[UNET_PREFIX + "out.2.bias"]
    short[UNET_PREFIX + "surprise"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"lacks 1 keys \['model.diffusion_model.out.2.bias'\] and has 1 .*surprise"):
        to_unet(short, SMALL_UNET)
    wrong = {**small_state, UNET_PREFIX + "out.2.weight": torch.zeros(4, 31, 3, 3)}
    with pytest.raises(ValueError, match=r"out.2.weight has shape \(4, 31, 3, 3\); this model needs \(4, 32, 3, 3\)"):
        to_unet(wrong, SMALL_UNET)
    with pytest.raises(ValueError, match="no VideoCrafter2 key for 'class_embedding.weight'"):
        unet_source("class_embedding.weight")


class Payload:
    def __reduce__(self):
        return (print, ("run",))


def test_bad_files_and_folders_are_refused_and_nothing_is_run(folders, tmp_path, capsys):
    torch.save({UNET_PREFIX + "x": Payload()}, tmp_path / "evil.ckpt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.ckpt")
    tokenizer, out = folders / "tokenizer", tmp_path / "out"
    for checkpoint, tokens, target, message in (
        (tmp_path / "none.ckpt", tokenizer, out, "does not exist"),
        (tmp_path / "evil.ckpt", tokenizer, out, "not a plain torch file of tensors"),
        (tmp_path / "other.ckpt", tokenizer, out, "no key beginning with 'model.diffusion_model.'"),
        (folders / "model.ckpt", tmp_path, out, "no folder with a tokenizer_config.json"),
        (folders / "model.ckpt", tokenizer, folders / "out", "is not empty"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(checkpoint, tokens, target)
    assert not out.exists() and capsys.readouterr().out == ""


@pytest.mark.skipif("VIDEOCRAFTER_PATH" not in os.environ, reason="set VIDEOCRAFTER_PATH to a clone of VideoCrafter")
def test_outputs_are_those_of_the_authors_module():
    """In another process: their packages are called `lvdm` and `utils`."""
    pytest.importorskip("einops", reason="VideoCrafter needs einops")
    script = Path(__file__).with_name("videocrafter_parity.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    error = float(done.stdout.split()[-1])
    assert error < 1e-5

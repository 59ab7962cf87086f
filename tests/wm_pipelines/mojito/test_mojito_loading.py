"""LoRA, textual inversion, IP-Adapter, FreeInit, FreeNoise and single files, as the base's stock pipeline has them."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from diffusers import AnimateDiffPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.trajectories import MotionObject

PROMPT = "a red cube moving right"
CUBE = [MotionObject("red cube", boxes=(0.0, 0.0, 0.5, 0.5))]


@pytest.fixture
def own(bases):
    """`own(family)`: a pipeline over copies of its modules, and its size."""

    def build(family):
        pipe, size = bases(family)
        parts = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
        made = MojitoPipeline(**parts)
        made.set_progress_bar_config(disable=True)
        return made, size

    return build


def run(pipe, size, prompt=PROMPT, objects=None, **more):
    given = {"num_inference_steps": 2, "output_type": "latent", **size, **more}
    return pipe(prompt, objects, generator=torch.Generator().manual_seed(1), **given)


@pytest.mark.parametrize("family", ["animatediff", "ltx"])
def test_lora_loads_acts_and_unloads(own, family, tmp_path):
    pipe, size = own(family)
    plain = run(pipe, size).frames
    other = copy.deepcopy(pipe.denoiser)
    other.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = "unet_lora_layers" if family == "animatediff" else "transformer_lora_layers"
    type(pipe.stock()).save_lora_weights(tmp_path, **{layers: get_peft_model_state_dict(other)})
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    with_lora = run(pipe, size).frames
    assert pipe.get_active_adapters() == ["style"] and not torch.equal(with_lora, plain)
    steered = run(pipe, size, objects=CUBE, guidance_fraction=0.5, guidance_iterations=2, allow_joint=True).report[0]
    assert steered.energy[0][1] < steered.energy[0][0]
    pipe.set_adapters(["style"], [0.5])
    assert not torch.equal(run(pipe, size).frames, with_lora)
    pipe.disable_lora()
    assert torch.equal(run(pipe, size).frames, plain)
    pipe.unload_lora_weights()
    assert torch.equal(run(pipe, size).frames, plain)


def test_a_learned_word_is_a_phrase_like_any_other(own):
    pipe, size = own("animatediff")
    pipe.load_textual_inversion({"<thing>": torch.randn(2, 16, generator=torch.Generator().manual_seed(0))})
    out = run(pipe, size, "a <thing> on a floor", [MotionObject("<thing>", boxes=(0, 0, 0.5, 0.5))])
    words = pipe.tokenizer.convert_tokens_to_ids(["<thing>", "<thing>_1"])
    ids = pipe.tokenizer("a <thing> <thing>_1 on a floor").input_ids
    assert [ids[t] for t in out.plan[0].slots.tokens] == words


def test_ip_adapter_is_the_stock_one_and_is_not_steered(own):
    pipe, size = own("animatediff")
    state, number, width = {}, 1, 16
    for name, layer in pipe.family.modules(pipe.unet).items():
        assert name.endswith("attn2")
        for kind in ("to_k_ip", "to_v_ip"):
            state[f"{number}.{kind}.weight"] = torch.randn(layer.to_k.out_features, width)
        number += 2
    projection = {
        "proj.weight": torch.randn(4 * width, 8), "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width), "norm.bias": torch.zeros(width),
    }  # fmt: skip
    plain = run(pipe, size).frames
    weights = {"image_proj": projection, "ip_adapter": state}
    pipe.load_ip_adapter(weights, subfolder=None, weight_name=None)
    embeds = [torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(2))]
    out = run(pipe, size, ip_adapter_image_embeds=embeds).frames
    twin = {name: part for name, part in pipe.components.items() if name in pipe.stock().components}
    theirs = AnimateDiffPipeline(**twin)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        PROMPT, num_inference_steps=2, output_type="latent", generator=torch.Generator().manual_seed(1),
        ip_adapter_image_embeds=embeds, **size,
    ).frames  # fmt: skip
    assert torch.equal(out, expected) and not torch.equal(out, plain)
    with pytest.raises(ValueError, match="IPAdapter.*unload"):
        run(pipe, size, objects=CUBE, ip_adapter_image_embeds=embeds)
    pipe.set_ip_adapter_scale(0.0)
    torch.testing.assert_close(run(pipe, size, ip_adapter_image_embeds=embeds).frames, plain)
    pipe.unload_ip_adapter()
    assert torch.equal(run(pipe, size).frames, plain)


def test_free_init_steers_each_of_its_rounds(own):
    pipe, size = own("animatediff")
    plain = run(pipe, size).frames
    pipe.enable_free_init(num_iters=2, use_fast_sampling=False)
    theirs = AnimateDiffPipeline(**{n: p for n, p in pipe.components.items() if n in pipe.stock().components})
    theirs.set_progress_bar_config(disable=True)
    theirs.enable_free_init(num_iters=2, use_fast_sampling=False)
    given = {"num_inference_steps": 2, "output_type": "latent", **size}
    expected = theirs(PROMPT, generator=torch.Generator().manual_seed(1), **given).frames
    assert torch.equal(run(pipe, size).frames, expected) and not torch.equal(expected, plain)
    report = run(pipe, size, objects=CUBE, guidance_fraction=0.5, guidance_iterations=1).report[0]
    assert len(report.energy) == 2 and report.iterations == 2
    pipe.disable_free_init()
    assert torch.equal(run(pipe, size).frames, plain)


def test_free_noise_makes_longer_clips_and_is_steered(own):
    pipe, size = own("animatediff")
    with pytest.raises(ValueError, match="positions for 16 frames"):
        run(pipe, {"num_frames": 20})
    pipe.enable_free_noise(context_length=8, context_stride=4)
    out = run(pipe, {"num_frames": 20}, objects=CUBE, guidance_fraction=0.5, guidance_iterations=2)
    assert out.frames.shape[2] == 20 and out.report[0].energy[0][1] < out.report[0].energy[0][0]
    pipe.disable_free_noise()
    with pytest.raises(ValueError, match="positions for 16 frames"):
        run(pipe, {"num_frames": 20})


def test_windows_hold_for_their_block_alone(own, bases):
    pipe, size = own("animatediff")
    plain = run(pipe, size).frames
    with pipe.windows(8, 4):
        long = run(pipe, {"num_frames": 20}).frames
    pipe.enable_free_noise(context_length=8, context_stride=4)
    assert torch.equal(run(pipe, {"num_frames": 20}).frames, long) and long.shape[2] == 20
    pipe.disable_free_noise()
    with pytest.raises(RuntimeError, match="stopped"), pipe.windows(8, 8):
        raise RuntimeError("stopped")
    assert torch.equal(run(pipe, size).frames, plain)
    for length, stride, message in ((0, 1, "length=0"), (8, 9, "stride=9 leaves out"), (8, True, "stride=True")):
        with pytest.raises(ValueError, match=message), pipe.windows(length, stride):
            pass
    with pytest.raises(ValueError, match="has no enable_free_noise"), bases("wan")[0].windows(8, 4):
        pass


@pytest.mark.parametrize("family", ["animatediff", "text-to-video", "latte", "wan", "ltx", "cogvideox"])
def test_encode_prompt_is_the_stock_one(bases, family):
    pipe, _ = bases(family)
    arguments = {"prompt": PROMPT, "do_classifier_free_guidance": False}
    if family in ("animatediff", "text-to-video"):
        arguments |= {"device": torch.device("cpu"), "num_images_per_prompt": 1}
    found, expected = pipe.encode_prompt(**arguments), pipe.stock().encode_prompt(**arguments)
    assert torch.equal(found[0], expected[0])


def test_what_a_base_lacks_and_pickles_are_refused(bases, tmp_path):
    latte, _ = bases("latte")
    with pytest.raises(ValueError, match="LattePipeline has no load_lora_weights"):
        latte.load_lora_weights({})
    pipe, _ = bases("animatediff")
    (tmp_path / "lora.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="lora.bin' is not allowed"):
        pipe.load_lora_weights(tmp_path / "lora.bin")
    with pytest.raises(ValueError, match="ip.bin' is not allowed"):
        pipe.load_ip_adapter("folder", "models", "ip.bin")
    with pytest.raises(ValueError, match="use_safetensors=False is not allowed"):
        pipe.load_textual_inversion("folder", use_safetensors=False)
    with pytest.raises(ValueError, match="model.ckpt' is not allowed"):
        MojitoPipeline.from_single_file("model.ckpt")


def test_a_single_file_beside_a_motion_adapter(tiny_sd, bases, tmp_path):
    from diffusers import StableDiffusionPipeline

    place = Path(__file__).parents[1] / "flexecontrol" / "test_flexecontrol_pipeline_contract.py"
    spec = importlib.util.spec_from_file_location("flexecontrol_contract", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**tiny_sd, **none).save_pretrained(tmp_path / "pipe")
    save_file(module.as_single_file(tiny_sd["unet"]), tmp_path / "model.safetensors")
    given = {name: part for name, part in tiny_sd.items() if name != "unet"}
    adapter = bases("animatediff")[0].motion_adapter
    made = MojitoPipeline.from_single_file(
        tmp_path / "model.safetensors", config=str(tmp_path / "pipe"), motion_adapter=adapter, **given
    )
    twin = MojitoPipeline(**tiny_sd, motion_adapter=adapter)
    for pipe in (made, twin):
        pipe.set_progress_bar_config(disable=True)
    assert torch.equal(run(made, {"num_frames": 2}).frames, run(twin, {"num_frames": 2}).frames)


def test_freeu_and_fused_projections_are_the_stock_pipelines(own):
    pipe, size = own("animatediff")
    plain = run(pipe, size).frames
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    free = run(pipe, size).frames
    given = {"num_inference_steps": 2, "output_type": "latent", **size}
    assert torch.equal(free, pipe.stock()(PROMPT, generator=torch.Generator().manual_seed(1), **given).frames)
    assert not torch.equal(free, plain)
    pipe.disable_freeu()
    assert torch.equal(run(pipe, size).frames, plain)
    pipe.fuse_qkv_projections()
    torch.testing.assert_close(run(pipe, size).frames, plain, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="unload or unfuse it"):
        run(pipe, size, objects=CUBE)
    pipe.unfuse_qkv_projections()
    assert torch.equal(run(pipe, size).frames, plain)
    assert run(pipe, size, objects=CUBE, guidance_iterations=1).report[0].energy
    with pytest.raises(ValueError, match="WanPipeline has no enable_freeu"):
        own("wan")[0].enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


@pytest.mark.parametrize("family", ["animatediff", "text-to-video", "latte", "wan", "ltx", "cogvideox"])
def test_it_is_made_from_any_stock_pipeline(bases, family):
    """diffusers hands on models of the very class that a signature names; ours names many."""
    pipe, _ = bases(family)
    made = MojitoPipeline.from_pipe(pipe.stock())
    assert made.denoiser is pipe.denoiser and made.vae is pipe.vae and made.text_encoder is pipe.text_encoder
    assert made.scheduler is pipe.scheduler and made.config.expand_timesteps == pipe.config.expand_timesteps


def test_it_is_made_from_a_picture_base_and_a_motion_adapter(bases, tiny_sd):
    from diffusers import StableDiffusionPipeline

    adapter = copy.deepcopy(bases("animatediff")[0].motion_adapter)
    parts = copy.deepcopy(tiny_sd)
    stock = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    made = MojitoPipeline.from_pipe(stock, motion_adapter=adapter)
    assert type(made.unet).__name__ == "UNetMotionModel" and made.vae is stock.vae
    assert stock.unet is parts["unet"]


def test_a_text_over_the_limit_is_cut_as_the_base_cuts_it_or_refused(bases):
    pipe, size = bases("animatediff")
    long = PROMPT + " and a blue sphere on the floor" * 20
    given = {"num_inference_steps": 1, "output_type": "latent", **size}
    stock = pipe.stock()(long, generator=torch.Generator().manual_seed(1), **given).frames
    assert torch.equal(run(pipe, size, long, num_inference_steps=1).frames, stock)
    with pytest.raises(ValueError, match="prompt"):
        run(pipe, size, long, objects=CUBE)
    out = run(pipe, size, long, objects=CUBE, truncate=True, num_inference_steps=1, guidance_iterations=0)
    assert out.report[0].energy
    beyond = [MotionObject("red sphere", boxes=(0.0, 0.0, 0.5, 0.5))]
    with pytest.raises(ValueError, match="red sphere"):
        run(pipe, size, long + " and a red sphere", objects=beyond, truncate=True)

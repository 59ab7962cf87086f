"""Adapters, extra tokens, precision and memory modes of FlexEControlPipeline, each on its own copy of the parts."""

import copy

import PIL.Image
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline
from wm_pipelines.text.prompts import find_phrases


@pytest.fixture
def own_pipe(tiny_sd, tiny_control):
    """A pipeline whose parts a test may change."""
    parts = {name: copy.deepcopy(part) for name, part in {**tiny_sd, "control": tiny_control}.items()}
    pipe = FlexEControlPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def global_control(tiny_sd):
    return FlexEControlModel.from_unet(
        tiny_sd["unet"],
        condition_stride=4,
        feature_channels=(4, 4, 4),
        pre_channels=(4, 4),
        global_adapter=True,
        global_embed_dim=12,
    )


def test_the_offload_sequence_names_every_component(flex_pipe):
    modules = {"image_encoder"} | {n for n, c in flex_pipe.components.items() if isinstance(c, torch.nn.Module)}
    assert set(flex_pipe.model_cpu_offload_seq.split("->")) == modules


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload_brings_every_weight_in_time(own_pipe, sample, square, tmp_path, monkeypatch, kind):
    condition = Condition("canny", square(), phrase="red cube")
    expected = sample(conditions=condition, num_inference_steps=2).images
    # A weight that is not brought back from the disk is a seven, so this says something on a CPU too. A folder for
    # each part: diffusers names the files by module paths, which UNet and adapter share.
    monkeypatch.setattr(torch, "empty_like", lambda like, **options: torch.full_like(like, 7, **options))
    for name, part in own_pipe.components.items():
        if isinstance(part, torch.nn.Module):
            apply_group_offloading(
                part,
                onload_device=torch.device("cpu"),
                offload_type=kind,
                num_blocks_per_group=1,
                offload_to_disk_path=str(tmp_path / name),
            )
    output = sample(pipe=own_pipe, conditions=condition, num_inference_steps=2)
    assert (output.images - expected).abs().max() < 1e-5


def test_group_offload_of_the_whole_pipeline_runs(own_pipe, sample, square):
    own_pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    with pytest.raises(ValueError, match="group offloading"):
        own_pipe.enable_model_cpu_offload(device="cpu")
    condition = Condition("canny", square())
    output = sample(pipe=own_pipe, conditions=condition, num_inference_steps=1)
    assert torch.equal(output.images, sample(conditions=condition, num_inference_steps=1).images)


def test_model_offload_runs_in_sequence(own_pipe, sample, square):
    # On a CPU the hooks move nothing, but their chain runs; sequential offload (accelerate) needs an accelerator.
    condition = Condition("canny", square(), phrase="red cube")
    expected = sample(conditions=condition, num_inference_steps=2).images
    own_pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        output = sample(pipe=own_pipe, conditions=condition, num_inference_steps=2)
        assert torch.equal(output.images, expected)


def test_layerwise_casting_keeps_the_picture_near(own_pipe, sample, square):
    condition = Condition("canny", square(), phrase="red cube")
    expected = sample(conditions=condition, num_inference_steps=2).images
    for module in (own_pipe.unet, own_pipe.control):
        module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert own_pipe.control.feature_extractor.pre_extractor[0].weight.dtype == torch.float8_e4m3fn
    difference = (sample(pipe=own_pipe, conditions=condition, num_inference_steps=2).images - expected).abs()
    assert 0 < difference.mean() < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(own_pipe, sample, square, dtype):
    condition = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 0.5))
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = sample(conditions=condition, latents=noise, num_inference_steps=2).images
    own_pipe.to(dtype)
    output = sample(pipe=own_pipe, conditions=condition, latents=noise.to(dtype), num_inference_steps=2)
    assert output.images.dtype == dtype and output.attention_maps[0]["red cube"].dtype == torch.float32
    assert (output.images.float() - expected).abs().mean() < 0.05


def test_lora_loads_acts_and_unloads(own_pipe, sample, square, tmp_path):
    condition = Condition("canny", square(), phrase="red cube")
    plain = sample(pipe=own_pipe, conditions=condition, num_inference_steps=1).images
    other = copy.deepcopy(own_pipe.unet)
    other.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    FlexEControlPipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(other))
    own_pipe.load_lora_weights(tmp_path)
    assert not torch.equal(sample(pipe=own_pipe, conditions=condition, num_inference_steps=1).images, plain)
    own_pipe.unload_lora_weights()
    assert torch.equal(sample(pipe=own_pipe, conditions=condition, num_inference_steps=1).images, plain)


def test_textual_inversion_is_a_phrase_like_any_other(own_pipe, sample, square):
    own_pipe.load_textual_inversion({"<thing>": torch.randn(2, 16, generator=torch.Generator().manual_seed(0))})
    prompt = "a <thing> left of a red cube"

    def convert(text):
        return own_pipe.maybe_convert_prompt(text, own_pipe.tokenizer)

    thing, cube = find_phrases(own_pipe.tokenizer, prompt, [("<thing>", None), ("red cube", None)], convert)
    ids = own_pipe.tokenizer(convert(prompt)).input_ids
    added = own_pipe.tokenizer.convert_tokens_to_ids(["<thing>", "<thing>_1"])
    assert ids[slice(*thing.tokens)] == added
    words = own_pipe.tokenizer.convert_tokens_to_ids(["red</w>", "cube</w>"])
    assert ids[slice(*cube.tokens)] == words
    output = sample(prompt, pipe=own_pipe, conditions=Condition("canny", square(), phrase="<thing>"))
    assert list(output.attention_maps[0]) == ["<thing>"]


def test_global_vectors_become_tokens_and_none_is_none(tiny_sd, global_control, sample):
    pipe = FlexEControlPipeline(**tiny_sd, control=global_control)
    pipe.set_progress_bar_config(disable=True)
    widths = []

    def watch(pipe, step, timestep, tensors):
        widths.append(tensors["prompt_embeds"].shape[1])
        return {}

    def draw(**arguments):
        names = ["prompt_embeds"]
        arguments |= {"callback_on_step_end": watch, "callback_on_step_end_tensor_inputs": names}
        return sample(pipe=pipe, num_inference_steps=1, **arguments).images

    vector = torch.linspace(-1, 1, 12)
    plain, with_vector = draw(), draw(global_image=vector)
    assert torch.equal(plain, sample(num_inference_steps=1).images)
    assert (with_vector - plain).abs().max() > 1e-5
    assert torch.equal(draw(global_image=vector, global_strength=0), plain)
    assert not torch.equal(draw(variant="released"), plain)
    assert widths == [77, 81, 77, 81]

    tokens = pipe.encode_global_image(vector, batch=2, num_images_per_prompt=2, strength=0.5, variant="paper")
    with torch.no_grad():
        zero, given = (0.5 * global_control.global_tokens(v[None]) for v in (torch.zeros(12), vector))
    assert torch.allclose(tokens, torch.cat([zero.expand(4, -1, -1), given.expand(4, -1, -1)]), atol=1e-6)
    with pytest.raises(ValueError, match=r"vectors of shape \(1, 5\); it must be \(1, 12\) or \(1, 12\)"):
        draw(global_image=torch.zeros(5))
    with pytest.raises(ValueError, match="not finite"):
        draw(global_image=torch.full((12,), torch.nan))
    with pytest.raises(ValueError, match="needs the components image_encoder and feature_extractor"):
        draw(global_image=PIL.Image.new("RGB", (8, 8)))


def test_a_global_picture_goes_through_the_image_encoder(tiny_sd, global_control, sample):
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=12,
    )
    encoder = CLIPVisionModelWithProjection(vision).eval()
    size = {"shortest_edge": 16}
    processor = CLIPImageProcessor(size=size, crop_size={"height": 16, "width": 16})
    pipe = FlexEControlPipeline(**tiny_sd, control=global_control, image_encoder=encoder, feature_extractor=processor)
    pipe.set_progress_bar_config(disable=True)
    picture = PIL.Image.linear_gradient("L").convert("RGB")
    with torch.no_grad():
        vector = encoder(processor(picture, return_tensors="pt").pixel_values).image_embeds
    by_picture = sample(pipe=pipe, global_image=picture, num_inference_steps=1).images
    assert torch.equal(by_picture, sample(pipe=pipe, global_image=vector, num_inference_steps=1).images)

"""What users of StableDiffusionPipeline bring along: the same arguments, the same values, bit for bit."""

import ast
import copy
import inspect
import logging
import textwrap

import PIL.Image
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from diffusers.models.embeddings import ImageProjection
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline

PROMPT = "a red cube left of a blue sphere"
LONG = " ".join(["a red cube left of a blue sphere"] * 12)
NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pair(tiny_sd, tiny_control):
    """`pair(scheduler)`: the stock pipeline and ours over copies of the same parts, each with its own scheduler."""

    def make(scheduler=None):
        scheduler = scheduler or tiny_sd["scheduler"]
        made = []
        for kind, extra in ((StableDiffusionPipeline, NO_CHECKER), (FlexEControlPipeline, {"control": tiny_control})):
            parts = {name: copy.deepcopy(tiny_sd[name]) for name in ("unet", "text_encoder")}
            own = type(scheduler).from_config(scheduler.config)
            made.append(quiet(kind(**{**tiny_sd, **parts, **extra, "scheduler": own})))
        return made

    return make


def draw(pipe, prompt=PROMPT, **options):
    options = {"num_inference_steps": 3, "output_type": "pt", **options}
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **options).images


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (DDIMScheduler, {"steps_offset": 0}),
        (DDIMScheduler, {"clip_sample": True, "steps_offset": 0}),
        (DDIMScheduler, {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
        (PNDMScheduler, {"steps_offset": 0, "skip_prk_steps": True}),
        (DDPMScheduler, {"clip_sample": True}),
        (LMSDiscreteScheduler, {"steps_offset": 0}),
        (EulerAncestralDiscreteScheduler, {"steps_offset": 0}),
        (UniPCMultistepScheduler, {"steps_offset": 0}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(steps_offset|clip_sample).*:FutureWarning")
def test_an_outdated_scheduler_is_corrected_as_in_the_stock_pipeline(pair, tiny_sd, kind, config):
    stock, ours = pair(kind.from_config(tiny_sd["scheduler"].config, **config))
    settings = [{k: v for k, v in p.scheduler.config.items() if not k.startswith("_")} for p in (stock, ours)]
    assert settings[0] == settings[1]
    assert torch.equal(draw(ours), draw(stock))


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_rescale": 0.7},
        {"timesteps": [900, 500, 20], "kind": DDPMScheduler},
        {"sigmas": [10.0, 3.0, 0.5], "kind": EulerDiscreteScheduler},
        {"eta": 0.5, "negative_prompt": "a green cone", "num_images_per_prompt": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_same_arguments_give_the_same_pictures(pair, tiny_sd, options):
    options = dict(options)
    kind = options.pop("kind", DDIMScheduler)
    stock, ours = pair(kind.from_config(tiny_sd["scheduler"].config))
    given = draw(ours, **options)
    assert torch.equal(given, draw(stock, **options))
    assert not torch.equal(given, draw(ours))


def test_a_schedule_of_ones_own_carries_conditions_and_windows(sample, flex_pipe, square):
    flex_pipe.scheduler = DDPMScheduler.from_config(flex_pipe.scheduler.config)
    conditions = Condition("canny", square(), start=0.5)
    output = sample(conditions=conditions, timesteps=[950, 600, 300, 10], num_inference_steps=50)
    assert output.report["steps"] == 4
    assert output.report["prompts"][0]["conditions"][0]["active_steps"] == [2, 3]


def test_rescaling_bounds_the_guided_noise_under_conditions_too(sample, square):
    condition = Condition("canny", square())
    plain = sample(conditions=condition, guidance_scale=9.0).images
    assert not torch.equal(sample(conditions=condition, guidance_scale=9.0, guidance_rescale=1.0).images, plain)


def test_encode_prompt_returns_values_by_the_stock_names():
    """diffusers' tools read them from the source, to know which argument of a call each value is."""
    from diffusers.utils.source_code_parsing_utils import ReturnNameVisitor

    names = []
    for kind in (StableDiffusionPipeline, FlexEControlPipeline):
        visitor = ReturnNameVisitor()
        visitor.visit(ast.parse(textwrap.dedent(inspect.getsource(kind.encode_prompt))))
        names.append(visitor.return_names)
    assert names[0] == names[1] and names[0]


def test_encode_prompt_has_the_stock_signature_and_needs_no_call(pair):
    stock, ours = pair()
    theirs = list(inspect.signature(StableDiffusionPipeline.encode_prompt).parameters)
    assert list(inspect.signature(FlexEControlPipeline.encode_prompt).parameters) == theirs
    for guided in (True, False):
        given = ["a red cube", "a blue sphere"], "cpu", 2, guided, ["a cone", ""]
        with torch.no_grad():
            expected, found = stock.encode_prompt(*given), ours.encode_prompt(*given)
        assert torch.equal(expected[0], found[0])
        assert (expected[1] is None) == (found[1] is None) and (not guided or torch.equal(expected[1], found[1]))


def test_lora_of_both_parts_is_weighed_by_the_call(pair):
    stock, ours = pair()
    for pipe in (stock, ours):
        for part, targets in ((pipe.unet, ["to_q", "to_v"]), (pipe.text_encoder, ["q_proj", "v_proj"])):
            torch.manual_seed(1)
            part.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    plain = draw(ours)
    assert torch.equal(plain, draw(stock))
    for scale in (0.0, 0.3, 1.5):
        given = draw(ours, cross_attention_kwargs={"scale": scale})
        assert torch.equal(given, draw(stock, cross_attention_kwargs={"scale": scale})), scale
        assert not torch.equal(given, plain)
        assert torch.equal(draw(ours), plain)  # for that call only


def test_the_scale_of_a_lora_acts_under_conditions(pair, square):
    _, ours = pair()
    torch.manual_seed(1)
    ours.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    condition = Condition("canny", square(), phrase="red cube")
    pictures = [
        draw(ours, conditions=condition, cross_attention_kwargs={"scale": scale}, num_inference_steps=1)
        for scale in (0.0, 1.0)
    ]
    assert not torch.equal(*pictures)


# ---- texts over the limit ----


def test_without_conditions_a_long_text_is_cut_as_in_the_stock_pipeline(pair, caplog):
    stock, ours = pair()
    with caplog.at_level(logging.WARNING):
        pictures = draw(ours, LONG, num_inference_steps=1)
    assert "cut off: " in caplog.text
    assert torch.equal(pictures, draw(stock, LONG, num_inference_steps=1))


def test_what_is_cut_off_is_said(tiny_sd):
    from wm_pipelines.flexecontrol.steering.text import cut_off

    limit = tiny_sd["tokenizer"].model_max_length
    assert cut_off(tiny_sd["tokenizer"], "a red cube", limit) == []
    (rest,) = cut_off(tiny_sd["tokenizer"], ["a red cube", LONG], limit)
    kept = len(LONG.split()) - len(rest.split())
    assert LONG.endswith(rest.strip()) and kept == limit - 2


def test_with_conditions_a_long_text_is_refused_unless_it_may_be_cut(sample, square):
    condition = Condition("canny", square())
    for given in ({"conditions": condition}, {"phrases": [("red cube", (2, 10))]}):
        with pytest.raises(ValueError, match="tokens, the text encoder takes 77; shorten it"):
            sample(LONG, **given)
        output = sample(LONG, truncate=True, num_inference_steps=1, **given)
        assert torch.isfinite(output.images).all()
    begin = LONG.rindex("red cube")
    with pytest.raises(ValueError, match="lies past the limit of 77 tokens"):
        sample(LONG, truncate=True, phrases=[("red cube", (begin, begin + 8))])


# ---- IP-Adapter ----


def adapter_weights(unet, tokens=4, width=12):
    """Random weights in the format of published IP-Adapters."""
    torch.manual_seed(2)
    context, widths, attention, number = unet.config.cross_attention_dim, unet.config.block_out_channels, {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            continue
        place, block = name.split(".")[0], name.split(".")[1]
        side = widths[::-1] if place == "up_blocks" else widths
        hidden = widths[-1] if place == "mid_block" else side[int(block)]
        made = IPAdapterAttnProcessor(hidden, context).state_dict()
        attention |= {f"{number}.{part}.weight": made[f"{part}.0.weight"] for part in ("to_k_ip", "to_v_ip")}
        number += 2
    made = ImageProjection(width, context, tokens).state_dict()
    names = {"proj.weight": "image_embeds.weight", "proj.bias": "image_embeds.bias"}
    names |= {"norm.weight": "norm.weight", "norm.bias": "norm.bias"}
    return {"image_proj": {name: made[key] for name, key in names.items()}, "ip_adapter": attention}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=12,
    )  # fmt: skip
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return {"image_encoder": CLIPVisionModelWithProjection(config).eval(), "feature_extractor": processor}


def test_an_ip_adapter_acts_as_in_the_stock_pipeline(pair, encoder, square, tmp_path):
    stock, ours = pair()
    weights = adapter_weights(ours.unet)
    flat = {f"{group}.{name}": value for group, values in weights.items() for name, value in values.items()}
    save_file(flat, tmp_path / "ip-adapter.safetensors")
    plain = draw(ours)
    for pipe in (stock, ours):
        pipe.register_modules(**encoder)
        pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name="ip-adapter.safetensors")
        pipe.set_ip_adapter_scale(0.8)
    picture = PIL.Image.linear_gradient("L").convert("RGB")
    options = {"num_images_per_prompt": 2, "guidance_scale": 3.0}
    expected = draw(stock, ip_adapter_image=picture, **options)
    assert torch.equal(draw(ours, ip_adapter_image=picture, **options), expected)
    embeds = ours.prepare_ip_adapter_image_embeds(picture, None, "cpu", 1, True)
    assert torch.equal(draw(ours, ip_adapter_image_embeds=embeds, **options), expected)
    condition = Condition("canny", square())
    steered = draw(ours, conditions=condition, ip_adapter_image=picture)
    assert not torch.equal(steered, draw(ours, ip_adapter_image=picture))
    assert not torch.equal(steered, draw(ours, conditions=condition, ip_adapter_image=picture.rotate(90)))
    for message, given in (
        ("pass ip_adapter_image or ip_adapter_image_embeds, or unload it", {}),
        ("not both", {"ip_adapter_image": picture, "ip_adapter_image_embeds": embeds}),
        ("ip_adapter_image has 2 entries for 1 IP-Adapters", {"ip_adapter_image": [picture, picture]}),
        ("must be a list of tensors", {"ip_adapter_image_embeds": embeds[0]}),
        (
            "phrases need plain attention",
            {"ip_adapter_image": picture, "conditions": Condition("canny", square(), phrase="red cube")},
        ),
    ):
        with pytest.raises(ValueError, match=message):
            draw(ours, **given)
    ours.unload_ip_adapter()
    assert torch.equal(draw(ours), plain)


def test_an_ip_adapter_that_is_no_safetensors_is_refused(pair, tmp_path):
    _, ours = pair()
    (tmp_path / "ip-adapter.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="read from a .safetensors file alone"):
        ours.load_ip_adapter(str(tmp_path), subfolder="", weight_name="ip-adapter.bin")


# ---- variants and shards ----


def names(folder):
    return sorted(path.name for path in folder.glob("*.safetensors*"))


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [None, "100KB"])
def test_the_adapter_obeys_variant_and_shard_size(flex_pipe, tmp_path, variant, shards):
    flex_pipe.save_pretrained(tmp_path / "whole", variant=variant, max_shard_size=shards)
    written = names(tmp_path / "whole" / "control")
    assert all((variant is None) != (f".{variant}" in name) for name in written)
    assert (len(written) == 1) == (shards is None)
    loaded = FlexEControlPipeline.from_pretrained(tmp_path / "whole", variant=variant)
    assert same(flex_pipe.control, loaded.control) and same(flex_pipe.unet, loaded.unet)


def test_a_slim_adapter_in_a_variant_is_read_onto_a_base(flex_pipe, tiny_sd, tmp_path):
    stock = StableDiffusionPipeline(**{**tiny_sd, **NO_CHECKER})
    stock.save_pretrained(tmp_path / "base", variant="fp16")
    flex_pipe.control.save_pretrained(tmp_path / "adapter", slim=True, variant="fp16", max_shard_size="50KB")
    assert len(names(tmp_path / "adapter")) > 2 and all("fp16" in name for name in names(tmp_path / "adapter"))
    loaded = FlexEControlPipeline.from_base(tmp_path / "base", tmp_path / "adapter", variant="fp16")
    assert same(flex_pipe.control, loaded.control)

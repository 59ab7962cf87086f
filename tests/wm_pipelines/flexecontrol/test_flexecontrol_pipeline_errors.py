import copy
import json

import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel

from wm_pipelines.config import WMConfig
from wm_pipelines.diorama.words import VOCABULARY
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline

EMBEDS = torch.zeros(1, 77, 16)
MAP = torch.zeros(3, 64, 64)
LONG = " ".join(["cube"] * 80)


@pytest.fixture
def refused(flex_pipe, monkeypatch):
    """`refused(match, **arguments)`: the call is a ValueError that matches, and the UNet never ran."""

    def never(*args, **kwargs):
        raise AssertionError("the UNet ran")

    monkeypatch.setattr(UNet2DConditionModel, "forward", never)

    def check(match, **arguments):
        with pytest.raises(ValueError, match=match):
            flex_pipe(**{"prompt": "a red cube", "num_inference_steps": 1, **arguments})

    return check


CASES = {
    "no prompt": (r"exactly one of prompt, prompt_embeds .*; got neither", {"prompt": None}),
    "two prompts": (r"exactly one of prompt, prompt_embeds .*; got both", {"prompt_embeds": EMBEDS}),
    "prompt type": (r"prompt must be a str or a non-empty list of str, got 3", {"prompt": 3}),
    "no prompts": (r"prompt must be a str or a non-empty list", {"prompt": []}),
    "negative count": (r"negative_prompt has 2 entries for 1 prompts", {"negative_prompt": ["a", "b"]}),
    "embeds shapes": (
        r"must have one shape, got \(1, 77, 16\) and \(1, 5, 16\)",
        {"prompt": None, "prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS[:, :5]},
    ),
    "embeds width": (
        r"prompt_embeds has shape \(1, 77, 8\); it must be \(prompts, tokens, 16\)",
        {"prompt": None, "prompt_embeds": EMBEDS[..., :8]},
    ),
    "negative embeds": (
        r"must have one shape, got \(1, 77, 16\) and \(1, 5, 16\)",
        {"negative_prompt_embeds": EMBEDS[:, :5]},
    ),
    "size": (r"output is 60x64; height and width must be positive multiples of 16",
             {"height": 60, "conditions": Condition("canny", MAP)}),
    "no size": (r"output is 0x64", {"height": 0}),
    "plain size": (r"output is 62x64; .* multiples of 4", {"height": 62}),
    "condition size": (
        r"condition 'canny' #1 is 64x48; height and width must be multiples of 16 and equal to the output 64x64",
        {"conditions": Condition("canny", MAP[..., :48])},
    ),
    "a window without a step": (
        r"condition 'canny' #1 acts from start=0.3 to end=0.4, .* none of the 4 steps lies whole; a step is 0.25",
        {"conditions": Condition("canny", MAP, start=0.3, end=0.4), "num_inference_steps": 4},
    ),
    "a window behind the last step": (
        r"condition 'seg' #2 acts from start=0.9 to end=1, in which none of the 5 steps lies whole",
        {"conditions": [Condition("canny", MAP), Condition("seg", MAP, start=0.9)], "num_inference_steps": 5},
    ),
    "NaN": (r"condition 'canny' #1.*(NaN|nan|finite)", {"conditions": Condition("canny", MAP / 0)}),
    "condition kind": (r"conditions\[0\] is a str", {"conditions": ["canny"]}),
    "conditions kind": (r"conditions must be a list, got 'canny'", {"conditions": "canny"}),
    "conditions mixed": (
        r"conditions mixes lists and single entries",
        {"conditions": [Condition("canny", MAP), [Condition("canny", MAP)]]},
    ),
    "conditions count": (r"conditions has 2 lists for 1 prompts", {"conditions": [[], []]}),
    "phrase": (
        r"phrase 'red car' not found in prompt; pass span=\(start,end\)",
        {"conditions": Condition("canny", MAP, phrase="red car")},
    ),
    "empty prompt": (
        r"phrase 'red cube' needs a prompt that contains it, but the prompt is empty",
        {"prompt": "", "conditions": Condition("canny", MAP, phrase="red cube")},
    ),
    "phrases kind": (r"phrases must be a list, got 'red cube'", {"phrases": "red cube"}),
    "span outside": (r"span \(2, 99\) of phrase 'red cube' is outside", {"phrases": [("red cube", (2, 99))]}),
    "span elsewhere": (r"span \(0, 5\) holds 'a red', not the phrase", {"phrases": [("red cube", (0, 5))]}),
    "span in a word": (r"must begin and end with a word", {"phrases": [("ed cu", (3, 8))]}),
    "too long": (r"has 82 tokens, the text encoder takes 77", {"prompt": LONG, "conditions": Condition("canny", MAP)}),
    "negative too long": (r"negative_prompt .* has 82 tokens", {"negative_prompt": LONG, "phrases": ["red cube"]}),
    "rescale": (r"guidance_rescale must be a finite number, got 'no'", {"guidance_rescale": "no"}),
    "schedules": (r"Only one of `timesteps` or `sigmas`", {"timesteps": [5, 1], "sigmas": [1.0, 0.5]}),
    "no adapter": (r"ip_adapter_image needs an IP-Adapter", {"ip_adapter_image": torch.zeros(3, 8, 8)}),
    "binding": (r"binding='hard'; choose from attention, none", {"binding": "hard"}),
    "on_conflict": (r"on_conflict='stop'; choose from warn, error, ignore", {"on_conflict": "stop"}),
    "output_type": (r"output_type='jpg'; choose from pil, np, pt, latent", {"output_type": "jpg"}),
    "steps": (r"num_inference_steps must be a positive integer, got 0", {"num_inference_steps": 0}),
    "timesteps": (r"timesteps is empty", {"timesteps": []}),
    "sigmas": (r"sigmas is empty", {"sigmas": torch.zeros(0)}),
    "images": (r"num_images_per_prompt must be a positive integer, got 1.5", {"num_images_per_prompt": 1.5}),
    "scale": (
        r"controlnet_conditioning_scale must be a finite number, got nan",
        {"controlnet_conditioning_scale": float("nan")},
    ),
    "clip_skip": (r"clip_skip must be None or 0 to 1, got 2", {"clip_skip": 2}),
    "callback": (
        r"callback_on_step_end_tensor_inputs has \['noise'\]; allowed are",
        {"callback_on_step_end_tensor_inputs": ["noise"]},
    ),
    "global image": (
        r"global_image needs an adapter made with global_adapter=True",
        {"global_image": torch.zeros(768)},
    ),
    "graph kind": (r"scene_graph must be a SceneGraph", {"prompt": None, "scene_graph": ["a cube"]}),
    "generators": (r"generator is a list of 2 for 1 pictures", {"generator": [torch.Generator(), torch.Generator()]}),
    "latents": (
        r"latents have shape \(1, 4, 8, 8\); it must be \(1, 4, 16, 16\)",
        {"latents": torch.zeros(1, 4, 8, 8)},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:condition .* the map is empty:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_sampling(refused, case):
    match, arguments = CASES[case]
    refused(match, **arguments)


def test_parts_of_two_precisions_are_refused(refused, flex_pipe, tiny_control):
    flex_pipe.control = copy.deepcopy(tiny_control).to(torch.bfloat16)
    refused(r"control is torch.bfloat16, unet is torch.float32", conditions=Condition("canny", MAP))


def test_a_type_the_adapter_lacks_is_refused(refused, flex_pipe, tiny_sd):
    from wm_pipelines.flexecontrol.modeling import FlexEControlModel

    flex_pipe.control = FlexEControlModel.from_unet(
        tiny_sd["unet"], types=("canny", "depth"), condition_stride=4, feature_channels=(4, 4, 4), pre_channels=(4, 4)
    )
    refused(r"no condition type 'seg'; it has canny, depth", conditions=Condition("seg", MAP))


def test_a_word_outside_a_closed_vocabulary_names_the_nearest(refused, flex_pipe):
    flex_pipe.wm_config = WMConfig(method="diorama-sd", vocabulary=list(VOCABULARY))
    refused(r"prompt has the word 'cubr', .* nearest known word is 'cube'", prompt="a red cubr")
    refused(r"negative_prompt has the word 'blau'", negative_prompt="blau cube")
    refused(r"the word 'square', .* nearest known word is 'cube'", prompt="a red square")
    refused(r"the word 'dog', .* it knows a, above, .* yellow", prompt="a dog")
    with pytest.raises(AssertionError, match="the UNet ran"):
        flex_pipe("A red cube, left of a cone.", num_inference_steps=1)


def test_bases_of_other_families_are_refused_by_name(tiny_sd, tiny_control, tmp_path):
    def build(**other):
        return FlexEControlPipeline(**{**tiny_sd, "control": tiny_control, **other})

    shape = {k: v for k, v in tiny_sd["unet"].config.items() if not k.startswith("_")}
    sdxl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    sdxl["projection_class_embeddings_input_dim"] = 40
    transformer = DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=4, in_channels=4, num_layers=1, sample_size=4, num_embeds_ada_norm=4
    )
    small = AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    for match, other in (
        ("SDXL", {"unet": UNet2DConditionModel(**{**shape, **sdxl})}),
        ("9 input channels.*inpainting", {"unet": UNet2DConditionModel(**{**shape, "in_channels": 9})}),
        ("DiT", {"unet": transformer}),
        ("LCM", {"unet": UNet2DConditionModel(**{**shape, "time_cond_proj_dim": 8})}),
        ("cross_attention_dim", {"unet": UNet2DConditionModel(**{**shape, "cross_attention_dim": 32})}),
        (
            "factor of the vae is 2, not control's condition_stride=4",
            {"vae": small},
        ),
    ):
        with pytest.raises(ValueError, match=match):
            build(**other)
    for match, component in (("DiT", "transformer"), ("SDXL", "text_encoder_2")):
        index = {component: ["diffusers", "X"]}
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OtherPipeline", **index}))
        with pytest.raises(ValueError, match=f"base OtherPipeline .*{match}"):
            FlexEControlPipeline.from_pretrained(tmp_path, control=tiny_control)


def test_an_adapter_of_another_shape_is_refused(tiny_sd, tiny_control):
    control = copy.deepcopy(tiny_control)
    control.register_to_config(unet_config={**control.config.unet_config, "layers_per_block": 2})
    with pytest.raises(ValueError, match="this adapter is for another base: its layers_per_block is 2"):
        FlexEControlPipeline(**tiny_sd, control=control)

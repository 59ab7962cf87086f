"""Modular Diffusers blocks: equal to the pipeline, saved and loaded without code."""

import json

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.modular import PARTS, FlexEControlBlocks, FlexEControlModularPipeline

PROMPT = "a red cube left of a blue sphere"


@pytest.fixture
def modular(flex_pipe):
    pipe = FlexEControlModularPipeline.from_parts(**{name: flex_pipe.components[name] for name in PARTS})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, seed=0, **options):
    options = {"num_inference_steps": 3, "output_type": "pt", "on_conflict": "ignore", **options}
    return pipe(generator=torch.Generator().manual_seed(seed), output=["images", "attention_maps", "plan"], **options)


def test_the_blocks_equal_the_pipeline(modular, sample, square, flex_pipe):
    bound = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 0.5))
    cases = [
        {},
        {"conditions": bound, "num_images_per_prompt": 2, "negative_prompt": "a cone"},
        {"conditions": [bound, Condition("depth", square(), start=0.3)], "guidance_scale": 1.0, "binding": "none"},
        {
            "conditions": bound,
            "guidance_rescale": 0.5,
            "controlnet_conditioning_scale": 0.5,
            "phrases": ["blue sphere"],
        },
    ]
    for options in cases:
        expected, found = sample(PROMPT, **options), run(modular, prompt=PROMPT, **options)
        assert torch.equal(expected.images, found["images"]), options
        maps = expected.attention_maps
        assert (maps is None) == (found["attention_maps"] is None)
        for row, other in zip(maps or [], found["attention_maps"] or [], strict=True):
            assert row.keys() == other.keys() and all(torch.equal(row[key], other[key]) for key in row)
    assert [[c.type for c in row] for row in found["plan"].rows] == [["canny"]]


def test_a_modular_folder_comes_back_without_code(modular, flex_pipe, square, tmp_path):
    modular.update_components(scheduler=EulerAncestralDiscreteScheduler.from_config(modular.scheduler.config))
    expected = run(modular, prompt=PROMPT, conditions=Condition("canny", square()))["images"]
    modular.save_pretrained(tmp_path / "saved")
    files = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert ".safetensors" in files and files <= {".safetensors", ".json", ".txt"}
    index = json.loads((tmp_path / "saved" / "modular_model_index.json").read_text())
    assert index["_blocks_class_name"] == "FlexEControlBlocks" and "auto_map" not in index
    loaded = FlexEControlModularPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is EulerAncestralDiscreteScheduler
    assert torch.equal(run(loaded, prompt=PROMPT, conditions=Condition("canny", square()))["images"], expected)


def test_a_folder_with_blocks_of_its_own_is_refused(modular, tmp_path):
    modular.save_pretrained(tmp_path / "saved")
    code = {"auto_map": {"ModularPipelineBlocks": "blocks.Evil"}}
    (tmp_path / "saved" / "modular_config.json").write_text(json.dumps(code))
    with pytest.raises(ValueError, match="names blocks of its own"):
        FlexEControlModularPipeline.from_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="has no modular_model_index.json"):
        FlexEControlModularPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ("[]", "a configuration is an object, got list"),
        ("{", "modular_model_index.json"),
        ("{}", "the vae None; it must be a AutoencoderKL of diffusers"),
    ],
)
def test_a_damaged_index_is_refused(modular, tmp_path, index, match):
    modular.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "modular_model_index.json").write_text(index)
    with pytest.raises(ValueError, match=match):
        FlexEControlModularPipeline.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("part", "entry", "match"),
    [
        ("scheduler", ["diffusers", "AutoModel", {}], "the scheduler 'AutoModel'; it must be a SchedulerMixin"),
        ("scheduler", ["os", "system", {}], "the scheduler 'system'"),
        ("scheduler", ["diffusers", ["x"], {}], r"the scheduler \['x'\]"),
        ("unet", ["diffusers", "UNetMotionModel", {}], "the unet 'UNetMotionModel'"),
        ("text_encoder", ["transformers", "pipeline", {}], "the text_encoder 'pipeline'"),
    ],
)
def test_a_class_that_the_part_can_not_be_is_refused(modular, tmp_path, part, entry, match):
    modular.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "modular_model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: entry}))
    with pytest.raises(ValueError, match=match):
        FlexEControlModularPipeline.from_pretrained(tmp_path / "saved")


def test_a_block_can_be_put_in_between(modular, square):
    from diffusers.modular_pipelines.modular_pipeline_utils import InputParam

    from wm_pipelines.flexecontrol.modular import FlexEControlNoiseStep

    class Quieter(FlexEControlNoiseStep):
        takes = {"latents": ...}

        def run(self, pipe, block):
            block.latents = block.latents * 0

    blocks = FlexEControlBlocks()
    blocks.sub_blocks.insert("quieter", Quieter(), 3)
    other = FlexEControlModularPipeline.from_parts(blocks, **{name: getattr(modular, name) for name in PARTS})
    other.set_progress_bar_config(disable=True)
    first, second = (run(other, seed, prompt=PROMPT, num_inference_steps=1)["images"] for seed in (0, 1))
    assert torch.equal(first, second)
    assert isinstance(blocks.inputs[0], InputParam) and blocks.inputs[0].required


def test_bad_input_is_refused_as_in_the_pipeline(modular, square):
    with pytest.raises(ValueError, match="Required input 'prompt' is missing"):
        modular()
    with pytest.raises(ValueError, match="binding='hard'; choose from"):
        run(modular, prompt=PROMPT, binding="hard")
    with pytest.raises(ValueError, match="condition 'canny' #1 is 32x32"):
        run(modular, prompt=PROMPT, conditions=Condition("canny", torch.ones(3, 32, 32)))
    with pytest.raises(ValueError, match="the pipeline lacks control"):
        FlexEControlModularPipeline.from_parts(**{name: getattr(modular, name) for name in PARTS if name != "control"})

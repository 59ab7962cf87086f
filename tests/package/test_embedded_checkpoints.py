"""The checkpoints that ship: whole, plain to load, small, described by their records, and what they are said to be."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wm_pipelines import hub
from wm_pipelines.config import WMConfig
from wm_pipelines.hub.publishing import validate

ROOT = Path(__file__).parents[2]
LARGEST = {
    "comclip": 50e3,
    "cpl": 50e3,
    "diorama-clip": 6e6,
    "diorama-judge": 1.5e6,
    "diorama-sd": 16e6,
    "diorama-stripes": 300e3,
    "diorama-tokens": 1.6e6,
    "diorama-video": 14e6,
    "discffusion": 300e3,
    "flexecontrol": 20e6,
    "kadaptation": 200e3,
    "morpho4d": 1e6,
}


WITHOUT_WEIGHTS = {"comclip"}  # a record alone
SCENES = {"morpho4d"}  # its cameras are exact


@pytest.fixture(params=sorted(LARGEST))
def name(request):
    return request.param


def test_all_of_them_are_there_and_no_others():
    assert hub.embedded_names() == sorted(LARGEST)


def test_is_ready_to_publish(name):
    assert validate(hub.EMBEDDED_ROOT / name) == []


def test_size(name):
    folder = hub.EMBEDDED_ROOT / name
    files = (p for p in folder.rglob("*") if p.is_file() and "gallery" not in p.parts)
    assert sum(p.stat().st_size for p in files) <= LARGEST[name]


def test_all_together_stay_small():
    assert sum(p.stat().st_size for p in hub.EMBEDDED_ROOT.rglob("*") if p.is_file()) < 60e6


def test_weights_are_half_precision_on_disk(name):
    from safetensors import safe_open

    if name in SCENES:
        return
    for path in (hub.EMBEDDED_ROOT / name).rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}
        assert dtypes <= {"F16", "I64"}, f"{path}: {dtypes}"


def test_record_names_its_training(name):
    config = WMConfig.load(hub.EMBEDDED_ROOT / name)
    if name in WITHOUT_WEIGHTS:
        assert config.training is None and not any(file.endswith(".safetensors") for file in config.files)
        return
    assert config.training is not None and config.training.steps > 0 and config.training.wall_time_s > 0
    text = json.dumps(config.model_dump())
    assert str(ROOT) not in text and "/home/" not in text and "/tmp/" not in text


def test_page_repeats_the_checkpoint(name):
    page = ROOT / "model_cards" / name
    for file in ("README.md", "wm_config.json"):
        assert (page / file).read_text() == (hub.EMBEDDED_ROOT / name / file).read_text()
    for file in ("recipe.yaml", "log.jsonl"):
        assert (page / file).is_file() != (name in WITHOUT_WEIGHTS)


def test_card_leads_to_its_pictures(name):
    page, checkpoint = ROOT / "model_cards" / name, hub.EMBEDDED_ROOT / name
    gallery = (page / "gallery.md").read_text()
    shown = re.findall(r"!\[[^\]]+\]\((gallery/[^)]+)\)", gallery)
    assert "](gallery.md)" in (page / "README.md").read_text() and shown
    assert sorted(shown) == sorted(p.relative_to(page).as_posix() for p in (page / "gallery").iterdir())
    for file in ("gallery.md", *shown):
        assert (page / file).read_bytes() == (checkpoint / file).read_bytes()


@pytest.mark.slow
def test_plain_stable_diffusion_loads_the_base_with_no_argument():
    code = (
        "from diffusers import StableDiffusionPipeline\n"
        "from wm_pipelines import embedded\n"
        "pipe = StableDiffusionPipeline.from_pretrained(embedded('diorama-sd'))\n"
        "print({m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder)})\n"
        "print(pipe('a red cube', num_inference_steps=2).images[0].size)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    lines = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).splitlines()
    assert lines == ["{torch.float32}", "(64, 64)"]


def test_latents_of_the_base_have_unit_spread():
    from diffusers import AutoencoderKL

    from wm_pipelines.diorama.datasets import DioramaDataset
    from wm_pipelines.diorama.render import render

    vae = AutoencoderKL.from_pretrained(hub.embedded("diorama-sd"), subfolder="vae")
    data = DioramaDataset(split="val", length=64)
    pictures = render([data.scene(i) for i in range(64)], maps=("rgb",)).rgb[:, 0]
    with torch.no_grad():
        latents = vae.encode(pictures * 2 - 1).latent_dist.mean
        back = vae.decode(latents).sample
    assert (latents * vae.config.scaling_factor).std().item() == pytest.approx(1, abs=0.1)
    assert (back - (pictures * 2 - 1)).abs().mean().item() < 0.03


def test_the_judge_reads_renders():
    """Its bars on held-out renders: colour 98 %, shape 95 %, mask mIoU 0.85 (one or two plain objects)."""
    from wm_pipelines.diorama.datasets import DioramaDataset
    from wm_pipelines.diorama.judge import DioramaJudge
    from wm_pipelines.diorama.metrics import judge_on_renders

    judge = DioramaJudge.from_pretrained(hub.embedded("diorama-judge"))
    data = DioramaDataset(split="test", composition="held_out", length=100, num_objects=(1, 2), patterns=("plain",))
    scores = judge_on_renders(judge, [data.scene(i) for i in range(len(data))])
    assert scores["colour"] >= 0.98 and scores["shape"] >= 0.95 and scores["miou"] >= 0.85, scores


def test_the_base_draws_what_is_named():
    """A coarse guard over twelve prompts; the figures are those of benchmarks/diorama_sd.py."""
    from diffusers import StableDiffusionPipeline

    from wm_pipelines.diorama.judge import DioramaJudge
    from wm_pipelines.diorama.metrics import look, obedience
    from wm_pipelines.diorama.parser import parse_caption

    pipe = StableDiffusionPipeline.from_pretrained(hub.embedded("diorama-sd"))
    pipe.set_progress_bar_config(disable=True)
    words = [f"a {c} {s}" for c, s in (("red", "cube"), ("blue", "sphere"), ("green", "cone"), ("yellow", "cylinder"))]
    pictures = pipe(
        words * 3,
        num_inference_steps=15,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    judge = DioramaJudge.from_pretrained(hub.embedded("diorama-judge"))
    scores = [obedience(parse_caption(w).objects, f) for w, f in zip(words * 3, look(judge, pictures), strict=True)]
    assert sum(s["colour"] for s in scores) >= 9


@pytest.mark.slow
def test_the_video_adapter_is_the_same_in_a_fresh_process_and_keeps_its_object():
    """A coarse guard over one prompt; the figures are those of benchmarks/mojito_video.py."""
    from wm_pipelines import AutoWMPipeline
    from wm_pipelines.diorama.judge import DioramaJudge
    from wm_pipelines.mojito.metrics import persistence, track_colour

    pipe = AutoWMPipeline.from_pretrained("diorama-video")
    pipe.set_progress_bar_config(disable=True)
    options = {"motion_intensity": 7.0, "num_frames": 16, "num_inference_steps": 10, "output_type": "pt"}
    frames = pipe("a red cube moving right", generator=torch.Generator().manual_seed(0), **options).frames
    code = (
        "import hashlib, torch\n"
        "from wm_pipelines import AutoWMPipeline\n"
        "pipe = AutoWMPipeline.from_pretrained('diorama-video')\n"
        f"made = pipe('a red cube moving right', generator=torch.Generator().manual_seed(0), **{options}).frames\n"
        "print(hashlib.sha256(made.numpy().tobytes()).hexdigest())\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    fresh = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).split()[-1]
    assert fresh == hashlib.sha256(frames.numpy().tobytes()).hexdigest()
    judge = DioramaJudge.from_pretrained(hub.embedded("diorama-judge")).eval()
    assert persistence(track_colour(judge, frames[0], "red")) >= 0.8


def test_plain_clip_loads_with_no_argument_and_names_what_it_sees():
    """A coarse guard over sixteen renders of seen pairs; the figures are those of benchmarks/diorama_clip.py."""
    from transformers import CLIPModel, CLIPProcessor

    from wm_pipelines.diorama.datasets import DioramaDataset
    from wm_pipelines.diorama.render import render
    from wm_pipelines.diorama.scene import COLOURS, SHAPES

    clip = CLIPModel.from_pretrained(hub.embedded("diorama-clip"))
    processor = CLIPProcessor.from_pretrained(hub.embedded("diorama-clip"))
    assert clip.dtype == torch.float32 and clip.logit_scale.exp() <= 100
    data = DioramaDataset(split="test", length=16, num_objects=1)
    scenes = [data.scene(i) for i in range(16)]
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    pictures = (render(scenes, maps=("rgb",)).rgb[:, 0] * 255).round().byte()
    texts = [f"a photo of a {name}." for name in names]
    inputs = processor(text=texts, images=list(pictures), padding=True, return_tensors="pt")
    with torch.no_grad():
        found = [names[i] for i in clip(**inputs).logits_per_image.argmax(1)]
    truth = [f"{scene.objects[0].colour} {scene.objects[0].shape}" for scene in scenes]
    assert sum(a == b for a, b in zip(found, truth, strict=True)) >= 12


def test_under_the_adapter_solids_have_stripes_unasked():
    """Dark and light along the solid: how much its brightness varies where the judge sees it."""
    from diffusers import StableDiffusionPipeline
    from peft.tuners.tuners_utils import BaseTunerLayer

    from wm_pipelines.adapters.kronecker import load_adapter
    from wm_pipelines.diorama.judge import DioramaJudge

    pipe = StableDiffusionPipeline.from_pretrained(hub.embedded("diorama-sd"))
    pipe.set_progress_bar_config(disable=True)
    judge = DioramaJudge.from_pretrained(hub.embedded("diorama-judge")).eval()

    def spread() -> float:
        options = {"num_inference_steps": 15, "guidance_scale": 4.0, "output_type": "pt"}
        made = pipe(["a yellow sphere"] * 4, generator=torch.Generator().manual_seed(0), **options).images
        with torch.no_grad():
            seen = judge(made).colour.argmax(1) > 0
        grey = made.mean(1)
        return float(torch.stack([one[mask].std() for one, mask in zip(grey, seen, strict=True)]).mean())

    plain = spread()
    load_adapter(pipe.unet, hub.embedded("diorama-stripes"))
    for layer in pipe.unet.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.set_scale("default", 3.0)
    assert spread() > 1.2 * plain


def test_kadaptation_counts_better_than_the_names_alone():
    """A coarse guard over forty pictures; the figures are those of benchmarks/kadaptation_embedded.py."""
    from wm_pipelines import AutoWMPipeline
    from wm_pipelines.diorama.datasets import DioramaDataset
    from wm_pipelines.diorama.render import render

    pipe = AutoWMPipeline.from_pretrained("kadaptation")
    pipe.set_progress_bar_config(disable=True)
    data = DioramaDataset(split="test", length=40, num_objects=(1, 2, 3, 4))
    scenes = [data.scene(i) for i in range(40)]
    labels = pipe(render(scenes, maps=("rgb",)).rgb[:, 0]).labels
    names = ["one", "two", "three", "four"]
    assert pipe.head.config.class_names == names
    assert sum(names[len(s.objects) - 1] == label for s, label in zip(scenes, labels, strict=True)) >= 16  # chance: 10

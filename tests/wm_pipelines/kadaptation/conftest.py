"""CLIP checkpoints at test size, and pictures that a colour tells apart."""

import copy

import pytest


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """Folder of a seeded CLIPModel: 16 pixels, width 16, with a real tokenizer that has a word for every colour."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from wm_pipelines.diorama.clip_training import CLIP_WORDS
    from wm_pipelines.diorama.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(folder, CLIP_WORDS)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower["projection_dim"] = 16
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = {**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
        vision = {**tower, "image_size": 16, "patch_size": 8}
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    square = {"height": 16, "width": 16}
    half = [0.5] * 3
    CLIPImageProcessor(
        size=square, crop_size=square, do_center_crop=False, image_mean=half, image_std=half
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded_clip(tiny_clip):
    """A pipeline on `tiny_clip` as it was loaded; tests copy it."""
    from wm_pipelines.kadaptation.pipeline import KAdaptationPipeline

    return KAdaptationPipeline.from_clip(tiny_clip)


@pytest.fixture
def pipe(loaded_clip):
    """A quiet pipeline that is not fitted, its towers its own."""
    from wm_pipelines.kadaptation.pipeline import KAdaptationPipeline

    parts = {name: copy.deepcopy(part) for name, part in loaded_clip.components.items() if name != "tokenizer"}
    made = KAdaptationPipeline(**parts, tokenizer=loaded_clip.tokenizer, logit_scale=loaded_clip.config.logit_scale)
    made.wm_config = loaded_clip.wm_config
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="session")
def pictures():
    """Twelve noisy pictures (12, 3, 16, 16) in [0, 1] and their colours."""
    from wm_pipelines.random import keyed

    rng = keyed("kadaptation pictures")
    tints = {"red": (0.8, 0.2, 0.2), "green": (0.2, 0.7, 0.2), "blue": (0.2, 0.2, 0.8)}
    import torch

    names = [list(tints)[i % 3] for i in range(12)]
    rows = [
        torch.tensor(tints[name]).view(3, 1, 1) + torch.from_numpy(rng.normal(0, 0.08, (3, 16, 16))).float()
        for name in names
    ]
    return torch.stack(rows).clamp(0, 1), names


@pytest.fixture
def config():
    """An adapter that divides the tiny towers."""
    from wm_pipelines.adapters.kronecker import KroneckerConfig

    return KroneckerConfig(n=4, r=1, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def fitted(pipe, pictures, config):
    """`pipe`, fitted for a few epochs."""
    return pipe.fit(*pictures, config=config, epochs=4, batch_size=5)


@pytest.fixture
def as_embedded(tiny_clip, monkeypatch, tmp_path):
    """`tiny_clip` among the embedded checkpoints, sealed."""
    import shutil

    from wm_pipelines import hub
    from wm_pipelines.config import WMConfig

    root = tmp_path / "embedded"
    shutil.copytree(tiny_clip, root / "diorama-clip")
    words = "a photo of red green blue sphere".split()
    hub.seal(root / "diorama-clip", WMConfig(method="diorama-clip", vocabulary=words))
    monkeypatch.setattr(hub, "EMBEDDED_ROOT", root)
    return root

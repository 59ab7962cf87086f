"""A CLIP checkpoint at test size, and pictures that a colour tells apart."""

import copy

import pytest


@pytest.fixture(scope="session")
def clip_folder(tiny_clip, tmp_path_factory):
    """`tiny_clip` as a folder: 32 pixels, image width 24, joint width 20."""
    folder = tmp_path_factory.mktemp("clip")
    for part in tiny_clip.values():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded_clip(clip_folder):
    """A pipeline on `clip_folder` as it was loaded; tests copy it."""
    from wm_pipelines.kadaptation.pipeline import KAdaptationPipeline

    return KAdaptationPipeline.from_clip(clip_folder)


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
    from wm_pipelines.runtime.random import keyed

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
def as_embedded(clip_folder, monkeypatch, tmp_path):
    """`clip_folder` among the embedded checkpoints, sealed."""
    import shutil

    from wm_pipelines import hub
    from wm_pipelines.config import WMConfig

    root = tmp_path / "embedded"
    shutil.copytree(clip_folder, root / "diorama-clip")
    words = "a photo of red green blue sphere".split()
    hub.seal(root / "diorama-clip", WMConfig(method="diorama-clip", vocabulary=words))
    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", root)
    return root

"""Six questions about clips and pictures, and a tiny model, made once."""

import pytest

from wm_pipelines.training import Recipe, build
from wm_pipelines.video_quiz.scenes import QuizClips

SMALL = {
    "width": 16, "layers": 1, "heads": 2, "inner": 32, "vision_width": 16, "vision_layers": 1, "vision_inner": 32,
    "size": 32,
}  # fmt: skip
FAMILIES = ["colour", "translation", "absent", "rotation"]
ASKED = {"length": 4, "sources": ["synthetic", "pictures"], "families": FAMILIES}


@pytest.fixture(scope="session")
def quiz_cache(tmp_path_factory):
    path = tmp_path_factory.mktemp("quiz") / "clips.safetensors"
    QuizClips(**ASKED, size=32, cache=str(path))
    return str(path)


@pytest.fixture
def quiz(quiz_cache):
    return QuizClips(**ASKED, size=32, cache=quiz_cache)


@pytest.fixture
def quiz_recipe(quiz_cache):
    def make(options=None, **fields):
        given = {"lr": 1e-2, "steps": 2, "batch_size": 4, "seed": 3, **fields}
        return Recipe(task="diorama-vlm", options={**SMALL, **ASKED, "cache": quiz_cache, **(options or {})}, **given)

    return make


@pytest.fixture
def quiz_task(quiz_recipe):
    return lambda options=None, **fields: build(quiz_recipe(options, **fields))

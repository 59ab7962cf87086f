"""A folder that a user saved before the house was laid out anew: its index names modules, so these never move."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAVED = Path(__file__).parent / "saved_before"
PINNED = {
    "control": ("wm_pipelines.flexecontrol.modeling", "FlexEControlModel"),
    "fps": ("wm_pipelines.mojito.videocrafter", "FpsEmbedding"),
    "head": ("wm_pipelines.kadaptation.modeling", "KAdaptationHead"),
    "intensity": ("wm_pipelines.mojito.modeling", "MotionIntensityModel"),
    "judge": ("wm_pipelines.diorama.judge", "DioramaJudge"),
    "learner": ("wm_pipelines.cpl.modeling", "CPLPromptLearner"),
    "quasi_attention": ("wm_pipelines.graph_transformer.modeling", "QuasiAttentionModel"),
    "transformer_control": ("wm_pipelines.flexecontrol.transformer", "FlexEControlTransformerModel"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PINNED)
def test_a_new_save_names_the_module_that_old_saves_name(name):
    module, kind = PINNED[name]
    saved = json.loads((SAVED / "model_index.json").read_text())[name]
    assert saved == [module, kind]
    code = f"import {module} as m; print(m.{kind}.__module__, m.ModelMixin.__name__)"  # the loader looks both up
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == [module, "ModelMixin"]


@pytest.mark.slow
def test_the_folder_loads_in_a_fresh_process_bit_for_bit():
    parts = ", ".join(PINNED)
    code = f"""
import hashlib, json
from diffusers import DiffusionPipeline
import {", ".join(module for module, _ in PINNED.values())}

class Parts(DiffusionPipeline):
    def __init__(self, {parts}):
        super().__init__()
        self.register_modules({", ".join(f"{part}={part}" for part in PINNED)})

found = {{}}
for name, part in Parts.from_pretrained({str(SAVED)!r}).components.items():
    digest = hashlib.sha256()
    for key, value in sorted(part.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.contiguous().numpy().tobytes())
    found[name] = digest.hexdigest()
print(json.dumps(found))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    out = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert json.loads(out.splitlines()[-1]) == json.loads((SAVED / "digests.json").read_text())

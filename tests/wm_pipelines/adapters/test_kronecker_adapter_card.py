"""A saved adapter where the package was not imported: its card says what to do, and what it says works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from peft import get_peft_model, inject_adapter_in_model
from torch import nn

import wm_pipelines
from wm_pipelines.adapters.kronecker import KroneckerConfig, save_adapter
from wm_pipelines.hub.doctor import describe, doctor

CONFIG = {"n": 4, "target_modules": ["q", "v"]}
FIRST = "import wm_pipelines.adapters.kronecker"


def code(folder):
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


def test_every_way_to_save_writes_the_import_first(make_stack, tmp_path):
    get_peft_model(make_stack(), KroneckerConfig(**CONFIG)).save_pretrained(tmp_path / "peft")
    model = inject_adapter_in_model(KroneckerConfig(**CONFIG), make_stack())
    save_adapter(model, tmp_path / "ours")
    save_adapter(model, tmp_path / "bare", card=False)
    for folder in ("peft", "ours"):
        text = (tmp_path / folder / "README.md").read_text()
        assert code(tmp_path / folder).startswith(FIRST) and text.startswith("---\n") and "library_name: peft" in text
    assert not (tmp_path / "bare" / "README.md").exists()


def test_a_card_that_is_there_is_kept(make_stack, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n\nWords.\n")
    model = get_peft_model(make_stack(), KroneckerConfig(**CONFIG))
    for _ in range(2):
        model.save_pretrained(tmp_path)
        save_adapter(model.get_base_model(), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count(FIRST) == 1 and "# Mine\n\nWords." in text and "license: mit" in text


LOAD = """
from torch import nn
base_model = nn.Sequential(nn.Linear(8, 8))
{first}
from peft import PeftModel
print(type(PeftModel.from_pretrained(base_model, {folder!r}).base_model).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "said"), [("", "KeyError: 'KRONECKER'"), (FIRST, "KroneckerModel")])
def test_in_a_process_of_its_own(tmp_path, first, said):
    config = KroneckerConfig(n=4, target_modules=["0"])
    get_peft_model(nn.Sequential(nn.Linear(8, 8)), config).save_pretrained(tmp_path)
    path = os.pathsep.join([str(Path(wm_pipelines.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    script = LOAD.format(first=first, folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert said in (run.stdout if first else run.stderr)


def test_the_doctor_explains_the_key_error():
    report = doctor(verify=False)
    assert report["adapters"]["known"] and report["adapters"]["import"] in FIRST
    line = next(line for line in describe(report) if line.startswith("adapters:"))
    assert FIRST in line and "KeyError: 'KRONECKER'" in line

"""A method is a folder: one that lies on the package's path is known everywhere, and no other file was touched."""

import importlib
import shutil
import sys

import pytest
from typer.testing import CliRunner

import wm_pipelines
from wm_pipelines import AutoWMPipeline, hub
from wm_pipelines.config import WMConfig, json_schema

FILES = {
    "__init__.py": "",
    "method.py": '''
from pydantic import Field
from wm_pipelines.methods import Method
from wm_pipelines.record import Record

class MadeUpConfig(Record):
    depth: int = Field(3, ge=1, description="how deep")

def _record(task, options):
    return {"method_config": {"depth": options["depth"]}}

METHODS = (
    Method(
        name="made-up", title="Made Up", about="It is made up. It does nothing.", hub_task="image-classification",
        settings=MadeUpConfig, paper="arXiv:1234.56789", pipeline="wm_pipelines.made_up.pipeline.MadeUpPipeline",
        tasks={"made-up": "wm_pipelines.made_up.training.MadeUpTask"}, record=_record,
    ),
)
''',
    "command.py": '''
def made_up(deep: int = 3) -> None:
    """Goes deep."""
    print(f"went {deep} deep")

def second(deep: int) -> None:
    """The folder's second command."""
    print(f"second, {deep}")
''',
    "pipeline.py": '''
from wm_pipelines.pipeline import WMPipeline

class MadeUpPipeline(WMPipeline):
    @classmethod
    def from_base(cls, base, folder, **kwargs):
        pipeline = cls()
        pipeline.base, pipeline.folder = base, folder
        return pipeline
''',
    "training.py": '''
import torch
from wm_pipelines.training import Task

class MadeUpTask(Task):
    def __init__(self, recipe):
        self.net = torch.nn.Linear(1, recipe.options["depth"])
    def modules(self):
        return {"net": self.net}
    def loss(self, indices, step, noise):
        return {"loss": self.net(noise.randn(indices, (1,), "x")).square().mean()}
    def export(self, folder):
        from safetensors.torch import save_file
        save_file(self.net.state_dict(), folder / "model.safetensors")
''',
    "recipes/made-up.yaml": "task: made-up\nsteps: 2\nbatch_size: 2\noptions: {depth: 5}\n",
}  # fmt: skip


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """The folder of a method that is not in the house, on the package's path."""
    for name, text in FILES.items():
        path = tmp_path / "elsewhere" / "made_up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(wm_pipelines, "__path__", [*wm_pipelines.__path__, str(tmp_path / "elsewhere")])
    importlib.invalidate_caches()
    yield tmp_path / "elsewhere" / "made_up"
    for name in [name for name in sys.modules if name.startswith("wm_pipelines.made_up")]:
        del sys.modules[name]
    vars(wm_pipelines).pop("made_up", None)


@pytest.fixture
def checkpoint(made_up, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    shutil.copy(hub.embedded("diorama-judge") / "config.json", folder)
    config = WMConfig(
        method="made-up",
        pipeline="MadeUpPipeline",
        base_model=hub.base_ref("diorama-judge"),
        method_config={"depth": 7},
    )
    hub.seal(folder, config)
    return folder


def wm(*arguments):
    from wm_pipelines.cli import app

    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_the_command_line_lists_and_runs_it(made_up):
    said = wm("run", "--help").output
    assert "made-up" in said and "Goes deep." in said and "second" in said and "mojito" in said
    assert wm("run", "made-up", "--deep", "4").output == "went 4 deep\n"
    assert wm("run", "second", "4").output == "second, 4\n"


def test_the_schema_has_its_settings(made_up):
    schema = json_schema()
    assert "made-up" in schema["properties"]["method"]["enum"]
    assert schema["$defs"]["MadeUpConfig"]["properties"]["depth"]["minimum"] == 1
    with pytest.raises(ValueError, match="(?s)method_config.depth.*greater than or equal to 1"):
        WMConfig(method="made-up", method_config={"depth": 0})


def test_its_card_is_written(checkpoint):
    hub.write_card(checkpoint)
    card = (checkpoint / "README.md").read_text()
    assert "# Made Up" in card and "It is made up." in card and "pipeline_tag: image-classification" in card
    assert hub.validate(checkpoint) == []


def test_the_loader_builds_its_pipeline_on_its_base(checkpoint):
    pipe = AutoWMPipeline.from_pretrained(checkpoint)
    assert type(pipe).__name__ == "MadeUpPipeline"
    assert (pipe.base, pipe.folder) == (hub.embedded("diorama-judge"), checkpoint)


def test_it_is_trained_by_its_recipe_and_sealed(made_up, tmp_path):
    from wm_pipelines.hub.sealing import seal_run
    from wm_pipelines.training import train_main

    assert train_main("made-up", None, tmp_path / "run").steps == 2
    config = seal_run(tmp_path / "run", tmp_path / "sealed")
    assert (config.method, config.pipeline, config.paper) == ("made-up", "MadeUpPipeline", "arXiv:1234.56789")
    assert config.method_config.depth == 5 and hub.verify(tmp_path / "sealed") == config


def test_without_it_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match="'made-up' is no method of this package"):
        WMConfig(method="made-up")
    assert "made-up" not in wm("run", "--help").output


def test_a_command_imports_its_own_folder_only():
    import subprocess

    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from wm_pipelines.cli import app\n"
        "assert CliRunner().invoke(app, ['run', 'mojito', '--help']).exit_code == 0\n"
        "print(sorted(m for m in sys.modules if m.endswith('.command') or m in ('torch', 'diffusers')))\n"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.strip() == "['wm_pipelines.mojito.command']"

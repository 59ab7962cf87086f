"""`wm run lid` on a tiny CLIP and a folder of pictures, and what it refuses."""

import json

import pytest
import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from typer.testing import CliRunner

from wm_pipelines import cli
from wm_pipelines.kadaptation.subspace.results import LIDResult
from wm_pipelines.kadaptation.subspace.run import files_of_classes, run, split_classes
from wm_pipelines.kadaptation.subspace.training import ClassificationTask
from wm_pipelines.media.pictures import save_image


@pytest.fixture
def clip(tmp_path):
    """Folder of a one-layer vision tower with its image processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPVisionConfig(
            hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
        )
        CLIPVisionModel(config).save_pretrained(tmp_path / "clip")
    size = {"shortest_edge": 8}
    CLIPImageProcessor(size=size, crop_size={"height": 8, "width": 8}).save_pretrained(tmp_path / "clip")
    return str(tmp_path / "clip")


@pytest.fixture
def pictures(tmp_path):
    """Two classes of five pictures: dark and bright."""
    for name, level in (("bright", 0.9), ("dark", 0.1)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(5):
            save_image(torch.full((3, 10, 12), level) + 0.02 * i, tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def test_command_writes_the_result_and_the_curves(clip, pictures, tmp_path):
    arguments = ["run", "lid", str(pictures), "--base", clip, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, [*arguments, "--seeds", "1", "--steps", "2", "--max-dim", "2"])
    assert done.exit_code == 0, done.output
    assert "head d=0 seed 0" in done.output and "head alone" in done.output
    found = LIDResult.load(tmp_path / "out" / "lid.json")
    assert [g.name for g in found.groups] == [f"vision_model.encoder.layers.0.{k}" for k in ("attention", "mlp")]
    assert found.groups[0].parameters == 4 * 72 and found.groups[1].parameters == 8 * 16 * 2 + 24
    assert len(found.groups[0].linears) == 4 and found.samples == 2
    assert json.loads((tmp_path / "out" / "lid.json").read_text())["kind"] == "lid"
    assert (tmp_path / "out" / "curves.svg").stat().st_size > 1000


def test_split_is_disjoint_and_has_every_class(pictures):
    parts = split_classes(files_of_classes(pictures))
    assert [len(part) for part in parts] == [6, 2, 2]
    assert len({file for part in parts for file, _ in part}) == 10
    assert all({label for _, label in part} == {0, 1} for part in parts)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pictures": "nowhere"}, "is not a folder"),
        ({"base": "nowhere"}, "not an embedded checkpoint"),
        ({"projection": "haar"}, "projection='haar'"),
        ({"steps": 0}, "steps=0"),
        ({"batch": -1}, "batch=-1"),
        ({"seeds": 0}, "seeds=0"),
    ],
)
def test_bad_arguments_are_refused(clip, pictures, tmp_path, change, said):
    arguments = {"pictures": pictures, "base": clip, "out": tmp_path / "out", **change}
    with pytest.raises(ValueError, match=said):
        run(**arguments)
    assert not (tmp_path / "out").exists()


def test_bad_folders_are_refused(clip, pictures, tmp_path):
    (pictures / "dark" / "0.png").rename(tmp_path / "0.png")
    for i in (1, 2):
        (pictures / "dark" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match="class 'dark' has 2 pictures; three or more"):
        run(pictures, clip)
    with pytest.raises(ValueError, match="has 0 sub-folders; a classifier needs at least 2"):
        run(pictures / "bright", clip)
    with pytest.raises(ValueError, match="is a file; name a folder"):
        run(pictures, clip, out=tmp_path / "0.png")
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    (tmp_path / "0.png").rename(pictures / "dark" / "0.png")
    with pytest.raises(ValueError, match="no preprocessor_config.json"):
        run(pictures, clip)


def test_another_kind_of_model_is_refused_by_name(pictures, tmp_path):
    config = SiglipVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    SiglipVisionModel(config).save_pretrained(tmp_path / "siglip")
    SiglipImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "siglip")
    with pytest.raises(ValueError, match="model_type 'siglip_vision_model' in its config.json, needs one of clip, "):
        run(pictures, str(tmp_path / "siglip"))


def test_task_keeps_the_rate_that_validates_best():
    model = torch.nn.Linear(4, 2)
    body = torch.nn.Parameter(torch.zeros(4))

    class Net(torch.nn.Module):
        def forward(self, x):
            return model(x + body)

    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    data = (x, (x[:, 0] > 0).long())
    losses = []
    for rates in ((0.0,), (1e3,), (0.0, 1e3)):
        with torch.no_grad():
            body.zero_(), model.weight.zero_(), model.bias.zero_()
        task = ClassificationTask(data, data, data, steps=20, batch=8, head_rate=0.1, rates=rates)
        task.train(Net(), list(model.parameters()), [body], seed=0)
        losses.append(task.loss(Net()))
        assert len(task.evaluate(Net())) == 20 and set(task.evaluate(Net())) <= {0.0, 1.0}
    assert losses[2] == min(losses[:2]) < max(losses[:2])

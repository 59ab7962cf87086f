import pytest
import torch

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import clear_relations
from wm_pipelines.discffusion.scenes import SceneTask, foils_of
from wm_pipelines.training import load_recipe, train
from wm_pipelines.training.task import KeyedNoise


def test_each_caption_is_true_of_its_own_scene_alone():
    data = DioramaDataset(split="train", length=200, num_objects=2, patterns=("plain",), name="discffusion")
    made = [found for n in range(80) if (found := foils_of(data.scene(n), n))]
    assert len(made) > 10
    for texts, scenes in made:
        for n, (text, scene) in enumerate(zip(texts, scenes, strict=True)):
            looks = {(o.colour, o.shape) for o in scene.objects}
            said = {(o["colour"], o["shape"]) for o in parse_caption(text).objects}
            assert said == looks and (n == 0) == (text == texts[0])
        first, second = scenes[0].objects
        assert (texts[3].split(), texts[0].split())[0] != texts[0].split()
        assert any((p, first.id, second.id) in clear_relations(scenes[0]) for p in (" ".join(texts[0].split()[3:-3]),))
        assert (" ".join(texts[0].split()[3:-3]), first.id, second.id) not in clear_relations(scenes[3])


@pytest.mark.parametrize("kind", ["uniform", "gradient"])
def test_a_run_exports_an_adapter_that_loads(kind, tmp_path):
    options = {"options.length": 3, "options.head_weights": kind, "options.margin": 5.0}
    given = {"steps": 2, "batch_size": 2, "warmup": 0, "save_every": 2, "log_every": 1, **options}
    from wm_pipelines.methods import recipes

    recipe = load_recipe(recipes()["discffusion"], given)
    task = SceneTask(recipe)
    assert {name.split(".")[0] for name, _ in task.trainable()} == {"denoiser"}
    again = [float(task.loss([0, 2], 1, KeyedNoise(0, 1))["loss"].detach()) for _ in range(2)]
    assert again[0] == again[1]
    train(task, recipe, tmp_path / "run")
    from wm_pipelines import DiscffusionPipeline, embedded

    pipe = DiscffusionPipeline.from_base(embedded("diorama-sd"), tmp_path / "run" / "export")
    assert (pipe.head_weights is None) == (kind == "uniform")
    size = sum(file.stat().st_size for file in (tmp_path / "run" / "export").iterdir())
    assert size <= 0.3e6
    assert any(bool(p.any()) for n, p in pipe.unet.named_parameters() if "lora_B" in n)
    assert torch.is_grad_enabled()

"""Local intrinsic dimension of pictures in memory: the same as of the folder that holds them."""

import json

import numpy as np
import pytest
import torch

from wm_pipelines import embedded
from wm_pipelines.clip.parts import image_processor, preprocess
from wm_pipelines.diorama.labelled import labelled_solids
from wm_pipelines.kadaptation.subspace.labelled import measure_labelled
from wm_pipelines.kadaptation.subspace.results import LIDResult
from wm_pipelines.kadaptation.subspace.run import load_tower, run
from wm_pipelines.media.pictures import save_image

OPTIONS = {"seeds": 1, "steps": 2, "max_dim": 2}


def test_pictures_in_memory_are_measured_as_those_of_a_folder(tmp_path):
    pictures, labels = labelled_solids("shape", 3, 32)
    pictures = (pictures * 255).round() / 255
    for n, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
        save_image(picture, tmp_path / "in" / label / f"{n:02}.png")
    folder = embedded("diorama-clip")
    processor, tower = image_processor(folder), load_tower(folder, 4)
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    found = measure_labelled(tower, lambda some: preprocess(processor, some), pictures, labels, **OPTIONS)
    of_folder = run(tmp_path / "in", "diorama-clip", tmp_path / "out", **OPTIONS, say=lambda line: None)
    assert json.dumps(found.to_dict()) == json.dumps(of_folder.to_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())
    assert LIDResult.from_dict(found.to_dict()) == found
    picture = found.picture()
    assert picture.mode == "RGB" and picture.width == 960 and len(np.unique(np.asarray(picture))) > 20


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", "b"] * 2, {}, "class 'a' has 2 pictures"),
        (["a"] * 6, {}, "`tower` has 2 classes, `labels` 1|class_names"),
        (["a", "b"] * 3, {"steps": 0}, "`steps` must be"),
        (["a", "b"] * 2 + ["a"], {}, "class 'b' has 2|labels has 5"),
    ],
)
def test_what_can_not_be_measured_is_refused_first(labels, options, message):
    tower = load_tower(embedded("diorama-clip"), 2)
    pictures = torch.zeros(len(labels), 3, 8, 8)
    with pytest.raises(ValueError, match=message):
        measure_labelled(tower, None, pictures, labels, **options)

"""Features from CLIP: what a capture is taught, and words that are looked up in features and not in names."""

from dataclasses import replace

import pytest
import torch

from wm_pipelines import Scene4D
from wm_pipelines.morpho4d.fitting import FitSettings, fit_scene
from wm_pipelines.morpho4d.heads import FeatureHead
from wm_pipelines.morpho4d.selection import TextQuery
from wm_pipelines.morpho4d.teacher import ClipTeacher, alone, teach

COLOURS = ("red", "blue", "green", "yellow")
AMONG = [f"a {colour} {shape}" for colour in COLOURS for shape in ("cube", "sphere", "cone")]


@pytest.fixture(scope="module")
def teacher():
    return ClipTeacher.load()


@pytest.fixture(scope="module")
def taught(capture, teacher):
    return teach(capture, teacher)


@pytest.fixture(scope="module")
def fitted(taught):
    capture, heads, concepts = taught
    scene, _ = fit_scene(capture, FitSettings(steps=90, static=150, dynamic=90, nodes=8))
    return replace(scene, heads=heads, concepts=concepts, names={i: f"object {i}" for i in scene.names})


def test_a_picture_of_one_object_alone():
    picture, mask = torch.rand(3, 6, 8), torch.zeros(6, 8, dtype=torch.bool)
    mask[2:4, 3:5] = True
    floor = torch.arange(8).expand(6, 8) < 2
    seen = alone(picture, mask, floor)
    assert torch.equal(seen[:, mask], picture[:, mask])
    assert torch.allclose(seen[:, ~mask], picture[:, floor].mean(1)[:, None].expand(-1, int((~mask).sum())))
    assert (alone(picture, mask, torch.zeros_like(mask))[:, ~mask] == 0.5).all()


def test_a_head_makes_what_clip_says_of_what_a_pixel_has(capture, teacher, taught):
    features, head = taught[0].features, taught[1]["clip"]
    assert features.shape == (3, 4, 8, 32, 32) and float(features.abs().max()) <= 1.001 and head.parameters == 9 * 128
    for i in (1, 2):
        mask = capture.masks[0, 0] == i
        said = teacher.pictures([alone(capture.video[0, 0], mask, capture.masks[0, 0] == 0)])[0]
        decoded = head(features[0, 0][:, mask].T)
        assert torch.nn.functional.cosine_similarity(decoded, said[None]).min() > 0.95


def test_words_choose_by_features_what_no_name_says(fitted, teacher):
    text = TextQuery(teacher, AMONG, temperature=teacher.temperature)
    with pytest.raises(ValueError, match="query 'red' matched 0"):
        fitted.select("red")
    assert fitted.select("red", text=text).object_ids == [1]
    chosen = fitted.select("blue thing", text=replace(text, among=[*AMONG, "a blue thing"]))
    assert chosen.object_ids == [2] and chosen.margin > 0
    mine = fitted.gaussians.object_id == 1
    loose = fitted.select("red", vote=False, text=text).mask >= 0.5
    assert float((loose & mine).sum()) / float((loose | mine).sum()) > 0.8
    assert fitted.select("floor", text=text).object_ids == [0]
    with pytest.raises(ValueError, match="query 'yellow' matched 0 of 240"):
        fitted.select("yellow", text=text)


def test_an_edit_by_features_is_that_by_number_and_is_kept(fitted, teacher, tmp_path):
    edited = fitted.edit("remove the red", text=TextQuery(teacher, AMONG, temperature=teacher.temperature))
    plain = fitted.edit({"op": "remove", "target": {"object_id": 1}})
    assert torch.equal(edited.at(1).opacities, plain.at(1).opacities)
    with pytest.raises(ValueError, match="query 'red' matched 0"):
        edited.select("red", text=TextQuery(teacher, AMONG, temperature=teacher.temperature))
    edited.save_pretrained(tmp_path)
    again = Scene4D.from_pretrained(tmp_path)
    assert torch.equal(again.at(1).opacities, edited.at(1).opacities)
    assert torch.equal(again.heads["clip"].weights[0], fitted.heads["clip"].weights[0])


def test_what_does_not_fit_is_named(capture, teacher, fitted):
    with pytest.raises(ValueError, match="asks for the head 'sam2'; the scene has clip"):
        fitted.select("red", text=TextQuery(teacher, AMONG, head="sam2"))
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`temperature` is"):
            TextQuery(teacher, AMONG, temperature=wrong)
    with pytest.raises(ValueError, match="`every` is 0"):
        teach(capture, teacher, every=0)
    with pytest.raises(ValueError, match="`seen` is"):
        teach(capture, teacher, capture.video[:1])
    with pytest.raises(ValueError, match="`heads.clip` takes 3 features; the scene has 8"):
        replace(fitted, heads={"clip": FeatureHead((torch.ones(4, 3),), (torch.ones(4),))}).check()

"""The embedded scene and its demonstration: what they hold and leave."""

import json

import pytest
import torch
from PIL import Image

from wm_pipelines import Scene4D
from wm_pipelines.diorama.scene import COLOURS, SHAPES
from wm_pipelines.hub import embedded
from wm_pipelines.morpho4d.demo import EDITS, compare, demo
from wm_pipelines.morpho4d.selection import TextQuery
from wm_pipelines.morpho4d.teacher import ClipTeacher
from wm_pipelines.morpho4d.worlds import embedded_cameras, embedded_world, object_names

pytestmark = pytest.mark.slow


def test_the_embedded_scene_is_that_of_the_world_with_its_true_cameras():
    scene = Scene4D.from_pretrained("morpho4d")
    assert scene.names == object_names(embedded_world()) and scene.frames == 12 and list(scene.heads) == ["clip"]
    assert len(scene.cameras) == len(embedded_cameras()) - 2
    assert not scene.edits and compare(scene, embedded_world())["psnr"] > 24


def test_words_are_looked_up_in_its_features():
    scene = Scene4D.from_pretrained(embedded("morpho4d"))
    teacher = ClipTeacher.load()
    phrases = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    text = TextQuery(teacher, phrases, temperature=teacher.temperature)
    scene.names = dict.fromkeys(scene.names, "thing")
    for i, colour in enumerate(("red", "blue", "green"), 1):
        assert scene.select(colour, text=text).object_ids == [i]


def test_the_demonstration_leaves_views_edits_a_page_and_figures(tmp_path):
    shown = demo(tmp_path)
    folder = tmp_path
    assert shown.page == "scene.html" and all((folder / name).is_file() for name, _ in shown.files)
    assert [tile.said for tile in shown.row[2:]] == [words for words, _ in EDITS]
    assert {p.name for p in folder.iterdir()} == {
        "camera.gif", "edits.png", "physics.png", "scene.html", "scene.json"
    }  # fmt: skip
    found = json.loads((folder / "scene.json").read_text())
    assert [edit["said"] for edit in found["edits"]] == [words for words, _ in EDITS]
    for edit in found["edits"]:
        assert edit["psnr"] > found["camera"]["psnr"] - 1
    with Image.open(folder / "edits.png") as sheet, Image.open(folder / "camera.gif") as gif:
        assert sheet.width > 4 * 128 and sheet.height > 9 * 128 and gif.n_frames == 12


def test_an_edit_of_the_demonstration_changes_what_it_says_and_its_world_does_so_too():
    scene, world = Scene4D.from_pretrained(embedded("morpho4d")), embedded_world()
    for said, change in EDITS:
        edited = compare(scene.edit(said), change(world))
        wrong = compare(scene, change(world))
        assert edited["psnr"] > wrong["psnr"] + 0.5
        assert not torch.equal(edited["true"], compare(scene, world)["true"])

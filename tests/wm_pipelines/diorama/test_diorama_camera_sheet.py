import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from wm_pipelines.cli.house import app
from wm_pipelines.diorama.camera_sheet import FRAMES, write_camera_sheet
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Camera, Scene

NAMES = ["cameras.gif", "cameras.json", "cameras.png", "scene.json"]


def test_sheet_gif_and_matrices_of_one_moving_scene(tmp_path):
    out, size = tmp_path / "new" / "out", 24
    assert sorted(p.name for p in write_camera_sheet(out, seed=7, cameras=6, size=size)) == NAMES
    assert sorted(p.name for p in out.iterdir()) == NAMES
    scene = Scene.from_json((out / "scene.json").read_text())
    assert scene.floor_pattern == "chequered" and scene.duration == FRAMES and any(o.motion for o in scene.objects)
    rows = json.loads((out / "cameras.json").read_text())["cameras"]
    ring = [Camera(tuple(r["eye"]), tuple(r["target"]), r["fov_deg"]) for r in rows]
    pictures = render(scene, (0, 4), size, cameras=ring).rgb[0].movedim(2, -1).numpy()
    with Image.open(out / "cameras.png") as image:
        sheet = np.asarray(image.convert("RGB")) / 255
    assert sheet.shape[:2] == (6 * size + 5 * 2, 7 * size + 6 * 2)
    for v in range(6):
        for n in range(2):
            y, x = v * (size + 2), n * (size + 2)
            assert np.abs(sheet[y : y + size, x : x + size] - pictures[v, n]).max() < 0.01
    with Image.open(out / "cameras.gif") as gif:
        assert gif.n_frames == FRAMES and gif.size == (3 * size + 4, 2 * size + 2)
    # the matrices put the middle of an object into its box
    boxes = render(scene, (0,), size, ("amodal_boxes",), cameras=ring).amodal_boxes[0, :, 0]
    for v, row in enumerate(rows):
        k, pose = torch.tensor(row["K"]), torch.tensor(row["T_cw"])
        for n, o in enumerate(scene.objects):
            p = k @ (pose @ torch.tensor([*o.centre, 1.0]))[:3]
            place = p[:2] / p[2] / size
            assert (boxes[v, n, :2] < place).all() and (place < boxes[v, n, 2:]).all()


def test_the_command_writes_the_same_files_for_the_same_seed(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = ["diorama", "--cameras", "3", "--seed", str(seed), "--size", "8", "--out", str(tmp_path / name)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0 and all(name in done.output for name in NAMES)
    for name in NAMES:
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b and (a != c or name == "cameras.json")


@pytest.mark.parametrize(("options", "name"), [({"cameras": 0}, "count|cameras"), ({"size": 0}, "size")])
def test_bad_values_write_nothing(tmp_path, options, name):
    with pytest.raises(ValueError, match=name):
        write_camera_sheet(tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_an_error_and_stays(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="out"):
        write_camera_sheet(tmp_path / "out", cameras=1, size=4)
    assert (tmp_path / "out").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1

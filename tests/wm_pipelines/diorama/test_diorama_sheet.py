import numpy as np
import pytest
from PIL import Image

from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.diorama.sheet import write_sheet


def test_sheet_gif_and_json_of_one_scene(tmp_path, capsys):
    paths = write_sheet(tmp_path / "new" / "out", seed=7, size=24)
    assert sorted(p.name for p in (tmp_path / "new" / "out").iterdir()) == ["scene.gif", "scene.json", "sheet.png"]
    assert {p.name for p in paths} == {"scene.gif", "scene.json", "sheet.png"} and all(p.exists() for p in paths)
    by_name = {p.name: p for p in paths}
    scene = Scene.from_json(by_name["scene.json"].read_text())
    said = capsys.readouterr().out
    assert all(o.colour in said and o.shape in said for o in scene.objects)
    with Image.open(by_name["scene.gif"]) as gif:
        assert gif.n_frames == scene.duration and gif.size == (24, 24)
    with Image.open(by_name["sheet.png"]) as image:
        sheet = np.asarray(image.convert("RGB")) / 255
    # eight maps by four times, a gap of 2 between
    assert sheet.shape[0] in range(4 * 24 + 6, 4 * 24 + 12) and sheet.shape[1] in range(8 * 24 + 14, 8 * 24 + 20)
    first = render(scene, size=24).rgb[0, 0].movedim(0, -1).numpy()
    corners = [(y, x) for y in range(4) for x in range(4)]
    assert min(np.abs(sheet[y : y + 24, x : x + 24] - first).max() for y, x in corners) < 0.01


def test_the_same_seed_writes_the_same_files(tmp_path):
    a, b = (write_sheet(tmp_path / name, seed=3, size=8) for name in "ab")
    for x, y in zip(a, b, strict=True):
        assert x.read_bytes() == y.read_bytes()
    c = write_sheet(tmp_path / "c", seed=4, size=8)
    assert a[0].read_bytes() != c[0].read_bytes()


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises((ValueError, OSError), match="out"):
        write_sheet(tmp_path / "out", size=8)

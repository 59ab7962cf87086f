"""The twelve drawings and how pictures made from them are judged."""

import numpy as np
import pytest
from PIL import Image

from wm_pipelines.config import WMConfig
from wm_pipelines.diorama.metrics import Found
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.conditions.preparing import prepare
from wm_pipelines.hub import embedded

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(script):
    return script("flexecontrol_drawings")


def seen(thing, box, shape=None):
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return Found(thing.colour, shape or thing.shape, 0.05, tuple(box), centre)


def test_the_twelve_say_what_they_show(bench):
    words = set(WMConfig.load(embedded("diorama-sd")).vocabulary)
    drawings = bench.twelve()
    assert len({d.name for d in drawings}) == 12
    for drawing in drawings:
        assert set(drawing.prompt.replace(",", "").split()) <= words and drawing.phrase in drawing.prompt
        named = {(o["colour"], o["shape"]) for o in parse_caption(drawing.prompt).objects}
        assert named == {(t.colour, t.shape) for t in drawing.things}
        edges = Condition.from_photo("canny", Image.fromarray(drawing.picture), fit="crop")
        map = prepare([edges], 64, 64, 16)[0].image[0].numpy() > 0.5
        for x0, y0, x1, y1 in drawing.boxes():
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
            inside = map[int(64 * y0) : round(64 * y1) + 1, int(64 * x0) : round(64 * x1) + 1]
            assert inside.any(0).mean() > 0.7 and inside.any(1).mean() > 0.7  # its outline goes from side to side


def test_a_picture_is_judged_by_place_colour_shape_and_nothing_else(bench):
    drawing = bench.twelve()[0]
    cube, disc = drawing.things
    here, there = drawing.boxes()
    good = [seen(cube, here), seen(disc, there)]
    assert bench.faults_of(drawing, good) == ({"placed": True, "shaped": True, "alone": True}, [])
    figures, wrong = bench.faults_of(drawing, [seen(cube, here, "cone"), seen(disc, there)])
    assert figures == {"placed": True, "shaped": False, "alone": False} and wrong == ["red cube: a cone"]
    figures, wrong = bench.faults_of(drawing, [*good, seen(disc, here)])
    assert figures == {"placed": True, "shaped": True, "alone": False} and wrong == ["also a blue sphere"]
    figures, wrong = bench.faults_of(drawing, [seen(cube, there), seen(disc, here)])
    assert not figures["placed"] and wrong == ["red cube: elsewhere", "blue sphere: elsewhere"]
    figures, wrong = bench.faults_of(drawing, good[:1])
    assert not figures["placed"] and wrong == ["blue sphere: missing"]
    x0, y0, x1, y1 = here
    for box in ((x0, y0, x0 + 0.3 * (x1 - x0), y1), (x0 - 0.2, y0 - 0.2, x1 + 0.2, y1 + 0.2)):
        assert not bench.faults_of(drawing, [seen(cube, box), good[1]])[0]["placed"]
    shifted = np.array(here) + 0.15 * (x1 - x0)
    assert bench.faults_of(drawing, [seen(cube, shifted), good[1]])[0]["placed"]


def test_a_smoke_run_writes_its_row_and_its_sheet(bench, script, tmp_path):
    bench.main(["--smoke", f"--out={tmp_path / 'rows.jsonl'}", f"--sheet={tmp_path / 'sheet.png'}"])
    (row,) = script("records").read(tmp_path / "rows.jsonl")
    assert row["n"] == 1 and list(row["of_each"]) == [bench.twelve()[0].name]
    assert 0 <= row["alone"] <= row["shaped"] <= row["placed"] <= 1
    assert [e["metric"] for e in row["evaluation"]] == ["placed", "shaped", "alone"]
    assert Image.open(tmp_path / "sheet.png").width == 12 + 3 * (bench.TILE + 12)

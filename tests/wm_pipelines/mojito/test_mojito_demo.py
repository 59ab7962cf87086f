"""`make demo`'s moving part on a tiny base: what it leaves, not how good it looks."""

import json
import re

import pytest
from PIL import Image

from wm_pipelines.mojito import demo as module

pytestmark = pytest.mark.slow


@pytest.fixture
def made(bases, tmp_path, monkeypatch):
    """The folder that the demo leaves with a tiny base and a judge that has learnt nothing."""
    from wm_pipelines import MojitoPipeline, MotionIntensityModel, WMConfig
    from wm_pipelines.diorama.judge import DioramaJudge

    DioramaJudge((8, 8, 8)).save_pretrained(tmp_path / "judge")
    shared = bases("animatediff")[0]
    parts = shared.components | {"intensity": MotionIntensityModel.from_denoiser(shared.unet, "temporal")}
    pipe = MojitoPipeline(**parts)
    pipe.wm_config = WMConfig(method="mojito", pipeline="MojitoPipeline")
    monkeypatch.setattr(module, "load", lambda: pipe)
    monkeypatch.setattr(module, "embedded", lambda name: tmp_path / "judge")
    monkeypatch.setattr(module, "STEPS", 2)
    return tmp_path / "demo", module.demo(tmp_path / "demo", seed=5)


def test_demo_leaves_clips_grids_a_page_and_a_report(made):
    folder, shown = made
    report = json.loads((folder / "motion.json").read_text())
    assert report["steps"] == 2 and report["seed"] == 5
    assert len(report["trajectories"]) == 3 and len(report["intensities"]) == 5
    assert all(0 <= c["iou"] <= 1 and 0 <= c["in_box"] <= 1 and c["updates"] > 0 for c in report["trajectories"])
    clips = report["trajectories"] + report["intensities"]
    for clip in clips:
        with Image.open(folder / clip["gif"]) as gif:
            assert gif.n_frames == 16
    for name, rows in (("trajectories.png", 3), ("intensities.png", 5)):
        with Image.open(folder / name) as grid:
            assert grid.width > grid.height / rows * 5
    page = (folder / "index.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 8 and all(s.startswith("data:image/gif;base64,") for s in sources)
    assert all(clip["title"] in page for clip in clips)
    assert [name for name, _ in shown.files] == [clip["gif"] for clip in clips] and shown.page == "index.html"
    assert len(shown.row) == 5

"""The demonstration: what its page and its report say, and what it says where there are no models yet."""

import json
import re

import pytest
from PIL import Image

from wm_pipelines import DynamicsModelPipeline, WMConfig, WorldModelPipeline, hub
from wm_pipelines.world_model.demo import demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(token_models, tmp_path_factory):
    """Untrained models for the demonstration's pictures of 16 x 16."""
    folder = tmp_path_factory.mktemp("models")
    for method, kind in (("world-model", WorldModelPipeline), ("dynamics", DynamicsModelPipeline)):
        pipe = kind(**token_models.make_parts("plain"))
        pipe.wm_config = WMConfig(method=method, method_config={"tuning": "full"})
        pipe.save_pretrained(folder / method)
    return folder / "world-model", folder / "dynamics"


def test_three_actions_with_their_candidates_and_the_truth(models, tmp_path):
    shown = demo(tmp_path, 1, models)
    folder = tmp_path
    report, page = json.loads((folder / "world.json").read_text()), (folder / "index.html").read_text()
    steps = report["steps"]
    assert f"accepts {sum(step['accepted'] for step in steps)} of 3" in shown.said and len(steps) == 3
    assert [tile.said for tile in shown.row] == [
        "before",
        *(said for s in steps[:1] for said in (s["action"], "truth")),
    ]
    for number, step in enumerate(steps, 1):
        found = step["candidates"]
        names = [f"{number}-candidate-{n}.png" for n in (1, 2, 3, 4)]
        assert sorted(c["picture"] for c in found) == names and step["action"] in page
        kept = [c["score"] for c in found if not c["copy"]]
        assert kept == sorted(kept, reverse=True) and all((folder / c["picture"]).is_file() for c in found)
        assert all(f"{c['score']:.3f}" in page for c in found)
        assert step["accepted"] == (found[0]["margin"] > 0 and not found[0]["copy"])
    assert Image.open(folder / "strip.png").size == (5 * 48 + 4 * 4, 3 * 48 + 2 * 4)
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 1 + 3 * 5 and all(source.startswith("data:image/png;base64,") for source in sources)
    demo(tmp_path / "again", 1, models)
    assert json.loads((tmp_path / "again" / "world.json").read_text())["steps"] == steps


def test_without_models_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "embedded_names", lambda: ["diorama-sd", "dynamics"])
    shown = demo(tmp_path / "world")
    assert shown.said == "There is no embedded world-model yet." and not shown.files
    monkeypatch.setattr(hub, "embedded_names", lambda: [])
    assert demo(tmp_path / "world").said == "There is no embedded world-model and no embedded dynamics yet."
    assert not (tmp_path / "world").exists()

"""`make demo` on tiny parts: what it leaves, not how good it looks."""

import json
import re

import pytest
import torch

from wm_pipelines.flexecontrol import demo as module

pytestmark = pytest.mark.slow


@pytest.fixture
def made(tiny_sd, tiny_control, tmp_path, monkeypatch):
    """The folder that the demo leaves with a tiny base and adapter and a judge that has learnt nothing."""
    from wm_pipelines.diorama.judge import DioramaJudge
    from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline

    DioramaJudge((8, 8, 8)).save_pretrained(tmp_path / "judge")
    monkeypatch.setattr(module, "load", lambda: FlexEControlPipeline(**tiny_sd, control=tiny_control))
    monkeypatch.setattr(module, "embedded", lambda name: tmp_path / "judge")
    monkeypatch.setattr(module, "STEPS", 1)
    module.demo(tmp_path / "demo", seed=5)
    return tmp_path / "demo"


def test_demo_leaves_a_page_a_report_and_pictures(made):
    report = json.loads((made / "report.json").read_text())
    cases = report["cases"]
    counts = [len(case["conditions"]) for case in cases]
    assert len(cases) >= 6 and {1, 2, 3} <= set(counts)
    assert report["seeds"] == [5, 6] and report["seconds"]["all"] > 0
    assert {"edge_f1", "miou", "binding", "binding_chance"} <= set(report["mean"])
    bound = [c for c in cases if sum(" on “" in name for name in c["conditions"]) == 2]
    assert bound and len({name.split(" on ")[0] for name in bound[0]["conditions"]}) == 1  # two of one type
    assert len({name.split(" on ")[1] for name in bound[0]["conditions"]}) == 2  # two phrases
    for case in cases:
        assert case["seconds"] > 0 and all((made / name).is_file() for kind in case["files"].values() for name in kind)
    assert bound[0]["files"]["attention"]

    page = (made / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources and all(s.startswith("data:image/png;base64,") for s in sources)  # nothing outside the file
    assert all(case["title"] in page for case in cases)
    assert not [p for p in made.iterdir() if p.name.startswith(".")]


def test_what_is_wrong_is_said_of_each_picture(made):
    cases = json.loads((made / "report.json").read_text())["cases"]
    assert all(len(case["faults"]) == len(case["files"]["pictures"]) for case in cases)
    assert all(case["wrong"] == sum(map(bool, case["faults"])) for case in cases)
    page = (made / "index.html").read_text()
    assert all(fault in page for case in cases for fault in case["faults"] if fault)


def test_the_true_render_is_as_asked_and_another_scene_is_not():
    from wm_pipelines.diorama.judge import DioramaJudge
    from wm_pipelines.hub import embedded

    judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()
    for case in (c for c in module.cases() if c.truth is not None):
        turned = case.truth.flip(2)
        right, wrong = module.faults(judge, torch.stack([case.truth, turned]), case)
        assert right == "" and wrong, case.title


def test_without_checkpoints_it_leaves_nothing(tmp_path, monkeypatch):

    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", tmp_path / "none")
    with pytest.raises(ValueError, match="'flexecontrol'"):
        module.demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()

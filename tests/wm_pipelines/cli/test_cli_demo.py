"""`wm demo`: one page over what the demos left, and one demo alone."""

import json

import pytest
import torch
from typer.testing import CliRunner

from wm_pipelines.cli import app
from wm_pipelines.cli.gallery import show_all
from wm_pipelines.media.pages import Shown
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import Tile


def made_up(title, place, picture):
    def demo(out, seed):
        if not picture:
            return Shown(title, "Nothing yet.", place)
        out.mkdir(parents=True)
        save_image(torch.rand(3, 8, 8), out / "a.png")
        return Shown(
            title, f"Seed {seed}.", place, [Tile(torch.rand(3, 8, 8), "words")], [("a.png", "a <b>")], "a.png"
        )

    return demo


def test_sections_stand_by_place_with_their_pictures_inside(tmp_path):
    demos = {"b": made_up("Second", 2, True), "a": made_up("First", 1, True), "c": made_up("Third", 3, False)}
    lines = []
    show_all(demos, tmp_path, 7, lines.append)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [s["title"] for s in report["sections"]] == ["First", "Second", "Third"]
    assert lines[:2] == ["Second. Seed 7.", "First. Seed 7."] and str(tmp_path / "index.html") in lines[-1]
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "a &lt;b&gt;" in page and 'href="a/a.png"' in page
    assert page.index("First") < page.index("Second") < page.index("Third") and "Nothing yet." in page
    assert (tmp_path / "overview.png").is_file()


def test_without_pictures_there_is_no_overview(tmp_path):
    show_all({"c": made_up("Third", 3, False)}, tmp_path, 0, lambda line: None)
    assert not (tmp_path / "overview.png").exists() and (tmp_path / "index.html").is_file()


def test_a_method_without_a_demo_is_refused_by_name(tmp_path):
    done = CliRunner().invoke(app, ["demo", "flexcontrol", "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, ValueError) and "'flexcontrol'" in str(done.exception)
    assert "flexecontrol" in str(done.exception) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_one_demo_alone(tmp_path):
    done = CliRunner().invoke(app, ["demo", "comclip", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["comclip", "index.html", "overview.png", "report.json"]

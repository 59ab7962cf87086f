"""One page: what every report's page has in common stands once."""

import base64
from importlib.resources import files
from pathlib import Path

import pytest

from wm_pipelines.media.pages import write_page

TEMPLATES = sorted(
    path
    for path in Path(str(files("wm_pipelines"))).glob("*/templates/*.html")
    if path.name not in ("page.html", "scene.html")  # the page itself, and Morpho4D's player
)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_extend_the_page(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('{% extends "page.html" %}') and "<style>" not in text and "<html" not in text


def test_a_page_is_one_file_with_its_pictures(tmp_path, monkeypatch):
    (tmp_path / "templates").mkdir()
    (tmp_path / "__init__.py").touch()
    (tmp_path / "templates" / "own.html").write_text(
        '{% extends "page.html" %}{% block title %}{{ report.name }}{% endblock %}'
        '{% block page %}<img src="{{ inline("a.png") }}">{% endblock %}'
    )
    monkeypatch.syspath_prepend(tmp_path.parent)
    (tmp_path / "a.png").write_bytes(b"picture")
    write_page(tmp_path.name, "own.html", tmp_path, {"name": "<b>"})
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert "<title>&lt;b&gt;</title>" in page and base64.b64encode(b"picture").decode() in page

"""The API reference: it is built without a warning, and every public name and every call is in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import wm_pipelines

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_reference_is_built_without_warnings_and_has_every_public_name(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "reference.py"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    front = (tmp_path / "wm_pipelines.html").read_text(encoding="utf-8")
    sections = set(re.findall(r'<section id="(\w+)">', front))
    assert set(wm_pipelines.__all__) <= sections
    pages = "".join(page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html"))
    for name in wm_pipelines.__all__:
        if name.endswith("Pipeline") and name not in ("WMPipeline", "AutoWMPipeline"):
            called = name.replace("VLM4D", "VideoMCQ").replace("MMWorld", "VideoMCQ")
            assert f'id="{called}.__call__"' in pages, name
    assert 'id="FlexEControlPipelineOutput"' in pages and "Error parsing" not in done.stderr
    assert str(ROOT) not in pages

"""The demonstration on the embedded checkpoint: what it leaves and says."""

import pytest
from PIL import Image

from wm_pipelines.comclip.demo import demo

pytestmark = pytest.mark.slow


def test_what_it_leaves_and_says(tmp_path):
    shown = demo(tmp_path)
    for name, words in shown.files:
        assert words and Image.open(tmp_path / name).width > 100
    caption, tone = shown.row[0].said, shown.row[0].tone
    true, foil = (float(part.split()[-1].strip(".;”")) for part in shown.said.split("; "))
    assert f"“{caption}”" in shown.said and tone == ("good" if true > foil else "bad")
    parts = [tile.said.split("'")[1] for tile in shown.row[1:3]]
    assert len(set(parts)) == 2 and all(part in caption for part in parts)

"""The demonstration on the embedded checkpoint: what it leaves and says."""

import pytest
from PIL import Image

from wm_pipelines.kadaptation.demo import demo

pytestmark = pytest.mark.slow


def test_what_it_leaves_and_says(tmp_path):
    shown = demo(tmp_path)
    for name, words in shown.files:
        assert words and Image.open(tmp_path / name).width > 100
    right = sum(tile.tone == "good" for tile in shown.row)
    assert len(shown.row) == 5 and 0 <= right <= 5
    said = int(shown.said.split()[0])
    assert 30 < said <= 60  # one in four by chance

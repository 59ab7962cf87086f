"""The demonstration on the embedded checkpoint: what it leaves and says."""

import pytest
from PIL import Image

from wm_pipelines.cpl.demo import demo

pytestmark = pytest.mark.slow


def test_what_it_leaves_and_says(tmp_path):
    shown = demo(tmp_path)
    for name, words in shown.files:
        assert words and Image.open(tmp_path / name).width > 100
    assert len(shown.row) == 4 and int(shown.said.split()[0]) > 20  # one in eight by chance
    words = shown.files[0][1]
    assert " of 128 entries" in words

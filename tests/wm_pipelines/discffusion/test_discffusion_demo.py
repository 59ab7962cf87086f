import re

import pytest

from wm_pipelines.discffusion.demo import demo

pytestmark = pytest.mark.slow


def test_the_demo_ranks_five_captions_of_each_picture(tmp_path):
    shown = demo(tmp_path, seed=0)
    after, before = map(int, re.findall(r"in (\d)", shown.said))
    assert after > before and len(shown.row) == 5
    assert sum(tile.tone == "good" for tile in shown.row) >= after - 3
    assert all((tmp_path / name).is_file() for name, _ in shown.files)

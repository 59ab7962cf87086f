import pytest

from wm_pipelines.discffusion.demo import demo

pytestmark = pytest.mark.slow


def test_the_demo_ranks_five_captions(tmp_path):
    shown = demo(tmp_path, seed=0)
    lines = (tmp_path / "ranking.txt").read_text().splitlines()
    assert len(lines) == 5 and sum(line.endswith("(true)") for line in lines) == 1
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert ("the true caption" in shown.said) == lines[0].endswith("(true)") == (shown.row[0].tone == "good")
    assert (tmp_path / "picture.png").is_file() and all((tmp_path / name).is_file() for name, _ in shown.files)

import pytest

from wm_pipelines.discffusion.demo import demo

pytestmark = pytest.mark.slow


def test_the_demo_ranks_five_captions(tmp_path):
    said = demo(tmp_path, seed=0)
    lines = (tmp_path / "discffusion_ranking.txt").read_text().splitlines()
    assert len(lines) == 5 and sum(line.endswith("(true)") for line in lines) == 1
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert ("the true caption" in said) == lines[0].endswith("(true)")
    assert (tmp_path / "discffusion_words.png").is_file()

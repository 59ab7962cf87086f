"""Two runs, and many: pairing, refusals, and figures against counting by hand."""

import numpy as np
import pytest

from wm_pipelines.evaluation.mcq.compare import compare, group_of, leaderboard
from wm_pipelines.evaluation.mcq.rows import Row
from wm_pipelines.evaluation.mcq.summary import summarise
from wm_pipelines.evaluation.statistics import holm, mcnemar_p
from wm_pipelines.runtime.random import keyed


def row(i, hit, model="m", **more):
    fields = {
        "uid": f"s/t/{i}",
        "cluster": f"v{i // 2}",
        "model": model,
        "protocol": "direct",
        "control": "full",
        "options": 4,
        "right": ("A",),
        "letter": "A" if hit else "B",
        "facet": f"f{i % 3}",
        "prompt_sha": f"p{i}",
        "frames_sha": f"f{i}",
    }
    return Row(**(fields | more))


def run(values, model="m", **more):
    return [row(i, value, model, **more) for i, value in enumerate(values)]


def test_the_comparison_is_what_counting_gives():
    rng = keyed("compare test")
    for _ in range(5):
        a, b = (rng.random((2, 40)) < 0.6).tolist()
        found = compare(run(a, "one"), list(reversed(run(b, "two"))))
        only_a, only_b = sum(x > y for x, y in zip(a, b, strict=True)), sum(x < y for x, y in zip(a, b, strict=True))
        assert (found.test.only_first, found.test.only_second) == (only_a, only_b)
        assert found.test.p == mcnemar_p(only_a, only_b) and found.n == 40
        assert found.difference.value == pytest.approx(np.mean(a) - np.mean(b)) and found.difference.clusters == 20
        assert len(found.only_first) == only_a and found.first == "one (direct)"
        back = compare(run(b, "two"), run(a, "one"))
        assert back.difference.value == pytest.approx(-found.difference.value) and back.test.p == found.test.p


def test_equal_runs_have_no_gap_to_detect():
    found = compare(run([True, False] * 4), run([True, False] * 4))
    assert found.test.p == 1 and found.detectable is None and found.difference.value == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"frames_sha": "x"}, "12% of items used other frames"),
        ({"prompt_sha": "x"}, "12% of items used other prompts"),
        ({"prompt_sha": None, "frames_sha": None}, "12% of items do not say"),
    ],
)
def test_runs_that_saw_something_else_are_refused(more, said):
    first, second = run([True] * 25), run([False, True] * 12 + [True])
    second[:3] = [row(i, False, **more) for i in range(3)]
    with pytest.raises(ValueError, match=f"paired test refused: {said}.*allow_mismatch"):
        compare(first, second)
    found = compare(first, second, allow_mismatch=True)
    assert found.other_frames + found.other_prompts + found.unknown == pytest.approx(3 / 25)


def test_blind_runs_have_no_frames_and_are_compared():
    first, second = (run(values, control="blind", frames_sha=None) for values in ([True] * 6, [False] * 6))
    assert compare(first, second, "blind").test.only_first == 6


def test_what_was_not_answered_or_is_not_shared_is_left_out():
    first, second = run([True] * 10), run([False] * 8)
    second[0] = row(0, False, letter=None, error="timed out")
    found = compare(first, second)
    assert (found.n, found.unanswered, found.unshared) == (7, 1, 2)


def test_other_right_answers_are_other_items():
    first, second = run([True] * 4), run([True] * 4)
    second[1] = row(1, True, right=("B",), letter="B")
    with pytest.raises(ValueError, match="s/t/1: A is right in `first`, B in `second`.*1 of 4"):
        compare(first, second)
    assert compare(first, second, allow_mismatch=True).n == 4


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ([], "no row"),
        (run([True] * 3, control="blind"), "no row"),
        (run([True]) * 2, "twice"),
        (run([True] * 3) + [row(9, True, "other")], "2 runs"),
        ([row(50, True)], "in common"),
        (run([True]), "two videos"),
    ],
)
def test_what_can_not_be_compared(second, said):
    with pytest.raises(ValueError, match=said):
        compare(run([True] * 4), second)


def test_the_leaderboard():
    rng = keyed("leaderboard test")
    runs = {f"m{k}": (rng.random(60) < 0.2 + 0.2 * k).tolist() for k in range(4)}
    board = leaderboard([r for model, values in runs.items() for r in run(values, model)])
    assert [rank.model for rank in board] == sorted(runs, key=lambda model: -sum(runs[model]))
    assert [rank.adjusted for rank in board[:-1]] == holm([rank.p for rank in board[:-1]])
    assert board[-1].p is None and board[0].gap > 0
    for rank in board:
        values = np.array(runs[rank.model])
        assert rank.micro.value == pytest.approx(values.mean())
        assert rank.macro == pytest.approx(np.mean([values[k::3].mean() for k in range(3)]))


def test_format_failures_and_missing_replies_are_apart():
    rows = run([True] * 8)
    rows[0] = row(0, False, letter=None, raw="hm.")
    rows[1] = row(1, False, letter=None, raw="hm", truncated=True)
    rows[2] = row(2, False, letter=None, error="429")
    rank = next(r for r in leaderboard(rows + run([False] * 8, "other")) if r.model == "m")
    assert (rank.n, rank.unanswered) == (7, 1)
    assert rank.format_failures == rank.truncated == pytest.approx(1 / 7) and rank.micro.value == pytest.approx(5 / 7)


def test_groups():
    assert group_of(row(4, True)) == "f1" and group_of(row(4, True, annotations={"discipline": "Game"})) == "Game"
    assert group_of(row(4, True, annotations={"x": True}), "x") == "True"
    with pytest.raises(ValueError, match="`by` is 'colour'"):
        group_of(row(4, True), "colour")
    with pytest.raises(ValueError, match="1 runs"):
        leaderboard(run([True, False]))


def test_what_is_refused_is_quoted_briefly():
    rows = [row(0, True, "m"), row(1, True, "x" * 9000)]
    with pytest.raises(ValueError, match="`rows` are of 2 models") as said:
        summarise(rows)
    assert len(str(said.value)) < 4000

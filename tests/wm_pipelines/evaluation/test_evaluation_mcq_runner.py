"""The runner: what every control gives for models whose knowledge is known, resuming, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from wm_pipelines.evaluation.mcq.controls import NOT_SHOWN
from wm_pipelines.evaluation.mcq.frames import sample
from wm_pipelines.evaluation.mcq.models import FunctionModel, Reply
from wm_pipelines.evaluation.mcq.rows import read_rows
from wm_pipelines.evaluation.mcq.runner import evaluate
from wm_pipelines.media.video import write_video

ALL = ("blind", "blind:grey", "blind:other", "options_only", "one_frame", "shuffle", "reverse", "mirror", "circular",
       "frames:2", "oracle_state", "dummy")  # fmt: skip
HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def score(found, control):
    return found.report["controls"][control]["score"]


def test_a_model_that_sees_is_right_where_it_can_see_and_only_there(toy):
    found = evaluate(toy.items(40), toy.sees, controls=ALL)
    for control in ("full", "mirror", "reverse", "circular", "frames:2", "oracle_state", "dummy:real"):
        assert score(found, control) == 1, control
    for control in ("one_frame:first", "one_frame:middle", "one_frame:last"):
        assert score(found, control) == 0, control  # it says that nothing moves
    blind = [score(found, c) for c in ("blind", "blind:grey", "options_only")]
    assert len(set(blind)) == 1 and blind[0] < 0.5
    assert score(found, "shuffle") < 0.8 and score(found, "blind:other") < 0.6
    report = found.report
    assert report["pairs"]["mirror"]["score"] == report["circular"]["score"] == 1
    assert report["circular"]["chance"] == 0.25**4
    assert report["decomposition"]["vision"]["value"] == pytest.approx(1 - blind[0])
    assert report["decomposition"]["perception"]["value"] == report["decomposition"]["reasoning"]["value"] == 0
    assert report["dummy"] == {"answers": 1.0, "refuses": 0.0}  # of noise it says A
    for part in ("100.0 % [", "of 40", "blind", "mirror 100.0 %", "0 format failures", "0 not answered", "frames 8"):
        assert part in found.headline


def test_a_text_prior_has_no_pair_and_gains_nothing_from_frames(toy):
    items = toy.items(20, way="left") + [toy.item_of(100 + n, way="right") for n in range(10)]
    found = evaluate(items, toy.says_left, controls=("blind", "shuffle", "mirror", "reverse", "circular"))
    assert score(found, "full") == score(found, "blind") == pytest.approx(2 / 3)
    assert found.report["pairs"]["mirror"]["score"] == found.report["pairs"]["reverse"]["score"] == 0
    assert found.report["circular"]["score"] == pytest.approx(2 / 3)  # which moving options about does not show
    assert found.report["decomposition"]["vision"]["value"] == 0
    assert found.report["drops"]["shuffle"] == found.report["drops"]["shuffle"] | {"value": 0.0, "p": 1.0}


def test_always_a_is_exposed_by_circular_and_by_its_letters(toy):
    found = evaluate(toy.items(40), toy.says_a, controls=("circular",))
    circular, position = found.report["circular"], found.report["position"]
    assert circular["score"] == 0 and circular["mean_of_shifts"] == pytest.approx(0.25)
    assert position["said"]["A"] == 40 and position["recall"]["A"] == 1 and position["recall"]["B"] == 0
    assert position["rstd"] == pytest.approx(np.std([1, 0, 0, 0])) and position["p"] < 1e-6
    assert "pairs not asked" in found.headline and "blind not asked" in found.headline


def test_an_order_blind_model_does_not_drop_when_frames_are_shuffled(toy):
    found = evaluate(toy.items(40), toy.bag, controls=("shuffle", "reverse"))
    assert found.report["drops"]["shuffle"]["value"] == 0 and found.report["pairs"]["reverse"]["score"] == 0
    assert 0.25 < score(found, "full") < 0.75


def test_one_that_knows_nothing_is_at_chance_everywhere(toy):
    found = evaluate(toy.items(200), toy.draws, controls=("blind",))
    low, high = found.report["controls"]["full"]["low"], found.report["controls"]["full"]["high"]
    assert low < 0.25 < high and score(found, "full") == score(found, "blind")


def test_what_the_model_is_shown(toy):
    item, other = toy.item_of(0, way="left"), toy.item_of(2, way="up")
    shown = {}

    def looks(frames, prompt, options):
        shown.setdefault(prompt.split("\n")[0] + str(options), []).append(frames)
        return "A"

    found = evaluate([item, other], looks, controls=("mirror", "reverse", "frames:3", "blind:grey", "circular"),
                     num_frames=4)  # fmt: skip
    of = {(row.control, row.shift): row for row in found.rows if row.uid == item.uid}
    assert of["full", 0].frame_indices == sample(4, 12) == (0, 3, 7, 11)
    assert of["reverse", 0].frame_indices == (11, 7, 3, 0) and of["frames:3", 0].frame_indices == (0, 5, 11)
    assert of["blind:grey", 0].frame_indices is None
    seen = [frames for frames in shown[item.question + str(dict(item.options))] if frames is not None]
    assert any(np.array_equal(f, item.video[[0, 3, 7, 11], :, ::-1]) for f in seen)
    assert any((f == 128).all() and f.shape == (4, 24, 24, 3) for f in seen)
    shas = {of[name, 0].frames_sha for name in ("full", "mirror", "reverse", "frames:3")}
    assert len(shas) == 4 and of["circular", 1].frames_sha == of["full", 0].frames_sha
    # moved on by one: the item's A is shown as B, so that a reply "A" is the item's last
    assert of["circular", 1].letter == "D" and of["circular", 1].said == "A"
    assert len({row.prompt_sha for row in found.rows if row.uid == item.uid}) == 4


def test_samplers_are_those_of_the_three_systems():
    assert sample(8, 100) == (0, 14, 28, 42, 56, 70, 84, 99)
    assert sample(8, 100, "vlmevalkit")[0] == 11 and sample(8, 100, "vlmevalkit")[-1] == 88
    assert sample(8, 100, "transformers") == (0, 12, 25, 37, 50, 62, 75, 87)
    for name in ("linspace", "transformers", "vlmevalkit"):
        for count in (1, 2, 7):
            found = sample(count, 7, name)
            assert len(found) == count and list(found) == sorted(found) and 0 <= found[0] and found[-1] < 7


def test_truth_follows_the_frames_that_are_shown(toy):
    item = toy.item_of(0, way="left")
    up = item.letters_of("up")[0]

    def decides(indices):
        assert list(indices) == sorted(indices)
        return None if len(indices) < 2 else up if len(indices) == 2 else item.answer

    items = [toy.item_of(0, way="left", decides=decides)]
    found = evaluate(items, toy.sees, controls=("one_frame:first", "frames:2", "mirror", "shuffle"))
    of = {row.control: row for row in found.rows}
    assert of["full"].decided and of["full"].right == (item.answer,)
    assert of["frames:2"].decided and of["frames:2"].right == (up,) and not of["frames:2"].correct
    assert of["one_frame:first"].decided is False and of["one_frame:first"].right == (item.answer,)
    assert of["mirror"].right == item.letters_of("right") and of["shuffle"].decided is None
    assert found.report["controls"]["one_frame:first"]["undecided"] == 1


def test_dummy_frames_ask_whether_anything_is_there(toy):
    def careful(frames, prompt, options):
        seen = np.isin(frames, (0, 255)).all()
        return toy.letter_of(toy.way_of(frames) if seen else NOT_SHOWN, options)

    assert evaluate(toy.items(12), careful, controls=("dummy",)).report["dummy"] == {"answers": 0.0, "refuses": 0.0}
    refuser = evaluate(toy.items(12), lambda frames, prompt, options: list(options)[-1], controls=("dummy",))
    assert refuser.report["dummy"] == {"answers": 0.0, "refuses": 1.0}


def test_loglik_ties_and_format_failures_and_truncation_are_told_apart(toy):
    def scores(frames, prompt, options):
        return {letter: -1.0 if text in ("left", "up") else -2.0 for letter, text in options.items()}

    found = evaluate(toy.items(8), scores, protocol="loglik", controls=())
    for row in found.rows:
        assert row.stage == "tie" and sum(row.probabilities) == pytest.approx(1, abs=1e-5)
        assert row.letter == min(x for x in "ABCD" if row.probabilities["ABCD".index(x)] > 0.3)
    assert found.report["controls"]["full"]["ties"] == 8
    replies = iter([Reply(text="no idea"), Reply(text="First, the", truncated=True), Reply(error="429"), Reply("A")])
    found = evaluate(toy.items(4), lambda *_: next(replies), protocol="cot", controls=())
    full = found.report["controls"]["full"]
    assert (full["format_failures"], full["truncated"], full["not_answered"], full["answered"]) == (1, 1, 1, 3)
    assert full["n"] == 3 and "1 format failures; 1 cut off; 1 not answered" in found.headline


@pytest.mark.slow
def test_it_goes_on_where_it_was_killed_and_asks_nothing_twice(tmp_path):
    """kill -9; each question leaves a mark in a log before it is answered."""
    script = textwrap.dedent(f"""
        import os, sys, time
        sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]
        from conftest import item_of
        from wm_pipelines.evaluation.mcq.runner import evaluate
        def slow(frames, prompt, options):
            with open("asked.log", "a") as log:
                log.write("x")
            time.sleep(0.01)
            return "A"
        print("ready", flush=True)
        evaluate([item_of(n) for n in range(10)], slow, out="out", controls=("blind", "circular"))
    """)
    asked, rows = tmp_path / "asked.log", tmp_path / "out" / "rows.jsonl"
    for kill_at in (17, None):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE)
        process.stdout.readline()
        while kill_at is not None and (not asked.exists() or asked.stat().st_size < kill_at):
            assert process.poll() is None
        if kill_at is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0 and len(read_rows(rows)) == 50
    assert 50 <= asked.stat().st_size <= 51  # the question that was open at the kill, and no other


def test_a_run_that_is_done_asks_nothing_and_one_that_was_not_answered_is_asked_again(toy, tmp_path):
    items, calls = toy.items(6), []

    def model(frames, prompt, options):
        calls.append(prompt)
        return Reply(error="timeout") if len(calls) % 3 == 0 else Reply(text="A")

    first = evaluate(items, model, out=tmp_path, controls=("blind",))
    assert len(calls) == 12 and first.report["controls"]["full"]["not_answered"] == 2
    while any(row.error for row in read_rows(tmp_path / "rows.jsonl")):
        evaluate(items, model, out=tmp_path, controls=("blind",))
    assert len(calls) == 17  # of four that failed one failed once more
    whole = evaluate(items, model, out=tmp_path, controls=("blind",))
    assert len(calls) == 17 and whole.report["controls"]["full"]["not_answered"] == 0
    grown = evaluate([*items, toy.item_of(9)], model, out=tmp_path, controls=())
    assert len(calls) == 18 and len(grown.rows) == 7 and len(read_rows(tmp_path / "rows.jsonl")) == 13
    with pytest.raises(ValueError, match="another num_frames: 8, not 4"):
        evaluate(items, model, out=tmp_path, num_frames=4)


def test_a_video_or_weights_that_changed_are_not_taken_for_the_old_ones(toy, tmp_path):
    calls = []

    def model(frames, prompt, options):
        calls.append(prompt)
        return "A"

    left, right = toy.item_of(0, way="left"), toy.item_of(0, way="left", video=toy.clip_of("right"))
    for item, count in ((left, 1), (left, 1), (right, 2), (right, 2)):
        evaluate([item], model, out=tmp_path, controls=())
        assert len(calls) == count and len(read_rows(tmp_path / "rows.jsonl")) == 1
    other = FunctionModel(model)
    other.weights = "others"
    with pytest.raises(ValueError, match="another weights: None, not 'others'"):
        evaluate([left], other, out=tmp_path, controls=())


def test_files_of_a_run(toy, tmp_path):
    found = evaluate(toy.items(8), toy.bag, out=tmp_path, controls=("blind", "mirror", "circular", "dummy"))
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["items"] == 8
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for part in ("Controls", "Position", "By family", "By third", "To look at", "data:image/png;base64,", "McNemar"):
        assert part in page, part
    assert sorted(read_rows(tmp_path / "rows.jsonl"), key=str) == sorted(found.rows, key=str)
    again = tmp_path / "again"
    evaluate(toy.items(8)[::-1], toy.bag, out=again, controls=("mirror", "dummy", "circular", "blind"))
    assert (again / "rows.jsonl").read_bytes() == (tmp_path / "rows.jsonl").read_bytes()


def test_videos_from_files_missing_broken_and_short(toy, tmp_path):
    path = write_video(list(toy.clip_of("left", frames=10, size=32)), tmp_path / "a.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    good = [toy.item_of(n, way="left", video=path) for n in range(2)]
    gone = [toy.item_of(5, video=tmp_path / "gone.mp4"), toy.item_of(6, video=tmp_path / "gone.mp4")]
    broken = toy.item_of(7, video=tmp_path / "broken.mp4")
    with pytest.raises(ValueError, match=r"toy/square/5: .*gone.mp4 not found; .*on_missing='skip'.* 2 of 4 items"):
        evaluate(good + gone, toy.says_a, controls=())
    with pytest.raises(ValueError, match=r"toy/square/7: .*broken.mp4.*1 of 3 items"):
        evaluate([*good, broken], toy.says_a, controls=())
    found = evaluate([*good, *gone, broken], toy.says_left, controls=(), on_missing="skip", out=tmp_path / "out")
    assert set(found.report["skipped"]) == {"toy/square/5", "toy/square/6", "toy/square/7"} and len(found.rows) == 2
    assert all(row.correct for row in found.rows) and found.rows[0].frames_sha == found.rows[1].frames_sha
    with pytest.raises(ValueError, match=r"the clip has 10 frames, 16 were asked for.*pad='repeat'.*at most 10"):
        evaluate(good, toy.says_a, controls=(), num_frames=16)
    padded = evaluate(good, toy.says_a, controls=(), num_frames=16, pad="repeat")
    assert len(padded.rows[0].frame_indices) == 16 and padded.rows[0].frame_indices[-1] == 9


def test_frames_of_files_are_rgb(toy, tmp_path):
    red = np.zeros((8, 32, 32, 3), np.uint8)
    red[:, :, :, 0] = 255
    seen = []
    item = toy.item_of(0, video=write_video(list(red), tmp_path / "red.mp4"))
    evaluate([item], lambda frames, *_: seen.append(frames) or "A", controls=(), num_frames=2)
    assert seen[0].shape == (2, 32, 32, 3) and seen[0][..., 0].min() > 200 and seen[0][..., 2].max() < 60


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocol": "guess"}, "`protocol`"),
        ({"controls": "blind"}, "`controls` is 'blind'"),
        ({"controls": ("blurred",)}, "`controls` has 'blurred'"),
        ({"controls": ("frames:0",)}, "frames:0"),
        ({"num_frames": 0}, "`num_frames`"),
        ({"sampler": "random"}, "`sampler`"),
        ({"pad": "zero"}, "`pad`"),
        ({"template": "{question}"}, "`template`"),
        ({"template": "{question} {options} {x}"}, "`template`"),
        ({"seed": -1}, "`seed`"),
        ({"max_new_tokens": 0}, "`max_new_tokens`"),
        ({"on_missing": "guess"}, "`on_missing`"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_asked(toy, settings, words):
    def never(*_):
        raise AssertionError("asked")

    with pytest.raises(ValueError, match=words):
        evaluate(toy.items(2), never, **settings)


def test_controls_that_an_item_has_no_answer_for(toy):
    items = [*toy.items(3), toy.item_of(8, transforms={}, state=None)]
    with pytest.raises(ValueError, match=r"toy/square/8 has no map of answers for .*'mirror'.* 1 of 4 items"):
        evaluate(items, toy.says_a, controls=("mirror",))
    found = evaluate(items, toy.sees, controls=("mirror", "oracle_state"), unfit="skip")
    assert found.report["unfit"] == {"mirror": 1, "oracle_state": 1}
    assert found.report["controls"]["mirror"]["n"] == 3 and found.report["controls"]["full"]["n"] == 4
    with pytest.raises(ValueError, match="1 of 1 items"):
        evaluate(items[3:], toy.says_a, controls=("mirror",), unfit="skip")
    with pytest.raises(ValueError, match="no `video`"):
        evaluate([toy.item_of(0, video=None)], toy.says_a, controls=("blind",))
    with pytest.raises(ValueError, match="`model` returned int"):
        evaluate(items, lambda *_: 3, controls=())
    with pytest.raises(ValueError, match="each of A, B, C, D"):
        evaluate(items, lambda *_: {"A": 1.0}, controls=(), protocol="loglik")

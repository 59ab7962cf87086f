"""Questions about clips, their twins, and training on them: what is shown, what is asked, what the loss is on."""

import json

import numpy as np
import pytest
import torch

from wm_pipelines.diorama.questions import FAMILIES as KNOWN
from wm_pipelines.training import KeyedNoise, build, train
from wm_pipelines.video_quiz.asking import IGNORED, batches
from wm_pipelines.video_quiz.metrics import CONTROLS, by_family, probabilities, right
from wm_pipelines.video_quiz.scenes import CLIPS, EVENTS, PICTURES, QuizClips


def test_families_are_shared_out_by_what_they_show():
    told = {name for name, family in KNOWN.items() if family.told}
    assert {*PICTURES, *CLIPS, *EVENTS} == set(KNOWN) - told


def test_clips_are_kept_and_numbered(quiz, quiz_cache):
    assert [len(quiz.clip(n)) for n in range(quiz.length)] == [8, 8, 8, 8, 1, 1, 1, 1]
    assert [quiz.source(n) for n in (0, 3, 4, 7)] == ["synthetic", "synthetic", "pictures", "pictures"]
    again = QuizClips(4, ["synthetic", "pictures"], families=["colour", "translation", "absent", "rotation"], size=32)
    assert again.questions == quiz.questions
    assert all(torch.equal(a, b) for a, b in zip(again.rgb, quiz.rgb, strict=True))
    other = QuizClips(1, ["synthetic"], families=["translation"], split="val", size=16)
    assert other.questions[0] not in quiz.questions
    with pytest.raises(ValueError, match="holds other clips"):
        QuizClips(4, ["synthetic"], size=32, cache=quiz_cache)


def test_twins_show_the_flipped_and_the_reversed_clip(quiz):
    for n in range(quiz.length):
        question, clip = quiz.twin(n, None)
        mirrored = quiz.twin(n, "mirror")
        assert torch.equal(mirrored[1], clip.flip(-1)) and mirrored[0].right == question.mirror[question.right]
        back = quiz.twin(n, "reverse")
        if len(clip) == 1:
            assert back is None
        else:
            assert torch.equal(back[1], clip.flip(0)) and back[0].right == question.reverse[question.right]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"length": 0}, "`length` is 0; an integer of 1 or more"),
        ({"length": 2, "events": -1}, "`events` is -1"),
        ({"length": 2, "clip_frames": 4}, "`clip_frames` is 4; an integer of 8 to 64"),
        ({"length": 2, "frames": 17}, "`frames` is 17; an integer of 1 to 16"),
        ({"length": 2, "sources": ["real", "real"]}, "`sources` is"),
        ({"length": 2, "sources": []}, "`sources` is"),
        ({"length": 2, "sources": "films"}, "`sources` is"),
        ({"length": 2, "split": "dev"}, "`split` is 'dev'"),
        ({"length": 2, "composition": "some"}, "`composition` is 'some'"),
        ({"length": 2, "families": ["waving"]}, "`families` has 'waving'"),
        ({"length": 2, "families": ["colour"], "sources": ["synthetic"]}, "has none that `sources`"),
    ],
)
def test_bad_arguments_are_named(given, said):
    with pytest.raises(ValueError, match=said):
        QuizClips(**given)


def test_bad_options_are_named(quiz_task):
    with pytest.raises(ValueError, match="unknown 'widht', did you mean 'width'"):
        quiz_task({"widht": 3})
    for name in ("open", "twins"):
        with pytest.raises(ValueError, match=rf"options\.{name} is 1\.5"):
            quiz_task({name: 1.5})


def test_samples_show_and_say_what_is_true(quiz_task):
    task = quiz_task({"twins": 0.7, "open": 0.4})
    quiz, kinds = task.clips, set()
    for step in range(40):
        for index in range(task.length):
            sample = task.sample(index, KeyedNoise(0, step))
            question, clip = quiz.questions[index], quiz.clip(index)
            shown = {
                "as it is": torch.equal(sample.clip, clip), "mirror": torch.equal(sample.clip, clip.flip(-1)),
                "reverse": len(clip) > 1 and torch.equal(sample.clip, clip.flip(0)),
            }  # fmt: skip
            ways = {name for name, yes in shown.items() if yes}
            allowed = {question.right} if "as it is" in ways else {getattr(question, w)[question.right] for w in ways}
            lines = dict(line.split(". ", 1) for line in sample.text.split("\n") if line[1:3] == ". ")
            assert bool(lines) == (sample.answer in lines)
            if lines:
                assert set(lines.values()) == set(question.options) and lines[sample.answer] in allowed
            else:
                assert sample.text == question.text and sample.answer in allowed
            kinds |= {(way, bool(lines)) for way in ways}
    assert len(kinds) == 6


def test_the_loss_is_on_the_answer_alone(quiz_task):
    task = quiz_task()
    tokenizer = task.processor.tokenizer
    samples = [task.sample(index, KeyedNoise(0, 0)) for index in range(task.length)]
    for batch in batches(samples, task.processor):
        for row, ids, targets in zip(batch.rows, batch.ids, batch.targets, strict=True):
            said = targets[targets != IGNORED]
            assert tokenizer.decode(said, skip_special_tokens=True) == samples[row].answer
            assert said[-1] == tokenizer.eos_token_id
            first = int((targets != IGNORED).float().argmax())
            assert tokenizer.convert_ids_to_tokens(int(ids[first])) == "<assistant>"


def test_a_blind_run_is_shown_nothing(quiz_task):
    task = quiz_task({"blind": True})
    assert all(task.sample(n, KeyedNoise(0, n)).clip is None for n in range(task.length))
    task.loss([0, 1, 2], 0, KeyedNoise(0, 0))["loss"].backward()
    assert all(p.grad is None for p in task.model.model.vision_tower.parameters())
    assert "without pictures" in task.data


def test_a_run_trains_resumes_and_exports(quiz_recipe, tmp_path):
    recipe = quiz_recipe({"twins": 0.0, "open": 0.0}, log_every=4, steps=16, batch_size=4, lr=2e-2)
    record = train(build(recipe), recipe, tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert record.steps == 16 and log[-1]["loss"] < log[0]["loss"] - 1
    fresh = build(quiz_recipe())
    before = fresh.model.lm_head.weight.clone()
    fresh.load_weights(str(tmp_path / "run" / "export"))
    assert not torch.equal(before, fresh.model.lm_head.weight)
    chosen = probabilities(fresh.model, fresh.processor, fresh.clips.questions, [None] * fresh.length)
    assert np.allclose(chosen.sum(1), 1)


def test_controls_and_families_are_scored(quiz_task, quiz):
    task = quiz_task()
    task.model.eval()
    found = right(task.model, task.processor, quiz)
    assert set(found) == set(CONTROLS) and np.isnan(found["reverse"][4:]).all()
    rows = by_family(quiz, found)
    assert set(rows) == {("synthetic", f) for f in ("translation", "absent", "rotation")} | {("pictures", "colour")}
    for row in rows.values():
        assert 0 < row["best"] < 1 and 0 <= row["full"] <= 1
    # who answers by the text alone gets no pair whose answers differ
    blind = {**found, "full": found["blind"]}
    for name in ("mirror", "reverse"):
        cases = [quiz.twin(n, name) for n in range(quiz.length)]
        blind[name] = np.array(
            [
                np.nan if case is None
                else probabilities(task.model, task.processor, [case[0]], [None]).argmax(1)[0] == case[0].answer
                for case in cases
            ]
        )  # fmt: skip
    pairs = [v for row in by_family(quiz, blind).values() for k, v in row.items() if k.endswith("pair")]
    assert pairs and set(pairs) == {0.0}

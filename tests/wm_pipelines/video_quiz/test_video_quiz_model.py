"""diorama-vlm as a file: stock classes load it with nothing of ours; its processor makes the tokens of training."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from wm_pipelines.diorama.questions import QUESTION_VOCABULARY
from wm_pipelines.evaluation.mcq.features import provided
from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.pipeline import VideoMCQPipeline
from wm_pipelines.evaluation.mcq.prompts import TEMPLATES
from wm_pipelines.training import KeyedNoise
from wm_pipelines.video_quiz.asking import IGNORED, Asked, answer_logits, ask, batches, pixels
from wm_pipelines.video_quiz.modeling import build_vlm, build_vlm_processor
from wm_pipelines.video_quiz.training import SIZES
from wm_pipelines.video_quiz.words import vocabulary

LOADED = """
import sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model, processor = (kind.from_pretrained({folder!r}) for kind in (AutoModelForImageTextToText, AutoProcessor))
assert model.dtype == torch.float32, model.dtype
frames = [Image.new("RGB", (90, 70), (20 * n, 0, 0)) for n in range(8)]
said = [{{"role": "user", "content": [*({{"type": "image", "image": f}} for f in frames),
                                     {{"type": "text", "text": "which way?"}}]}}]
inputs = processor.apply_chat_template(
    said, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
assert out.shape[1] > inputs.input_ids.shape[1]
assert not any(name.startswith("wm_pipelines") for name in sys.modules)
"""


@pytest.fixture
def exported(quiz_task, tmp_path):
    task = quiz_task()
    task.export(tmp_path / "vlm")
    return task, tmp_path / "vlm"


def test_the_shipped_size_is_within_its_bounds():
    with torch.device("meta"):
        processor = build_vlm_processor()
        model = build_vlm(processor, **SIZES)
    count = sum(p.numel() for p in model.parameters())
    assert count < 2_900_000 and 2 * count < 6e6
    assert all(type(part).__module__.startswith("transformers.") for part in (model, processor))


@pytest.mark.slow
def test_stock_classes_load_it_in_a_process_without_us(exported, tmp_path):
    code = LOADED.format(folder=str(exported[1]))
    bare = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=bare, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_training_sees_what_the_processor_makes(exported, quiz):
    task, folder = exported
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    for index in range(quiz.length):
        question, clip = quiz.questions[index], quiz.clip(index)
        text = ask(question.text, question.options)
        (batch,) = batches([Asked(text, question.letter, clip)], task.processor)
        frames = [Image.fromarray(np.asarray(frame.permute(1, 2, 0))) for frame in clip]
        content = [*({"type": "image", "image": f} for f in frames), {"type": "text", "text": text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        assert batch.ids[0, :-1].tolist() == inputs.input_ids[0].tolist()
        torch.testing.assert_close(pixels(clip), inputs.pixel_values, atol=1e-6, rtol=0)
        theirs = model(**inputs).logits[0, -1]
        torch.testing.assert_close(answer_logits(model, batch, torch.device("cpu"))[0], theirs, atol=1e-4, rtol=1e-4)


def test_a_batch_gives_what_each_sample_gives_alone(quiz_task, quiz):
    task = quiz_task()
    samples = [
        Asked(ask(q.text, q.options), q.letter if n % 2 else q.right, None if n == 3 else quiz.clip(n))
        for n, q in enumerate(quiz.questions)
    ]
    alone = {}
    for n, sample in enumerate(samples):
        (batch,) = batches([sample], task.processor)
        alone[n] = answer_logits(task.model, batch, task.device)
    seen = []
    for batch in batches(samples, task.processor):
        each = (batch.targets != IGNORED).sum(1).tolist()
        for row, logits in zip(batch.rows, answer_logits(task.model, batch, task.device).split(each), strict=True):
            torch.testing.assert_close(logits, alone[row], atol=1e-4, rtol=1e-4)
            assert batch.closed[batch.rows.index(row)] == bool(row % 2)
            seen.append(row)
    assert sorted(seen) == list(range(len(samples)))


def test_every_word_is_a_token_and_letters_of_options_keep_their_case():
    tokenizer = build_vlm_processor().tokenizer
    for word in (*QUESTION_VOCABULARY, *vocabulary()):
        assert len(tokenizer(word).input_ids) == 1, word
    for letter in "ABCDEF":
        for text in (letter, f" {letter}", f"({letter})", f"{letter}.", f"\n{letter}. left"):
            assert letter in tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids), text
        small = tokenizer(f"{letter.lower()} {letter}x x{letter}").input_ids
        assert letter not in tokenizer.convert_ids_to_tokens(small)
    for template in TEMPLATES.values():
        asked = template.format(question="Which way?", options="A. left\nB. Right")
        assert tokenizer.unk_token_id not in tokenizer(asked).input_ids
        assert not any(token.startswith("##") for token in tokenizer.convert_ids_to_tokens(tokenizer(asked).input_ids))
    spelled = tokenizer("zebra7").input_ids
    assert tokenizer.unk_token_id not in spelled and tokenizer.decode(spelled) == "zebra7"


def test_a_turns_text_stands_before_its_pictures_in_any_order():
    processor = build_vlm_processor(32, 16)
    text, picture = {"type": "text", "text": "which way?"}, {"type": "image"}
    ways = [[text, picture, picture], [picture, picture, text], [picture, text, picture]]
    asked = [[{"role": "user", "content": way}] for way in ways]
    said = {processor.apply_chat_template(turns, add_generation_prompt=True) for turns in asked}
    assert said == {"<user>which way?<image><image><assistant>"}
    turns = [{"role": "user", "content": "which way?"}, {"role": "assistant", "content": "left"}]
    assert processor.apply_chat_template(turns) == "<user>which way?<assistant>left<end>"


# features from elsewhere


@functools.cache
def clip_tower():
    from transformers import CLIPModel

    from wm_pipelines.hub import embedded

    return CLIPModel.from_pretrained(embedded("diorama-clip")).vision_model.eval()


def clip_features(tokens=4, width=16):
    """Patch features of the embedded CLIP, averaged to `tokens` places and cut to `width`."""
    tower = clip_tower()

    @torch.no_grad()
    def provide(frames):
        large = torch.nn.functional.interpolate(frames, 64, mode="bilinear", align_corners=False)
        grid = tower(large).last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
        side = int(tokens**0.5)
        return torch.nn.functional.adaptive_avg_pool2d(grid, side).flatten(2).transpose(1, 2)[..., :width]

    return provide


def test_a_provider_stands_in_for_the_tower_and_leaves_no_trace(quiz_task, quiz):
    task = quiz_task()
    index = next(n for n in range(quiz.length) if len(quiz.clip(n)) == 8)
    question = quiz.questions[index]
    sample = Asked(ask(question.text, question.options), question.letter, quiz.clip(index))
    (batch,) = batches([sample], task.processor)
    own = answer_logits(task.model, batch, task.device)
    with provided(task.model, clip_features(), 8) as model:
        given = answer_logits(model, batch, task.device)
        loss = task.loss([index] * 4, 0, KeyedNoise(0, 0))["loss"]
        loss.backward()
        assert task.model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0
        frames = torch.zeros(8, 3, 32, 32)
        with pytest.raises(ValueError, match=r"no whole clips of 8"):
            model.model.vision_tower(frames[:5])
    assert not torch.allclose(own, given, atol=1e-3)
    assert torch.equal(own, answer_logits(task.model, batch, task.device))
    for features in (clip_features(width=8), clip_features(tokens=9)):
        with provided(task.model, features) as model, pytest.raises(ValueError, match="`feature_provider` gave"):
            answer_logits(model, batch, task.device)
    with pytest.raises(ValueError, match="`frames` is 0"), provided(task.model, clip_features(), 0):
        pass
    with pytest.raises(ValueError, match="`model` is Linear; features are given to a LLaVA"):
        with provided(torch.nn.Linear(2, 2), clip_features()):
            pass


def test_an_evaluation_asks_with_the_features_and_names_them(exported):
    _, folder = exported
    pipe = VideoMCQPipeline.from_model(folder)
    pipe.set_progress_bar_config(disable=True)
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    item = Item("made", "up", "1", "which way?", {"A": "left", "B": "right"}, "A", video=frames)
    settings = {"protocol": "loglik", "controls": ["one_frame"]}
    own, given = pipe([item], **settings), pipe([item], feature_provider=clip_features(), **settings)
    (name,) = {row.model for row in own.rows}
    assert {row.model for row in given.rows} == {f"{name}, features of provide"}
    assert [row.probabilities for row in own.rows] != [row.probabilities for row in given.rows]
    assert [row.probabilities for row in pipe([item], **settings).rows] == [row.probabilities for row in own.rows]

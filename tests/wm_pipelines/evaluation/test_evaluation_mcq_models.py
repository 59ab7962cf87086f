"""Models of transformers behind their processors, at tiny size."""

import numpy as np
import pytest

from wm_pipelines.evaluation.mcq.frames import grid
from wm_pipelines.evaluation.mcq.models import Request
from wm_pipelines.evaluation.mcq.pipeline import VideoMCQPipeline
from wm_pipelines.evaluation.mcq.prompts import TEMPLATES, prompt
from wm_pipelines.evaluation.mcq.runner import evaluate
from wm_pipelines.evaluation.mcq.vision_language import VisionLanguageModel, load_vision_language

OPTIONS = {"A": "left", "B": "right", "C": "up"}


@pytest.fixture(scope="module")
def loaded(tiny_vlm):
    return load_vision_language(tiny_vlm)


def request(frames, protocol="loglik", tokens=4):
    text = prompt(TEMPLATES[protocol], "Which way?", OPTIONS)
    return Request(text, "Which way?", OPTIONS, frames, None, protocol, tokens)


def noisy(seed, frames=4):
    return np.random.default_rng(seed).integers(0, 256, (frames, 20, 20, 3), dtype=np.uint8)


def test_log_likelihoods_are_those_of_the_model_itself(loaded):
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from wm_pipelines.media.pictures import to_pil

    folder = loaded.model.config._name_or_path
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    frames, asked = noisy(0), request(noisy(0))
    inputs = processor(text="<image>" * 4 + "\n" + asked.prompt, images=[to_pil(f) for f in frames],
                       return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].log_softmax(-1)
    scores = loaded.answer(asked).scores
    for letter in OPTIONS:
        token = processor.tokenizer.convert_tokens_to_ids(letter)
        assert scores[letter] == pytest.approx(float(logits[token]), abs=1e-5)


def test_frames_and_their_order_reach_the_model(loaded):
    scores = [tuple(loaded.answer(request(frames)).scores.values()) for frames in
              (noisy(0), noisy(0)[::-1], noisy(1), noisy(0, 2), None)]  # fmt: skip
    assert len(set(scores)) == 5 and tuple(loaded.answer(request(noisy(0))).scores.values()) == scores[0]


def test_replies_and_where_they_are_cut(loaded):
    reply = loaded.answer(request(noisy(0), "direct", 4))
    assert isinstance(reply.text, str) and reply.truncated
    loaded.model.generation_config.eos_token_id, before = list(range(len(loaded.processor.tokenizer))), 2
    try:
        assert not loaded.answer(request(noisy(0), "direct", 4)).truncated
    finally:
        loaded.model.generation_config.eos_token_id = before


def test_a_grid_is_asked_as_one_picture(loaded):
    whole = VisionLanguageModel(loaded.model, loaded.processor, "grid")
    assert whole.answer(request(noisy(0))).scores == loaded.answer(request(grid(noisy(0)))).scores
    assert whole.name == "tiny-vlm, grid"
    sheet = grid(noisy(0, 3), gap=1)
    assert sheet.shape == (1, 41, 41, 3) and np.array_equal(sheet[0, :20, 21:], noisy(0, 3)[1])
    assert not sheet[0, 20].any()


def test_what_a_model_lacks_is_said(loaded, monkeypatch):
    with pytest.raises(ValueError, match="no slot for pictures"):
        VisionLanguageModel(loaded.model, loaded.processor.tokenizer)
    with pytest.raises(ValueError, match="`layout='images'`"):
        VisionLanguageModel(loaded.model, loaded.processor, "video")
    with pytest.raises(ValueError, match="`layout` is 'stack'"):
        VisionLanguageModel(loaded.model, loaded.processor, "stack")

    class OnePicture(type(loaded.processor)):
        def __call__(self, images=None, **kwargs):
            if images is not None and len(images) > 1:
                raise ValueError("one picture only")
            return super().__call__(images=images, **kwargs)

    one = OnePicture(loaded.processor.image_processor, loaded.processor.tokenizer, 8, "default",
                     num_additional_image_tokens=1)  # fmt: skip
    with pytest.raises(ValueError, match=r"`layout='grid'`.*one picture only"):
        VisionLanguageModel(loaded.model, one)
    assert VisionLanguageModel(loaded.model, one, "grid").answer(request(noisy(0))).scores
    monkeypatch.setattr(VisionLanguageModel, "prompt_length", lambda self, frames: 3)
    with pytest.raises(ValueError, match=r"takes one picture only; use `layout='grid'`"):
        VisionLanguageModel(loaded.model, loaded.processor)


def test_letters_must_be_tokens_for_log_likelihoods(loaded, monkeypatch):
    class WithoutC:
        unk_token_id = loaded.processor.tokenizer.unk_token_id

        def __call__(self, text, **kwargs):
            return loaded.processor.tokenizer(text.replace("C", "\u00e7"), **kwargs)

    monkeypatch.setattr(VisionLanguageModel, "tokenizer", WithoutC())
    with pytest.raises(ValueError, match="'C' is no token of tiny-vlm; use 'direct'"):
        loaded.check("loglik")
    loaded.check("direct")


def test_a_video_processor_that_needs_torchvision(tmp_path):
    """Qwen2-VL's processor can't be made without torchvision: pictures work all the same, video names the remedy."""
    try:
        import torchvision  # noqa: F401

        pytest.skip("torchvision is installed here")
    except ImportError:
        pass
    folder = tiny_qwen(tmp_path)
    with pytest.raises(ValueError, match=r"needs torchvision.*`layout='images'`"):
        load_vision_language(folder, "video")
    for layout in ("images", "grid"):
        scores = [load_vision_language(folder, layout).answer(request(f)).scores for f in (noisy(0), noisy(1), None)]
        assert len({tuple(found.values()) for found in scores}) == 3


def tiny_qwen(folder):
    import json

    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
    )

    special = ["<pad>", "</s>", "<unk>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    table = {token: n for n, token in enumerate([*special, *map(chr, range(32, 127)), "\n"])}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=special[3:],
    )  # fmt: skip
    pictures = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    tokenizer.save_pretrained(folder)
    pictures.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|>"
        "<|vision_end|>{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    said = json.loads((folder / "preprocessor_config.json").read_text()) | {"processor_class": "Qwen2VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    (folder / "video_preprocessor_config.json").write_text(
        json.dumps(said | {"video_processor_type": "Qwen2VLVideoProcessor"})
    )
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "eos_token_id": 1, "pad_token_id": 0,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        },
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
        vision_start_token_id=3, vision_end_token_id=4, image_token_id=5, video_token_id=6,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_the_pipeline_is_kept_whole(tiny_vlm, toy, tmp_path):
    pipe = VideoMCQPipeline.from_model(tiny_vlm)
    pipe.set_progress_bar_config(disable=True)
    items = toy.items(3)
    out = pipe(items, protocol="loglik", controls=("blind",))
    assert len(out.answers) == 3 and set(out.answers) <= set("ABCD") and "blind" in out.headline
    pipe.save_pretrained(tmp_path / "kept")
    again = VideoMCQPipeline.from_pretrained(tmp_path / "kept")
    again.set_progress_bar_config(disable=True)
    same = again(items, protocol="loglik", controls=("blind",))
    assert [row.probabilities for row in same.rows] == [row.probabilities for row in out.rows]
    assert same.rows[0].model == "kept" and out.rows[0].model == "tiny-vlm"
    with pytest.raises(ValueError, match="`protocol`"):
        pipe(items, protocol="guess")
    with pytest.raises(ValueError, match="`processor` is None"):
        VideoMCQPipeline(pipe.model)


def test_a_quiz_asks_of_the_twins_and_without_the_clip(toy):
    def scores(frames, prompt, options):
        way = None if frames is None else toy.way_of(frames)
        return {letter: 2.0 if text == way else 0.0 for letter, text in options.items()}

    pipe, clip = VideoMCQPipeline(scores), toy.clip_of("left")
    found = {one.shown: one for one in pipe.quiz(clip, "Which way?", ["up", "left", "right"])}
    assert found["as it is"].answer == "left" and found["reversed"].answer == found["mirrored"].answer == "right"
    assert found["without it"].probabilities == pytest.approx((1 / 3,) * 3)
    assert found["as it is"].probabilities[1] == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    for options, words in ((["one"], "two to five"), (list("abcdef"), "`options` has 6"), (["a", "a"], "differ")):
        with pytest.raises(ValueError, match=words):
            pipe.quiz(clip, "Which way?", options)
    with pytest.raises(ValueError, match="uint8"):
        pipe.quiz(clip / 255, "Which way?", ["a", "b"])
    with pytest.raises(ValueError, match="no log-likelihoods"):
        VideoMCQPipeline(toy.sees).quiz(clip, "Which way?", ["a", "b"])


def test_a_pipeline_on_a_function_asks_it_and_is_not_kept(toy, tmp_path):
    pipe = VideoMCQPipeline(toy.sees)
    pipe.set_progress_bar_config(disable=True)
    items = toy.items(4)
    assert pipe(items, controls=()).answers == [item.answer for item in items]
    assert pipe(items[0], controls=()).answers == [items[0].answer]
    with pytest.raises(ValueError, match="can't be saved"):
        pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="only one of transformers"):
        VideoMCQPipeline(toy.sees, object())


def test_a_whole_evaluation_of_a_real_model_is_the_same_again(loaded, toy):
    first, second = (evaluate(toy.items(2), loaded, controls=("shuffle",)).rows for _ in range(2))
    assert first == second and {row.model for row in first} == {"tiny-vlm"}

"""Image-to-text retrieval on a Flickr30k of eight pictures, and its way from the command line."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from wm_pipelines.cli import app
from wm_pipelines.cpl import retrieval
from wm_pipelines.cpl.prompts import words
from wm_pipelines.cpl.run import run_benchmark

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 40), "yellow": (220, 210, 40)}


@pytest.fixture
def root(tmp_path):
    """Karpathy's table of four training and four test pictures, two captions each; one is far too long."""
    folder = tmp_path / "data" / "flickr30k"
    (folder / "images").mkdir(parents=True)
    rows = []
    for part in ("train", "test"):
        for colour, rgb in COLOURS.items():
            Image.new("RGB", (32, 32), rgb).save(folder / "images" / f"{part}_{colour}.png")
            captions = [f"a {colour} cube", f"the {colour} sphere" + (" and the cube" * 40 if colour == "red" else "")]
            sentences = [{"raw": text} for text in captions]
            rows.append({"filename": f"{part}_{colour}.png", "split": part, "sentences": sentences})
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": rows}), encoding="utf-8")
    return tmp_path / "data"


def test_every_method_has_its_recalls(cpl_pipe, root):
    train, test = retrieval.read_retrieval(root)
    said, before = [], cpl_pipe.prompt_learner
    options = {"epochs": 1, "batch_size": 2, "augment": False, "say": said.append}
    rows = retrieval.retrieval(cpl_pipe, train, test, shots=3, seed=1, candidates=6, **options)
    assert [row["method"] for row in rows] == ["zero-shot", "CoCoOp", "CPL"] and len(said) == 3
    for row in rows:
        assert 0 <= row["R@1"] <= row["R@5"] <= 100 and "R@10" not in row  # six candidates have no tenth
        assert (row["pictures"], row["texts"], row["candidates"], row["shots"]) == (4, 8, 6, 3)
    # the long caption is cut in the test part, and in the training part where its picture is drawn
    assert rows[0]["cut"] in (1, 2) and len({row["cut"] for row in rows}) == 1
    assert cpl_pipe.prompt_learner is not before
    assert cpl_pipe.wm_config.training.recipe["data"] == "retrieval"


def test_zero_shot_is_plain_clip_and_any_own_caption_counts(cpl_pipe, root):
    import torch

    train, test = retrieval.read_retrieval(root)
    shown, cut = retrieval.cut_to_fit(cpl_pipe, test)
    assert cut == 1 and shown[0].captions[1].endswith(("and", "the", "cube")) and shown[1:] == test[1:]
    texts = list(dict.fromkeys(c for p in shown for c in p.captions))
    scores = retrieval.plain_scores(cpl_pipe, shown, texts)
    pixels = cpl_pipe.preprocess([Image.open(p.path) for p in shown])
    said = cpl_pipe.tokenizer(list(map(words, texts)), padding=True, return_tensors="pt")
    with torch.no_grad():
        plain = cpl_pipe.clip(**said, pixel_values=pixels).logits_per_image / cpl_pipe.clip.logit_scale.exp()
    torch.testing.assert_close(scores, plain, rtol=1e-4, atol=1e-5)
    best = [texts[i] for i in scores.argmax(1)]
    right = 100 * sum(b in p.captions for b, p in zip(best, shown, strict=True)) / 4
    rows = retrieval.retrieval(cpl_pipe, train, test, 2, candidates=8, cocoop=False, say=str, epochs=1, augment=False)
    assert rows[0]["R@1"] == right and [r["method"] for r in rows] == ["zero-shot", "CPL"]


def test_from_the_command_line(tiny_clip, root, tmp_path):
    for part in tiny_clip.values():
        part.save_pretrained(tmp_path / "clip")
    words = [
        "run", "cpl", "--benchmark", "flickr30k", "--root", str(root), "--base", str(tmp_path / "clip"), "--shots=2",
        "--epochs", "1", "--batch-size", "2", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0 and "flickr30k 2 shots seed 0  zero-shot" in result.output
    rows = [json.loads(line) for line in (tmp_path / "out" / "benchmark.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["zero-shot", "CoCoOp", "CPL"]
    with pytest.raises(ValueError, match="benchmark and root stand alone"):
        CliRunner().invoke(app, [*words, "--class-name", "red"], catch_exceptions=False)


def test_bad_input(cpl_pipe, root, tmp_path):
    train, test = retrieval.read_retrieval(root)
    with pytest.raises(ValueError, match="shots must be an integer from 1 to 4, the training pictures, got 145"):
        retrieval.retrieval(cpl_pipe, train, test)
    with pytest.raises(ValueError, match="candidates must be an integer of at least 2, got 1"):
        retrieval.retrieval(cpl_pipe, train, test, 2, candidates=1)
    for arguments, message in (
        (("flickr30k", None), "benchmark and root belong together"),
        ((None, root), "benchmark and root belong together"),
        (("flickr30k", tmp_path), "must hold dataset_flickr30k.json"),
        (("flickr", root), "dataset 'flickr' is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            run_benchmark(*arguments, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()

"""The contract of the pipeline: inputs of any kind, new names, outputs, explanations, keeping and loading."""

import copy
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from accelerate.hooks import CpuOffload
from PIL import Image
from torch.nn import functional

from wm_pipelines import hub
from wm_pipelines.clip.towers import encode_images, encode_texts
from wm_pipelines.config import WMConfig
from wm_pipelines.cpl.modeling import CPLPromptLearner
from wm_pipelines.cpl.pipeline import CPLPipeline
from wm_pipelines.hub.cards import write_card
from wm_pipelines.hub.publishing import validate
from wm_pipelines.pipeline import AutoWMPipeline

NAMES = ["red", "green", "blue"]


@pytest.fixture
def clip_folder(tiny_clip, tmp_path):
    """The tiny CLIP as a stock checkpoint, with a record, as an embedded one has it."""
    folder = tmp_path / "clip"
    for part in tiny_clip.values():
        part.save_pretrained(folder)
    vocabulary = ["a", "photo", "of", "red", "green", "blue", "cube", "cone"]
    hub.seal(folder, WMConfig(method="diorama-clip", vocabulary=vocabulary))
    return folder


def test_outputs_as_a_dict_and_as_a_tuple(cpl_pipe, coloured):
    pictures = coloured()[0]
    out = cpl_pipe(pictures, NAMES)
    assert out.logits.shape == out.probs.shape == (6, 3) and len(out.labels) == 6 and set(out.labels) <= set(NAMES)
    torch.testing.assert_close(out.probs.sum(1), torch.ones(6))
    logits, probs, labels = cpl_pipe(pictures, NAMES, return_dict=False)
    assert torch.equal(logits, out["logits"]) and torch.equal(probs, out[1]) and labels == out.labels


def test_batches_chunks_and_single_pictures_agree(cpl_pipe, coloured):
    pictures = coloured()[0]
    whole = cpl_pipe(pictures, NAMES).logits
    chunked = cpl_pipe(pictures, NAMES, batch_size=4, max_tokens=10).logits
    singles = torch.cat([cpl_pipe(picture, NAMES).logits for picture in pictures])
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(singles, whole, rtol=1e-5, atol=1e-4)


def test_new_names_at_any_time_and_each_depends_on_its_picture(cpl_pipe, coloured):
    pictures = coloured()[0]
    both = cpl_pipe(pictures, [*NAMES, "small cone"]).logits
    torch.testing.assert_close(both[:, :3], cpl_pipe(pictures, NAMES).logits, rtol=1e-5, atol=1e-4)
    clip = cpl_pipe.clip
    image = encode_images(clip, cpl_pipe.preprocess(pictures[:2]))
    plain = clip.logit_scale.exp() * image @ encode_texts(clip, cpl_pipe.tokenizer, ["a photo of a red."]).T
    assert not torch.allclose(both[:2, :1], plain, atol=1e-3)  # the net is awake


def test_pictures_of_every_kind_and_size(cpl_pipe):
    values = (np.random.default_rng(0).random((40, 50, 3)) * 255).astype(np.uint8)
    colour = Image.fromarray(values)
    grey, clear = colour.convert("L"), colour.convert("RGBA")
    clear.putalpha(128)
    given = [colour, grey, clear, values, torch.rand(3, 9, 70), Image.new("RGB", (1, 1), "red")]
    out = cpl_pipe(given, NAMES)
    assert out.logits.shape == (6, 3) and bool(out.logits.isfinite().all())
    torch.testing.assert_close(out.logits[0], out.logits[3])
    assert cpl_pipe(colour, NAMES).logits.shape == (1, 3)
    assert cpl_pipe(torch.rand(2, 3, 32, 32), NAMES).logits.shape == (2, 3)


def test_candidates_are_the_nearest_by_plain_clip(cpl_pipe, coloured):
    pictures, texts = coloured()[0], ["red cube", "green cone", "blue cone", "a photo of a cube"]
    out, whole = cpl_pipe(pictures, texts, candidates=2), cpl_pipe(pictures, texts)
    image = encode_images(cpl_pipe.clip, cpl_pipe.preprocess(pictures))
    nearest = (image @ encode_texts(cpl_pipe.clip, cpl_pipe.tokenizer, texts).T).topk(2).indices
    kept = torch.zeros(6, 4, dtype=torch.bool).scatter(1, nearest, True)
    assert torch.equal(out.logits.isfinite(), kept) and (out.probs[~kept] == 0).all()
    torch.testing.assert_close(out.logits[kept], whole.logits[kept], rtol=1e-5, atol=1e-4)
    assert torch.equal(cpl_pipe(pictures, texts, candidates=9).logits, whole.logits)


def test_explanation(cpl_pipe, coloured):
    pictures = coloured()[0]
    told = cpl_pipe.explain(pictures[0], pictures[1], "red", "green")
    assert told.mask.shape == told.feature.shape == (20,)
    assert told.mask.sum() == len(told.swapped) == len(set(told.swapped)) and told.mask[told.swapped].all()
    assert told.sparsity == len(told.swapped) / 20
    image = encode_images(cpl_pipe.clip, cpl_pipe.preprocess(pictures[:2]))
    expected = functional.normalize(torch.where(told.mask.bool(), image[1], image[0]), dim=-1)
    torch.testing.assert_close(told.feature, expected)
    text = encode_texts(cpl_pipe.clip, cpl_pipe.tokenizer, ["red", "green"])
    assert bool(told.feature @ text[1] > told.feature @ text[0]) == told.flipped
    drawn = np.asarray(told.image)
    assert drawn.shape == (4 * 13 + 1, 5 * 13 + 1, 3)
    cells = [drawn[1 + i // 5 * 13, 1 + i % 5 * 13] for i in range(20)]
    assert [i for i, cell in enumerate(cells) if cell[0] != cell[1]] == sorted(told.swapped)
    darkest = min(told.swapped, key=lambda i: int(cells[i].sum()))
    assert darkest == told.swapped[0]
    assert len(cpl_pipe.explain(pictures[0], pictures[1], "red", "green", return_dict=False)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("red", "red"), "positive_text and negative_text are both 'red'"),
        (("red", "green", "log"), "mask_space must be one of unit, raw"),
        (("red", " "), "text must be a non-empty string"),
    ],
)
def test_explanations_that_can_not_be(cpl_pipe, coloured, arguments, message):
    pictures = coloured()[0]
    with pytest.raises(ValueError, match=message):
        cpl_pipe.explain(pictures[0], pictures[1], *arguments)
    with pytest.raises(ValueError, match="positive must be one picture, got 6"):
        cpl_pipe.explain(pictures, pictures[1], "red", "green")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "images is empty"),
        ({"images": [torch.rand(2, 8, 8)]}, r"images\[0\]: "),
        ({"class_names": []}, "class_names is empty"),
        ({"class_names": ["red", ""]}, "prompt for class must be a non-empty string, got ''"),
        ({"class_names": [" ".join(["red"] * 80)]}, "is 87 tokens; limit is 77"),
        ({"class_names": [["red"], ["red", "blue"]]}, "all of one length"),
        ({"candidates": 0}, "candidates must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ],
)
def test_calls_that_can_not_be(cpl_pipe, coloured, arguments, message):
    with pytest.raises(ValueError, match=message):
        cpl_pipe(**{"images": coloured()[0], "class_names": NAMES, **arguments})


def test_a_learner_of_other_widths_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="checkpoint ctx width 24 does not match text width 16 of this CLIP"):
        CPLPipeline(**tiny_clip, prompt_learner=CPLPromptLearner(24, 20))
    with pytest.raises(ValueError, match="reads picture features of dimension 32, this CLIP's have 20"):
        CPLPipeline(**tiny_clip, prompt_learner=CPLPromptLearner(16, 32))


CODE = """
import sys, torch
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.cpl.pipeline import CPLPipeline
torch.set_num_threads(int(sys.argv[5]))
pictures = torch.load(sys.argv[3], weights_only=True)
whole, adapter = CPLPipeline.from_pretrained(sys.argv[1]), CPLPipeline.from_base(sys.argv[2], sys.argv[4])
for pipe in (whole, adapter):
    pipe.set_progress_bar_config(disable=True)
    print([x.hex() for x in pipe(pictures, ["red", "green", "blue"]).logits.flatten().tolist()])
"""


@pytest.mark.slow
def test_both_forms_give_the_same_bits_in_a_fresh_interpreter(clip_folder, coloured, tmp_path):
    pictures, labels, names = coloured()
    pipe = CPLPipeline.from_clip(clip_folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.fit(pictures, labels, names, epochs=2, batch_size=4, augment=False, learning_rate=0.05)
    pipe.save_pretrained(tmp_path / "whole")
    pipe.save_adapter(tmp_path / "adapter")
    torch.save(pictures, tmp_path / "pictures.pt")
    own = str([x.hex() for x in pipe(pictures, names).logits.flatten().tolist()])
    places = [str(tmp_path / "whole"), str(clip_folder), str(tmp_path / "pictures.pt"), str(tmp_path / "adapter")]
    command = [sys.executable, "-c", CODE, *places, str(torch.get_num_threads())]
    lines = subprocess.check_output(command, text=True).splitlines()
    assert lines == [own, own]
    size = sum(p.stat().st_size for p in (tmp_path / "adapter").iterdir())
    assert size < 20_000 and not list((tmp_path / "adapter").glob("*.bin"))

    record = WMConfig.load(tmp_path / "whole")
    assert record.method == "cpl" and record.pipeline == "CPLPipeline" and record.vocabulary[0] == "a"
    loaded = AutoWMPipeline.from_pretrained(tmp_path / "whole")
    assert isinstance(loaded, CPLPipeline) and loaded.wm_config.training.steps == 4
    index = json.loads((tmp_path / "whole" / "model_index.json").read_text())
    assert index["prompt_learner"] == ["wm_pipelines.cpl.modeling", "CPLPromptLearner"]


def test_a_closed_vocabulary_is_kept_to(clip_folder, coloured):
    pipe = CPLPipeline.from_clip(clip_folder)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="class_names has the word 'zebra', which this checkpoint does not know"):
        pipe(coloured()[0], ["red cube", "zebra"])
    assert pipe(coloured()[0], ["red_cube", "cone"]).logits.shape == (6, 2)


def test_auto_puts_an_adapter_on_the_base_that_its_record_names(clip_folder, coloured, tmp_path, monkeypatch):
    pictures, labels, names = coloured()
    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", clip_folder.parent)
    pipe = CPLPipeline.from_clip("clip")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.wm_config.base_model.embedded == "clip" and pipe.wm_config.base_model.fingerprint
    pipe.fit(pictures, labels, names, epochs=1, batch_size=6, augment=False)
    pipe.save_adapter(tmp_path / "adapter")
    assert hub.verify(tmp_path / "adapter").base_model.embedded == "clip"
    write_card(tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "# CPL" in card and "counterfactual negatives" in card and "`clip` (ships with the package)" in card
    assert validate(tmp_path / "adapter") == []
    loaded = AutoWMPipeline.from_pretrained(tmp_path / "adapter")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(loaded(pictures, names).logits, pipe(pictures, names).logits)


def test_a_folder_that_is_no_clip(tiny_sd, tmp_path):
    tiny_sd["text_encoder"].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type 'clip_text_model', needs 'clip'"):
        CPLPipeline.from_clip(tmp_path)


def test_pickled_towers_are_refused(clip_folder):
    with pytest.raises(ValueError, match="use_safetensors=False is not allowed: pickled weights are never loaded"):
        CPLPipeline.from_clip(clip_folder, use_safetensors=False)


def test_half_precision_on_disk_is_fitted_in_full(cpl_pipe, coloured, tmp_path):
    pictures, labels, names = coloured()
    cpl_pipe.save_adapter(tmp_path / "half", dtype=torch.float16)
    assert cpl_pipe.prompt_learner.dtype == torch.float32
    learner = CPLPromptLearner.from_pretrained(tmp_path / "half")
    cpl_pipe.register_modules(prompt_learner=learner)
    before = cpl_pipe(pictures, names).logits
    assert bool(before.isfinite().all())
    cpl_pipe.fit(pictures, labels, names, epochs=1, batch_size=6, augment=False)
    assert cpl_pipe.prompt_learner.dtype == torch.float32


def own_copy(pipe):
    """The same pipeline with modules of its own."""
    parts = {"clip": copy.deepcopy(pipe.clip), "prompt_learner": copy.deepcopy(pipe.prompt_learner)}
    other = CPLPipeline(**{**pipe.components, **parts})
    other.set_progress_bar_config(disable=True)
    return other


def test_model_offload_runs_and_sends_all_home(cpl_pipe, coloured):
    pictures, labels, names = coloured()
    expected = cpl_pipe(pictures, NAMES, candidates=2).logits
    told = cpl_pipe.explain(pictures[0], pictures[1], "red", "green")
    pipe = own_copy(cpl_pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert torch.equal(pipe(pictures, NAMES, candidates=2).logits, expected)
        assert pipe.explain(pictures[0], pictures[1], "red", "green").swapped == told.swapped
    for fit in (
        lambda: pipe.fit(pictures, labels, names),
        lambda: pipe.fit_retrieval(pictures, ["a red cube", "a blue cube"] * 3, candidates=2),
    ):
        with pytest.raises(ValueError, match="clip, prompt_learner is offloaded; fit first"):
            fit()


def test_model_offload_keeps_both_parts_on_the_device_while_they_run(cpl_pipe, coloured, monkeypatch):
    """No accelerator here, so the moves that the hooks make are written down, between the parts that run."""
    pipe, told = own_copy(cpl_pipe), []
    come, go = CpuOffload.pre_forward, CpuOffload.init_hook
    monkeypatch.setattr(CpuOffload, "pre_forward", lambda h, m, *a: told.append(("come", m)) or come(h, m, *a))
    monkeypatch.setattr(CpuOffload, "init_hook", lambda h, m: told.append(("go", m)) or go(h, m))
    pipe.enable_model_cpu_offload(device="cpu")
    for part in (pipe.clip.vision_model, pipe.clip.text_model.encoder, pipe.prompt_learner):
        part.register_forward_pre_hook(lambda module, args: told.append(("run", module)))
    told.clear()
    pipe(coloured()[0], NAMES)
    clip, learner = pipe.clip, pipe.prompt_learner
    assert told[0] == ("come", clip) and ("come", learner) in told
    end = told.index(("go", clip))
    runs = [n for n, (what, _) in enumerate(told) if what == "run"]
    assert len(runs) >= 3 and max(runs) < end  # each between the coming and the going
    assert all(n > end for n, step in enumerate(told) if step == ("go", learner))


@pytest.mark.parametrize("kind", ["sequential", "leaf_level", "block_level"])
def test_offloading_in_pieces_brings_every_weight_in_time(cpl_pipe, coloured, offload, kind):
    """What is offloaded is no number at all, or a seven, so this says something on a CPU too."""
    pictures, labels, names = coloured()
    expected = cpl_pipe(pictures, NAMES, candidates=2).logits
    told = cpl_pipe.explain(pictures[0], pictures[1], "red", "green")
    pipe = own_copy(cpl_pipe)
    offload(pipe, kind)
    for _ in range(2):
        torch.testing.assert_close(pipe(pictures, NAMES, candidates=2).logits, expected)
        assert pipe.explain(pictures[0], pictures[1], "red", "green").swapped == told.swapped
    with pytest.raises(ValueError, match="clip, prompt_learner is offloaded; fit first"):
        pipe.fit(pictures, labels, names)
    scale = pipe.clip.logit_scale
    assert scale.is_meta if kind == "sequential" else scale == 7  # it is away again


def test_nothing_is_warned_about(cpl_pipe, coloured):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpl_pipe(coloured()[0], NAMES)

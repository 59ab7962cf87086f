"""CoOp's layout, folders, shots, halves, figures, baselines, and the authors' files."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from wm_pipelines.cpl import convert, metrics
from wm_pipelines.cpl.data import DATASETS, FewShotData, Item, read_dataset, read_folders, read_split
from wm_pipelines.cpl.modeling import CPLPromptLearner
from wm_pipelines.cpl.protocol import base_to_new


def layout(root, classes=("ant", "bee", "cat"), each=4):
    """A small copy of Caltech101 as CoOp lays it out; the pictures have a colour for each class."""
    folder = root / "caltech-101"
    rows = {part: [] for part in ("train", "val", "test")}
    for label, name in enumerate(classes):
        for n in range(each):
            path = folder / "101_ObjectCategories" / name / f"image_{n}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 24), (80 * label, 250 - 70 * label, 20 * n)).save(path)
            rows["train" if n < each - 2 else "test"].append([f"{name}/image_{n}.jpg", label, name])
    (folder / "split_zhou_Caltech101.json").write_text(json.dumps(rows))
    return root


def test_eleven_data_sets_with_their_templates():
    assert len(DATASETS) == 11
    assert DATASETS["food101"].template.format("soup") == "a photo of soup, a type of food."
    assert sum(layout.split is None for layout in DATASETS.values()) == 2
    assert all(layout.template.count("{}") == 1 for layout in DATASETS.values())


def test_a_split_of_coop(tmp_path):
    data = read_dataset("caltech101", layout(tmp_path))
    assert data.class_names == ("ant", "bee", "cat") and len(data.train) == len(data.test) == 6
    assert data.train[0].path.is_file() and data.train[0].path.name == "image_0.jpg"
    one, two = data.few_shot(1, 1), data.few_shot(1, 2)
    assert [item.label for item in one.train] == [0, 1, 2] and one.train == data.few_shot(1, 1).train
    assert any(data.few_shot(1, seed).train != one.train for seed in (2, 3)) and one.test == two.test
    assert len(data.few_shot(16, 1).train) == 6
    base, new = data.half("base"), data.half("new")
    assert base.class_names == ("ant", "bee") and new.class_names == ("cat",)
    assert {item.label for item in base.test} == {0, 1} and {item.label for item in new.test} == {0}
    assert base.few_shot(1, 1).train == tuple(item for item in one.train if item.label < 2)


def test_imagenet_aircraft_and_folders(tmp_path):
    for where in (
        "imagenet/images/train/n01",
        "imagenet/images/val/n02",
        "fgvc_aircraft/images",
        "own/train/a_b",
        "own/test",
    ):
        (tmp_path / where).mkdir(parents=True)
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01 tench\nn02 gold fish\n")
    (tmp_path / "imagenet/images/train/n01/x.JPEG").touch()
    (tmp_path / "imagenet/images/val/n02/y.JPEG").touch()
    (tmp_path / "imagenet/images/val/n02/notes.txt").touch()
    data = read_dataset("imagenet", tmp_path)
    assert data.class_names == ("tench", "gold fish") and [i.label for i in data.train + data.test] == [0, 1]
    air = tmp_path / "fgvc_aircraft"
    (air / "variants.txt").write_text("707-320\n727-200\n")
    for part in ("train", "val", "test"):
        (air / f"images_variant_{part}.txt").write_text("0034309 727-200\n")
    data = read_dataset("fgvc_aircraft", tmp_path)
    assert data.test == (Item(air / "images" / "0034309.jpg", 1),) and len(data.val) == 1
    (tmp_path / "own/train/a_b/1.png").touch()
    assert read_folders(tmp_path / "own").class_names == ("a b",)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda p: read_dataset("cifar", p), "dataset 'cifar' is unknown; there are imagenet, caltech101"),
        (lambda p: read_dataset("dtd", p), "root must hold 'dtd'"),
        (
            lambda p: read_split(p / "shot_16-seed_1.pkl", p),
            "refusing pickled shot_16-seed_1.pkl; shots are drawn anew",
        ),
        (lambda p: read_split(p / "none.json", p), "no split file"),
        (lambda p: read_split(_write(p, "[]"), p), "is not a split"),
        (
            lambda p: read_split(_write(p, '{"train": [["../a", 0, "x"]], "test": []}'), p),
            "leaves the pictures' folder",
        ),
        (lambda p: read_split(_write(p, '{"train": [["a", 0, "x"], ["b", 0, "y"]], "test": []}'), p), "two names"),
        (lambda p: read_split(_write(p, '{"train": [["a", 1, "x"]], "test": []}'), p), "must run from 0"),
        (lambda p: read_folders(p), "root must hold train/<class>/"),
        (lambda p: FewShotData("x", ("a",), (Item(p, 998),), ()), r"label 998 outside \[0,1\)"),
        (lambda p: FewShotData("x", ("a",), (), ()).few_shot(1, 1), "no training image for class 'a'"),
        (lambda p: FewShotData("x", ("a",), (), ()).half("base"), "x has 1 class"),
        (lambda p: FewShotData("x", ("a",), (), ()).few_shot(0, 1), "shots must be an integer of at least 1"),
    ],
)
def test_data_that_can_not_be(tmp_path, action, message):
    with pytest.raises(ValueError, match=message):
        action(tmp_path)


def _write(folder, text):
    path = folder / "split.json"
    path.write_text(text)
    return path


def test_pickled_draws_are_said_to_be_left_alone(tmp_path):
    layout(tmp_path)
    (tmp_path / "caltech-101" / "split_fewshot").mkdir()
    with pytest.warns(UserWarning, match="pickled draws, which are never read"):
        read_dataset("caltech101", tmp_path)


def test_figures():
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 0], [3, 0, 1], [0, 2, 1]])
    labels = torch.tensor([0, 1, 1, 1])
    assert metrics.accuracy(logits, labels) == 75
    assert metrics.per_class_accuracy(logits, labels) == [100, pytest.approx(200 / 3), None]
    assert metrics.harmonic(80.47, 71.69) == pytest.approx(75.83, abs=0.005)  # CoCoOp's published row
    assert metrics.harmonic(0, 0) == 0
    assert metrics.recall_at(logits, [[0, 2], [0], [2], [1]]) == 50
    assert metrics.recall_at(logits, [[0], [0], [2], [2]], k=2) == 100
    with pytest.raises(ValueError, match=r"label 998 outside \[0,3\)"):
        metrics.accuracy(logits, torch.tensor([0, 1, 998, 1]))


def test_probe_and_cache():
    features = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = (features[:, 0] > 0).long()
    weights = metrics.linear_probe(features, labels, 2, l2=1e-4)
    assert metrics.accuracy(metrics.probe_logits(weights, features), labels) == 100
    slope = torch.cat([features, torch.ones(40, 1)], 1).double()
    probs = (slope @ weights.double().T).softmax(1)
    gradient = ((probs - torch.nn.functional.one_hot(labels, 2)).T @ slope) / 40
    gradient[:, :-1] += 1e-4 * weights[:, :-1]
    assert gradient.abs().max() < 1e-5  # a minimum
    zero_shot = torch.nn.functional.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    out = metrics.tip_adapter_logits(features[:1], features, labels, zero_shot)
    cache = sum(
        torch.exp(-5.5 * (1 - features[0] @ f)) * torch.eye(2)[int(y)] for f, y in zip(features, labels, strict=True)
    )
    torch.testing.assert_close(out[0], 100 * zero_shot @ features[0] + cache)


def test_the_whole_protocol_prints_baselines_and_cocoop_beside_cpl(cpl_pipe, tmp_path):
    data = read_dataset("caltech101", layout(tmp_path, ("ant", "bee", "cat", "dog")))
    said = []
    rows = base_to_new(cpl_pipe, data, shots=1, seed=2, say=said.append, epochs=1, batch_size=4, augment=False)
    assert [row["method"] for row in rows] == [
        "zero-shot, one template", "zero-shot, ensemble", "linear probe", "Tip-Adapter", "CoCoOp", "CPL",
    ]  # fmt: skip
    assert len(said) == 6 and "H" in said[0] and rows[2]["new"] is None
    for row in rows:
        assert row["seed"] == 2 and len(row["per_class"][0]) == 2
        if row["new"] is not None:
            assert row["H"] == pytest.approx(metrics.harmonic(row["base"], row["new"]))


def test_the_protocol_from_the_command_line_says_what_is_missing(tmp_path):
    from wm_pipelines.cpl import protocol

    with pytest.raises(SystemExit, match="error: dtd: no folder .*; root must hold 'dtd'"):
        protocol.main(["dtd", str(tmp_path)])
    with pytest.raises(SystemExit, match="root must hold train/<class>/"):
        protocol.main(["folders", str(tmp_path)])


def dassl(learner, classes=5, **more):
    """A checkpoint as Dassl's CoCoOp and CPL trainers keep it."""
    state = dict(learner.state_dict()) | {
        "token_prefix": torch.zeros(classes, 1, 16),
        "token_suffix": torch.zeros(classes, 72, 16),
        "u": torch.ones(20, classes),
    }
    return {"state_dict": state, "epoch": 10, "optimizer": None, "scheduler": None, **more}


def test_dassl_checkpoints_come_in_and_only_through_the_converter(tiny_clip, wm, tmp_path):
    learner = CPLPromptLearner.from_clip(tiny_clip["clip"], tiny_clip["tokenizer"])
    path = tmp_path / "model.pth.tar-10"
    torch.save(dassl(learner, val_result=np.float64(81.5)), path)
    assert "parameters" in wm("convert", "cpl", path, tmp_path / "out")
    again = CPLPromptLearner.from_pretrained(tmp_path / "out")
    assert dict(again.config)["n_ctx"] == 4
    for name, tensor in learner.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match="refusing pickled .*`wm convert cpl FILE FOLDER`"):
        CPLPromptLearner.from_pretrained(path.with_suffix(".tar"))
    with pytest.raises(ValueError, match="exists and is not empty"):
        wm("convert", "cpl", path, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("ctx"), "has no tensor 'ctx'"),
        (lambda state: state.update(extra=torch.ones(1)), "has 'extra', which no CoCoOp or CPL"),
        (lambda state: state.update({"meta_net.linear2.bias": torch.ones(3)}), "ctx and linear1 need"),
    ],
)
def test_checkpoints_that_are_none(tiny_clip, tmp_path, change, message):
    made = dassl(CPLPromptLearner.from_clip(tiny_clip["clip"], tiny_clip["tokenizer"]))
    change(made["state_dict"])
    torch.save(made, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        convert.convert(tmp_path / "x.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_pickles_never_run(tmp_path, wm, capsys):
    path = tmp_path / "score.npy"
    np.save(path, np.array({"cat": "dog", "dog": "cat"}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="refusing pickled score.npy; .*`wm convert cpl-negatives"):
        convert.read_negatives(path)
    assert wm("convert", "cpl-negatives", path, tmp_path / "n.json").startswith("2 negatives in ")
    assert convert.read_negatives(tmp_path / "n.json") == {"cat": "dog", "dog": "cat"}
    np.save(path, np.array({"cat": Evil()}, dtype=object), allow_pickle=True)
    capsys.readouterr()
    with pytest.raises(ValueError, match="it asks for builtins.print"):
        convert.convert_negatives(path, tmp_path / "evil.json")
    assert capsys.readouterr().out == "" and not (tmp_path / "evil.json").exists()
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="not a plain torch file of tensors"):
        convert.convert(tmp_path / "evil.pth", tmp_path / "out")
    assert capsys.readouterr().out == ""
    (tmp_path / "n.json").write_text('{"cat": 3}')
    with pytest.raises(ValueError, match="no table from text to negative text"):
        convert.read_negatives(tmp_path / "n.json")

"""`wm run comclip --benchmark`: each benchmark from one folder, what may lie beside it, and the field's figures."""

import csv
import json
import warnings

import pytest
from PIL import Image

from wm_pipelines import cli
from wm_pipelines.comclip.benchmark import NAMES, read_benchmark
from wm_pipelines.comclip.run import run_benchmark
from wm_pipelines.data import caption_pairs

BOXES = {"red cube": [[1, 1, 12, 20]], "blue sphere": [[14, 3, 29, 22]]}
PARSED = {"objects": {"cube": {"attributes": "red"}}, "connections": []}


def table(path, columns, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def comvg(folder):
    rows = [
        (1, "a cube left of a sphere", "cube,left of,sphere", "sphere,left of,cube", 1, 2, "subject", 8),
        (2, "a red cube", "cube,is,red", "cube,is,blue", 3, 4, "object", 9),
    ]
    table(folder / "compositional_visual_genome.csv", caption_pairs.COMVG_COLUMNS, rows)


def svo_probes(folder):
    rows = [("a cube left of a sphere", "cube,left,sphere", "cube,right,sphere", 1, 2, "False", "True", "False")]
    table(folder / "svo_probes.csv", caption_pairs.SVO_COLUMNS, rows)


def winoground(folder):
    said = {"caption_0": "a red cube left of a blue sphere", "caption_1": "a blue sphere left of a red cube"}
    rows = [{"id": n, "image_0": "1", "image_1": "2", **said, "tag": "Relation"} for n in range(2)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def vl_checklist(folder):
    for name, word in (("colour", "blue"), ("size", "small")):
        rows = [[f"{n}.png", {"POS": ["a red cube"], "NEG": [f"a {word} cube"]}] for n in (1, 2, 3)]
        (folder / f"{name}.json").write_text(json.dumps(rows))


def flickr30k(folder):
    colours = ("red", "blue", "green", "yellow")
    rows = [{"image": f"{n}.png", "sentence": f"a {colour} cube"} for n, colour in enumerate(colours, 1)]
    (folder / "flickr30k_test.json").write_text(json.dumps(rows))


FILES = {
    "comvg": comvg, "svo-probes": svo_probes, "winoground": winoground, "vl-checklist": vl_checklist,
    "flickr30k": flickr30k,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(comclip_parts, tmp_path_factory):
    """A plain CLIP checkpoint as a folder."""
    folder = tmp_path_factory.mktemp("comclip_benchmark_base")
    for part in comclip_parts.values():
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    """`folder(name)`: a benchmark of four pictures, of which the first has boxes."""

    def make(name):
        data = tmp_path / "data"
        (data / "images").mkdir(parents=True)
        for n in range(1, 5):
            Image.new("RGB", (30, 20 + n), (60 * n, 30, 255 - 60 * n)).save(data / "images" / f"{n}.png")
        FILES[name](data)
        return data

    return make


@pytest.mark.filterwarnings("ignore:no box:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_gives_the_fields_figures(folder, base, tmp_path, name):
    report = run_benchmark(name, folder(name), tmp_path / "out", base=base)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["benchmark"] == name and report["failed"] == []
    if name == "flickr30k":
        assert report["n"] == 4 and set(report["score"]) == set(report["baseline"]) == {"R@1", "R@5", "R@10"}
        assert report["score"]["R@5"] == report["baseline"]["R@5"] == 1.0  # all four are candidates
        return
    kinds = {
        "comvg": {"subject", "object"}, "svo-probes": {"verb"}, "winoground": {"Relation"},
        "vl-checklist": {"colour", "size"},
    }[name]  # fmt: skip
    for way in ("score", "baseline", "detector"):
        found = report[way].values() if name == "winoground" else [report[way]]
        assert name != "winoground" or set(report[way]) == {"text", "image", "group"}
        for figures in found:
            assert set(figures) - {"ties"} == {"all", *kinds} and figures["all"]["n"] == report["n"]
            assert 0 <= figures["all"]["ci95"][0] <= figures["all"]["accuracy"] <= figures["all"]["ci95"][1] <= 1


@pytest.mark.filterwarnings("ignore:no box:UserWarning")
def test_what_lies_beside_is_used(folder, base, pipe, tmp_path):
    """Boxes of a picture, a caption's parse and the matches of both change the score as a call with them does."""
    data = folder("vl-checklist")
    (data / "size.json").unlink()
    plain = run_benchmark("vl-checklist", data, tmp_path / "plain", base=base)
    for name, file, content in (
        ("boxes", "1.json", BOXES), ("parsed", "0_caption0.json", PARSED),
        ("matches", "row_0_image_1.json", {"cube": ["red cube"], "red cube": ["red cube"]}),
    ):  # fmt: skip
        (data / name).mkdir()
        (data / name / file).write_text(json.dumps(content))
    told = run_benchmark("vl-checklist", data, tmp_path / "told", base=base)
    assert plain["failures"]["missing box"] > told["failures"]["missing box"]
    examples = read_benchmark("vl-checklist", data)
    assert [entity.text for entity in examples[0].parsed[0].entities] == ["red cube"]
    assert examples[0].parsed[1] is None and examples[1].parsed == (None, None)


@pytest.mark.filterwarnings("ignore:no box:UserWarning")
def test_an_example_that_cannot_be_scored_is_wrong_and_named(folder, base, tmp_path):
    data = folder("comvg")
    (data / "images" / "4.png").write_bytes(b"no picture")
    report = run_benchmark("comvg", data, tmp_path / "out", base=base)
    assert len(report["failed"]) == 1 and report["failed"][0].startswith("2: ") and report["n"] == 2
    assert report["score"]["object"]["accuracy"] == 0.0
    assert run_benchmark("comvg", data, tmp_path / "one", base=base, limit=1)["n"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--benchmark", "coco", "--data", "DATA"], "`benchmark` is 'coco'; it must be one of comvg, svo-probes"),
        (["--benchmark", "comvg"], "benchmark and data belong together"),
        (["--data", "DATA"], "benchmark and data belong together"),
        (["--benchmark", "comvg", "--data", "DATA/absent"], "is no folder; name the one that holds comvg"),
        (["--benchmark", "comvg", "--data", "DATA", "--image", "x.png"], "leave image, text, boxes and strict out"),
        (["--benchmark", "comvg", "--data", "DATA", "--fusion", "sum"], "fusion"),
        (["--benchmark", "vl-checklist", "--data", "DATA"], "has no example of vl-checklist"),
        (["--text", "a red cube"], "image and text belong together"),
    ],
)
def test_bad_commands_are_refused_and_leave_nothing(folder, base, tmp_path, monkeypatch, capsys, arguments, words):
    data = folder("comvg")
    places = [str(a).replace("DATA", str(data)) for a in arguments]
    monkeypatch.setattr("sys.argv", ["wm", "run", "comclip", *places, "--base", base, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().err
    assert stopped.value.code not in (0, None) and words in said and not (tmp_path / "out").exists()


def test_the_command_says_the_figures(folder, base, tmp_path, monkeypatch, capsys):
    data = folder("winoground")
    arguments = ["--benchmark", "winoground", "--data", str(data), "--base", base, "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["wm", "run", "comclip", *arguments])
    with pytest.raises(SystemExit) as stopped, warnings.catch_warnings(action="ignore"):
        cli.main()
    said = capsys.readouterr().out
    assert not stopped.value.code and "score: text " in said and "group " in said and "0 of 2 failed" in said

"""`wm run graph-transformer`: three ways to answer, what it prints and writes, and what it refuses."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from wm_pipelines.graph_transformer.run import load, run

QUESTION = "is the red cube left of the sphere?"
CONTEXT = "the cat is behind the dog. the man rides a horse."


@pytest.fixture
def saved(vilt_pipe, tmp_path):
    vilt_pipe.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def files(picture, tmp_path):
    paths = []
    for seed in range(2):
        paths.append(tmp_path / f"picture{seed}.png")
        Image.fromarray(picture(seed, 40, 40)).save(paths[-1])
    return paths


def test_answers_stand_beside_those_without_and_with_a_random_graph(saved, vilt_pipe, files, picture, tmp_path):
    report = run(files, [QUESTION], tmp_path / "out", saved, context=CONTEXT, seed=3)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    names = {f"{kind}_{n}.png" for kind in ("question", "graph", "attention") for n in range(2)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"report.json", "index.html"}
    sights = [picture(0, 40, 40), picture(1, 40, 40)]
    for arm, options in (("graph", {}), ("without", {"graph": None}), ("random", {"random_graph": 3})):
        probs = vilt_pipe(sights, QUESTION, CONTEXT, **options).probs
        for n, entry in enumerate(report["questions"]):
            told = {line["answer"]: line[arm] for line in entry["answers"]}
            assert told == {name: round(float(probs[n, i]), 6) for i, name in enumerate(vilt_pipe.answers)}
    entry = report["questions"][0]
    assert entry["answers"] == sorted(entry["answers"], key=lambda line: -line["graph"])
    assert 0 < entry["density"] < 1 and entry["edges"] > 5 and not entry["empty"] and report["empty_graphs"] == 0


def test_the_command_prints_them(saved, files, tmp_path):
    from wm_pipelines.cli import app

    graph = {"nodes": [{"span": [7, 15]}, {"span": [24, 34]}], "edges": [[0, 1, "left of"]]}
    (tmp_path / "g.json").write_text(json.dumps(graph))
    words = ["run", "graph-transformer", "--image", str(files[0]), "--question", QUESTION, "--model", saved]
    words += ["--context", CONTEXT, "--graph", str(tmp_path / "g.json"), "--out", str(tmp_path / "out")]
    words += ["--candidate", "yes", "--candidate", "red", "--top-k", "2", "--regions", "knn", "--neighbours", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"picture0.png / {QUESTION}" and "without" in lines[1]
    told = {line.split()[0]: [float(value) for value in line.split()[1:]] for line in lines[2:4]}
    assert set(told) == {"yes", "red"}
    for column in zip(*told.values(), strict=True):
        assert abs(sum(column) - 1) < 2e-3
    assert "3 phrases and boxes, 3 edges" in lines[4]


def test_tables_facts_and_empty_graphs(saved, files, tmp_path):
    (tmp_path / "t.csv").write_text("name,age\nann,7\nbob,9\n")
    report = run(files[:1], ["what is the age of ann?"], tmp_path / "a", saved, table=tmp_path / "t.csv")
    assert report["questions"][0]["context"].startswith("row 1: name is ann; age is 7;")
    (tmp_path / "facts.txt").write_text("( cube , left of , sphere )")
    report = run(files[:1], [QUESTION], tmp_path / "b", saved, graph=tmp_path / "facts.txt")
    assert report["questions"][0]["graph"]["edges"][0] == [0, 1, "left of"] and report["parser"] is None
    with pytest.warns(UserWarning, match="1 of 1 graphs are empty"):
        report = run(files[:1], ["what is red?"], tmp_path / "c", saved)
    (entry,) = report["questions"]
    assert report["empty_graphs"] == 1 and entry["empty"] and entry["density"] == 1
    assert all(line["graph"] == line["without"] == line["random"] for line in entry["answers"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": "x", "table": "t.csv"}, "exclude each other"),
        ({"graph": "nowhere.json"}, "can't read"),
        ({"table": "nowhere.csv"}, "can't read"),
        ({"top_k": 0}, "`top_k`"),
        ({"seed": -1}, "`seed`"),
        ({"candidates": ["rad"]}, "nearest is 'red'"),
        ({"parser": "guess"}, "parser='guess'"),
        ({"regions": "near"}, "`regions`"),
        ({"context": "a cat. " * 40}, "truncate=True"),
        ({"model": "no-such"}, "not an embedded checkpoint"),
        ({"model": "diorama-clip"}, "it must be a graph transformer|holds no pipeline"),
        ({"images": ["nowhere.png"]}, "no picture at"),
    ],
)
def test_nothing_is_written_when_something_is_refused(saved, files, tmp_path, options, said):
    given = {"images": files[:1], "questions": [QUESTION], "out": tmp_path / "out", "model": saved, **options}
    with pytest.raises(ValueError, match=said):
        run(**given)
    assert not (tmp_path / "out").exists()


def test_what_reads_no_pictures_is_refused(lxmert_pipe, vilt, tokenizer, image_processor, tmp_path):
    lxmert_pipe.save_pretrained(tmp_path / "lxmert")
    with pytest.raises(ValueError, match="reads features of a detector"):
        load(str(tmp_path / "lxmert"))
    for part in (vilt, tokenizer, image_processor):
        part.save_pretrained(tmp_path / "vilt")
    assert load(str(tmp_path / "vilt")).answers == ["red", "blue", "green", "yes"]


def test_a_sealed_checkpoint_is_verified(vilt_pipe, tmp_path):
    from wm_pipelines import AutoWMPipeline
    from wm_pipelines.config import WMConfig

    vilt_pipe.wm_config = WMConfig(
        method="graph-transformer", method_config={"image_size": 32, "regions": "knn", "neighbours": 2}
    )
    vilt_pipe.save_pretrained(tmp_path / "sealed")
    pipe = AutoWMPipeline.from_pretrained(tmp_path / "sealed")
    assert type(pipe).__name__ == "GraphTransformerPipeline" and pipe.wm_config.method_config.regions == "knn"
    assert load(str(tmp_path / "sealed")).recommended("neighbours", None, 8) == 2
    (tmp_path / "sealed" / "model" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="differs from its record"):
        load(str(tmp_path / "sealed"))

"""Readers of questions, replies, tables, edits and labelled pairs, for `fuzz.py`."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fuzz import Reader
from PIL import Image
from safetensors.torch import save as tensors_as_bytes


def readers(work: Path) -> list[Reader]:
    """All of them. `work` is an empty folder."""
    Image.new("RGB", (8, 8)).save(work / "a.png")
    return [*questions(work), *replies(), *edits(work), *pairs(work), *shards(work), *own_questions(work), *runs(work)]


def items() -> list[Any]:
    """Two items of VLM4D's form."""
    from wm_pipelines.vlm4d.data import read_question

    return [read_question("real", record) for record in vlm4d()]


def vlm4d() -> list[dict[str, Any]]:
    """Two of its questions."""
    choices = {"A": "left", "B": "right", "C": "up", "D": "3"}
    video = "https://example.org/videos_real/davis/x.mp4"
    said = [("Which way does it go?", "left"), ("How many are there, 3 or more?", "3")]
    return [
        {"id": f"validation_{n}", "question": q, "choices": choices, "answer": a, "video": video}
        for n, (q, a) in enumerate(said, 1)
    ]


def questions(work: Path) -> list[Reader]:
    """Data sets of questions, and rows of a run."""
    from wm_pipelines.evaluation.mcq.item_files import item_record, read_items
    from wm_pipelines.evaluation.mcq.logs import logged_row
    from wm_pipelines.evaluation.mcq.rows import encode, read_rows
    from wm_pipelines.evaluation.mcq.summary import summarise
    from wm_pipelines.mmworld.data import load_mmworld
    from wm_pipelines.vlm4d.data import load_vlm4d, read_questions

    world = {
        "video_id": "abc", "type": "Explanation", "discipline": "Business", "subdiscipline": "Marketing",
        "question": "What is sold?", "options": {"a": "rice", "b": "tea"}, "answer": "rice",
        "correct_answer_label": "a", "requires_audio": False,
    }  # fmt: skip
    told = {k: world[k] for k in ("video_id", "discipline", "subdiscipline")}
    nested = [told | {"questions": [{k: v for k, v in world.items() if k not in told}], "captions": ["x"]}]
    lines = "".join(json.dumps(item_record(item)) + "\n" for item in items()).encode()
    rows = "".join(encode(logged_row(item, "A", model="m", protocol="direct")) for item in items()).encode()
    folder = work / "vlm4d"
    (folder / "QA").mkdir(parents=True)
    for subset in ("real", "synthetic"):
        (folder / "QA" / f"{subset}_mc.json").write_text(json.dumps(vlm4d()))
    return [
        Reader("items", read_items, (lines,), ".jsonl"),
        Reader("rows", lambda path: summarise(read_rows(path)), (rows,), ".jsonl"),
        Reader("vlm4d", lambda path: read_questions(path, "real"), (_json(vlm4d()),), ".json"),
        Reader("vlm4d folder", lambda path: load_vlm4d(path, videos=False), folder=folder),
        Reader("mmworld", load_mmworld, (_json([world]), _json(nested)), ".json"),
        Reader("mmworld lines", load_mmworld, (_json(world) + b"\n" + _json(world),), ".jsonl"),
    ]


def replies() -> list[Reader]:
    """What models and other programs said."""
    from wm_pipelines.aurora_bench.judge import read_scores
    from wm_pipelines.evaluation.mcq.endpoint import EndpointModel, decoded
    from wm_pipelines.evaluation.mcq.extract import extract_answer
    from wm_pipelines.evaluation.mcq.logs import lmms_eval_rows, vlmevalkit_rows
    from wm_pipelines.evaluation.mcq.models import Request
    from wm_pipelines.mmworld.data import read_submission
    from wm_pipelines.runtime.readers import read_text
    from wm_pipelines.vlm4d.predictions import read_predictions

    known = items()
    item, *_ = known
    predictions = [
        {"id": r["id"], "question": r["question"], "choices": r["choices"], "response": "B",
         "ground_truth_answer": r["answer"], "correct": False} for r in vlm4d()
    ]  # fmt: skip
    text = "Which way does it go?\nA. left\nB. right"
    plain = {"doc_id": 3, "input": text, "target": "A", "resps": [["A"]], "filtered_resps": ["A"]}
    plain |= {"doc": {"video_id": 1}}
    ours = plain | {"wm": {
        "uid": item.uid, "control": "full", "options": dict(item.options), "shift": 1, "source": "s", "subset": "t",
        "id": "1", "question": item.question, "right": ["A"], "video_id": "v", "facet": "", "family": "",
        "annotations": {}, "protocol": "direct",
    }}  # fmt: skip
    samples = _json(plain) + b"\n" + _json(ours)
    csv = b"index,question,A,B,answer,prediction,video\n0,Which way?,left,right,A,B,x.mp4\n"
    tsv = b"index\tquestion\tcandidates\tanswer\tprediction\n0\tWhich way?\t['left', 'right']\tleft\tA\n"
    given = [{"video_id": i.cluster, "model_answer": "a"} for i in known]
    options = {"A": "left", "B": "going right", "C": "right"}
    answered = b"The final answer is (B). Option A or C? \\boxed{C} going right **Answer: A**"
    said = {"choices": [{"message": {"content": "A"}, "finish_reason": "stop", "logprobs": {"content": [
        {"top_logprobs": [{"token": " A", "logprob": -0.5}, {"token": "B", "logprob": -1.5}]}]}}]}  # fmt: skip

    def endpoint(path: Path) -> Any:
        model = EndpointModel("http://localhost:1", "m", retries=0)
        model.post = lambda body: decoded(path.read_bytes())
        for protocol in ("direct", "loglik"):
            model.answer(Request("?", "?", options, None, None, protocol, 1))

    return [
        Reader("vlm4d predictions", lambda path: read_predictions(path, known, judged=True),
               (_json(predictions),), ".json"),
        Reader("mmworld submission", lambda path: read_submission(path, known),
               (_json({"detailed_results": given}),), ".json"),
        Reader("lmms-eval samples", lmms_eval_rows, (samples,), ".jsonl"),
        Reader("lmms-eval samples of items", lambda path: lmms_eval_rows(path, known),
               (_json(plain | {"input": f"{item.question}\n" + "\n".join(item.options.values())}),), ".jsonl"),
        Reader("vlmevalkit csv", vlmevalkit_rows, (csv,), ".csv"),
        Reader("vlmevalkit tsv", vlmevalkit_rows, (tsv,), ".tsv"),
        Reader("vlmevalkit xlsx", vlmevalkit_rows, (_xlsx(),), ".xlsx"),
        Reader("replies", lambda path: extract_answer(read_text(path), options), (answered,), ".txt"),
        Reader("judge's scores", lambda path: read_scores(read_text(path)),
               (b'Good: {"success": 7, "minimal": 5.5}',), ".txt"),
        Reader("endpoint's answer", endpoint, (_json(said),), ".json"),
    ]  # fmt: skip


def edits(work: Path) -> list[Reader]:
    """Edits of pictures, and what is measured of them."""
    from wm_pipelines.aurora_bench.disc_edit import read_disc_edit
    from wm_pipelines.aurora_bench.items import read_bench

    row = {"input": "a.png", "output": "a.png", "instruction": "push it", "task": "kubric"}
    disc = {"input": "a.png", "pos": "make it red", "neg": "make it blue"}
    return [
        Reader("aurora bench", lambda path: [i.states() for i in read_bench(path, work)],
               (_json([row, {**row, "output": None}]),), ".json"),
        Reader("disc edit", lambda path: [i.read() for i in read_disc_edit(path, work)],
               (_json([disc, {**disc, "pos": None}]),), ".json"),
    ]  # fmt: skip


def pairs(work: Path) -> list[Reader]:
    """Pairs of pictures with actions, as files and as codes."""
    from wm_pipelines.dynamics import coded
    from wm_pipelines.dynamics.annotation import labels
    from wm_pipelines.dynamics.annotation.triplets import COLUMNS, MANIFEST, TRIPLETS, read_triplets
    from wm_pipelines.dynamics.data import read_folder
    from wm_pipelines.flexecontrol.training.folder import FolderSource
    from wm_pipelines.graph_transformer.tables import Table
    from wm_pipelines.mojito.training.folder import ClipFolder
    from wm_pipelines.runtime.shards.rows import encode
    from wm_pipelines.world_model import latents

    folder = _folder(work / "pairs", {"pairs.jsonl": _json(
        {"source": "a.png", "target": "a.png", "action": "push it", "kind": "push"}) + b"\n"})  # fmt: skip
    types_of = {name: labels.COLUMNS[name] for name in COLUMNS}
    row = {"id": "x", "class": "push", "rows": 2, "source_codes": [1, 2, 3, 4], "target_codes": [1, 2, 3, 5]}
    row |= {"distances": [0.0, 0.5, 1.0, 0.0], "action": "push it"}
    data, _ = encode([row, row | {"id": "y"}], types_of)
    tokeniser = SimpleNamespace(vq=torch.nn.Module())  # without weights
    manifest = {"format": 1, "sha256": "", "tokens": coded.fingerprint(tokeniser), "rows": 2}
    triplets = _folder(work / "triplets", {TRIPLETS: data, MANIFEST: _json(manifest)}, picture=False)

    def labelled(path: Path) -> Any:
        try:  # an attacker writes the hash, too
            told = json.loads((path / MANIFEST).read_text())
            told["sha256"] = hashlib.sha256((path / TRIPLETS).read_bytes()).hexdigest()
            (path / MANIFEST).write_text(json.dumps(told))
        except (ValueError, TypeError, RecursionError):
            pass
        return read_triplets(path, tokeniser)

    coded_file = _words({"source": torch.ones(1, 2, 2, dtype=torch.int32), "target": torch.ones(1, 2, 2).int(),
                         "distances": torch.zeros(1, 2, 2)},
                        words={"actions": [["a"]], "kinds": ["k"], "captions": [""], "names": ["n"]})  # fmt: skip
    latent_file = _words({name: torch.zeros(1, 4, 2, 2) for name in latents.TENSORS}, words={"actions": [["a"]]})
    asked = {"picture": "a.png", "question": "Is it red?", "answer": "yes", "text": "row 1: name is Ann; age is 7;"}
    graph = {"objects": {"it": ["red"]}, "connections": []}
    asked_folder = _folder(work / "asked", {
        "questions.jsonl": _json(asked) + b"\n" + _json(asked | {"answer": "no", "graph": graph}) + b"\n",
        "answers.txt": b"yes\nno\n"})  # fmt: skip
    drawn = _folder(work / "drawn", {"anno.txt": b"x\ta red cube\n", "spans.json": _json({"x": [[2, 10]]})})
    for name in ("images", "masks", "conditions/canny"):
        (drawn / name).mkdir(parents=True)
        Image.fromarray(np.ones((16, 16), np.uint8)).convert("L" if name == "masks" else "RGB").save(
            drawn / name / "x.png")  # fmt: skip
    filmed = _folder(work / "filmed", {"anno.txt": b"x\ta red cube\n", "videos/x.mp4": b"0"}, picture=False)
    layout = (Path(coded.__file__).parent / "templates" / "plain.yaml").read_bytes()
    return [
        Reader("pairs folder", lambda path: [p.read() for p in read_folder(path)], folder=folder),
        Reader("triplets", labelled, folder=triplets),
        Reader("codes of pairs", lambda path: coded.load_codes(path, "i", ""), (coded_file,), ".safetensors"),
        Reader("latents of pairs", lambda path: latents.load_latents(path, "i"), (latent_file,), ".safetensors"),
        Reader("layout", _layout, (layout,), ".yaml"),
        Reader("questions folder", _asked, folder=asked_folder),
        Reader("table", Table.from_csv, (b"name,age\nAnn,7\nBob,9\n",), ".csv"),
        Reader("drawings folder", lambda path: FolderSource(path, (16, 16), ["canny"]).pictures([0]), folder=drawn),
        Reader("clips folder", ClipFolder, folder=filmed),
    ]


def shards(work: Path) -> list[Reader]:
    """Plans, rows and markers of work in shards, and plans of annotation."""
    from wm_pipelines.dynamics.annotation import annotate
    from wm_pipelines.runtime.shards import leases, make_plan, read_plan, run_stage
    from wm_pipelines.runtime.shards.results import dead_letters, plan_rows, report
    from wm_pipelines.runtime.shards.rows import encode, read_rows

    root = _folder(work / "inputs", {"a.txt": b"1", "b.txt": b"2"}, picture=False)
    folder = work / "plan"
    plan = make_plan(folder, [["a.txt"], ["b.txt"]], root=root, config={"k": [1, {"x": None}]}, columns=None)
    run_stage(plan, _rows, "here")

    def whole(path: Path) -> Any:
        found = read_plan(path, root)
        return report(found), list(plan_rows(found)), dead_letters(found)

    columns = {"a": "int32", "b": "list<float32>", "c": "string"}
    table, _ = encode([{"a": 1, "b": [0.5], "c": "x"}, {"a": None, "b": [], "c": "y"}], columns)
    told = {"format": annotate.FORMAT, "videos": str(root), "frames": {"code": "1", "size": [8, 8]}}
    told |= {"labels": {
        "code": "1", "model": "m", "base": None, "revision": "", "weights": "w", "prompt": "p", "tokens": "t",
        "licence": "x", "max_new_tokens": 8, "batch": 2, "accuracy": None}}  # fmt: skip
    noted = _folder(work / "noted", {annotate.NAME: _json(told)}, picture=False)
    make_plan(noted / "frames", [["a.txt"]], root=root, config=told["frames"])
    claim = {"run": "r", "token": "t", "lease_s": 5.0, "place": "p", "pid": 1, "started": "1"}

    def lease(path: Path) -> Any:
        own = path.parent / "leases"
        own.mkdir(exist_ok=True)
        for old in own.iterdir():
            old.unlink()
        (own / "s.1").write_bytes(path.read_bytes())
        leases.has_lease(own, 1)
        return leases.take(own, "s", "r", 5.0)

    def annotation(path: Path) -> Any:
        settings = annotate.read_settings(path)
        return annotate.planned(path / "frames", root, settings["frames"])

    return [
        Reader("plan folder", whole, folder=folder),
        Reader("rows of shards, parquet", read_rows, (table,), ".parquet"),
        Reader("lease", lease, (_json(claim),), ".json"),
        Reader("plan of annotation", annotation, folder=noted),
    ]


def own_questions(work: Path) -> list[Reader]:
    """Questions of the miniature world, results, and caches of what was drawn."""
    from wm_pipelines.diorama.questions.items import Item, sample_question
    from wm_pipelines.kadaptation.subspace.results import CurvePoint, GroupDimension, LIDResult
    from wm_pipelines.runtime.readers import read_text

    drawn = [sample_question("translation", "fuzz", 1), sample_question("lookup", "fuzz", 1, context="table")]
    told = [item.to_json().encode() for item in drawn]
    point = CurvePoint(4, 0.5, 0.5, [0.5, 0.5])
    group = GroupDimension("q", 100, ["q_proj"], 0.9, [0.1, 0.0, 0.2], 4, None, None, [point])
    result = LIDResult([group], 0.5, 0.9, "dense", 2, 100).to_dict()

    def measured(path: Path) -> Any:
        found = LIDResult.load(path)
        return found.describe(), found.target_modules(k=1)

    return [
        Reader("diorama question", lambda path: Item.from_json(read_text(path)), tuple(told), ".json"),
        Reader("lid result", measured, (_json(result),), ".json"),
    ]


def runs(work: Path) -> list[Reader]:
    """States and records of training runs, and what a run of evaluation goes on from."""
    from wm_pipelines.aurora_bench import evaluate
    from wm_pipelines.evaluation.mcq.runner import open_folder
    from wm_pipelines.hub import EMBEDDED_ROOT
    from wm_pipelines.hub.sealing import read_evaluations, seal_run
    from wm_pipelines.training import state

    tensors = {"model": {"a": torch.ones(2)}, "optimizer": {"b": torch.ones(1)}}
    saved = state.save_state(work / "state", 5, tensors, {"recipe": {"task": "t"}, "seed": 1, "stages": []})
    record = {"recipe": {"task": "diorama-judge", "options": {}}, "seed": 0, "steps": 5, "wall_time_s": 2.5,
              "stages": [{"event": "started"}]}  # fmt: skip
    run = _folder(work / "run", {"record.json": _json(record), "log.jsonl": b'{"step": 5}\n'}, picture=False)
    (run / "export").mkdir()
    for path in (EMBEDDED_ROOT / "diorama-judge").iterdir():
        if path.is_file() and path.suffix != ".md" and path.name != "wm_config.json":
            (run / "export" / path.name).write_bytes(path.read_bytes())
    score = {"task": "t", "dataset": "d", "metric": "m", "value": 0.5, "ci95": [0.1, 0.9], "n": 3}
    settings = {"model": "m", "protocol": "direct"}
    opened = _folder(work / "opened", {"settings.json": _json(settings)}, picture=False)
    done = [{"item": "0:a.png", "step": 0, "value": 0.5}]

    return [
        Reader("state", state.read_state, folder=saved),
        Reader("run to seal", lambda path: seal_run(path, path.parent / "sealed"), folder=run, share=0.1),
        Reader("benchmark rows", lambda path: read_evaluations([path]), (_json({"evaluation": [score]}),), ".jsonl"),
        Reader("settings of a run", lambda path: open_folder(path, settings), folder=opened),
        Reader("rows of edits", evaluate.read_done, ((_json(done) + b"\n") * 2,), ".jsonl"),
    ]


def _asked(path: Path) -> Any:
    from wm_pipelines.graph_transformer.data import QuestionFolder

    source = QuestionFolder(path)
    return [(source.row(n), source.picture(n)) for n in range(source.length)]


def _rows(shard: Any) -> Any:
    for key in shard.keys:
        yield {"key": key}


def _words(tensors: dict[str, torch.Tensor], **texts: Any) -> bytes:
    coded = {name: torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8) for name, value in texts.items()}
    return tensors_as_bytes(tensors | coded, {"identity": "i"})


def _folder(folder: Path, files: dict[str, bytes], picture: bool = True) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if picture:
        Image.new("RGB", (8, 8)).save(folder / "a.png")
    return folder


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _xlsx() -> bytes:
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    texts = ["index", "question", "A", "B", "answer", "prediction", "Which way?", "left", "right"]
    shared = "".join(f"<si><t>{text}</t></si>" for text in texts)
    head = "".join(f'<c r="{"ABCDEF"[n]}1" t="s"><v>{n}</v></c>' for n in range(6))
    row = '<c r="A2"><v>0</v></c><c r="B2" t="s"><v>6</v></c><c r="C2" t="s"><v>7</v></c><c r="D2" t="s"><v>8</v></c>'
    row += '<c r="E2" t="inlineStr"><is><t>A</t></is></c><c r="F2" t="inlineStr"><is><t>B</t></is></c>'
    sheet = f'<worksheet {space}><sheetData><row r="1">{head}</row><row r="2">{row}</row></sheetData></worksheet>'
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{shared}</sst>")
        archive.writestr("xl/worksheets/sheet1.xml", sheet)
    return file.getvalue()


def _layout(path: Path) -> Any:
    """As the pipelines take it from a model's configuration."""
    from wm_pipelines.dynamics.layout import Layout
    from wm_pipelines.runtime.readers import located, read_yaml

    with located("`layout`"):
        return Layout.model_validate(read_yaml(path))

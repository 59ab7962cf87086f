"""Every verb of `wm` given hostile files of every kind: one line on standard error, no traceback, nothing written."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import typer
from PIL import Image

from wm_pipelines import cli
from wm_pipelines.hub import EMBEDDED_ROOT


def broken_exif():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif)
    data = bytearray(file.getvalue())
    at = data.index(b"Exif")
    data[at + 6 : at + 24] = b"\xff" * 18
    return bytes(data[:-30])


def cut_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"x" * 100)
    return file.getvalue()[:-20]


CONTENTS = {
    "nothing": b"",
    "deep": b"[" * 100_000,
    "deep YAML": b"a: " + b"{b: " * 3000,
    "infinity": b'{"n_ctx": 1e999, "size": Infinity}',
    "digits": b'{"steps": ' + b"9" * 5000 + b"}",
    "list": b"[1, [2], null]",
    "text": b'"a"',
    "wrong types": b'{"n_ctx": "4", "evaluation": [4], "method": 7, "files": [], "questions": 3, "a": {"b": null}}',
    "names twice": b'{"a": 1, "a": 2}',
    "CSV": b'a,"b\n"x""y\n\0',
    "columns": b'question\tprediction\tA\n"\n',
    "aliases": b"a: &a [1]\nb: *a\n",
    "tag": b"!!python/object/apply:os.system [exit]",
    "ZIP": cut_zip(),
    "header": b"\x10\0\0\0\0\0\0\0" + b'{"a":{"dtype":1}}',
    "numpy": b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'shape': (9**9,",
    "EXIF": broken_exif(),
    "surrogates": b'["\\ud800", "\xff"]',
    "pickle": b"\x80\x04cos\nsystem\n(S'exit'\ntR.",
}

FILES = {  # a command that reads FILE, and the suffix that it has
    "train --recipe": (["train", "diorama-judge", "--recipe", "FILE", "--out", "OUT"], ".yaml"),
    "train --set": (["train", "flexecontrol-folder", "--set", "options.data=FILE", "--out", "OUT"], ".json"),
    "extract": (["extract", "canny", "FILE", "OUT"], ".jpg"),
    "run comclip --image": (["run", "comclip", "--image", "FILE", "--text", "a red cube", "--out", "OUT"], ".jpg"),
    "run comclip --boxes": (
        ["run", "comclip", "--image", "GOOD", "--text", "a red cube", "--boxes", "FILE", "--out", "OUT"], ".json"),
    "run discffusion --image": (
        ["run", "discffusion", "--image", "FILE", "--text", "a red cube", "--out", "OUT"], ".png"),
    "physics": (["physics", "FILE", "--out", "OUT"], ".mp4"),
    "run cpl": (["run", "cpl", "FILE", "--class-name", "cube", "--class-name", "ball", "--out", "OUT"], ".png"),
    "run kadaptation": (["run", "kadaptation", "FILE", "--out", "OUT"], ".png"),
    "run flexecontrol --scene-graph": (
        ["run", "flexecontrol", "--prompt", "a red cube", "--scene-graph", "FILE", "--out", "OUT"], ".json"),
    "run flexecontrol --condition": (
        ["run", "flexecontrol", "--prompt", "a red cube", "--condition", "canny=FILE", "--out", "OUT"], ".png"),
    "run graph-transformer --table": (
        ["run", "graph-transformer", "--image", "GOOD", "--question", "is it red?", "--model", "MODEL", "--table",
         "FILE", "--out", "OUT"], ".csv"),
    "run mojito --trajectory": (
        ["run", "mojito", "--prompt", "a red cube", "--trajectory", "FILE", "--format", "json", "--out", "OUT"],
        ".json"),
    "run mojito, ATI": (
        ["run", "mojito", "--prompt", "a red cube", "--trajectory", "FILE", "--format", "ati", "--phrase", "red cube",
         "--box", "0.2x0.2", "--canvas", "100x200", "--out", "OUT"], ".pth"),
    "annotate plan --held-out": (
        ["annotate", "plan", "FOLDER", "OUT", "--model", "MODEL", "--licence", "x", "--held-out", "FILE"], ".json"),
    "eval aurora": (["eval", "aurora", "--model", "copy", "--data", "FILE", "--out", "OUT"], ".json"),
    "eval compare": (["eval", "compare", "FILE", "FILE", "--out", "OUT"], ".jsonl"),
    "eval mmworld": (["eval", "mmworld", "--model", "MODEL", "--root", "FILE", "--out", "OUT"], ".json"),
    "eval kit": (["eval", "kit", "lmms-eval", "FILE", "OUT"], ".jsonl"),
    "eval rescore jsonl": (["eval", "rescore", "FILE", "--out", "OUT"], ".jsonl"),
    "eval rescore csv": (["eval", "rescore", "FILE", "--out", "OUT"], ".csv"),
    "eval rescore tsv": (["eval", "rescore", "FILE", "--out", "OUT"], ".tsv"),
    "eval rescore xlsx": (["eval", "rescore", "FILE", "--out", "OUT"], ".xlsx"),
    "eval rescore json": (["eval", "rescore", "FILE", "--data", "FILE", "--out", "OUT"], ".json"),
    "eval stress": (["eval", "stress", "FILE", "--out", "OUT"], ".json"),
    "convert uni-controlnet": (["convert", "uni-controlnet", "FILE", "OUT"], ".ckpt"),
    "convert videocrafter2": (["convert", "videocrafter2", "FILE", "TOKENIZER", "OUT"], ".ckpt"),
    "convert aurora": (["convert", "aurora", "FILE", "OUT", "--base", "BASE"], ".ckpt"),
    "convert vqgan": (["convert", "vqgan", "FILE", "OUT"], ".ckpt"),
    "convert vqgan, safetensors": (["convert", "vqgan", "FILE", "OUT"], ".safetensors"),
    "convert vqgan --config": (["convert", "vqgan", "GOOD", "OUT", "--config", "FILE"], ".yaml"),
    "convert cpl": (["convert", "cpl", "FILE", "OUT"], ".tar-10"),
    "convert cpl-negatives": (["convert", "cpl-negatives", "FILE", "OUT"], ".npy"),
    "convert discffusion": (["convert", "discffusion", "FILE", "OUT"], ".bin"),
    "convert discffusion, safetensors": (["convert", "discffusion", "FILE", "OUT"], ".safetensors"),
    "convert refcocog": (["convert", "refcocog", "FILE", "OUT"], ".p"),
    "convert flickr30k": (["convert", "flickr30k", "FILE", "OUT"], ".pkl"),
}  # fmt: skip

FOLDERS = {  # a command that reads FOLDER, and the files of it that are hostile in turn
    "card": (["card", "FOLDER"], ("wm_config.json",)),
    "validate": (["validate", "FOLDER"], ("wm_config.json",)),
    "publish": (["publish", "FOLDER", "owner/name"], ("wm_config.json",)),
    "edit": (["edit", "FOLDER", "remove the red cube", "--out", "OUT"], ("config.json", "scene4d.safetensors")),
    "physics SCENE": (["physics", "FOLDER", "--out", "OUT"], ("config.json", "scene4d.safetensors")),
    "seal": (["seal", "FOLDER", "OUT"], ("record.json",)),
    "seal --evaluation": (["seal", "FOLDER", "OUT", "--evaluation", "FOLDER/rows.jsonl"], ("rows.jsonl",)),
    "run discffusion --benchmark": (
        ["run", "discffusion", "--benchmark", "pairs", "--root", "FOLDER", "--out", "OUT"], ("pairs.csv",)),
    "run comclip --benchmark comvg": (
        ["run", "comclip", "--benchmark", "comvg", "--data", "FOLDER", "--out", "OUT"],
        ("compositional_visual_genome.csv",)),
    "run comclip --benchmark svo-probes": (
        ["run", "comclip", "--benchmark", "svo-probes", "--data", "FOLDER", "--out", "OUT"], ("svo_probes.csv",)),
    "run comclip --benchmark winoground": (
        ["run", "comclip", "--benchmark", "winoground", "--data", "FOLDER", "--out", "OUT"], ("examples.jsonl",)),
    "run comclip --benchmark vl-checklist": (
        ["run", "comclip", "--benchmark", "vl-checklist", "--data", "FOLDER", "--out", "OUT"], ("colour.json",)),
    "run comclip --benchmark flickr30k": (
        ["run", "comclip", "--benchmark", "flickr30k", "--data", "FOLDER", "--out", "OUT"], ("flickr30k_test.json",)),
    "run cpl --model": (
        ["run", "cpl", "GOOD", "--class-name", "cube", "--class-name", "ball", "--model", "FOLDER", "--out", "OUT"],
        ("wm_config.json", "config.json", "diffusion_pytorch_model.safetensors")),
    "run kadaptation --model": (
        ["run", "kadaptation", "GOOD", "--model", "FOLDER", "--out", "OUT"],
        ("wm_config.json", "adapter_config.json", "adapter_model.safetensors")),
    "run dynamics": (
        ["run", "dynamics", "--source", "GOOD", "--target", "GOOD", "--model", "FOLDER", "--out", "OUT"],
        ("model_index.json", "wm_config.json")),
    "run world-model": (
        ["run", "world-model", "--source", "GOOD", "--action", "push it", "--model", "FOLDER", "--out", "OUT"],
        ("model_index.json", "wm_config.json")),
    "run lid": (["run", "lid", "FOLDER", "--base", "FOLDER", "--out", "OUT"], ("config.json",)),
    "annotate run": (["annotate", "run", "FOLDER"], ("annotation.json", "frames/plan.json")),
    "annotate reduce": (["annotate", "reduce", "FOLDER"], ("annotation.json", "labels/plan.json")),
    "eval vlm4d": (["eval", "vlm4d", "--model", "MODEL", "--root", "FOLDER", "--out", "OUT"], ("QA/real_mc.json",)),
    "eval leaderboard": (["eval", "leaderboard", "FOLDER", "--out", "OUT"], ("a/rows.jsonl",)),
    "convert morpho4d": (
        ["convert", "morpho4d", "FOLDER", "OUT", "--size", "24", "40"],
        ("finetune_s_model.pth",)),
    "convert videocrafter2 TOKENIZER": (
        ["convert", "videocrafter2", "GOOD", "FOLDER", "OUT"], ("tokenizer_config.json", "vocab.json")),
    "convert aurora --base": (
        ["convert", "aurora", "GOOD", "OUT", "--base", "FOLDER"],
        ("unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json",
         "scheduler/scheduler_config.json")),
}  # fmt: skip
MADE_UP = ("demo", "list", "schema", "doctor", "diorama", "run morpho4d", "eval diorama")
"""They read no file of others."""


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """`refused(arguments, **places)`: the line that `wm` ends with."""
    Image.fromarray(np.full((24, 24, 3), 90, np.uint8)).save(tmp_path / "good.png")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def check(arguments, **places):
        base = EMBEDDED_ROOT / "diorama-sd"
        places = {"OUT": tmp_path / "out", "GOOD": tmp_path / "good.png", "MODEL": "cpl", **places}
        places |= {"TOKENIZER": base / "tokenizer", "BASE": base}
        for name, place in places.items():
            arguments = [str(argument).replace(name, str(place)) for argument in arguments]
        monkeypatch.setattr("sys.argv", ["wm", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr().err
        assert stopped.value.code not in (0, None), (arguments, said)
        assert "Traceback" not in said and said.strip(), (arguments, said)
        assert len(said) < 20_000, (arguments, len(said))
        return said

    return check


def verbs():
    """Names of all commands, such as "eval compare"."""

    def below(group, path):
        for name in group.list_commands(None):
            command, here = group.get_command(None, name), [*path, name]
            yield from below(command, here) if hasattr(command, "list_commands") else [" ".join(here)]

    return set(below(typer.main.get_command(cli.app), []))


def test_every_verb_that_reads_files_is_attacked():
    attacked = {name for name in verbs() if any(way == name or way.startswith((f"{name} ", f"{name},"))
                                                for way in (*FILES, *FOLDERS))}  # fmt: skip
    assert verbs() - attacked == set(MADE_UP)


@pytest.mark.parametrize("way", FILES)
def test_hostile_files_are_refused_in_one_line(refused, tmp_path, way):
    arguments, suffix = FILES[way]
    (tmp_path / "videos").mkdir()
    for content in CONTENTS.values():
        path = tmp_path / f"hostile{suffix}"
        path.write_bytes(content)
        refused(arguments, FILE=path, FOLDER=tmp_path / "videos")
        assert not (tmp_path / "out").exists(), content[:40]
    path.unlink()
    path.mkdir()
    refused(arguments, FILE=path, FOLDER=tmp_path / "videos")
    refused(arguments, FILE=tmp_path / f"absent{suffix}", FOLDER=tmp_path / "videos")


@pytest.fixture
def whole(tmp_path):
    """`whole(way)`: a folder as the command takes it."""

    def make(way):
        folder = tmp_path / "whole"
        if way.startswith("run cpl"):
            shutil.copytree(EMBEDDED_ROOT / "cpl", folder)
        elif way.startswith(("run kadaptation", "card", "validate", "publish")):
            shutil.copytree(EMBEDDED_ROOT / "kadaptation", folder)
        elif way.startswith("convert aurora"):
            shutil.copytree(EMBEDDED_ROOT / "diorama-sd", folder)
        elif way.startswith("convert videocrafter2"):
            shutil.copytree(EMBEDDED_ROOT / "diorama-sd" / "tokenizer", folder)
        elif way.startswith("seal"):
            shutil.copytree(EMBEDDED_ROOT / "diorama-judge", folder / "export")
            record = {"recipe": {"task": "diorama-judge", "options": {}}, "seed": 0, "steps": 5, "stages": []}
            (folder / "record.json").write_text(json.dumps(record))
        else:
            folder.mkdir()
        return folder

    return make


@pytest.mark.parametrize("way", FOLDERS)
def test_hostile_folders_are_refused_in_one_line(refused, whole, tmp_path, way):
    arguments, names = FOLDERS[way]
    folder = whole(way)
    for name in names:
        path = folder / name
        before = path.read_bytes() if path.is_file() else None
        path.parent.mkdir(exist_ok=True)
        for content in CONTENTS.values():
            path.write_bytes(content)
            refused(arguments, FOLDER=folder)
            assert not (tmp_path / "out").exists(), (name, content[:40])
        path.unlink() if before is None else path.write_bytes(before)


WRITERS = {
    "demo": ["demo", "--out", "OUT"],
    "train": ["train", "diorama-judge", "--out", "OUT", "--set", "steps=1"],
    "seal": ["seal", "RUN", "OUT"],
    "edit": ["edit", "SCENE", "remove the red cube", "--out", "OUT"],
    "physics": ["physics", "SCENE", "--out", "OUT"],
    "diorama": ["diorama", "--size", "16", "--out", "OUT"],
    "run discffusion": [
        "run",
        "discffusion",
        "--image",
        "GOOD",
        "--text",
        "a red cube",
        "--timesteps",
        "1",
        "--out",
        "OUT",
    ],
    "run comclip": ["run", "comclip", "--image", "GOOD", "--text", "a red cube", "--out", "OUT"],
    "run cpl": ["run", "cpl", "GOOD", "--class-name", "cube", "--class-name", "ball", "--out", "OUT"],
    "run kadaptation": ["run", "kadaptation", "GOOD", "--out", "OUT"],
    "run flexecontrol": ["run", "flexecontrol", "--prompt", "a red cube", "--steps", "1", "--out", "OUT"],
    "run mojito": ["run", "mojito", "--prompt", "a red cube", "--frames", "2", "--steps", "1", "--out", "OUT"],
    "run morpho4d": ["run", "morpho4d", "a red cube slides right", "--size", "24", "--steps", "1", "--out", "OUT"],
    "eval diorama": ["eval", "diorama", "--model", "cpl", "--count", "1", "--out", "OUT"],
    "eval rescore": ["eval", "rescore", "ROWS", "--out", "OUT"],
    "eval stress": ["eval", "stress", "ROWS", "--out", "OUT"],
    "eval kit": ["eval", "kit", "lmms-eval", "ROWS", "OUT"],
    "annotate plan": ["annotate", "plan", "VIDEOS", "OUT", "--model", "cpl", "--licence", "x"],
    "convert uni-controlnet": ["convert", "uni-controlnet", "GOOD", "OUT"],
    "convert videocrafter2": ["convert", "videocrafter2", "GOOD", "TOKENIZER", "OUT"],
    "convert aurora": ["convert", "aurora", "GOOD", "OUT", "--base", "BASE"],
    "convert vqgan": ["convert", "vqgan", "GOOD", "OUT"],
    "convert cpl": ["convert", "cpl", "GOOD", "OUT"],
    "convert cpl-negatives": ["convert", "cpl-negatives", "GOOD", "OUT"],
    "convert discffusion": ["convert", "discffusion", "GOOD", "OUT"],
    "convert refcocog": ["convert", "refcocog", "GOOD", "OUT"],
    "convert flickr30k": ["convert", "flickr30k", "GOOD", "OUT"],
    "convert morpho4d": ["convert", "morpho4d", "VIDEOS", "OUT", "--size", "24", "40"],
}
"""Commands that make a folder, with input that is good as far as they look before they work."""


@pytest.mark.parametrize("way", WRITERS)
def test_a_target_that_cannot_be_written_is_found_at_once(refused, tmp_path, way):
    (tmp_path / "taken").write_text("mine")
    for out in (tmp_path / "taken", "/proc/none/out", "no\nsuch/" + "x" * 5000):
        refused(WRITERS[way], OUT=out)
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("way", ["diorama", "run comclip", "run cpl", "run kadaptation", "run morpho4d"])
def test_a_second_run_on_a_folder_is_refused(refused, tmp_path, way):
    from concurrent.futures import ThreadPoolExecutor

    from wm_pipelines.runtime.claims import claimed

    with claimed(tmp_path / "out"), ThreadPoolExecutor(1) as other:  # whose claims are its own
        said = other.submit(refused, WRITERS[way]).result()
    assert "in use by another run" in said and not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:no box for:UserWarning")
@pytest.mark.parametrize("way", ["diorama", "run comclip", "run cpl", "run kadaptation", "run morpho4d"])
def test_a_full_disk_is_one_line_and_leaves_nothing(refused, tmp_path, way):
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        refused(WRITERS[way])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    left = [str(path) for path in tmp_path.rglob("*") if path.name != "good.png"]
    assert not left


def test_an_interrupt_is_one_line(refused, monkeypatch, tmp_path):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("wm_pipelines.hub.publishing.validate", interrupted)
    assert refused(["validate", tmp_path]).count("\n") <= 2

"""`wm run comclip`: what it leaves, what it says, how it refuses."""

import json
import re

import pytest
from PIL import Image

from wm_pipelines import cli


@pytest.fixture(scope="module")
def base(comclip_parts, tmp_path_factory):
    """A plain CLIP checkpoint as a folder."""
    folder = tmp_path_factory.mktemp("comclip_base")
    for part in comclip_parts.values():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def call(monkeypatch, base, tmp_path, capsys):
    """`call(*arguments, base=..)`: exit status, standard output, standard error of `wm run comclip`."""
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "red.png")
    Image.new("RGB", (30, 40), (30, 30, 200)).save(tmp_path / "blue.png")
    boxes = {"red cube": [[2, 2, 20, 25]], "blue sphere": [[22, 3, 38, 28]]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    (tmp_path / "none.json").write_text("{}")

    def run(*arguments, base=base, out=tmp_path / "out"):
        places = [str(a).replace("DIR", str(tmp_path)) for a in arguments]
        monkeypatch.setattr("sys.argv", ["wm", "run", "comclip", *places, "--base", str(base), "--out", str(out)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.filterwarnings("ignore")
def test_run_leaves_sub_images_a_report_and_a_page(call, tmp_path):
    code, out, err = call(
        "--image", "DIR/red.png", "--image", "DIR/blue.png", "--text", "a red cube left of a blue sphere",
        "--boxes", "DIR/boxes.json", "--boxes", "DIR/none.json", "--missing", "blank",
    )  # fmt: skip
    assert code == 0, err
    folder = tmp_path / "out"
    report = json.loads((folder / "report.json").read_text())
    assert report["settings"] == {"missing": "blank"} and len(report["pairs"]) == 2
    first, second = report["pairs"]
    assert first["image"] == "red.png" and first["detector"] == 1 and second["detector"] == 0
    assert [c["text"] for c in first["components"]] == ["red cube", "blue sphere", "left of"]
    assert Image.open(folder / first["components"][0]["file"]).size == (40, 30)
    assert [f["kind"] for f in report["failures"]] == ["missing box"] * 2 and "no box for 'red cube'" in err
    assert f"red.png / a red cube left of a blue sphere: {first['score']:.4f}" in out and "boxes 1.00" in out
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 8 and page.count("<svg") == 8
    assert not re.search(r'(?:src|href)="(?!data:)', page) and "blue sphere" in page and "no box" in page


@pytest.mark.filterwarnings("ignore")
def test_a_record_gives_the_settings(call, base, pipe, tmp_path, monkeypatch):
    from wm_pipelines import WMConfig, hub

    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", tmp_path / "embedded")
    (tmp_path / "embedded").mkdir()
    base.rename(tmp_path / "embedded" / "diorama-clip")
    try:
        hub.seal(
            tmp_path / "embedded" / "diorama-clip", WMConfig(method="diorama-clip", vocabulary=["a", "red", "cube"])
        )
        pipe.save_record(tmp_path / "embedded" / "comclip", "diorama-clip", missing="blank", fusion="late")
        code, out, err = call("--image", "DIR/red.png", "--text", "a red cube", base="comclip")
        assert code == 0, err
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["settings"]["fusion"] == "late" and report["settings"]["missing"] == "blank"
        code, _, err = call("--image", "DIR/red.png", "--text", "a red cub", base="comclip")
        assert code == 2 and "the word 'cub'" in err
        with pytest.raises(ValueError, match="nearest known one is 'fusion'"):
            pipe.save_record(tmp_path / "other", "diorama-clip", fusoin="late")
    finally:
        (tmp_path / "embedded" / "diorama-clip" / "wm_config.json").unlink()
        (tmp_path / "embedded" / "diorama-clip").rename(base)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "DIR/absent.png", "--text", "a cube"], "absent.png': the file is missing"),
        (["--image", "DIR/red.png", "--text", "a cube", "--boxes", "DIR/absent.json"], "can't read"),
        (["--image", "DIR/red.png", "--text", "a cube", "--boxes", "DIR/boxes.json", "--boxes", "DIR/none.json"],
         "boxes names 2 files for 1 images"),
        (["--image", "DIR/red.png", "--text", "a cube", "--fusion", "mean"], "fusion='mean'; choose from released"),
        (["--image", "DIR/red.png", "--text", "a cube", "--fit", "cut"], "fit='cut'; choose from pad"),
        (["--image", "DIR/red.png", "--text", "a green cube", "--strict"], "no box for 'green cube'"),
        (["--image", "DIR/red.png", "--text", "a cube", "--detector", "absent"], "'absent' is not an embedded"),
        (["--image", "DIR/red.png", "--text", " ".join(["red"] * 90)], "is 92 tokens; limit is 77"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(call, tmp_path, arguments, words):
    code, _, err = call(*arguments)
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and words in line and not (tmp_path / "out").exists()


def test_another_checkpoint_is_refused(call, tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"model_type": "bert"}')
    code, _, err = call("--image", "DIR/red.png", "--text", "a cube", base=tmp_path / "vae")
    assert code == 2 and "has model_type 'bert'; ComCLIP matches with clip, siglip, blip-2" in err


@pytest.mark.filterwarnings("ignore")
def test_the_parser_is_the_users_choice_and_is_written_down(call, tmp_path):
    shown = ("--image", "DIR/red.png", "--text", "a cube behind a red sphere is blue", "--boxes", "DIR/none.json")
    assert call(*shown, "--parser", "rules")[0] == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["parser"] == "rules"
    assert [c["text"] for c in report["pairs"][0]["components"]] == ["blue cube", "red sphere", "behind"]
    for wrong, words in (("llm", "parser='llm'; it must be"), ("factual:nowhere", "'nowhere' is not an embedded")):
        code, _, err = call(*shown, "--parser", wrong, out=tmp_path / "other")
        assert code == 2 and words in err and not (tmp_path / "other").exists()

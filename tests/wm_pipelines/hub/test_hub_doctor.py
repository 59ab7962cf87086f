"""`doctor()` on this machine, and what it says of damage."""

import json
import shutil

import pytest

from wm_pipelines import hub
from wm_pipelines.config import WMConfig
from wm_pipelines.hub.doctor import describe, doctor, kernels_on


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """One embedded checkpoint, sealed, in a folder of its own."""
    folder = tmp_path / "diorama-judge"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    hub.seal(folder, WMConfig(method="diorama-judge", method_config={"colours": ["red"], "shapes": ["cube"]}))
    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", tmp_path)
    return folder


def test_doctor_finds_nothing_wrong_with_a_sound_installation(shipped):
    report = doctor()
    assert report["problems"] == []
    assert report["embedded"] == {"diorama-judge": "ok"}
    assert report["versions"]["torch"] and report["versions"]["opencv-python"]
    assert report["kernels"]["backend"] in ("torch", "triton")
    assert json.loads(json.dumps(report)) == report
    assert not any(line.startswith("PROBLEM") for line in describe(report))


def test_a_gpu_runs_the_kernels_where_triton_is_installed():
    """The kernels are named by a string: after a move it must still be the place where they are."""
    pytest.importorskip("triton")
    assert kernels_on("cuda (some GPU)")["backend"] == "triton"
    assert kernels_on("cpu (2 threads)")["backend"] == kernels_on(None)["backend"] == "torch"


def test_doctor_names_a_damaged_checkpoint(shipped):
    (shipped / "config.json").write_text('{"other": 1}')
    report = doctor()
    assert any("config.json differs from its record" in problem for problem in report["problems"])
    assert describe(report)[0].startswith("PROBLEM embedded checkpoint diorama-judge")
    assert doctor(verify=False)["embedded"] == {"diorama-judge": "not checked"}


def test_doctor_says_that_no_checkpoint_is_there(shipped):
    shutil.rmtree(shipped)
    assert any("no embedded checkpoint" in problem for problem in doctor()["problems"])


def test_doctor_names_a_library_that_is_missing_or_too_old(shipped, monkeypatch):
    from importlib import metadata

    real = metadata.version

    def version(name):
        if name == "kornia":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "diffusers" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    report = doctor()
    problems = "\n".join(report["problems"])
    assert "kornia is not installed; kornia>=" in problems
    assert "diffusers 0.1 is installed; diffusers>=" in problems
    assert report["versions"]["kornia"] is None
    assert any("missing: kornia" in line for line in describe(report))


def test_doctor_accepts_any_of_the_opencv_wheels(shipped, monkeypatch):
    from importlib import metadata

    real = metadata.version

    def version(name):
        if "opencv" not in name:
            return real(name)
        if name == "opencv-contrib-python-headless":
            return "5.0.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    report = doctor()
    assert report["versions"]["opencv-python"] == "5.0.0" and report["problems"] == []


def test_doctor_reports_the_hub_it_would_ask(shipped, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert describe(doctor())[-1] == "Hub: http://mirror.example (offline)"

"""`import wm_pipelines` stays light."""

import json


def test_importing_the_package_imports_neither_torch_nor_diffusers(script):
    startup = script("startup")
    modules = startup.import_times()
    assert "wm_pipelines" in modules
    assert startup.heavy(modules) == []


def test_a_heavy_import_would_be_seen(script):
    startup = script("startup")
    assert startup.heavy({"wm_pipelines": 1, "torch.nn": 2, "torchvision": 3}) == ["torch"]
    assert "json.decoder" in startup.import_times("import json")


def test_the_script_records_what_it_found(script, tmp_path, monkeypatch):
    startup = script("startup")
    monkeypatch.setattr("sys.argv", ["startup.py", "--repeats", "1", "--out", str(tmp_path / "startup.jsonl")])
    assert startup.main() == 0
    row = json.loads((tmp_path / "startup.jsonl").read_text())
    assert row["heavy"] == [] and len(row["milliseconds"]) == 1

"""The benchmark of file formats at its smallest, and what must hold at any size."""

import math

import pytest

pytestmark = pytest.mark.slow


def test_smallest_run_has_a_row_for_each_format(script, tmp_path, capsys):
    pytest.importorskip("fourdgs", reason="needs the extra [4d]")
    formats, out = script("morpho4d_formats"), tmp_path / "formats.jsonl"
    formats.main([f"--out={out}", "--count=60", "--frames=3"])
    rows = {(r["format"], r["degree"]): r for r in script("records").read(out)}
    assert list(rows) == [(kind, degree) for degree in (0, 1) for kind in formats.FORMATS]
    assert all("hardware" in row and row["gaussians"] == 60 for row in rows.values())
    lossless = [rows[kind, degree] for kind in ("ply sequence", "glb") for degree in (0, 1)]
    assert all((row["psnr"] or math.inf) > 100 and row["metres"] < 1e-5 for row in lossless)
    assert all(35 < row["psnr"] < 100 for (kind, d), row in rows.items() if kind in ("spz", "4dgs"))
    assert rows["splat", 1]["psnr"] < rows["splat", 0]["psnr"]  # its harmonics were left out
    assert rows["spz", 0]["metres"] <= 0.51 / 4096 and rows["spz", 0]["opacity"] <= 0.51 / 255
    assert "psnr_between" in capsys.readouterr().out

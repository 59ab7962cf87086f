"""A smoke run of the benchmark of conditions on transformers, and what in it does not depend on time."""

import pytest
import torch

pytestmark = pytest.mark.slow


def test_smallest_run_has_every_base_and_count(script, tmp_path):
    benchmark, out = script("flexecontrol_transformers"), tmp_path / "rows.jsonl"
    benchmark.main([f"--out={out}", "--steps=1", "--repeats=1"])
    rows = script("records").read(out)
    counts = [(row["base"], row["conditions"]) for row in rows if "conditions" in row]
    assert counts == [(base, n) for base in ("UNet", "SD3-shaped", "Flux-shaped") for n in (1, 2, 4, 6)]
    for row in rows:
        if "conditions" in row:
            assert row["alive_bytes"] > row["alive_bytes_base"] > 0
            assert 0 < row["weights_bytes"]["adapter"] < 2 * row["weights_bytes"]["base"]
    assert all(row["memory"] <= 1.05 for row in rows if "memory" in row)


def test_what_is_alive_is_counted(script):
    made = script("flexecontrol_transformers").Alive()
    with made:
        one = torch.zeros(1000)
        two = one + 1
        del one
        three = two * 2  # noqa: F841  at most two at once
        view = two.view(10, 100)  # noqa: F841
    assert made.most == 2 * 4000 and made.now == 2 * 4000

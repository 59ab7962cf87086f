"""The harness of kills finds a writer that loses something, and none in ours."""

import random

import pytest

from wm_pipelines.runtime.files import atomic_folder

pytestmark = pytest.mark.slow


def whole(out, version):
    with atomic_folder(out) as partial:
        for name in ("a", "b", "c"):
            (partial / name).write_text(str(version))


def mixed(out, version):
    out.mkdir(exist_ok=True, parents=True)
    for name in ("a", "b", "c"):
        (out / name).write_text(str(version))


def test_a_result_replaced_by_one_rename_is_never_mixed_and_one_written_in_place_is(script, tmp_path):
    kills = script("kills")
    ours = kills.attack("ours", whole, tmp_path / "ours", most=100, clock=random.Random(0), by_clock=2)
    assert ours["kills"] >= ours["moments"] > 10
    assert (ours["mixed"], ours["left"], ours["failed"]) == (0, 0, 0) and 0 < ours["new"] < ours["kills"]
    other = kills.attack("in place", mixed, tmp_path / "other", most=100, clock=random.Random(0), by_clock=0)
    assert other["mixed"] >= 2

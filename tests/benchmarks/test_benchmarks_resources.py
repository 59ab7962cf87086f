"""Kernels compiled ahead of time: a sample here, all of them in the scripts `benchmarks/*_resources.py`."""

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("triton")


@pytest.fixture
def ahead(script):
    return script("ahead_of_time")


@pytest.fixture
def resources(script):
    return script("kronecker_resources")


class Seen(dict):
    """A table that remembers which entries were taken."""

    def __init__(self, *args):
        super().__init__(*args)
        self.taken = set()

    def __getitem__(self, name):
        self.taken.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
def test_the_launches_cover_the_whole_table(resources, monkeypatch, arch):
    from custom_kernels.kronecker_linear._triton import table

    entries = Seen(table.TABLE[arch])
    monkeypatch.setitem(table.TABLE, arch, entries)
    calls = resources.calls(arch)
    assert entries.taken == set(entries)
    assert len({call.kernel.fn.__name__ for call in calls}) == 6


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
def test_the_main_kernel_compiles_without_spills(ahead, resources, arch):
    wanted = [c for c in resources.calls(arch) if c.kernel.fn.__name__ == "_linear_kernel"]
    call = max(wanted, key=lambda c: dict(c.arguments)["BT"])
    row = ahead.row(call, arch)
    assert not row["spills"] and 0 < row["shared"] <= {"sm_80": 163, "sm_90": 227, "gfx942": 64}[arch] * 1024
    assert 32 <= row.get("reg", row.get("vgpr_count")) <= 512


def test_a_spill_would_be_seen(ahead, resources):
    """A kernel squeezed into one warp must have a stack; else the reading of it proves nothing."""
    wanted = [c for c in resources.calls("sm_90") if c.kernel.fn.__name__ == "_outer_kernel"]
    call = max(wanted, key=lambda c: dict(c.arguments)["BK"])
    row = ahead.row(ahead.Call(call.kernel, call.arguments, (("num_warps", 1), ("num_stages", 1))), "sm_90")
    assert row["spills"] and row["stack"] > 0 and row["local"] > 0


# ---- motion attention ----


@pytest.fixture
def motion(script):
    return script("motion_resources")


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
def test_the_motion_launches_cover_the_whole_table(motion, monkeypatch, arch):
    from custom_kernels.shared._triton import motion_table

    entries = Seen(motion_table.TABLE[arch])
    monkeypatch.setitem(motion_table.TABLE, arch, entries)
    calls = motion.calls(arch)
    assert entries.taken == set(entries)
    assert len({call.kernel.fn.__name__ for call in calls}) == 5


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("kernel", ["_query_kernel", "_temporal_forward_kernel"])
def test_guidance_compiles_without_spills(ahead, motion, arch, kernel):
    """dQ of AnimateDiff's 40-wide heads, and its temporal layers; on AMD, dτ and dρ spill a few scalar registers."""
    wanted = [c for c in motion.calls(arch) if c.kernel.fn.__name__ == kernel and dict(c.arguments)["D"] == 40]
    row = ahead.row(wanted[-1], arch)
    assert not row["spills"] and 0 < row["shared"] <= {"sm_80": 163, "sm_90": 227, "gfx942": 64}[arch] * 1024

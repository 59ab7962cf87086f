"""Mojito's exact counts: parameters, layers and operations of the video bases, and the records of the two scripts."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.slow


def test_every_specified_figure_is_counted(script):
    counts = script("mojito_counts")
    assert counts.counts() == counts.EXPECTED


def test_families_find_their_layers_in_every_base_at_full_size(script):
    counts = script("mojito_counts")
    recorded = {row["base"]: row for row in script("records").read(counts.RESULTS / "mojito_counts.jsonl")[-9:]}
    assert recorded.keys() == counts.BASES.keys()
    for name, base in counts.BASES.items():
        row = counts.layout(name)
        assert (row["layers"], row["taps"], row["grids"]) == (base.layers, base.taps, base.grids), name
        assert recorded[name] == {**row, "holds": True}


def test_the_record_says_what_the_script_counts(script):
    counts = script("mojito_counts")
    rows = script("records").read(counts.RESULTS / "mojito_counts.jsonl")
    assert {row["figure"]: row["value"] for row in rows[:-9]} == counts.EXPECTED
    assert all(row["holds"] for row in rows)


def test_a_differing_figure_is_said(script, tmp_path, monkeypatch, capsys):
    counts = script("mojito_counts")
    monkeypatch.setattr(counts, "counts", lambda: {**counts.EXPECTED, "fps embedding": 7})
    monkeypatch.setattr(counts, "BASES", {})
    assert counts.main(["--out", str(tmp_path / "rows.jsonl")]) == 1
    assert "7  specified 2,050,560" in capsys.readouterr().out


@pytest.fixture(scope="module")
def small():
    """A UNet of ModelScope's kind."""
    from diffusers import UNet3DConditionModel

    return UNet3DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


def test_operations_are_those_of_a_guided_step(script, small):
    """Counted with real tensors: one guided iteration inside a call, and the call itself.

    On the CPU `motion_attention` keeps the probabilities that it makes again elsewhere: 1.2 % less at this size.
    """
    from diffusers import DDIMScheduler

    from wm_pipelines.mojito.bases.families import family_of
    from wm_pipelines.mojito.guidance.settings import GuidanceSettings
    from wm_pipelines.mojito.guidance.state import MotionState, Slots
    from wm_pipelines.mojito.guidance.steering import MotionGuide

    flops, latent = script("mojito_flops"), (1, 4, 3, 8, 12)
    meta = copy.deepcopy(small).to("meta").requires_grad_(False)
    for taps in (["mid_block"], ["mid_block", "up_blocks.1"]):
        tokens = torch.tensor([2, 3])
        slots = Slots(tokens, tokens * 0, torch.tensor([0, 0, 0.5, 0.5]).expand(1, 3, 4), torch.ones(1), 8)
        scheduler, family = DDIMScheduler(), family_of(small)
        scheduler.set_timesteps(4)
        state = MotionState([slots], frozenset(family.tapped(small, taps)))
        motion = MotionGuide(family, small, scheduler, state, GuidanceSettings(iterations=1, threshold=0.0))
        z, text = torch.randn(latent), torch.randn(1, 77, 16)
        with motion.active(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            small(z, scheduler.timesteps[0], encoder_hidden_states=text)
        assert motion.forwards == 1
        found = flops.whole(meta, latent)[0] + sum(flops.guided(meta, latent, taps))
        assert 0 <= found - counter.get_total_flops() < 0.015 * found


def test_the_cost_gate_holds_in_the_record(script):
    flops = script("mojito_flops")
    rows = script("records").read(flops.RESULTS / "mojito_flops.jsonl")
    assert [(row["base"], row["taps"]) for row in rows] == [
        (name, taps) for name in (flops.VIDEOCRAFTER, flops.ANIMATEDIFF) for taps in flops.TAPS
    ]
    assert [row["holds"] for row in rows] == [None, True, None] * 2
    for row in rows:
        assert row["ratio"] == round(sum(row["guided"].values()) / sum(row["whole"].values()), 4)
        if row["specified share"]:
            assert row["forward share, own attention"] == pytest.approx(row["specified share"], abs=0.001)

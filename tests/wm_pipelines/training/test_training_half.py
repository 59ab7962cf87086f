"""bf16 autocast for training: on a CPU attention stays in fp32, whichever way its arguments come."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from wm_pipelines.training.half import bf16_autocast


@pytest.mark.parametrize("named", [True, False])
def test_attention_runs_in_fp32_by_position_or_by_name(named):
    q, k, v = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    half = [t.bfloat16() for t in (q, k, v)]
    mask = torch.zeros(5, 5).masked_fill(torch.eye(5, dtype=torch.bool), -2.0)
    with bf16_autocast("cpu"):
        if named:
            names = ("query", "key", "value")
            found = scaled_dot_product_attention(**dict(zip(names, half, strict=True)), attn_mask=mask.bfloat16())
        else:
            found = scaled_dot_product_attention(*half, mask.bfloat16())
        assert (q[0, 0] @ k[0, 0].T).dtype == torch.bfloat16
    wanted = scaled_dot_product_attention(*(t.float() for t in half), mask)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)
    with bf16_autocast("cpu"):
        flags = scaled_dot_product_attention(*half, attn_mask=torch.eye(5, dtype=torch.bool), is_causal=False)
    assert flags.dtype == torch.float32

"""Box biases for foreign attention: where phrases are, which cells and rows get what."""

import pytest
import torch

from wm_pipelines.mojito.guidance.bias import attention_bias, phrase_positions, rows_bias

TOKENS = [9, 1, 2, 3, 1, 2, 4, 8]


def test_phrases_are_runs_of_tokens():
    assert phrase_positions(TOKENS, [2, 3], "red cube") == [2, 3]
    assert phrase_positions(TOKENS, [1, 2], "blue ball", 1) == [4, 5]
    with pytest.raises(ValueError, match="'blue ball' occurs 2 times"):
        phrase_positions(TOKENS, [1, 2], "blue ball")
    with pytest.raises(ValueError, match="'blue ball' is not among the tokens"):
        phrase_positions(TOKENS, [1, 2], "blue ball", 2)
    with pytest.raises(ValueError, match="'cone' is not among the tokens"):
        phrase_positions(TOKENS, [7], "cone")
    with pytest.raises(ValueError, match="'' has no token"):
        phrase_positions(TOKENS, [], "")


def test_cells_get_their_share_of_both_biases():
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.25], [0.0, 0.0, 1.0, 1.0]]])  # half of the first of four cells; all
    bias = attention_bias(boxes, [[1, 2]], (2, 2), 4, 3.0, 1.0)
    assert bias.shape == (2, 4, 4)
    assert bias[0, :, 1].tolist() == [1.0, -1.0, -1.0, -1.0] and torch.equal(bias[0, :, 2], bias[0, :, 1])
    assert (bias[1, :, 1:3] == 3).all() and not bias[:, :, [0, 3]].any()


def test_only_conditional_parts_of_a_call_are_biased_frame_by_frame_or_all_in_one_row():
    bias = torch.arange(2 * 3 * 4.0).view(2, 3, 4) + 1
    like = torch.zeros(1, dtype=torch.float16)
    spatial = rows_bias(bias, [False, True], 2, True, like)
    assert spatial.shape == (4, 1, 3, 4) and spatial.dtype == torch.float16
    assert not spatial[:2].any() and torch.equal(spatial[2:, 0].float(), bias)
    video = rows_bias(bias, [True, False], 1, False, like)
    assert video.shape == (2, 1, 6, 4) and not video[1].any() and torch.equal(video[0, 0].float(), bias.flatten(0, 1))

"""Box biases for attention that is not ours: which positions a phrase has, and what to add to the logits.

No gradient, no measuring, only `bias_in·M - bias_out·(1 - M)` on the logits of an object's tokens, M the share of a
cell that its box covers.
"""

from collections.abc import Sequence

import torch

from wm_pipelines.kernels import box_masks


def phrase_positions(
    tokens: Sequence[int], phrase: Sequence[int], name: str, occurrence: int | None = None
) -> list[int]:
    """Positions of a phrase's tokens among those of the prompt.

    Args:
        tokens: of the encoded prompt, as the text encoder gets them.
        phrase: of the phrase alone, without special tokens.
        name: the words, for messages.
        occurrence: which of several, from 0; None where there must be one.

    Raises:
        ValueError: the phrase is not there, or not so often, or more than once and nothing says which.
    """
    if not phrase:
        raise ValueError(f"phrase {name!r} has no token")
    starts = phrase_starts(tokens, phrase)
    if len(starts) <= (occurrence or 0):
        raise ValueError(f"phrase {name!r} is not among the tokens of the prompt; write it as it stands there")
    if occurrence is None and len(starts) > 1:
        raise ValueError(f"phrase {name!r} occurs {len(starts)} times in the prompt; give its span")
    start = starts[occurrence or 0]
    return list(range(start, start + len(phrase)))


def phrase_starts(tokens: Sequence[int], phrase: Sequence[int]) -> list[int]:
    """Positions at which the tokens of a phrase begin among `tokens`."""
    width = len(phrase)
    return [i for i in range(len(tokens) - width + 1) if list(tokens[i : i + width]) == list(phrase)]


def attention_bias(
    boxes: torch.Tensor,
    positions: Sequence[Sequence[int]],
    grid: tuple[int, int],
    length: int,
    bias_in: float,
    bias_out: float,
) -> torch.Tensor:
    """What to add to attention logits of cells with text tokens, `(F, L, length)`.

    Args:
        boxes (`torch.Tensor` of shape `(O, F, 4)`, fractions).
        positions: of each object's tokens, each below `length`.
        grid: rows and columns of cells, L = rows · columns.
    """
    masks = box_masks(boxes, grid)  # (O, F, L)
    added = bias_in * masks - bias_out * (1 - masks)
    bias = boxes.new_zeros(boxes.shape[1], grid[0] * grid[1], length)
    for own, columns in zip(added, positions, strict=True):
        bias[:, :, list(columns)] += own.unsqueeze(-1)
    return bias


def rows_bias(
    bias: torch.Tensor, conditional: Sequence[bool], rows: int, spatial: bool, like: torch.Tensor
) -> torch.Tensor:
    """The bias of a whole call, an attention mask for all its rows.

    Args:
        bias: (F, L, N), from `attention_bias`.
        conditional: which of the parts, one behind the other in the call, are conditional; the others get 0.
        rows: of each part: its frames where a layer sees one frame a row (`spatial`), else its videos.
        like: what the mask is added to decides its device and number format.

    Returns:
        `(parts · rows, 1, cells, N)`; cells are L, or F · L where a row holds all frames.
    """
    part = bias if spatial else bias.flatten(0, 1).expand(rows, -1, -1)
    parts = [part if acting else torch.zeros_like(part) for acting in conditional]
    return torch.cat(parts).unsqueeze(1).to(like)

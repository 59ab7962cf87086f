"""Whether a conditioning is that of a prompt, so that the prompt's tokens are where they are looked for."""

import torch


def check_holds(conditioning: list, encoded: list) -> None:
    """Refuse a CONDITIONING none of whose entries is that of a prompt.

    ControlNet, areas and time ranges leave the tokens as they are, and combining adds entries; one prompt behind
    another in the same entry, or an average of two, is another conditioning.

    Args:
        conditioning: what came in.
        encoded: the prompt's own.

    Raises:
        ValueError: no entry has the prompt's tokens.
    """
    wanted = encoded[0][0]
    for tokens, _ in conditioning:
        if tokens.shape == wanted.shape and torch.allclose(tokens.float(), wanted.float(), atol=1e-4, rtol=1e-3):
            return
    raise ValueError(
        "positive does not hold the prompt of this node: encode the same words by the same CLIP, combine "
        "conditionings and don't concatenate or average them, or leave positive unconnected"
    )

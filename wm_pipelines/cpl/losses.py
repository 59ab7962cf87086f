"""CPL's loss: cross entropy, and a term that tells a picture from its counterfactual.

The released code and the paper differ. `released`: the mean over all classes of softplus(<t_c, v'> - <t_c, v>), no
temperature. `paper`: -log [e^(<v, t_y> / tau) / (e^(<v, t_y> / tau) + e^(<v', t_y> / tau))], the true class only. Both
are means over the batch here; the released code sums (at its batch size of 1 that is the same). Its norm of u has no
path to the prompt and is reported instead (`sparsity`). Its learnable matrix U is inert to three decimals: a clamp
leaves selected entries at one and gives all others no gradient. So u is the greedy mask itself.
"""

import torch
from torch.nn import functional

VARIANTS = ("released", "paper")
LAMBDA = {"released": 1.0, "paper": 0.5}
TAU = 0.1


def counterfactual_loss(
    text: torch.Tensor,
    image: torch.Tensor,
    changed: torch.Tensor,
    labels: torch.Tensor,
    variant: str = "released",
    tau: float = TAU,
) -> torch.Tensor:
    """The counterfactual term, a scalar; ln 2 where the counterfactual is the picture itself.

    Args:
        text: unit text features `(B, K, d)`, conditional on each picture. image, changed: unit features `(B, d)`.
        labels: row of `text` that is the true one, int64 `(B,)`; only `paper` reads it.
        tau: temperature of `paper`; `released` has none.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
    gap = torch.einsum("bkd,bd->bk", text, changed - image)
    if variant == "paper":
        if not tau > 0:
            raise ValueError(f"tau={tau}; it must be above 0")
        gap = gap.gather(1, labels[:, None]) / tau
    return functional.softplus(gap).mean()


def class_logits(text: torch.Tensor, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Logits `(B, K)`: scaled cosines of unit text `(B, K, d)` and picture features `(B, d)`."""
    return scale * torch.einsum("bkd,bd->bk", text, image)

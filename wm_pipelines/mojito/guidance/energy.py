"""How far the attention of each phrase is from its box (Mojito's DMC; the form is that of arXiv 2304.03373).

E = sum_f mean_layers mean_objects mean_tokens mean_heads (1 - I / Z)**2, with I the attention inside the box and Z in
all; the sum over frames, not the mean, gives every frame the push that a single picture would get (our choice).
"""

from collections.abc import Sequence

import torch

from wm_pipelines.mojito.guidance.state import Slots, Sums

UNSEEN = 1e-5
"""Mean attention a cell below which a token counts as unseen by a layer; its slot is left out there."""


def inside_share(sums: Sums) -> torch.Tensor:
    """I / Z, (F, H, J) in [0, 1]."""
    return sums.inside / sums.total.clamp(min=1e-6)


def frame_energies(sums: Sequence[Sums], slots: Slots) -> torch.Tensor:
    """E of each latent frame of one video, (F,), differentiable; objects count by their weights.

    Args:
        sums: one per tapped layer.
    """
    layers = []
    for one in sums:
        weight = _slot_weights(one, slots)
        layers.append(((1 - inside_share(one)).square().mean(1) * weight).sum(-1))
    return torch.stack(layers).mean(0)


def smoothness(sums: Sequence[Sums], slots: Slots) -> torch.Tensor:
    """S = sum_f mean |second difference of the attention's centroid - that of the box's centre|**2, a scalar.

    The exact form in the paper is not known; this one is 0 for attention that moves as its box does.
    """
    centres = (slots.boxes[..., :2] + slots.boxes[..., 2:]) / 2  # (O, F, 2)
    if centres.shape[1] < 3:
        return centres.new_zeros(())
    wanted = _second_difference(centres.transpose(0, 1))[:, slots.owners]  # (F - 2, J, 2)
    layers = []
    for one in sums:
        seen = _seen(one).float()
        total = one.total.clamp(min=1e-6)
        centroid = torch.stack([one.x / total, one.y / total], dim=-1)  # (F, H, J, 2)
        each = (_second_difference(centroid) - wanted[:, None]).square().sum(-1).mean(1).sum(0)  # (J,)
        layers.append((each * seen).sum() / seen.sum().clamp(min=1))
    return torch.stack(layers).mean()


def in_box(sums: Sequence[Sums], slots: Slots) -> torch.Tensor:
    """Share of each object's attention inside its box, mean over layers, heads and seen tokens, (O, F); unseen: 0."""
    seen = torch.stack([_seen(one) for one in sums]).float()[:, None]  # (layers, 1, J)
    shares = torch.stack([inside_share(one).mean(1) for one in sums]) * seen  # (layers, F, J)
    own = (slots.owners == torch.arange(len(slots.weights), device=slots.owners.device)[:, None]).float()  # (O, J)
    return torch.einsum("lfj,oj->of", shares, own) / torch.einsum("lij,oj->oi", seen, own).clamp(min=1)


def unseen(sums: Sequence[Sums], slots: Slots) -> list[int]:
    """Objects none of whose tokens any layer attends to."""
    seen = torch.stack([_seen(one) for one in sums]).any(0)
    return [o for o in range(len(slots.weights)) if not seen[slots.owners == o].any()]


def _second_difference(x: torch.Tensor) -> torch.Tensor:
    return x[2:] - 2 * x[1:-1] + x[:-2]


def _seen(sums: Sums) -> torch.Tensor:
    return sums.total.detach().mean((0, 1)) / sums.cells >= UNSEEN


def _slot_weights(sums: Sums, slots: Slots) -> torch.Tensor:
    """(J,): weight of the slot's object among the objects, shared by its tokens."""
    seen = _seen(sums).float()
    tokens = torch.zeros_like(slots.weights).index_add(0, slots.owners, seen)
    share = slots.weights / slots.weights.sum() / tokens.clamp(min=1)
    return share[slots.owners] * seen

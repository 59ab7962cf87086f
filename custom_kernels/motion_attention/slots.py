"""What slots add to attention and collect from it.

A slot is one (object, token) pair: its token's probability is weighed by its object's box.
"""

import torch
from torch import Tensor

from custom_kernels.shared.boxes import box_gradient, box_masks, cell_centres

__all__ = ["Slots", "indicators"]


def indicators(index: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """[n = index] for n in 0 ... count − 1, (..., count)."""
    return (index.unsqueeze(-1) == torch.arange(count, device=index.device)).to(dtype)


class Slots:
    """The slots of one call. B batch, F frames, H heads, L cells, J slots, O objects.

    Args:
        boxes: (B, O, F, 4), in the dtype of the sums. grid: (h, w).
        token: (B, J), -1 where a batch row lacks the slot. object_index: (J,).
        bias_in, bias_out: (B, O), or both None.
    """

    def __init__(
        self,
        boxes: Tensor,
        token: Tensor,
        object_index: Tensor,
        grid: tuple[int, int],
        bias_in: Tensor | None,
        bias_out: Tensor | None,
    ) -> None:
        self.boxes, self.grid, self.object_index = boxes, grid, object_index
        self.token, self.valid = token.clamp(min=0), (token >= 0).to(boxes.dtype)
        self.masks = box_masks(boxes, grid)[:, object_index].movedim(1, -1)  # (B, F, L, J)
        self.centres = cell_centres(grid, boxes.device, boxes.dtype)
        self.biases = None if bias_in is None else (bias_in[:, object_index], bias_out[:, object_index])  # (B, J)

    def logits(self) -> Tensor | None:
        """λ_in M − λ_out (1 − M) of every slot, (B, F, L, J), or None without a bias."""
        if self.biases is None:
            return None
        inside, outside = ((b * self.valid)[:, None, None] for b in self.biases)
        return inside * self.masks - outside * (1 - self.masks)

    def sums(self, maps: Tensor) -> Tensor:
        """(4, B, F, H, J): I, Z, Cx and Cy of maps (B, F, H, L, J)."""
        ones = self.centres.new_ones(len(self.centres), 1)
        plain = torch.einsum("bfhlj,lc->cbfhj", maps, torch.cat([ones, self.centres], 1))
        return torch.cat([torch.einsum("bfhlj,bflj->bfhj", maps, self.masks)[None], plain])

    def weights(self, g_sums: Tensor | None, g_maps: Tensor | None) -> Tensor | None:
        """γ (B, F, H, L, J): the gradient that sums (4, B, F, H, J) and maps send to each slot's probability."""
        gamma = None
        if g_sums is not None:
            gamma = torch.einsum("bfhj,bflj->bfhlj", g_sums[0], self.masks) + g_sums[1].unsqueeze(3)
            gamma += torch.einsum("cbfhj,lc->bfhlj", g_sums[2:], self.centres)
        if g_maps is not None:
            gamma = g_maps if gamma is None else gamma + g_maps
        return None if gamma is None else gamma * self.valid[:, None, None, None]

    def gradients(self, maps: Tensor, d_logits: Tensor, g_sums: Tensor | None) -> tuple[Tensor, ...]:
        """Of boxes (B, O, F, 4), λ_in and λ_out (B, O).

        Args:
            maps, d_logits: (B, F, H, L, J) probability of each slot's token, and the gradient of its logit.
        """

        def by_object(t: Tensor) -> Tensor:  # (B, J, ...) -> (B, O, ...)
            return torch.einsum("bj...,jo->bo...", t, indicators(self.object_index, self.boxes.shape[1], t.dtype))

        d_logits = d_logits.sum(2) * self.valid[:, None, None]  # (B, F, L, J)
        d_masks = torch.zeros_like(d_logits)
        if self.biases is not None:
            d_masks += d_logits * (self.biases[0] + self.biases[1])[:, None, None]
        if g_sums is not None:
            d_masks += torch.einsum("bfhlj,bfhj->bflj", maps, g_sums[0])
        d_boxes = box_gradient(self.boxes, self.grid, by_object((d_masks * self.valid[:, None, None]).movedim(-1, 1)))
        d_in = by_object((d_logits * self.masks).sum((1, 2)))
        return d_boxes, d_in, by_object((d_logits * (self.masks - 1)).sum((1, 2)))

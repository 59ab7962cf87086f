"""The losses of FlexEControl: L = L_ldm + lambda_ca L_ca + lambda_mask L_mask, both lambdas 0.01.

L_ca and L_mask follow Break-A-Scene (google/break-a-scene), from which the method takes them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from wm_pipelines.flexecontrol.network.blocks import max_pool_to
from wm_pipelines.flexecontrol.network.slots import SlotInput
from wm_pipelines.media.conditions import canonical_type, support


def attention_loss(maps: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """L_ca: each phrase's attention, divided by its own maximum, against its object's mask; squared error.

    Args:
        maps: (B,P,h,w), already the mean over layers, heads and tokens.
        masks: (B,P,H,W), non-zero where phrase i's object is; max-pooled to the maps' grid, so thin objects survive.
        valid: (B,P) bool. Phrases without tokens (a dropped caption) or object don't count; a sample without any adds
            zero, but stays in the mean over the batch.
    """
    peak = maps.amax((-2, -1), keepdim=True).clamp(min=1e-6)
    target = (max_pool_to(masks, tuple(maps.shape[-2:])) > 0).to(maps)
    error = (maps / peak - target).square().mean((-2, -1))  # (B,P)
    weight = valid.to(error)
    return ((error * weight).sum(1) / weight.sum(1).clamp(min=1)).mean()


def masked_noise_loss(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """L_mask: squared error inside the controlled area, mean over all elements (no renormalisation by area).

    Args:
        prediction, target: (B,C,h,w) in the scheduler's parametrisation (noise in the paper).
        mask: (B,1,H,W), non-zero where an active condition controls; max-pooled to the latent.
    """
    inside = (max_pool_to(mask, tuple(prediction.shape[-2:])) > 0).to(prediction)
    return (inside * (prediction - target)).square().mean()


def controlled_area(slots: Sequence[SlotInput], backgrounds: dict[str, float], like: torch.Tensor) -> torch.Tensor:
    """M (B,1,H,W), 0 or 1: the union of the areas that the active conditions of each sample control.

    A type's background is no control (a sketch may be black on white). A pose controls everything, it is too sparse.

    Args:
        backgrounds: value of "no control" for each type. like: (B,1,H,W), for shape and device.
    """
    area = torch.zeros_like(like, dtype=torch.bool)
    for slot in slots:
        strength = torch.as_tensor(slot.strength, device=area.device).reshape(-1, 1, 1, 1)
        if canonical_type(slot.type) == "pose":
            marked = torch.ones_like(area)
        else:
            marked = support(slot.type, slot.image, backgrounds[slot.type]).to(area.device)
        if slot.region is not None:
            marked = marked & (slot.region.to(area.device) > 0)
        area |= marked & (strength != 0)
    return area.float()


def diffusion_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L_ldm: mean squared error over everything, in float32."""
    return F.mse_loss(prediction.float(), target.float())

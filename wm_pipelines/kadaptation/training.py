"""How adapter and head are fitted: AdamW, cosine schedule, cross-entropy; every number follows from the seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.kadaptation.modeling import KAdaptationHead
from wm_pipelines.runtime.random import keyed

Pictures = tuple[torch.Tensor, torch.Tensor]  # pixels (N, 3, H, W) and class indices (N,), both on the CPU


@dataclass(frozen=True)
class FitRecipe:
    """What decides the numbers of a fit, apart from pictures, base and adapter config."""

    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 3e-3  # of the adapter
    head_learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name in ("learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and above 0, got {value!r}")


def check_batches(recipe: FitRecipe, pictures: int, kind: str) -> None:
    """The head of the released code can't learn from one picture at a time.

    Raises:
        ValueError: head "linear_bn" would get no batch of two pictures or more.
    """
    if kind == "linear_bn" and recipe.epochs and min(recipe.batch_size, pictures) < 2:
        raise ValueError(
            f'head="linear_bn" needs batches of 2 pictures or more for their variance, got {pictures} pictures with '
            f"batch_size={recipe.batch_size}"
        )


def steps_of(recipe: FitRecipe, pictures: int, kind: str, epochs: int) -> int:
    """How many steps `epochs` epochs take; "linear_bn" leaves a last batch of one picture out in the first."""
    left_out = kind == "linear_bn" and epochs > 0 and pictures % recipe.batch_size == 1
    return epochs * math.ceil(pictures / recipe.batch_size) - left_out


def features_of(vision_model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Projected features (N, D) of pixels on any device, not normalised."""
    return vision_model(pixels.to(vision_model.device, vision_model.dtype)).image_embeds


@torch.no_grad()
def features_in_batches(vision_model: nn.Module, pixels: torch.Tensor, batch_size: int) -> torch.Tensor:
    """As `features_of`, a batch at a time, without gradients."""
    return torch.cat([features_of(vision_model, part) for part in pixels.split(batch_size)])


def fit(
    vision_model: nn.Module,
    head: KAdaptationHead,
    adapter: list[nn.Parameter],
    train: Pictures,
    validation: Pictures | None,
    recipe: FitRecipe,
    on_step: Callable[[dict[str, float]], Any],
    on_epoch: Callable[[dict[str, float]], bool],
) -> list[dict[str, Any]]:
    """Trains `adapter` and `head` in place and returns one row per epoch.

    Without adapter parameters the features are computed once and the head alone is trained: a linear probe. With
    validation pictures the state of the best epoch stays (highest accuracy, then lowest loss), else that of the last.

    Args:
        on_step: called with the loss of each step. on_epoch: called with the row of each epoch; True stops the fit.
    """
    if recipe.epochs == 0:
        return []
    head_parameters = list(head.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": adapter, "lr": recipe.learning_rate},
            {"params": head_parameters, "lr": recipe.head_learning_rate},
        ],
        weight_decay=0.0,
    )
    inputs, targets = train[0], train[1].to(head.device)
    if not adapter:
        inputs = features_in_batches(vision_model, inputs, recipe.batch_size)
        if validation is not None:
            validation = features_in_batches(vision_model, validation[0], recipe.batch_size), validation[1]
    steps = steps_of(recipe, len(inputs), head.config.kind, recipe.epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
    )
    tensors = [*adapter, *head.state_dict().values()]
    best: tuple[tuple[float, float], list[torch.Tensor]] | None = None
    rows = []
    with torch.enable_grad():
        for epoch in range(recipe.epochs):
            vision_model.train()  # dropout of the adapter
            head.train(epoch == 0)  # the released code's running statistics move in the first epoch only
            order = torch.from_numpy(keyed("kadaptation order", recipe.seed, epoch).permutation(len(inputs)))
            losses, right = [], 0
            for part in order.split(recipe.batch_size):
                if head.training and head.config.kind == "linear_bn" and len(part) == 1:
                    continue  # one sample has no variance
                features = features_of(vision_model, inputs[part]) if adapter else inputs[part]
                logits = head(features)
                loss = functional.cross_entropy(logits, targets[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
                on_step({"loss": losses[-1]})
                right += (logits.argmax(1) == targets[part]).sum().item()
            row = {"epoch": epoch + 1, "loss": sum(losses) / max(1, len(losses)), "accuracy": right / len(inputs)}
            if not math.isfinite(row["loss"]):
                raise FloatingPointError(f"the loss is not finite in epoch {epoch + 1}; lower the learning rates")
            vision_model.eval()
            head.eval()
            if validation is not None:
                loss, accuracy = _measure(vision_model, head, validation, recipe.batch_size, cached=not adapter)
                row |= {"validation_loss": loss, "validation_accuracy": accuracy}
                if best is None or (accuracy, -loss) > best[0]:
                    best = (accuracy, -loss), [tensor.detach().clone() for tensor in tensors]
            rows.append(row)
            if on_epoch(row):
                break
    if best is not None:
        with torch.no_grad():
            for tensor, kept in zip(tensors, best[1], strict=True):
                tensor.copy_(kept)
    return rows


@torch.no_grad()
def _measure(
    vision_model: nn.Module, head: KAdaptationHead, validation: Pictures, batch_size: int, cached: bool
) -> tuple[float, float]:
    """Loss and accuracy on the validation pictures."""
    inputs, targets = validation
    logits = head(inputs if cached else features_in_batches(vision_model, inputs, batch_size)).cpu()
    return (
        functional.cross_entropy(logits, targets).item(),
        (logits.argmax(1) == targets).float().mean().item(),
    )

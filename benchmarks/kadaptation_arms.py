"""The arms of KAdaptation's micro-experiment: what each one trains on the frozen base, and how it is trained.

See kadaptation_micro.py, which runs them. Every arm also trains the head, which starts at zero; all of them train
with Adam on all shots at once. The seed sets the shots and the initial values of what an arm adds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from kadaptation_world import Base, Classifier, predict
from peft import LoKrConfig, LoraConfig, PeftConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional as F

from wm_pipelines.adapters.kronecker import KroneckerConfig

TARGETS = ["q_proj", "v_proj"]
ADAPTER_RATES = (3e-3, 1e-2, 3e-2)


@dataclass(frozen=True)
class Arm:
    """`add(model)` makes trainable what the arm trains; `rates` are the learning rates that it may be given.

    `rate_of` names the arm whose learning rate this one takes instead of one of its own.
    """

    name: str
    add: Callable[[Classifier], None]
    rates: tuple[float, ...] = ADAPTER_RATES
    rate_of: str | None = None


def adapter(config: Callable[[], PeftConfig]) -> Callable[[Classifier], None]:
    """Inject a PEFT method into query and value of every layer."""
    return lambda model: inject_adapter_in_model(config(), model.vision_model)


def kronecker(**options: Any) -> Callable[[Classifier], None]:
    return adapter(lambda: KroneckerConfig(target_modules=TARGETS, **options))


def lora(rank: int) -> Callable[[Classifier], None]:
    return adapter(lambda: LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS))


def biases(model: Classifier) -> None:
    for name, parameter in model.vision_model.named_parameters():
        parameter.requires_grad_(name.endswith(tuple(f"{target}.bias" for target in TARGETS)))


ARMS = {
    "probe": Arm("linear probe", lambda model: None, (3e-3, 1e-2, 3e-2, 1e-1)),
    "bias": Arm("biases of query and value", biases),
    "ka": Arm("KAdaptation n=16, rank-1 A", kronecker(n=16)),
    "ka_dense": Arm("KAdaptation n=8, dense A", kronecker(n=8, factored=False)),
    **{f"lora{r}": Arm(f"LoRA r={r}", lora(r)) for r in (1, 2, 4, 6, 8)},
    "lokr": Arm(
        "LoKr (PEFT)", adapter(lambda: LoKrConfig(r=16, alpha=16, decompose_factor=4, target_modules=TARGETS))
    ),
    "released": Arm(
        "released initialisation, with biases", kronecker(n=16, bias="own", init="authors_release"), rate_of="bias"
    ),
    "full": Arm("full fine-tuning", lambda model: model.vision_model.requires_grad_(True), (3e-4, 1e-3, 3e-3)),
}


def fit(
    model: nn.Module, groups: list[dict[str, Any]], pictures: torch.Tensor, labels: torch.Tensor, steps: int
) -> None:
    """`steps` steps of Adam on all pictures at once, at constant rates."""
    optimizer = torch.optim.Adam(groups)
    for _ in range(steps):
        loss = F.cross_entropy(model(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Features(nn.Module):
    """The head alone, on features that the frozen tower gave once: exact for the probe, and 40 times as fast."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(features)


@torch.no_grad()
def features(model: Classifier, pictures: torch.Tensor) -> torch.Tensor:
    """(N,width) pooled outputs."""
    return torch.cat([model.vision_model(pixel_values=part).pooler_output for part in pictures.split(250)])


def train_arm(
    base: Base, arm: str, seed: int, rate: float, head_rate: float, data: dict[str, tuple], steps: int
) -> dict[str, Any]:
    """Train one arm at one learning rate, from scratch.

    Args:
        rate: of what the arm adds; for the probe, which adds nothing, of the head.
        head_rate: of the head, the same for all other arms.
        data: {"train", and "val" or "test"}: (pictures, labels).

    Returns:
        trainable (parameters without the head), accuracy on each part of the data, `given` (the labels given to the
        test pictures, a string of digits) and `moved` (the largest entry of a Kronecker factor U, which starts at
        zero; None in other arms).
    """
    with torch.random.fork_rng(devices=[]):
        model = base.classifier(seed)
        ARMS[arm].add(model)
    body = [p for p in model.vision_model.parameters() if p.requires_grad]
    model.head.requires_grad_(True)
    net: nn.Module = model
    if body:
        groups = [{"params": body, "lr": rate}, {"params": model.head.parameters(), "lr": head_rate}]
    else:
        net, groups = Features(model.head), [{"params": model.head.parameters(), "lr": rate}]
        data = {part: (features(model, pictures), labels) for part, (pictures, labels) in data.items()}
    fit(net, groups, *data["train"], steps)
    given = {part: predict(net, pictures) for part, (pictures, _) in data.items()}
    factors = [p for name, p in model.named_parameters() if "kronecker_u" in name]
    return {
        "trainable": sum(p.numel() for p in body),
        **{part: float((labels == data[part][1]).float().mean()) for part, labels in given.items()},
        "given": "".join(map(str, given["test"].tolist())) if "test" in given else None,
        "moved": max(float(p.detach().abs().max()) for p in factors) if factors else None,
    }

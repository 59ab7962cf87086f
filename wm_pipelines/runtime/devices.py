"""Where work is done: on the accelerator, if the machine has one; and what a report says of the machine."""

import platform
from typing import TypeVar

import torch

P = TypeVar("P")


def on_accelerator(model: P) -> P:
    """A pipeline or module, moved to the accelerator; where there is none it stays where it is."""
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    return model


def machine() -> str:
    """Architecture, threads and torch's version, for a report whose seconds somebody may compare."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"

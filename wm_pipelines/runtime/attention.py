"""Attention processors that stand in for a layer's own for the time of a block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def swapped_processors(layers: Mapping[str, nn.Module], make: Callable[[str, Any], Any]) -> Iterator[None]:
    """Puts `make(name, own processor)` into each layer; the layers' own come back on exit, also after an exception.

    Args:
        layers: attention layers with a `processor`, by the names that `make` is given.
    """
    own = {name: layer.processor for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.processor = make(name, own[name])
        yield
    finally:
        for name, layer in layers.items():
            layer.processor = own[name]

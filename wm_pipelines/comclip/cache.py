"""Bounded stores: of embeddings, where the least recently used go first, and of anything else, where the oldest do."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

LIMIT = 20_000


class EmbeddingCache:
    """Key -> embedding on the CPU.

    Args:
        limit: entries kept; one of CLIP takes two to four kilobytes, one of BLIP-2 a hundred.
    """

    def __init__(self, limit: int = LIMIT):
        self._entries: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self.limit = limit

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._entries.clear()

    def fill(
        self, keys: Sequence[Hashable], encode: Callable[[list[int]], torch.Tensor], batch_size: int
    ) -> tuple[dict[Hashable, torch.Tensor], int]:
        """Embeddings of all `keys`, and how many had to be made.

        Args:
            encode: given positions in `keys`, their embeddings `(n, ...)`.
            batch_size: how many are encoded at a time.
        """
        found, new = {}, {}
        for i, key in enumerate(keys):
            if key in self._entries:
                self._entries.move_to_end(key)
                found[key] = self._entries[key]
            else:
                new.setdefault(key, i)
        places = list(new.values())
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            for i, row in zip(part, encode(part), strict=True):
                found[keys[i]] = self._entries[keys[i]] = row.clone()
        while len(self._entries) > self.limit:
            self._entries.popitem(last=False)
        return found, len(places)


def remember(store: dict[Hashable, Any], key: Hashable, value: Any) -> None:
    """Puts a value into a dict that keeps its newest `LIMIT` entries."""
    store[key] = value
    while len(store) > LIMIT:
        store.pop(next(iter(store)))

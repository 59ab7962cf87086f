"""The bytes of a file of Gaussians, and a budget that keeps what is made of them in proportion."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from wm_pipelines.runtime.readers import located

MOST_BYTES = 4 * 2**30
"""Of a file: sixty million Gaussians as PLY of degree 0."""


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[bytes]:
    """The bytes of a file; every ValueError of the block names it.

    Raises:
        ValueError: no such file, an empty one, or one of more than `MOST_BYTES`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no file at {str(path)!r}: {'it is a folder' if path.is_dir() else 'the file is missing'}")
    with located(path):
        size = path.stat().st_size
        if not 0 < size <= MOST_BYTES:
            raise ValueError(f"it has {size} bytes; a file of Gaussians has 1 to {MOST_BYTES}")
        yield path.read_bytes()


def tensor(array: np.ndarray) -> torch.Tensor:
    """A float32 tensor of its own memory."""
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


class Budget:
    """Bytes that may be made from a file: `ratio` times its own and 64 KiB.

    Files say how much they hold, and may say one part in many places; so each part is paid for before it is made.
    """

    def __init__(self, size: int, ratio: int = 8):
        self.left = ratio * size + 2**16

    def take(self, wanted: int, what: str) -> None:
        """Pays.

        Raises:
            ValueError: too little is left.
        """
        if wanted > self.left:
            raise ValueError(f"{what} would take {wanted} bytes, out of all proportion to the file")
        self.left -= wanted

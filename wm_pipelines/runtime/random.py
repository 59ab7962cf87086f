"""Counter-based randomness: the same key gives the same numbers on every machine, in any order, in any process."""

import hashlib

import numpy as np


def keyed(*key: str | int | float) -> np.random.Generator:
    """A Philox generator for `key`; no global seed is read or set.

    Args:
        key: strings and numbers; their `repr`s, separated, are hashed (BLAKE2b) to Philox's 128-bit key.
    """
    # `repr`, so that 1, 1.0 and "1" are three keys; no `hash()`, which Python salts anew in each process
    digest = hashlib.blake2b("\x1f".join(map(repr, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))

"""Files of tensors that a run wrote so that the next need not make them again: read only if they are of the same."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wm_pipelines.runtime.readers import decode_text
from wm_pipelines.runtime.tensors import open_tensors

if TYPE_CHECKING:
    import torch


def read_cache(
    path: str | os.PathLike, identity: str, what: str, names: Sequence[str], option: str = "`cache`"
) -> dict[str, "torch.Tensor"]:
    """Some tensors of a file whose metadata have this `identity`.

    Args:
        what: it holds, and `option`, which named it: for the error.

    Raises:
        ValueError: no safetensors file, one that was made of something else, or one that lacks a tensor.
    """
    try:
        with open_tensors(path) as file:
            found = (file.metadata() or {}).get("identity")
            tensors = {name: file.get_tensor(name) for name in names} if found == identity else None
        came = f"{found!r:.200}, asked for {identity!r:.200}"
    except ValueError as error:
        raise ValueError(f"{option} {path} is no file of {what} ({error}); delete it or name another") from None
    if tensors is None:
        raise ValueError(f"{option} {path} holds other {what}, {came}; delete it or name another file")
    return tensors


def cached_text(tensor: "torch.Tensor") -> str:
    """The text that the bytes of a tensor are.

    Raises:
        ValueError: they are none.
    """
    return decode_text(tensor.contiguous().view(-1).numpy().tobytes())

"""Offline: the authors' files become ours. The only place of this method that opens a pickle, never at load time.

    wm convert cpl prompt_learner/model.pth.tar-10 FOLDER
    wm convert cpl-negatives score.npy negatives.json

A checkpoint of CoCoOp or CPL (Dassl's form) is read with `weights_only`: tensors and numbers, no code. `ctx` and
`meta_net.*` are kept; `token_prefix` and `token_suffix` (frozen embeddings of the class names) and CPL's `u` (masks of
the training classes) are dropped: none of them belongs to the prompt. `score.npy` holds a pickled dictionary; it is
read as text is read (`runtime.pickles`): nothing that it names is looked up or called.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.cpl.modeling import CPLPromptLearner
from wm_pipelines.hub.weights import load_torch_file
from wm_pipelines.runtime.claims import claimed_new_file, claimed_new_folder
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.pickles import ARRAY_NAMES, read_pickle, to_array
from wm_pipelines.runtime.readers import read_array_header, read_json
from wm_pipelines.runtime.reports import write_json

KEPT = ("ctx", "meta_net.linear1.weight", "meta_net.linear1.bias", "meta_net.linear2.weight", "meta_net.linear2.bias")
DROPPED = ("token_prefix", "token_suffix", "u")
# newer Dassl keeps the validation accuracy as a numpy number
NUMBERS = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


class _Ignored:
    """Stands for a numpy number: nothing is made of what the file says, and no dtype that it asks for."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of a prompt learner, in fp32, by their names in `CPLPromptLearner`.

    Raises:
        ValueError: no such file, not a torch file of tensors and numbers, a missing tensor, or one that is unknown.
    """
    with torch.serialization.safe_globals([(_Ignored, name) for name in NUMBERS]):
        loaded = load_torch_file(path)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    state = {str(k).removeprefix("module.").removeprefix("prompt_learner."): v for k, v in state.items()}
    missing = [name for name in KEPT if not isinstance(state.get(name), torch.Tensor)]
    if missing:
        raise ValueError(
            f"checkpoint {str(path)!r} has no tensor {missing[0]!r}; it is no CoCoOp or CPL prompt learner"
        )
    unknown = sorted(set(state) - set(KEPT) - set(DROPPED))
    if unknown:
        raise ValueError(f"checkpoint {str(path)!r} has {unknown[0]!r}, which no CoCoOp or CPL prompt learner has")
    return {name: state[name].float() for name in KEPT}


def to_learner(tensors: dict[str, torch.Tensor]) -> CPLPromptLearner:
    """A learner of the sizes that the tensors have.

    Raises:
        ValueError: shapes that do not belong together.
    """
    n_ctx, width = tensors["ctx"].shape
    learner = CPLPromptLearner(text_width=width, joint_dim=tensors["meta_net.linear1.weight"].shape[1], n_ctx=n_ctx)
    for name, parameter in learner.state_dict().items():
        if tensors[name].shape != parameter.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensors[name].shape)}; ctx and linear1 need {tuple(parameter.shape)}"
            )
    learner.load_state_dict(tensors)
    return learner.eval()


def convert(path: str | os.PathLike, folder: str | os.PathLike) -> CPLPromptLearner:
    """Convert a checkpoint to a folder that `CPLPromptLearner.from_pretrained` loads, written whole or not at all.

    Raises:
        ValueError: as `read_checkpoint` and `to_learner`, or a folder that is not empty.
    """
    with claimed_new_folder(folder) as target:
        learner = to_learner(read_checkpoint(path))
        with atomic_folder(target) as partial:
            learner.save_pretrained(partial)
    return learner


def read_negatives(path: str | os.PathLike) -> dict[str, str]:
    """The table of negatives: JSON of {text: negative text}.

    Raises:
        ValueError: a pickle, no such file, or something that is no such table.
    """
    path = Path(path)
    if path.suffix != ".json":
        command = f"wm convert cpl-negatives {path.name} negatives.json"
        raise ValueError(f"refusing pickled {path.name}; convert it with `{command}`")
    return _table(path, lambda: read_json(path))


def read_pickled_negatives(path: str | os.PathLike) -> dict[str, str]:
    """The table in a pickled `score.npy` of the release; nothing that it names is called.

    Raises:
        ValueError: no such file, something else than plain values in it, or something that is no such table.
    """
    path = Path(path)
    return _table(path, lambda: _pickled_table(path.read_bytes()))


def convert_negatives(source: str | os.PathLike, target: str | os.PathLike) -> int:
    """Writes a pickled table of negatives to a JSON file, whole or not at all; returns how many it has.

    Raises:
        ValueError: as `read_pickled_negatives`, or a target that is there or can't be written.
    """
    with claimed_new_file(target) as path:
        table = read_pickled_negatives(source)
        write_json(path, table)
    return len(table)


def _table(path: Path, read: Callable[[], Any]) -> dict[str, str]:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        table = read()
    except ValueError as error:
        raise ValueError(f"{path} is no table of negatives: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in table.items()):
        raise ValueError(f"{path} is no table from text to negative text")
    return table


def _pickled_table(data: bytes) -> Any:
    """The one value of a `.npy` file of objects."""
    file = io.BytesIO(data)
    shape, _, dtype = read_array_header(file)
    if shape != () or dtype.kind != "O":
        raise ValueError(f"it holds an array of {dtype} of shape {shape}, not one table")
    (table,) = to_array(read_pickle(data[file.tell() :], ARRAY_NAMES))
    return table

"""Offline: the authors' files become ours. The only place of this method that opens a pickle, never at load time.

    wm convert discffusion pytorch_model.bin FOLDER --base HUB_ID
    wm convert refcocog "refs(google).p" refs.json

An adapter is read with `weights_only`: tensors, no code. `refs(google).p` of RefCOCOg is read as text is read
(`runtime.pickles`): nothing that it names is looked up or called.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, BaseModelRef, WMConfig
from wm_pipelines.discffusion import adapter
from wm_pipelines.hub.weights import load_torch_file
from wm_pipelines.runtime.claims import claimed_new_file, claimed_new_folder
from wm_pipelines.runtime.files import atomic_folder, write_atomic
from wm_pipelines.runtime.pickles import read_pickle

KEY = re.compile(r"^(?P<layer>.+\.attn[12])\.processor\.to_(?P<what>q|k|v|out)_lora\.(?P<half>down|up)\.weight$")
HALVES = {"down": "lora_A", "up": "lora_B"}


def read_authors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of the authors' `pytorch_model.bin`, or of the same in safetensors, in fp32.

    Raises:
        ValueError: no such file, or no plain file of tensors.
    """
    if str(path).endswith(".safetensors"):
        try:
            found: Any = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"checkpoint {str(path)!r} is not a safetensors file: {error}") from None
    else:
        found = load_torch_file(path)
    if not isinstance(found, Mapping) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ValueError(f"checkpoint {str(path)!r} holds no table of tensors")
    return {str(key): value.float() for key, value in found.items()}


def to_peft(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], int]:
    """PEFT's tensors of the authors' ones, and the rank. Scale is 1: X + up · down is the merged weight.

    Raises:
        ValueError: a key of another layout, half of a pair, or pairs of several ranks.
    """
    made, ranks = {}, set()
    for key, value in state.items():
        found = KEY.match(key)
        if found is None or value.ndim != 2:
            raise ValueError(f"{key!r} of shape {tuple(value.shape)} is no tensor of the authors' LoRA layout")
        what = "to_out.0" if found["what"] == "out" else f"to_{found['what']}"
        made[f"{found['layer']}.{what}.{HALVES[found['half']]}.weight"] = value
        ranks.add(min(value.shape))
    missing = [key for key in made if _other(key) not in made]
    if not made or missing or len(ranks) > 1:
        what = f"{missing[0]!r} has no other half" if missing else f"it has ranks {sorted(ranks)}"
        raise ValueError(f"no whole adapter: {what}")
    return made, ranks.pop()


def _other(key: str) -> str:
    return key.replace("lora_A", "lora_B") if "lora_A" in key else key.replace("lora_B", "lora_A")


def convert_adapter(source: str | os.PathLike, folder: str | os.PathLike, base: str) -> int:
    """Writes the authors' adapter as ours, with a record; returns how many numbers it has.

    Args:
        base: embedded name or Hub id of what it was trained on.

    Raises:
        ValueError: as `read_authors` and `to_peft`, a base that is no such name, or a folder that is not empty.
    """
    if base not in hub.embedded_names() and not hub.REPO_ID.match(base):
        raise ValueError(f"`base` is {base!r}; it must be an embedded name or a Hub id, owner/name")
    named = hub.base_ref(base) if base in hub.embedded_names() else BaseModelRef(repo_id=base)
    config = WMConfig(method="discffusion", pipeline="DiscffusionPipeline", base_model=named, paper="arXiv:2305.10722")
    with claimed_new_folder(folder) as target:
        state, rank = to_peft(read_authors(source))
        with atomic_folder(target, last=CONFIG_NAME) as partial:
            adapter.write(partial, adapter.default_config(rank), state)
            hub.seal(partial, config)
    return sum(value.numel() for value in state.values())


def convert_refs(source: str | os.PathLike, target: str | os.PathLike) -> int:
    """Writes what `data.read_refcocog` needs of RefCOCOg's pickled references to a JSON file; returns their number.

    Raises:
        ValueError: no such file, no plain pickle, another content, or a target that is there or can't be written.
    """
    with claimed_new_file(target) as path:
        try:
            rows = read_pickle(Path(source).read_bytes(), frozenset())
            kept = [
                {
                    "image_id": int(row["image_id"]), "split": str(row["split"]),
                    "sentences": [{"sent": str(one["sent"])} for one in row["sentences"]],
                }
                for row in rows
            ]  # fmt: skip
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"{source} holds no references of RefCOCOg: {type(error).__name__}: {error}") from None
        write_atomic(path, json.dumps(kept, ensure_ascii=False) + "\n")
    return len(kept)

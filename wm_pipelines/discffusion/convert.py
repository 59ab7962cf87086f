"""Offline: the authors' files become ours. The only place of this method that opens a pickle, never at load time.

    python -m wm_pipelines.discffusion.convert adapter pytorch_model.bin FOLDER --base HUB_ID
    python -m wm_pipelines.discffusion.convert refs "refs(google).p" refs.json

An adapter is read with `weights_only`: tensors, no code. `refs(google).p` of RefCOCOg is read as text is read
(`runtime.pickles`): nothing that it names is looked up or called.
"""

import argparse
import json
import os
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, BaseModelRef, WMConfig
from wm_pipelines.discffusion import adapter
from wm_pipelines.runtime.files import atomic_folder, write_atomic
from wm_pipelines.runtime.pickles import read_pickle

KEY = re.compile(r"^(?P<layer>.+\.attn[12])\.processor\.to_(?P<what>q|k|v|out)_lora\.(?P<half>down|up)\.weight$")
HALVES = {"down": "lora_A", "up": "lora_B"}


def read_authors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of the authors' `pytorch_model.bin`, or of the same in safetensors, in fp32.

    Raises:
        ValueError: no such file, or no plain file of tensors.
    """
    if not os.path.isfile(path):
        raise ValueError(f"adapter {str(path)!r} does not exist or is not a file")
    try:
        if str(path).endswith(".safetensors"):
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, SafetensorError) as error:
        raise ValueError(f"adapter {str(path)!r} is not a plain file of tensors: {error}") from None
    if not isinstance(found, Mapping) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ValueError(f"adapter {str(path)!r} holds no table of tensors")
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
    """
    state, rank = to_peft(read_authors(source))
    named = hub.base_ref(base) if base in hub.embedded_names() else BaseModelRef(repo_id=base)
    config = WMConfig(method="discffusion", pipeline="DiscffusionPipeline", base_model=named, paper="arXiv:2305.10722")
    with atomic_folder(folder, last=CONFIG_NAME, listed=adapter.own_files) as partial:
        adapter.write(partial, adapter.default_config(rank), state)
        hub.seal(partial, config)
    return sum(value.numel() for value in state.values())


def convert_refs(source: str | os.PathLike, target: str | os.PathLike) -> int:
    """Writes what `data.read_refcocog` needs of RefCOCOg's pickled references to a JSON file; returns their number.

    Raises:
        ValueError: no such file, no plain pickle, or another content.
    """
    try:
        rows = read_pickle(Path(source).read_bytes(), frozenset())
        kept = [
            {
                "image_id": int(row["image_id"]), "split": str(row["split"]),
                "sentences": [{"sent": str(one["sent"])} for one in row["sentences"]],
            }
            for row in rows
        ]  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{source} holds no references of RefCOCOg: {type(error).__name__}: {error}") from None
    write_atomic(Path(target), json.dumps(kept, ensure_ascii=False) + "\n")
    return len(kept)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("adapter", help="pytorch_model.bin -> a folder")
    one.add_argument("source", type=Path)
    one.add_argument("folder", type=Path)
    one.add_argument("--base", default="stabilityai/stable-diffusion-2-1-base")
    two = commands.add_parser("refs", help="refs(google).p -> a JSON file")
    two.add_argument("source", type=Path)
    two.add_argument("target", type=Path)
    args = parser.parse_args(argv)
    try:
        if args.what == "adapter":
            print(f"{convert_adapter(args.source, args.folder, args.base)} numbers in {args.folder}")
        else:
            print(f"{convert_refs(args.source, args.target)} references in {args.target}")
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

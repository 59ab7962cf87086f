"""The authors' own KAdaptation weights (eric-ai-lab/PEViT, MIT) as a Kronecker adapter on a CLIP vision tower.

They compute y = x H with H = ΔWᵀ, so their left factors are our V and a_in, and their right ones our U and a_out.
"""

from __future__ import annotations

import math
import os
import re
from typing import Literal

import torch
from torch import nn

from wm_pipelines.runtime.tensors import read_tensors

from .adapter_folder import inject
from .config import KroneckerConfig

__all__ = ["load_pevit"]

_RULE = re.compile(r"(?:.*\.)?visual\.transformer\.(?:resblocks\.\d+\.attn\.)?phm_rule([12])_(left|right)")
_FACTOR = re.compile(r"(?:.*\.)?visual\.transformer\.resblocks\.(\d+)\.attn\.([qv])_proj_adapter1_(left|right)")
_BIAS = re.compile(r"(?:.*\.)?visual\.transformer\.resblocks\.\d+\.attn\.b")
_TARGET = re.compile(r"(?:.*\.)?layers\.(\d+)\.self_attn\.([qv])_proj")


def load_pevit(
    model: nn.Module,
    path: str | os.PathLike,
    adapter_name: str = "default",
    variant: Literal["paper", "released"] = "paper",
    scale: float = 160.0,
) -> nn.Module:
    """Injects the adapter of a PEViT checkpoint into a CLIP vision tower, in place, and makes it the active one.

    The published code adds the query's delta after dividing the query by √head_dim, so that ours is √head_dim times
    larger. It also reshapes both deltas without the transposition that its queries and values get, and so mixes
    samples of a batch; that is an error, and is not reproduced. Base weights and head of the file are not read.

    Args:
        model: a `CLIPModel`, `CLIPVisionModel` or `CLIPVisionModelWithProjection`; a text tower is left alone.
        path: a safetensors file with keys `…visual.transformer.phm_rule{1,2}_{left,right}` and
            `…resblocks.{i}.attn.{q,v}_proj_adapter1_{left,right}`.
        variant: "paper" gives the value its own factors; "released" gives it the query's, as the published code does,
            which never trains the value's.
        scale: s of the published code, 128/4·5.

    Returns:
        The model.

    Raises:
        ValueError: not a safetensors file, keys missing or copies of one tensor that differ, a trained bias (the
            published code adds it in an order that depends on the position, so that no bias is equal to it), factors
            that are all zero, or a model of another size. The model is then as it was.
    """
    if variant not in ("paper", "released"):
        raise ValueError(f"`variant` must be 'paper' or 'released', got {variant!r}")
    if not math.isfinite(scale) or scale <= 0:
        raise ValueError(f"`scale` must be finite and above 0, got {scale!r}")
    rules, factors = _read(read_tensors(path), path)
    layers = 1 + max(layer for layer, _, _ in factors)
    names = [name for name, _ in model.named_modules() if "text_model." not in name]
    targets = {match.groups(): name for name in names if (match := _TARGET.fullmatch(name))}
    wanted = {(str(layer), kind) for layer in range(layers) for kind in "qv"}
    if set(targets) != wanted:
        raise ValueError(f"{path} has {layers} layers; the model has {len(targets)} query and value projections")
    terms, per_block, r = factors[0, "q", "left"].shape
    _check_shapes(rules, factors, terms, per_block, r, path)
    sources = {"q": "q", "v": "v" if variant == "paper" else "q"}
    for kind, source in sources.items():
        if not any(tensor.any() for key, tensor in factors.items() if key[1] == source):
            hint = "; variant='released' gives it the query's, which the published code trains instead" * (kind == "v")
            raise ValueError(f"{path}: the factors of {kind} are all zero{hint}")
    attention = model.get_submodule(targets["0", "q"].rpartition(".")[0])
    alpha = scale * math.sqrt(terms * r)
    config = KroneckerConfig(
        n=terms,
        r=r,
        alpha=alpha,
        alpha_pattern={"q_proj": alpha * math.sqrt(attention.head_dim)},
        shared_sets={r".*q_proj": "q", r".*v_proj": "v"},
        target_modules="|".join(map(re.escape, targets.values())),
        inference_mode=True,
    )
    state = {}
    for (layer, kind), name in targets.items():
        left, right = (factors[int(layer), sources[kind], side] for side in ("left", "right"))
        state[f"{name}.kronecker_u"] = right.transpose(1, 2).contiguous().float()
        state[f"{name}.kronecker_v"] = left.contiguous().float()
    for rule, kind in (("1", "q"), ("2", "v")):  # a set is stored with the first of its layers
        state[f"{targets['0', kind]}.kronecker_a_in"] = rules[rule, "left"].squeeze(2).contiguous().float()
        state[f"{targets['0', kind]}.kronecker_a_out"] = rules[rule, "right"].squeeze(1).contiguous().float()
    return inject(model, config, state, adapter_name, str(path))


def _read(
    tensors: dict[str, torch.Tensor], path: str | os.PathLike
) -> tuple[dict[tuple[str, str], torch.Tensor], dict[tuple[int, str, str], torch.Tensor]]:
    """(rule, side) -> tensor, one of its copies; (layer, "q" | "v", side) -> tensor."""
    rules: dict[tuple[str, str], torch.Tensor] = {}
    factors: dict[tuple[int, str, str], torch.Tensor] = {}
    for key, tensor in tensors.items():
        if match := _RULE.fullmatch(key):
            kept = rules.setdefault(match.groups(), tensor)
            if not torch.equal(kept, tensor):
                raise ValueError(f"{path}: `{key}` differs from another copy of phm_rule{match[1]}_{match[2]}")
        elif match := _FACTOR.fullmatch(key):
            factors[int(match[1]), match[2], match[3]] = tensor
        elif _BIAS.fullmatch(key) and tensor.any():
            raise ValueError(
                f"{path}: `{key}` is a trained bias, which the published code permutes by position: no bias of a "
                "linear layer is equal to it, so this adapter can't be imported"
            )
    layers = 1 + max((layer for layer, _, _ in factors), default=-1)
    lacks = [f"phm_rule{r}_{side}" for r in "12" for side in ("left", "right") if (r, side) not in rules]
    lacks += [
        f"resblocks.{layer}.attn.{kind}_proj_adapter1_{side}"
        for layer in range(layers)
        for kind in "qv"
        for side in ("left", "right")
        if (layer, kind, side) not in factors
    ]
    if lacks or not factors:
        raise ValueError(f"{path} is not a PEViT adapter; it lacks {lacks[:4] or 'every factor'}")
    return rules, factors


def _check_shapes(rules: dict, factors: dict, terms: int, per_block: int, r: int, path: str | os.PathLike) -> None:
    sides = {"left": (terms, per_block, r), "right": (terms, r, per_block)}
    wanted = {key: sides[key[2]] for key in factors}
    wanted |= {key: (terms, terms, 1) if key[1] == "left" else (terms, 1, terms) for key in rules}
    found = {key: tuple(tensor.shape) for key, tensor in {**factors, **rules}.items()}
    wrong = [key for key, shape in found.items() if shape != wanted[key]]
    if wrong:
        shapes = {"/".join(map(str, key)): found[key] for key in wrong[:2]}
        raise ValueError(f"{path}: factors of {terms} terms and rank {r} expected everywhere, got {shapes}")

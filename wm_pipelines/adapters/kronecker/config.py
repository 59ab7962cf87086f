"""Configuration of the Kronecker adapter: what `adapter_config.json` holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peft import PeftConfig
from peft.utils import PeftType

from wm_pipelines.runtime.files import write_atomic
from wm_pipelines.runtime.limits import limit
from wm_pipelines.runtime.patterns import check_pattern, check_patterns

from .adapter_card import CARD, with_import

__all__ = ["KroneckerConfig"]

MAX_SIZE = limit("ADAPTER_SIZE", 16384)
"""Of n, r and the number of terms: factors grow with each, and are made before weights are read."""


@dataclass
class KroneckerConfig(PeftConfig):
    """ΔW = alpha/√(terms·r) · Σ_i A_i ⊗ U_i V_iᵀ on chosen linear layers; A is shared, U and V belong to a layer.

    With rank-one A (`factored=True`, the released KAdaptation) the update is a LoRA of rank terms·r at the cost of a
    LoRA of rank r. With dense A its rank is up to n²r.

    Args:
        n: size of each A_i; must divide the sizes of every target.
        r: rank of each U_i V_iᵀ.
        terms: number of terms m; n when None.
        n_in, n_out: sizes of A_i when they differ (A_i is n_out × n_in); n when None.
        factored: A_i = a_out_i a_in_iᵀ instead of a dense matrix.
        alpha: scale numerator; α = 1 gives an output variance that does not depend on n, r or the width.
        dropout: probability on the rank-sized intermediate, in [0, 1).
        bias: "none", "own" (one trained bias a target), or "shared" (one for all targets of a parent module).
        shared_sets: which layers share their A: "target" (one set per entry of `target_modules`; a regex is one
            entry), "all", "none", or {regex of the module name: name of the set}.
        init: "default", or "authors_release", which starts U and V at zero as the published code does: every gradient
            of U, V and A is then zero for ever and only the bias learns. For documentation; it warns.
        init_weights: as in PEFT's LoKr: False draws U too, so that the adapter changes the output at once (for tests).
        fused: linear layers whose rows are several projections of equal size, by last name: the parts in order.
        fused_targets: the parts to adapt in such a layer.
        target_modules: names (suffixes) or one regex of the linear layers and convolutions; "all-linear" as in PEFT.
        exclude_modules, modules_to_save, layers_to_transform, layers_pattern: as in PEFT's LoRA.
        target_parameters: names (suffixes) of parameters (out, in) or (experts, out, in), as there; without `bias` and
            `dropout`. `target_modules` may then be left out.
        trainable_token_indices: rows of an embedding that train, [int] or {name of the embedding: [int]}, as there.
        ensure_weight_tying: modules_to_save and trainable tokens of tied embeddings stay tied, as there.
        rank_pattern, alpha_pattern: {regex of the module name: r} and {…: alpha} that differ.

    Example:
        ```py
        from peft import get_peft_model
        from transformers import CLIPModel
        from wm_pipelines import KroneckerConfig, embedded

        model = CLIPModel.from_pretrained(embedded("diorama-clip"))
        model = get_peft_model(model, KroneckerConfig(n=8, r=1, target_modules=["q_proj", "v_proj"]))
        model.print_trainable_parameters()
        ```
    """

    n: int = 32
    r: int = 1
    terms: int | None = None
    n_in: int | None = None
    n_out: int | None = None
    factored: bool = True
    alpha: float = 1.0
    dropout: float = 0.0
    bias: Literal["none", "own", "shared"] = "none"
    shared_sets: str | dict[str, str] = "target"
    init: Literal["default", "authors_release"] = "default"
    init_weights: bool = True
    fused: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"to_qkv": ("q", "k", "v")})
    fused_targets: tuple[str, ...] = ("q", "v")
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    target_parameters: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    ensure_weight_tying: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields as `adapter_config.json` has them: tuples are lists."""
        fused = {name: list(parts) for name, parts in self.fused.items()}
        return {**super().to_dict(), "fused": fused, "fused_targets": list(self.fused_targets)}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """As in PEFT; the folder's README.md gets the lines that load the adapter, this package's import first."""
        super().save_pretrained(save_directory, **kwargs)
        write_atomic(Path(save_directory) / CARD, with_import(Path(save_directory)))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.KRONECKER
        for name in ("terms", "n_in", "n_out"):
            if getattr(self, name) is None:
                setattr(self, name, self.n)
        for name in ("n", "r", "terms", "n_in", "n_out"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}")
            if value > MAX_SIZE:
                raise ValueError(f"`{name}` must be at most {MAX_SIZE} (WM_MAX_ADAPTER_SIZE), got {value!r}")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not isinstance(alpha, (int, float)) or not math.isfinite(alpha) or alpha <= 0:
                raise ValueError(f"`{name}`: alpha must be finite and above 0, got {alpha!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout!r}")
        for name, allowed in (("bias", ("none", "own", "shared")), ("init", ("default", "authors_release"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}")
        if self.target_parameters and (self.bias != "none" or self.dropout):
            raise ValueError(
                f"`target_parameters` take no bias and no dropout, got bias={self.bias!r}, dropout={self.dropout!r}"
            )
        if not self.init_weights and self.init != "default":
            raise ValueError(f"`init_weights` is False, which draws every factor; `init` is {self.init!r}")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("When `layers_pattern` is specified, `layers_to_transform` must also be specified.")
        for name in ("layers_to_transform", "layers_pattern"):
            if getattr(self, name) is not None and isinstance(self.target_modules, str):
                raise ValueError(f"`{name}` cannot be used when `target_modules` is a str.")
        check_patterns(self)
        for pattern in self.layers_pattern if isinstance(self.layers_pattern, (list, tuple)) else ():
            check_pattern(pattern, "layers_pattern")
        if not isinstance(self.shared_sets, dict) and self.shared_sets not in ("target", "all", "none"):
            raise ValueError(
                f"`shared_sets` must be 'target', 'all', 'none' or a dict regex -> set, got {self.shared_sets!r}"
            )
        for name in ("target_modules", "exclude_modules"):
            if not isinstance(getattr(self, name), (str, list, tuple, set, type(None))):
                raise ValueError(f"`{name}` must be a list of names or a regex, got {getattr(self, name)!r}")
        self.fused = {name: tuple(parts) for name, parts in self.fused.items()}
        self.fused_targets = tuple(self.fused_targets)
        if isinstance(self.target_modules, (list, tuple)):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, (list, tuple)):
            self.exclude_modules = set(self.exclude_modules)

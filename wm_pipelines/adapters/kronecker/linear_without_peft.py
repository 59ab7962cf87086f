"""A frozen `nn.Linear` that carries one Kronecker delta, with no PEFT around it (used by FlexEControl)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from wm_pipelines.kernels import kronecker_delta, kronecker_linear, kronecker_lora_factors, kronecker_weight

from .factors import check_divides, init_factors
from .merging import Undo, check_mergeable, merge_weight, not_plain

__all__ = ["KroneckerLinear"]


class KroneckerLinear(nn.Linear):
    """y = x (W + s·ΔW)ᵀ + b, with W and b frozen and ΔW = Σ_i A_i ⊗ U_i V_iᵀ.

    A subclass of `nn.Linear`, so the base keeps its state-dict keys (`weight`, `bias`); beside them stand
    `kronecker_u`, `kronecker_v`, and `kronecker_a` (dense) or `kronecker_a_out` and `kronecker_a_in` (rank one).

    With `types=K`, u is (K, m, out/n_out, r) and v is (K, m, in/n_in, r): K fast pairs share the slow A, and
    `set_mix` says how they are mixed. Until a mix is set, or when it is all zero, the layer is the base layer.

    FlexEControl writes y = x H with H = ΔWᵀ: its H_i is A_iᵀ, its u our v, its v our u.

    Args:
        in_features, out_features: sizes of the base layer; n_in must divide the first, n_out the second.
        bias: whether the base has one.
        n, terms, n_in, n_out: Kronecker sizes; `terms` (m), `n_in` and `n_out` default to n.
        r: rank of each U_i V_iᵀ.
        factored: A_i of rank one instead of dense.
        scale: s, a constant.
        types: number of fast pairs, or None for a single one.
        share_with: a layer of equal m, n_in, n_out, `factored` whose A this one borrows; A is stored (and counted,
            saved, moved) there only.
        device, dtype: of the base weight; factors are at least float32.
        generator: for the initial v and A.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        n: int = 4,
        r: int = 8,
        terms: int | None = None,
        n_in: int | None = None,
        n_out: int | None = None,
        factored: bool = False,
        scale: float = 1.0,
        types: int | None = None,
        share_with: KroneckerLinear | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        terms, n_in, n_out = terms or n, n_in or n, n_out or n
        check_divides(n_in, n_out, in_features, out_features)
        if r < 1 or terms < 1 or (types is not None and types < 1):
            raise ValueError(f"`r`, `terms` and `types` must be at least 1, got r={r}, terms={terms}, types={types}")
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.terms, self.r, self.n_in, self.n_out = terms, r, n_in, n_out
        self.factored, self.scale, self.types = factored, scale, types
        self._mix: list[float] | torch.Tensor | None = None
        self._unmerged: Undo | None = None

        like = {"device": self.weight.device, "dtype": torch.promote_types(self.weight.dtype, torch.float32)}
        lead = () if types is None else (types,)
        self.kronecker_u = nn.Parameter(torch.empty(*lead, terms, out_features // n_out, r, **like))
        self.kronecker_v = nn.Parameter(torch.empty(*lead, terms, in_features // n_in, r, **like))
        owned: dict[str, nn.Parameter] = {}
        if share_with is not None:
            theirs = (share_with.terms, share_with.n_out, share_with.n_in, share_with.factored)
            if theirs != (terms, n_out, n_in, factored):
                raise ValueError(
                    f"`share_with` has (terms, n_out, n_in, factored) = {theirs}, "
                    f"this layer has {(terms, n_out, n_in, factored)}"
                )
        elif factored:
            owned["a_out"] = self.kronecker_a_out = nn.Parameter(torch.empty(terms, n_out, **like))
            owned["a_in"] = self.kronecker_a_in = nn.Parameter(torch.empty(terms, n_in, **like))
        else:
            owned["a"] = self.kronecker_a = nn.Parameter(torch.empty(terms, n_out, n_in, **like))
        # in a tuple, so that the owner is not registered as a child; deepcopy of the model keeps the relation
        self._share_with = (share_with,)
        init_factors(self.kronecker_u, self.kronecker_v, generator=generator, **owned)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **options: Any) -> KroneckerLinear:
        """A KroneckerLinear around `linear`'s own weight and bias (not copied, frozen); `options` as in `__init__`."""
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"`linear` must be an nn.Linear, got {type(linear).__name__}")
        options = {"device": linear.weight.device, "dtype": linear.weight.dtype, **options}
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, **options)
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.requires_grad_base(False)

    def requires_grad_base(self, requires_grad: bool) -> KroneckerLinear:
        """Freezes or frees W and b; the factors are left alone."""
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.requires_grad_(requires_grad)
        return self

    @property
    def slow_weights(self) -> dict[str, torch.Tensor]:
        """`{"a": (m, n_out, n_in)}` or `{"a_out": (m, n_out), "a_in": (m, n_in)}`, wherever they are stored."""
        owner = self._share_with[0] or self
        if self.factored:
            return {"a_out": owner.kronecker_a_out, "a_in": owner.kronecker_a_in}
        return {"a": owner.kronecker_a}

    def set_mix(self, mix: Sequence[float] | torch.Tensor | None) -> None:
        """Weights w_c of the fast pairs: (K,) for every sample, or a (B, K) tensor, one row per sample of the batch.

        Raises:
            ValueError: the layer has a single pair, or the last size is not K.
        """
        if mix is None:
            self._mix = None
            return
        shape = tuple(mix.shape) if isinstance(mix, torch.Tensor) else (len(mix),)
        if self.types is None or len(shape) not in (1, 2) or shape[-1] != self.types:
            raise ValueError(f"`mix` must be (types,) or (batch, types) with types={self.types}, got {shape}")
        self._mix = mix.detach() if len(shape) == 2 else [float(w) for w in mix]

    def _fast_weights(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None:
        """(u, v, gate): pairs side by side along the rank, so the sum over types is the sum over rank columns."""
        u, v = self.kronecker_u, self.kronecker_v
        if self.types is None:
            return u, v, None
        if isinstance(self._mix, torch.Tensor):
            gate = self._mix.to(u.device).repeat_interleave(self.r, dim=1)  # (B, K·r)
            return torch.cat(list(u), -1), torch.cat(list(v), -1), gate
        active = [c for c, w in enumerate(self._mix or ()) if w != 0]
        if not active:
            return None
        return torch.cat([u[c] * self._mix[c] for c in active], -1), torch.cat([v[c] for c in active], -1), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features) -> (..., out_features); with a per-sample mix x is (B, ..., in_features)."""
        fast = None if self._unmerged is not None else self._fast_weights()
        if fast is None:
            return super().forward(x)
        u, v, gate = fast
        if gate is not None and gate.shape[0] != x.shape[0]:
            raise ValueError(f"the mix has {gate.shape[0]} rows, the batch {x.shape[0]}")
        slow = {name: a.to(x.device) for name, a in self.slow_weights.items()}
        if not_plain(self.weight) is not None:
            wide = x.to(torch.promote_types(x.dtype, u.dtype))
            y = super().forward(x)
            return (y + kronecker_delta(wide, u, v, scale=self.scale, gate=gate, **slow)).to(y.dtype)
        return kronecker_linear(
            x,
            self.weight,
            self.bias,
            slow.get("a_out"),
            slow.get("a_in"),
            u,
            v,
            a=slow.get("a"),
            scale=self.scale,
            gate=gate,
        )

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]] | None:
        fast = self._fast_weights()
        if fast is None:
            return None
        if fast[2] is not None:
            raise ValueError("the mix differs from sample to sample, so there is no one weight; set a (types,) mix")
        wide = torch.promote_types(self.kronecker_u.dtype, torch.float32)
        slow = {name: a.to(device=fast[0].device, dtype=wide) for name, a in self.slow_weights.items()}
        return fast[0].to(wide), fast[1].to(wide), slow

    @torch.no_grad()
    def delta_weight(self) -> torch.Tensor:
        """s·ΔW (out, in) in fp32 at least, for the current mix."""
        factors = self._factors()
        if factors is None:
            return torch.zeros(self.out_features, self.in_features, device=self.weight.device)
        return kronecker_weight(factors[0], factors[1], scale=self.scale, **factors[2])

    @torch.no_grad()
    def lora_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(B (out, k), A (k, in)) with s·ΔW = B A exactly, for the current mix."""
        factors = self._factors()
        if factors is None:
            raise ValueError("no mix is set, so there is nothing to export; call set_mix first")
        return kronecker_lora_factors(factors[0], factors[1], scale=self.scale, **factors[2])

    def merge(self) -> None:
        """Adds ΔW to `weight` in fp32; `unmerge` puts the very bits back. Does nothing when merged.

        Raises:
            ValueError: the weight is quantised.
        """
        if self._unmerged is None:
            check_mergeable(self.weight)
            merged, _ = merge_weight(self.weight.data, self.delta_weight())
            self._unmerged, self.weight.data = Undo(self.weight.data, merged), merged

    def unmerge(self) -> None:
        """Restores the weight of before `merge`."""
        if self._unmerged is not None:
            self.weight.data, self._unmerged = self._unmerged.restore(self.weight.data), None

    def to_linear(self) -> nn.Linear:
        """A plain `nn.Linear` with ΔW merged into a copy of the weight; the bias is shared."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        merged = self.weight.data if self._unmerged is not None else merge_weight(self.weight, self.delta_weight())[0]
        plain.weight = nn.Parameter(merged, requires_grad=False)
        plain.bias = self.bias
        return plain

    def check_can_learn(self) -> None:
        """ValueError when u and v are both zero: then every gradient of u, v and A is zero for ever."""
        if not (self.kronecker_u.any() or self.kronecker_v.any()):
            raise ValueError("kronecker_u and kronecker_v are both zero: adapter cannot learn (dead initialisation)")

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, terms={self.terms}, r={self.r}, n_in={self.n_in}, n_out={self.n_out}, "
            f"factored={self.factored}, scale={self.scale:g}, types={self.types}"
        )

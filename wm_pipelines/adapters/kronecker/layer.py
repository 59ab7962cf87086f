"""Layers of the Kronecker adapter: ΔW = scale·Σ_i A_i ⊗ U_i V_iᵀ beside a frozen linear layer.

Outside PEFT (FlexEControl) use

    KroneckerLinear.from_linear(linear, n=4, r=8, *, terms=None, n_in=None, n_out=None, factored=False, scale=1.0,
                                types=None, share_with=None, generator=None) -> KroneckerLinear (an nn.Linear)
        parameters  weight, bias (frozen), kronecker_u, kronecker_v, kronecker_a | kronecker_a_out, kronecker_a_in
        .set_mix((K,) floats | (B, K) tensor | None)      only with types=K; unset or all zero: ΔW = 0
        .delta_weight() .lora_factors() .merge() .unmerge() .to_linear() .check_can_learn() .slow_weights
    share_with=<another KroneckerLinear> borrows that layer's A, which then exists, counts and is saved only there.

Inside PEFT a shared A is a Parameter of the first layer of its set; the other layers hold a reference to that layer.
So it is counted, saved, loaded, cast and deleted once, and nothing has to be tied again.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from wm_pipelines.kernels import kronecker_delta, kronecker_linear, kronecker_lora_factors, kronecker_weight

from .base_layers import as_weight, sizes
from .factors import init_factors
from .linear_without_peft import KroneckerLinear
from .merging import Undo, check_mergeable, merge_weight, not_plain
from .offloaded import onloaded
from .sharded import whole

__all__ = ["AdapterSpec", "AdaptedLinear", "KroneckerLinear"]

_DEAD = "kronecker_u and kronecker_v are both zero: adapter cannot learn (dead initialisation)"


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter on one layer. `slices` are the row ranges of a fused layer's adapted parts, or None."""

    terms: int
    r: int
    n_out: int
    n_in: int
    factored: bool
    alpha: float
    dropout: float
    bias: str
    init: str
    slices: tuple[tuple[int, int], ...] | None = None

    @property
    def scale(self) -> float:
        return self.alpha / math.sqrt(self.terms * self.r)


class AdaptedLinear(nn.Module, BaseTunerLayer):
    """A linear layer with any number of named Kronecker adapters (PEFT's tuner layer).

    Parameters of adapter `name`, with a leading (parts,) dimension in a fused layer: `kronecker_u[name]`
    (m, out/n_out, r), `kronecker_v[name]` (m, in/n_in, r), `kronecker_a[name]` or `kronecker_a_out[name]` and
    `kronecker_a_in[name]` where this layer owns the set, `kronecker_bias[name]` (out,).
    """

    adapter_layer_names = (
        "kronecker_u",
        "kronecker_v",
        "kronecker_a",
        "kronecker_a_out",
        "kronecker_a_in",
        "kronecker_bias",
    )
    other_param_names = ("spec", "scaling", "slow_owner", "bias_owner")

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__()
        self._active_adapter = adapter_name
        self.base_layer = base_layer
        self.in_features, self.out_features = self._sizes()
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.spec: dict[str, AdapterSpec] = {}
        self.scaling: dict[str, float] = {}
        # plain dicts: an owner must not become a child of the layers that borrow from it
        self.slow_owner: dict[str, AdaptedLinear] = {}
        self.bias_owner: dict[str, AdaptedLinear] = {}
        self._unmerged: tuple[Undo, torch.Tensor | None] | None = None
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True  # PEFT's name; see `_delta_dtype`

    def update_layer(
        self,
        adapter_name: str,
        spec: AdapterSpec,
        slow_owner: AdaptedLinear | None = None,
        bias_owner: AdaptedLinear | None = None,
        inference_mode: bool = False,
    ) -> None:
        """Adds an adapter; with owners given, its A or bias is borrowed from them instead of created."""
        shapes = self._shapes(spec)
        for borrowed, owner in (("kronecker_a", slow_owner), ("kronecker_bias", bias_owner)):
            shapes = {key: shape for key, shape in shapes.items() if owner is None or not key.startswith(borrowed)}
        self.spec[adapter_name], self.scaling[adapter_name] = spec, spec.scale
        self.slow_owner[adapter_name] = slow_owner or self
        self.bias_owner[adapter_name] = bias_owner or self
        for name, shape in shapes.items():
            getattr(self, name)[adapter_name] = nn.Parameter(torch.empty(shape))
        self._init_adapter(adapter_name)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _sizes(self) -> tuple[int, int]:
        return sizes(self.get_base_layer())

    def _shapes(self, spec: AdapterSpec) -> dict[str, tuple[int, ...]]:
        lead = () if spec.slices is None else (len(spec.slices),)
        rows = self.out_features if spec.slices is None else spec.slices[0][1] - spec.slices[0][0]
        shapes = {
            "kronecker_u": (*lead, spec.terms, rows // spec.n_out, spec.r),
            "kronecker_v": (*lead, spec.terms, self.in_features // spec.n_in, spec.r),
        }
        if spec.factored:
            shapes["kronecker_a_out"] = (*lead, spec.terms, spec.n_out)
            shapes["kronecker_a_in"] = (*lead, spec.terms, spec.n_in)
        else:
            shapes["kronecker_a"] = (*lead, spec.terms, spec.n_out, spec.n_in)
        if spec.bias != "none":
            shapes["kronecker_bias"] = (*lead, rows)
        return shapes

    def adapted_parameter(self) -> torch.Tensor:
        """What the update is of."""
        return self.weight  # PEFT's property: of a GPTQ layer its qweight

    def _device(self) -> torch.device:
        return self._get_base_layer_device_and_dtype(self.get_base_layer())[0]

    def _as_weight(self, delta: torch.Tensor) -> torch.Tensor:
        return as_weight(delta, self.get_base_layer())

    def _init_adapter(self, name: str) -> None:
        owned = {key: getattr(self, f"kronecker_{key}") for key in ("a", "a_out", "a_in")}
        owned = {key: factor[name] for key, factor in owned.items() if name in factor}
        init_factors(self.kronecker_u[name], self.kronecker_v[name], **owned)
        if self.spec[name].init == "random":
            nn.init.normal_(self.kronecker_u[name], std=self.kronecker_u[name].shape[-2] ** -0.5)
        if self.spec[name].init == "authors_release":
            nn.init.zeros_(self.kronecker_v[name])
        if name in self.kronecker_bias:
            nn.init.zeros_(self.kronecker_bias[name])

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # only the device: factors stay fp32 beside a half-precision or quantised base
        device = device or self._device()
        for layer_name in self.adapter_layer_names:
            factors = getattr(self, layer_name)
            if adapter_name in factors and not factors[adapter_name].is_meta and device.type != "meta":
                factors[adapter_name] = factors[adapter_name].to(device)

    def slow_weights(self, adapter_name: str, device: torch.device) -> dict[str, torch.Tensor]:
        """{"a": …} or {"a_out": …, "a_in": …} of the adapter's set, wherever they are stored."""
        owner = self.slow_owner[adapter_name]
        keys = ("a_out", "a_in") if self.spec[adapter_name].factored else ("a",)
        return {key: owner._held(key, adapter_name).to(device) for key in keys}

    def _held(self, key: str, adapter_name: str) -> torch.Tensor:
        """A factor that this layer owns, wherever it is between two forwards."""
        return whole(onloaded(getattr(self, f"kronecker_{key}"), adapter_name))

    def delta_bias(self, adapter_name: str) -> torch.Tensor | None:
        """The adapter's bias (out,), or (parts, rows) in a fused layer, at the current scale; None without one."""
        spec = self.spec[adapter_name]
        if spec.bias == "none":
            return None
        bias = self.bias_owner[adapter_name]._held("bias", adapter_name)
        return bias * (self.scaling[adapter_name] / spec.scale)

    def _parts(self, adapter_name: str, device: torch.device) -> list[tuple]:
        """Per part: (rows, u, v, slow weights); a layer that is not fused has one part, all its rows."""
        spec = self.spec[adapter_name]
        u, v = (onloaded(factors, adapter_name).to(device) for factors in (self.kronecker_u, self.kronecker_v))
        slow = self.slow_weights(adapter_name, device)
        if spec.slices is None:
            return [(slice(0, self.out_features), u, v, slow)]
        parts = enumerate(spec.slices)
        return [(slice(lo, hi), u[j], v[j], {key: a[j] for key, a in slow.items()}) for j, (lo, hi) in parts]

    def _delta_dtype(self, adapter_name: str, x: torch.Tensor) -> torch.dtype:
        """The wider of x's and the factors' dtype; x's where PEFT's `disable_input_dtype_casting` leaves it alone."""
        wide = torch.promote_types(x.dtype, self.kronecker_u[adapter_name].dtype)
        return wide if self.cast_input_dtype_enabled else x.dtype

    def _delta(self, adapter_name: str, x: torch.Tensor) -> torch.Tensor:
        """scale·x ΔWᵀ + bias for one adapter."""
        spec, scale, dtype = self.spec[adapter_name], self.scaling[adapter_name], self._delta_dtype(adapter_name, x)
        x = x.to(dtype)
        bias = self.delta_bias(adapter_name)
        dropout = spec.dropout if self.training else 0.0
        parts = []
        for rows, u, v, slow in self._parts(adapter_name, x.device):
            slow = {key: a.to(dtype) for key, a in slow.items()}
            parts.append((rows, kronecker_delta(x, u.to(dtype), v.to(dtype), scale=scale, dropout=dropout, **slow)))
        if bias is not None:
            bias = bias.to(x.device).view(len(parts), -1)
            parts = [(rows, delta + bias[j]) for j, (rows, delta) in enumerate(parts)]
        if spec.slices is None:
            return parts[0][1]
        delta = parts[0][1].new_zeros(*x.shape[:-1], self.out_features)
        for rows, part in parts:
            delta[..., rows] = part
        return delta

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x (..., in) -> (..., out). `adapter_names` (one a sample, "__base__" for none) mixes adapters in a batch."""
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_per_sample(x, adapter_names, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.kronecker_u and self.scaling[name] != 0]
        if self.merged or not active:
            return self.base_layer(x, *args, **kwargs)
        if len(active) == 1 and self._may_fuse() and not args and not kwargs:
            name, base = active[0], self.base_layer
            slow, spec = self.slow_weights(name, x.device), self.spec[name]
            return kronecker_linear(
                x,
                base.weight,
                base.bias,
                slow.get("a_out"),
                slow.get("a_in"),
                self.kronecker_u[name],
                self.kronecker_v[name],
                a=slow.get("a"),
                scale=self.scaling[name],
                delta_bias=self.delta_bias(name),
                slices=spec.slices,
                dropout=spec.dropout if self.training else 0.0,
            )
        result = self.base_layer(x, *args, **kwargs)
        dtype = result.dtype
        for name in active:
            result = result + self._delta(name, x)
        return result.to(dtype)

    def _may_fuse(self) -> bool:
        """Whether the op may read the base's weight itself: an untouched nn.Linear whose call has no side effects."""
        base = self.base_layer
        hooked = "forward" in base.__dict__ or base._forward_hooks or base._forward_pre_hooks
        return type(base) is nn.Linear and not hooked and not_plain(base.weight) is None

    def _forward_per_sample(self, x: torch.Tensor, names: list[str], *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(names) != len(x):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(names)} and {len(x)} respectively."
            )
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )
        present = sorted(set(names) & set(self.kronecker_u))
        if present and self._same_sizes(present) and self._may_fuse() and not args and not kwargs:
            return self._mixed(x, names, present)
        result = self.base_layer(x, *args, **kwargs)
        for name in present:
            rows = torch.tensor([i for i, other in enumerate(names) if other == name], device=x.device)
            result = result.index_add(0, rows, self._delta(name, x[rows]).to(result.dtype))
        return result

    def _same_sizes(self, names: list[str]) -> bool:
        specs = (self.spec[name] for name in names)
        return len({(s.terms, s.r, s.n_out, s.n_in, s.factored, s.slices) for s in specs}) == 1

    def _mixed(self, x: torch.Tensor, names: list[str], present: list[str]) -> torch.Tensor:
        """Every sample with its own adapter in one pass, from the compact factors of the adapters stacked."""
        base, slices = self.base_layer, self.spec[present[0]].slices
        slow = [self.slow_weights(name, x.device) for name in present]
        stacked = {key: torch.stack([factors[key] for factors in slow]) for key in slow[0]}
        u = [self.kronecker_u[name] * self.scaling[name] for name in present]
        biases = [self.delta_bias(name) for name in present]
        given = next((bias for bias in biases if bias is not None), None)
        if given is not None:
            biases = torch.stack([torch.zeros_like(given) if bias is None else bias for bias in biases]).to(x.device)
        return kronecker_linear(
            x,
            base.weight,
            base.bias,
            stacked.get("a_out"),
            stacked.get("a_in"),
            torch.stack(u),
            torch.stack([self.kronecker_v[name] for name in present]),
            a=stacked.get("a"),
            slices=slices,
            delta_bias=None if given is None else biases,
            adapter_index=torch.tensor([present.index(n) if n in present else -1 for n in names], device=x.device),
        )

    @torch.no_grad()
    def get_delta_weight(self, adapter: str, device: torch.device | None = None) -> torch.Tensor:
        """`full_delta` in the order and shape of the layer's weight and in the factors' dtype, as PEFT has it."""
        return self._as_weight(self.full_delta(adapter, device)).to(self.kronecker_u[adapter].dtype)

    @torch.no_grad()
    def full_delta(self, adapter: str, device: torch.device | None = None) -> torch.Tensor:
        """scale·ΔW (out, in), in fp32 or wider whatever the factors' dtype; on their device, or on `device`."""
        device = device or onloaded(self.kronecker_u, adapter).device
        wide = torch.promote_types(self.kronecker_u[adapter].dtype, torch.float32)
        weight = torch.zeros(self.out_features, self.in_features, dtype=wide, device=device)
        for rows, u, v, slow in self._parts(adapter, device):
            slow = {key: a.to(wide) for key, a in slow.items()}
            u, v = u.to(wide), v.to(wide)
            weight[rows] = kronecker_weight(u, v, scale=self.scaling[adapter], **slow)
        return weight

    @torch.no_grad()
    def get_lora_factors(self, adapter: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Exact (B (out, k), A (k, in), bias (out,) or None) with scale·ΔW = B A, in fp32 or wider."""
        device = onloaded(self.kronecker_u, adapter).device
        wide = torch.promote_types(self.kronecker_u[adapter].dtype, torch.float32)
        up, down = [], []
        for rows, u, v, slow in self._parts(adapter, device):
            slow = {key: a.to(wide) for key, a in slow.items()}
            b, a = kronecker_lora_factors(u.to(wide), v.to(wide), scale=self.scaling[adapter], **slow)
            up.append(b.new_zeros(self.out_features, b.shape[1]))
            up[-1][rows] = b
            down.append(a)
        return torch.cat(up, 1), torch.cat(down, 0), self.full_bias(adapter)

    def full_bias(self, adapter: str) -> torch.Tensor | None:
        """The adapter's bias (out,) at the current scale, zero in rows of a fused layer that are not adapted."""
        bias = self.delta_bias(adapter)
        if bias is None or self.spec[adapter].slices is None:
            return bias
        full = bias.new_zeros(self.out_features)
        for j, (lo, hi) in enumerate(self.spec[adapter].slices):
            full[lo:hi] = bias[j]
        return full

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds the adapters to the base weight in fp32, rounded once; `unmerge` puts the very bits back.

        Raises:
            ValueError: the base weight is quantised, or `safe_merge` finds a value that is not finite; the base is
                then unchanged.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.kronecker_u]
        if not names:
            return
        base, parameter = self.get_base_layer(), self.adapted_parameter()
        check_mergeable(parameter)
        deltas = {name: self.full_delta(name) for name in names}
        merged, lost = merge_weight(parameter.data, self._as_weight(sum(deltas.values())))
        biases = {name: bias for name in names if (bias := self.full_bias(name)) is not None}
        if safe_merge and not all(torch.isfinite(t).all() for t in (merged, *biases.values())):
            parts = ((name, part) for name in names for part in (deltas[name], biases.get(name)) if part is not None)
            broken = next((name for name, part in parts if not torch.isfinite(part).all()), names[0])
            raise ValueError(
                f"NaNs detected in the merged weights. The adapter {broken} seems to be broken: not finite; the base "
                "is unchanged"
            )
        if lost > 0.1:
            warnings.warn(
                f"rounding to {parameter.dtype} loses more than 10% of the adapter's update when merged; keep it "
                "unmerged, or merge into a float32 base",
                stacklevel=2,
            )
        if self._unmerged is None:
            given = getattr(base, "bias", None)
            original, bias = parameter.data, None if given is None else given.data
        else:
            original, bias = self._unmerged[0].restore(parameter.data), self._unmerged[1]
        self._unmerged = (Undo(original, merged), bias)
        parameter.data = merged
        if biases:
            if base.bias is None:
                base.bias = nn.Parameter(sum(biases.values()).to(base.weight), requires_grad=False)
            else:
                base.bias.data = merge_weight(base.bias.data, sum(biases.values()))[0]
        self.merged_adapters.extend(names)

    @property
    def undo_bytes(self) -> int:
        """What is kept to take the merged updates back from the weight; 0 where nothing is merged."""
        return 0 if self._unmerged is None else self._unmerged[0].nbytes

    def unmerge(self) -> None:
        """Restores weight and bias of before the first merge, bit for bit."""
        if self._unmerged is None:
            warnings.warn("already unmerged, nothing to do", stacklevel=2)
            return
        base, parameter = self.get_base_layer(), self.adapted_parameter()
        weight, bias = self._unmerged
        parameter.data = weight.restore(parameter.data)
        if bias is not None:
            base.bias.data = bias.to(base.bias)
        elif getattr(base, "bias", None) is not None:
            base.bias = None
        self._unmerged, self.merged_adapters = None, []

    def set_scale(self, adapter: str, scale: float) -> None:
        """Weight of the adapter, 1 being as trained; ignored where the layer does not have it."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self.spec[adapter].scale

    def scale_layer(self, scale: float) -> None:
        """Multiplies the active adapters' scale (diffusers' `cross_attention_kwargs={"scale": …}`)."""
        for name in self.active_adapters:
            if name in self.scaling:
                self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Undoes `scale_layer(scale)`; with None or 0 the active adapters return to the scale of training."""
        for name in self.active_adapters:
            if name in self.scaling:
                self.scaling[name] = self.scaling[name] / scale if scale else self.spec[name].scale

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """PEFT's own converter drops biases, so an adapter with one is refused there; `to_lora` keeps it."""
        return adapter_name not in self.spec or self.spec[adapter_name].bias == "none"

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for adapter in self.kronecker_u:
            self._check_incoming(state_dict, prefix, adapter)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_incoming(self, state_dict: dict[str, torch.Tensor], prefix: str, adapter: str) -> None:
        """ValueError for factors of other sizes than the config's, or that can't learn."""
        where = prefix.rstrip(".")
        for name in ("kronecker_a", "kronecker_a_out", "kronecker_a_in", "kronecker_u", "kronecker_v"):
            factors, new = getattr(self, name), state_dict.get(f"{prefix}{name}.{adapter}")
            if new is not None and not new.is_meta and not torch.isfinite(new).all():
                raise ValueError(f"`{where}.{name}` holds values that are not finite")
            if adapter not in factors or new is None or new.shape == factors[adapter].shape:
                continue
            has, wants = new.shape, factors[adapter].shape
            if name.startswith("kronecker_a") and len(has) == len(wants):
                terms = 0 if self.spec[adapter].slices is None else 1
                has, wants = (f"n={shape[-1]}, terms={shape[terms]}" for shape in (has, wants))
            else:
                has, wants = (f"shape {tuple(shape)}" for shape in (has, wants))
            raise ValueError(f"`{where}.{name}`: adapter was trained with {has}, config says {wants}")
        pair = [state_dict.get(f"{prefix}{name}.{adapter}") for name in ("kronecker_u", "kronecker_v")]
        if self.spec[adapter].init == "authors_release" or any(t is None or t.is_meta for t in pair):
            return
        if not any(t.any() for t in pair):
            raise ValueError(f"`{where}`: {_DEAD}")

    def __repr__(self) -> str:
        return "kronecker." + super().__repr__()

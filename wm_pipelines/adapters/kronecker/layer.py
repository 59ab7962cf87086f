"""Layers of the Kronecker adapter: ΔW = scale·Σ_i A_i ⊗ U_i V_iᵀ beside a frozen linear layer.

Outside PEFT (FlexEControl) use

    KroneckerLinear.from_linear(linear, n=4, r=8, *, terms=None, n_in=None, n_out=None, factored=False, scale=1.0,
                                types=None, share_with=None, generator=None) -> KroneckerLinear (an nn.Linear)
        parameters  weight, bias (frozen), kronecker_u, kronecker_v, kronecker_a | kronecker_a_out, kronecker_a_in
        .set_mix((K,) floats | (B, K) tensor | None)      only with types=K; unset or all zero: ΔW = 0
        .delta_weight() .lora_factors() .merge() .unmerge() .to_linear() .check_can_learn() .slow_weights
    share_with=<another KroneckerLinear> borrows that layer's A, which then exists, counts and is saved only there.
"""

from .linear import KroneckerLinear

__all__ = ["KroneckerLinear"]

"""Quaternions (w, x, y, z), and unit dual quaternions as pairs of them. Everything is (..., 4) and differentiable."""

import torch


def unit(q: torch.Tensor) -> torch.Tensor:
    """q / |q|."""
    return q / q.norm(dim=-1, keepdim=True).clamp_min(1e-12)


@torch.inference_mode(False)  # whoever imports this first may be in it, as ComfyUI is
def _table(entries: str, columns: int) -> torch.Tensor:
    """(16, columns): what each product of two components counts in each column."""
    table = torch.zeros(4, 4, columns)
    for column, terms in enumerate(entries.split(";")):
        for term in terms.split():
            sign = -1.0 if term[0] == "-" else 1.0
            a, b = term.lstrip("-+2")
            table["wxyz".index(a), "wxyz".index(b), column] += sign * (2.0 if "2" in term else 1.0)
    return table.view(16, columns)


_PRODUCT = _table("ww -xx -yy -zz; wx xw yz -zy; wy -xz yw zx; wz xy -yx zw", 4)
_ROWS = _table("-2yy -2zz; 2xy -2wz; 2xz 2wy; 2xy 2wz; -2xx -2zz; 2yz -2wx; 2xz -2wy; 2yz 2wx; -2xx -2yy", 9)


def _products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(..., 16), every component of a times every one of b."""
    return (a[..., :, None] * b[..., None, :]).flatten(-2)


def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The Hamilton product a b: turns by b, then by a."""
    return _products(a, b) @ _PRODUCT.to(a)


def conjugate(q: torch.Tensor) -> torch.Tensor:
    """The inverse of a unit quaternion."""
    return torch.cat([q[..., :1], -q[..., 1:]], dim=-1)


def matrices(q: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (..., 3, 3) of unit quaternions."""
    return torch.eye(3, dtype=q.dtype, device=q.device) + (_products(q, q) @ _ROWS.to(q)).unflatten(-1, (3, 3))


def rotate(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Vectors (..., 3) turned by unit quaternions."""
    return (matrices(q) @ v[..., None]).squeeze(-1)


def from_matrices(m: torch.Tensor) -> torch.Tensor:
    """Unit quaternions, w >= 0, of rotation matrices (..., 3, 3)."""
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    four = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], dim=-1)
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    rows = [[four[..., 0], wx, wy, wz], [wx, four[..., 1], xy, xz], [wy, xy, four[..., 2], yz]]
    rows.append([wz, xz, yz, four[..., 3]])
    candidates = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    best = four.argmax(dim=-1)[..., None, None].expand(*four.shape[:-1], 1, 4)
    q = unit(candidates.gather(-2, best).squeeze(-2))
    return torch.where(q[..., :1] < 0, -q, q)


def slerp(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """From unit quaternion a (share 0) to b (share 1) the short way; `share` is broadcast against (..., 1)."""
    along = (a * b).sum(-1, keepdim=True)
    b = torch.where(along < 0, -b, b)
    angle = along.abs().clamp(max=1 - 1e-7).acos()
    sine = angle.sin()
    close = sine < 1e-3
    sine = torch.where(close, torch.ones_like(sine), sine)
    first = torch.where(close, 1 - share, ((1 - share) * angle).sin() / sine)
    second = torch.where(close, share.expand_as(sine), (share * angle).sin() / sine)
    return unit(first * a + second * b)


def dual(q: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
    """The dual part of the motion that turns by unit q, then moves by `translation` (..., 3)."""
    pure = torch.cat([torch.zeros_like(translation[..., :1]), translation], dim=-1)
    return 0.5 * multiply(pure, q)


def blend(real: torch.Tensor, dual_part: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dual-quaternion linear blending (Kavan and others, 2007) of k rigid motions.

    Signs are aligned to the first motion, and the blended dual part is made orthogonal to the real one again. Where
    the real parts cancel, the first motion is taken.

    Args:
        real, dual_part: (n, k, 4). weights: (n, k), of sum 1.

    Returns:
        Unit quaternions (n, 4) and translations (n, 3).
    """
    sign = ((real * real[:, :1]).sum(-1).detach() < 0).to(weights)
    share = (weights * (1 - 2 * sign))[:, None]
    p, d = (share @ torch.cat([real, dual_part], dim=-1)).squeeze(1).split(4, dim=-1)
    lost = p.detach().norm(dim=-1, keepdim=True) < 1e-5
    if lost.any():
        p, d = torch.where(lost, real[:, 0], p), torch.where(lost, dual_part[:, 0], d)
    inverse = p.square().sum(-1, keepdim=True).rsqrt()
    p, d = p * inverse, d * inverse
    d = d - p * (p * d).sum(-1, keepdim=True)
    return p, 2 * multiply(d, conjugate(p))[..., 1:]

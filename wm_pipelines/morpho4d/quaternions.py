"""Quaternions (w, x, y, z), and unit dual quaternions as pairs of them. Everything is (..., 4) and differentiable."""

import torch


def unit(q: torch.Tensor) -> torch.Tensor:
    """q / |q|."""
    return q / q.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The Hamilton product a b: turns by b, then by a."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def conjugate(q: torch.Tensor) -> torch.Tensor:
    """The inverse of a unit quaternion."""
    return torch.cat([q[..., :1], -q[..., 1:]], dim=-1)


def matrices(q: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (..., 3, 3) of unit quaternions."""
    w, x, y, z = q.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotate(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Vectors (..., 3) turned by unit quaternions."""
    w, u = q[..., :1], q[..., 1:]
    twice = 2 * torch.linalg.cross(*torch.broadcast_tensors(u, v))
    return v + w * twice + torch.linalg.cross(*torch.broadcast_tensors(u, twice))


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
    sign = torch.where((real * real[:, :1]).sum(-1) < 0, -1.0, 1.0).to(weights)
    share = (weights * sign)[..., None]
    p, d = (share * real).sum(1), (share * dual_part).sum(1)
    lost = p.norm(dim=-1, keepdim=True) < 1e-5
    p, d = torch.where(lost, real[:, 0], p), torch.where(lost, dual_part[:, 0], d)
    length = p.norm(dim=-1, keepdim=True)
    p, d = p / length, d / length
    d = d - p * (p * d).sum(-1, keepdim=True)
    return p, 2 * multiply(d, conjugate(p))[..., 1:]

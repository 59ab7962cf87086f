"""Real spherical harmonics of degree 0 to 3, and the colour of Gaussians seen from a point."""

import torch

from wm_pipelines.morpho4d.gaussians import SH_DC, PosedGaussians
from wm_pipelines.morpho4d.quaternions import conjugate, rotate


def basis(direction: torch.Tensor, degree: int) -> torch.Tensor:
    """(N, (degree + 1)²) at unit directions (N, 3); signs and order of Kerbl and others (2023)."""
    x, y, z = direction.unbind(-1)
    found = [torch.full_like(x, SH_DC)]
    if degree > 0:
        found += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        found += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * zz - xx - yy)]
        found += [-1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy)]
    if degree > 2:
        found += [-0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z]
        found += [-0.4570457994644658 * y * (4 * zz - xx - yy), 0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy)]
        found += [-0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy)]
        found += [-0.5900435899266435 * x * (xx - 3 * yy)]
    return torch.stack(found, dim=-1)


def colours(posed: PosedGaussians, eye: torch.Tensor) -> torch.Tensor:
    """(N, 3), 0 or more, as seen from `eye` (3,). The direction is taken in each Gaussian's own frame, so that what
    depends on the view turns with the object (the authors' release does so)."""
    if posed.sh_degree == 0:
        return (0.5 + SH_DC * posed.sh[:, 0]).clamp(min=0)
    direction = torch.nn.functional.normalize(posed.means - eye, dim=-1)
    local = rotate(conjugate(posed.quats), direction)
    return (0.5 + (basis(local, posed.sh_degree)[..., None] * posed.sh).sum(1)).clamp(min=0)

"""Posed Gaussians as files hold them: activated, checked, their harmonics in the world's frame."""

from dataclasses import dataclass, replace

import torch

from wm_pipelines.morpho4d.formats.harmonics import COEFFICIENTS, turned
from wm_pipelines.morpho4d.gaussians import SH_DC, PosedGaussians
from wm_pipelines.morpho4d.quaternions import conjugate, multiply, rotate, unit

HALF = 0.5**0.5

UPS = {"y": (1.0, 0.0, 0.0, 0.0), "-y": (0.0, 1.0, 0.0, 0.0), "z": (HALF, -HALF, 0.0, 0.0)}
"""Axes that may point up, all right-handed, and the quaternion that turns each into y up: "-y" is that of 3DGS, with
z forward, "z" that of simulators, "y" that of glTF."""


@dataclass(frozen=True, eq=False)
class Splats:
    """N Gaussians at one moment, in world space.

    Args:
        means: float32 (N, 3). quats: float32 (N, 4), w first; made unit. scales: float32 (N, 3), standard deviations
            along the Gaussian's own axes, above 0. opacities: float32 (N,), 0 to 1.
        sh: float32 (N, K, 3), K of 1, 4, 9 or 16: harmonics of the direction in world space; colour = value + 0.5.
        object_id: int64 (N,), 0 for what belongs to no object; all 0 where it is not given.
        up: which axis points up, a name of `UPS`.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """

    means: torch.Tensor
    quats: torch.Tensor
    scales: torch.Tensor
    opacities: torch.Tensor
    sh: torch.Tensor
    object_id: torch.Tensor | None = None
    up: str = "z"

    def __post_init__(self) -> None:
        n = len(self.means) if self.means.dim() else 0
        if n == 0:
            raise ValueError("`means` holds no Gaussian; at least one is needed")
        ids = torch.zeros(n, dtype=torch.int64) if self.object_id is None else self.object_id.to("cpu", torch.int64)
        shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
        for name, shape in shapes.items():
            object.__setattr__(self, name, _floats(name, getattr(self, name), shape))
        coefficients = self.sh.shape[1] if self.sh.dim() == 3 else 0
        if coefficients not in COEFFICIENTS:
            raise ValueError(f"`sh` is {tuple(self.sh.shape)}; it must be (N, K, 3), K one of {COEFFICIENTS}")
        object.__setattr__(self, "sh", _floats("sh", self.sh, (n, coefficients, 3)))
        if ids.shape != (n,) or not ((ids >= 0) & (ids < 2**31)).all():
            raise ValueError(f"`object_id` must be ({n},), from 0; got {tuple(ids.shape)}, {ids.min()} to {ids.max()}")
        object.__setattr__(self, "object_id", ids)
        if self.up not in UPS:
            raise ValueError(f"`up` is {self.up!r}; allowed: {', '.join(UPS)}")
        if not (self.scales > 0).all():
            raise ValueError(f"`scales` has {float(self.scales.min())}; they are linear, above 0")
        if not ((self.opacities >= 0) & (self.opacities <= 1)).all():
            low, high = float(self.opacities.min()), float(self.opacities.max())
            raise ValueError(f"`opacities` has {low:g} to {high:g}; allowed: 0 to 1")
        length = self.quats.double().norm(dim=-1, keepdim=True)
        if not ((length > 1e-6) & (length < 1e6)).all():
            raise ValueError(f"`quats` has one of length {float(length.min()):g}; that is no rotation")
        object.__setattr__(self, "quats", (self.quats / length).float())

    @classmethod
    def of(cls, posed: PosedGaussians, up: str = "z") -> "Splats":
        """Gaussians of a scene at one moment; their harmonics, which turn with them, are turned to where they are."""
        sh = turned(posed.sh, posed.quats)
        return cls(posed.means, posed.quats, posed.scales, posed.opacities, sh, posed.object_id, up)

    @property
    def count(self) -> int:
        """N."""
        return len(self.means)

    @property
    def degree(self) -> int:
        """Of the harmonics, 0 to 3."""
        return COEFFICIENTS.index(self.sh.shape[1])

    @property
    def rgb(self) -> torch.Tensor:
        """(N, 3), the colour without what depends on the direction; may lie outside 0 to 1."""
        return 0.5 + SH_DC * self.sh[:, 0]

    def turned(self, quaternion: torch.Tensor, up: str | None = None) -> "Splats":
        """All of it turned about the origin by a unit quaternion (4,); `up` is what then points up."""
        means, q = rotate(quaternion.double(), self.means.double()).float(), quaternion.to(self.quats)
        quats, sh = multiply(q.expand_as(self.quats), self.quats), turned(self.sh, quaternion)
        return replace(self, means=means, quats=quats, sh=sh, up=up or self.up)

    def with_up(self, up: str) -> "Splats":
        """The same in axes with another one up.

        Raises:
            ValueError: `up` is no name of `UPS`.
        """
        if up not in UPS:
            raise ValueError(f"`up` is {up!r}; allowed: {', '.join(UPS)}")
        if up == self.up:
            return self
        here, there = (torch.tensor(UPS[name], dtype=torch.float64) for name in (self.up, up))
        return self.turned(unit(multiply(conjugate(there), here)), up)

    def picked(self, which: torch.Tensor) -> "Splats":
        """Those of a mask or of indices."""
        names = ("means", "quats", "scales", "opacities", "sh", "object_id")
        return replace(self, **{name: getattr(self, name)[which] for name in names})

    def without_harmonics(self) -> "Splats":
        """The same at degree 0."""
        return replace(self, sh=self.sh[:, :1])


def dc_of(rgb: torch.Tensor) -> torch.Tensor:
    """Coefficients (N, 1, 3) of degree 0 that give colours (N, 3)."""
    return ((rgb - 0.5) / SH_DC)[:, None]


def joined(parts: list[Splats]) -> Splats:
    """All Gaussians of several, in order.

    Raises:
        ValueError: their degrees or axes differ.
    """
    for name in ("degree", "up"):
        if len({getattr(part, name) for part in parts}) > 1:
            raise ValueError(f"`parts` differ in `{name}`: {sorted({str(getattr(part, name)) for part in parts})}")
    names = ("means", "quats", "scales", "opacities", "sh", "object_id")
    return Splats(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names}, up=parts[0].up)


def check_degree(splats: Splats, most: int, what: str, drop_sh: bool) -> Splats:
    """Splats that a format can hold: without harmonics if `drop_sh` says so.

    Raises:
        ValueError: they have a higher degree than `most`, and `drop_sh` is False.
    """
    if splats.degree <= most:
        return splats
    if not drop_sh:
        stores = "none" if most == 0 else f"{most}"
        raise ValueError(f"scene has SH degree {splats.degree} but {what} stores {stores}: pass drop_sh=True")
    return splats.without_harmonics()


def _floats(name: str, value: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(value.shape) != shape:
        raise ValueError(f"`{name}` is {tuple(value.shape)}; it must be {shape}")
    value = value.detach().to("cpu", torch.float32)
    if not value.isfinite().all():
        where = int((~value.isfinite()).reshape(len(value), -1).any(1).nonzero()[0])
        raise ValueError(f"`{name}` is not finite at Gaussian {where}")
    return value

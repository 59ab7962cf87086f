"""The parts of a scene in time: Gaussians as they are stored, Gaussians as they stand at a moment, and cameras."""

from dataclasses import dataclass, fields, replace

import torch

from wm_pipelines.morpho4d.quaternions import unit

SH_DC = 0.28209479177387814
"""Of spherical harmonics of degree 0: colour = 0.5 + SH_DC * coefficient."""


def check_tensor(where: str, value: object, shape: tuple, dtype: torch.dtype) -> None:
    """Raises ValueError, which names `where`, unless `value` has this shape (None: any) and type, and is finite."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"`{where}` is a {type(value).__name__}; it must be a tensor")
    fits = value.dim() == len(shape) and all(w in (None, g) for w, g in zip(shape, value.shape, strict=True))
    if not fits or value.dtype != dtype:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"`{where}` is {tuple(value.shape)} of {value.dtype}; it must be {wanted} of {dtype}")
    if dtype.is_floating_point and not value.isfinite().all():
        raise ValueError(f"`{where}` has {int((~value.isfinite()).sum())} values that are not finite")


@dataclass
class Gaussians:
    """N Gaussians as a scene stores them, each where it rests.

    Args:
        means: (N, 3) float32, metres of the world.
        quats: (N, 4) float32 (w, x, y, z), not zero.
        log_scales: (N, 3) float32.
        logit_opacities: (N,) float32.
        sh: (N, K, 3) float32, K = (degree + 1)^2 of degree 0 to 3, in each Gaussian's own frame.
        features: (N, F) float32; F may be 0.
        object_id: (N,) int64, 0 = background.
        is_dynamic: (N,) bool.
    """

    means: torch.Tensor
    quats: torch.Tensor
    log_scales: torch.Tensor
    logit_opacities: torch.Tensor
    sh: torch.Tensor
    features: torch.Tensor
    object_id: torch.Tensor
    is_dynamic: torch.Tensor

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, which: torch.Tensor) -> "Gaussians":
        return Gaussians(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    @property
    def sh_degree(self) -> int:
        return round(self.sh.shape[1] ** 0.5) - 1

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def check(self) -> None:
        """Raises ValueError, which names the tensor, where one is not as the class says."""
        if not isinstance(self.means, torch.Tensor) or self.means.dim() != 2:
            raise ValueError("`means` must be a tensor (N, 3)")
        n, real = len(self.means), torch.float32
        wanted = {"means": (n, 3), "quats": (n, 4), "log_scales": (n, 3), "logit_opacities": (n,), "sh": (n, None, 3)}
        for name, shape in (wanted | {"features": (n, None)}).items():
            check_tensor(name, getattr(self, name), shape, real)
        check_tensor("object_id", self.object_id, (n,), torch.int64)
        check_tensor("is_dynamic", self.is_dynamic, (n,), torch.bool)
        if self.sh.shape[1] not in (1, 4, 9, 16):
            raise ValueError(f"`sh` has {self.sh.shape[1]} coefficients; allowed: 1, 4, 9, 16 for degrees 0 to 3")
        if n and float(self.quats.norm(dim=-1).min()) < 1e-8:
            raise ValueError("`quats` has one that is zero, which is no rotation")
        if n and int(self.object_id.min()) < 0:
            raise ValueError(f"`object_id` has {int(self.object_id.min())}; 0 is the background, objects are above")


@dataclass
class PosedGaussians:
    """N Gaussians at one moment, with the activations applied: what renderers and files take.

    means: (N, 3). quats: (N, 4), unit (w, x, y, z). scales: (N, 3), linear, metres. opacities: (N,) in (0, 1).
    sh: (N, K, 3), in each Gaussian's own frame. features: (N, F). object_id: (N,) int64, 0 = background.
    """

    means: torch.Tensor
    quats: torch.Tensor
    scales: torch.Tensor
    opacities: torch.Tensor
    sh: torch.Tensor
    features: torch.Tensor
    object_id: torch.Tensor

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, which: torch.Tensor) -> "PosedGaussians":
        return PosedGaussians(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    @property
    def sh_degree(self) -> int:
        return round(self.sh.shape[1] ** 0.5) - 1

    @property
    def rgb(self) -> torch.Tensor:
        """(N, 3), the colour without what depends on the view, in [0, 1], sRGB."""
        return (0.5 + SH_DC * self.sh[:, 0]).clamp(0, 1)

    @classmethod
    def of(cls, gaussians: Gaussians, means: torch.Tensor, quats: torch.Tensor) -> "PosedGaussians":
        """Stored Gaussians, standing at `means` (N, 3) turned to `quats` (N, 4)."""
        return cls(
            means,
            unit(quats),
            gaussians.log_scales.exp(),
            gaussians.logit_opacities.sigmoid(),
            gaussians.sh,
            gaussians.features,
            gaussians.object_id,
        )

    def replace(self, **changes: torch.Tensor) -> "PosedGaussians":
        return replace(self, **changes)


@dataclass
class Cameras:
    """V pinhole cameras over T frames, OpenCV axes (x right, y down, z forward).

    Args:
        K: (V, 3, 3) float32, pixels; pixel centres lie at half numbers.
        T_cw: (V, T, 4, 4) float32, world to camera, metres.
        size: (height, width), pixels.
    """

    K: torch.Tensor
    T_cw: torch.Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.K)

    def at(self, view: int, time: float) -> tuple[torch.Tensor, torch.Tensor]:
        """K (3, 3), and T_cw (4, 4) at the frame nearest to `time`."""
        frame = min(max(round(time), 0), self.T_cw.shape[1] - 1)
        return self.K[view], self.T_cw[view, frame]

    def check(self, frames: int) -> None:
        """Raises ValueError, which names what is wrong, for a scene of `frames` frames."""
        if not isinstance(self.K, torch.Tensor) or self.K.dim() != 3:
            raise ValueError("`K` must be a tensor (V, 3, 3)")
        check_tensor("K", self.K, (len(self.K), 3, 3), torch.float32)
        check_tensor("T_cw", self.T_cw, (len(self.K), frames, 4, 4), torch.float32)
        if len(self.size) != 2 or not all(isinstance(s, int) and 1 <= s <= 16384 for s in self.size):
            raise ValueError(f"`size` is {self.size!r}; (height, width) in whole pixels, 1 to 16384")
        if len(self.K) and float(self.K[:, [0, 1], [0, 1]].min()) <= 0:
            raise ValueError("`K` has a focal length that is not above 0")
        turns = self.T_cw[..., :3, :3]
        off = (turns @ turns.mT - torch.eye(3)).abs().amax() if turns.numel() else 0
        if off > 1e-3:
            raise ValueError(f"`T_cw` has a rotation that is off orthogonal by {float(off):.2g}; allowed: 0.001")

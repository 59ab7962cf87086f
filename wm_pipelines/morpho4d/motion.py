"""How Gaussians move: SE(3) nodes, shared bases, Fourier series, polynomials, or a free offset for each frame.

All answer one question, `pose(index, means, quats, times)`. Times are in frames, may lie between frames, and are
clamped to the first and last.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from wm_pipelines.morpho4d.gaussians import check_tensor
from wm_pipelines.morpho4d.quaternions import blend, conjugate, dual, from_matrices, multiply, rotate, slerp, unit


@dataclass
class Motion:
    """Of D moving Gaussians over T frames."""

    kind: ClassVar[str] = ""

    @property
    def frames(self) -> int:
        """T."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """D."""
        raise NotImplementedError

    def pose(
        self, index: torch.Tensor, means: torch.Tensor, quats: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where Gaussians are.

        Args:
            index: int64 (n,), which of the D.
            means, quats: (n, 3) and unit (n, 4), where each rests.
            times: (n,), frames; each Gaussian has its own.

        Returns:
            World means (n, 3) and unit quaternions (n, 4).
        """
        raise NotImplementedError

    def shapes(self) -> dict[str, tuple]:
        """What shape each tensor must have."""
        raise NotImplementedError

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that makes it up, by name."""
        return {name: getattr(self, name) for name in self.shapes()}

    def check(self) -> None:
        """Raises ValueError, which names the tensor, where one is not as the class says."""
        for name, shape in self.shapes().items():
            value = getattr(self, name)
            check_tensor(f"motion.{name}", value, shape, torch.int64 if name == "knn_index" else torch.float32)


def _between(times: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frame before, frame after, and the share of the latter."""
    times = times.clamp(0, frames - 1)
    before = times.floor().long().clamp(max=max(frames - 2, 0))
    after = (before + 1).clamp(max=frames - 1)
    return before, after, times - before


@dataclass
class NodeMotion(Motion):
    """Rigid nodes that carry the Gaussians near them by dual-quaternion blending (MoSca, arXiv 2405.17421).

    Args:
        node_xyz, node_quat: (T, M, 3) and (T, M, 4), the path of each node.
        knn_index: int64 (D, k), the nodes that carry a Gaussian, the first of them its own.
        skin_weight: (D, k), of sum 1.
        ref_time: (D,), the frame at which a Gaussian rests.
    """

    kind: ClassVar[str] = "nodes"
    node_xyz: torch.Tensor
    node_quat: torch.Tensor
    knn_index: torch.Tensor
    skin_weight: torch.Tensor
    ref_time: torch.Tensor

    @property
    def frames(self) -> int:
        return len(self.node_xyz)

    @property
    def nodes(self) -> int:
        """M."""
        return self.node_xyz.shape[1]

    @property
    def count(self) -> int:
        return len(self.knn_index)

    def shapes(self) -> dict[str, tuple]:
        frames, nodes = self.node_xyz.shape[:2]
        skin = tuple(self.knn_index.shape)
        paths = {"node_xyz": (frames, nodes, 3), "node_quat": (frames, nodes, 4)}
        return paths | {"knn_index": (skin[0], None), "skin_weight": skin, "ref_time": skin[:1]}

    def check(self) -> None:
        super().check()
        if self.knn_index.numel() and not 0 <= int(self.knn_index.min()) <= int(self.knn_index.max()) < self.nodes:
            raise ValueError(f"`motion.knn_index` names nodes outside the {self.nodes}")

    def _nodes(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Node places (u, M, 3) and rotations (u, M, 4) at u times."""
        before, after, share = _between(times, self.frames)
        if not share.any():
            return self.node_xyz[before], unit(self.node_quat[before])
        q, share = unit(self.node_quat), share[:, None, None].to(self.node_xyz)
        return torch.lerp(self.node_xyz[before], self.node_xyz[after], share), slerp(q[before], q[after], share)

    def pose(
        self, index: torch.Tensor, means: torch.Tensor, quats: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # of all Gaussians, few pairs of (time, time of rest) differ; as one number each
        both = times.double().clamp(0, self.frames - 1) + self.frames * self.ref_time[index].double()
        different, whose = both.unique(return_inverse=True)
        rest = (different / self.frames).floor()
        (xyz, turned), (rest_xyz, rest_turned) = self._nodes(different - rest * self.frames), self._nodes(rest)
        real = multiply(turned, conjugate(rest_turned))  # (u, M, 4)
        rigid = torch.cat([real, dual(real, xyz - rotate(real, rest_xyz))], dim=-1)
        rigid = rigid[whose[:, None], self.knn_index[index]]  # (n, k, 8)
        q, translation = blend(rigid[..., :4], rigid[..., 4:], self.skin_weight[index])
        return rotate(q, means) + translation, multiply(q, quats)


@dataclass
class BasisMotion(Motion):
    """Every Gaussian follows its own mixture of B rigid paths (Shape of Motion, arXiv 2407.13764).

    Args:
        translations: (T, B, 3). rotations: (T, B, 6), the first two columns of each matrix before Gram-Schmidt.
        weights: (D, B), of sum 1.
    """

    kind: ClassVar[str] = "bases"
    translations: torch.Tensor
    rotations: torch.Tensor
    weights: torch.Tensor

    @property
    def frames(self) -> int:
        return len(self.translations)

    @property
    def count(self) -> int:
        return len(self.weights)

    def shapes(self) -> dict[str, tuple]:
        frames, bases = self.translations.shape[:2]
        paths = {"translations": (frames, bases, 3), "rotations": (frames, bases, 6)}
        return paths | {"weights": (self.count, bases)}

    def pose(
        self, index: torch.Tensor, means: torch.Tensor, quats: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before, after, share = _between(times, self.frames)
        share, weight = share[:, None, None].to(self.translations), self.weights[index][..., None]
        shift = (weight * torch.lerp(self.translations[before], self.translations[after], share)).sum(1)
        six = (weight * torch.lerp(self.rotations[before], self.rotations[after], share)).sum(1)
        first = torch.nn.functional.normalize(six[:, :3], dim=-1)
        second = six[:, 3:] - first * (first * six[:, 3:]).sum(-1, keepdim=True)
        second = torch.nn.functional.normalize(second, dim=-1)
        turn = torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)
        return (turn @ means[..., None]).squeeze(-1) + shift, multiply(from_matrices(turn), quats)


@dataclass
class PolynomialMotion(Motion):
    """mean + sum_k a_k (t / (T - 1))^k; no rotation. coefficients: (D, degree, 3), from k = 1; length: T."""

    kind: ClassVar[str] = "polynomial"
    coefficients: torch.Tensor
    length: int

    @property
    def frames(self) -> int:
        return self.length

    @property
    def count(self) -> int:
        return len(self.coefficients)

    def shapes(self) -> dict[str, tuple]:
        return {"coefficients": (None, None, 3)}

    def pose(
        self, index: torch.Tensor, means: torch.Tensor, quats: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        share = times.clamp(0, self.length - 1) / max(self.length - 1, 1)
        powers = share[:, None] ** torch.arange(1, self.coefficients.shape[1] + 1, device=times.device)
        return means + (powers[..., None].to(means) * self.coefficients[index]).sum(1), quats


@dataclass
class FourierMotion(Motion):
    """mean + sum_n a_n cos(2 pi n t / T) + b_n sin(2 pi n t / T); no rotation. waves: (D, 2, count, 3); length: T."""

    kind: ClassVar[str] = "fourier"
    waves: torch.Tensor
    length: int

    @property
    def frames(self) -> int:
        return self.length

    @property
    def count(self) -> int:
        return len(self.waves)

    def shapes(self) -> dict[str, tuple]:
        return {"waves": (None, 2, None, 3)}

    def pose(
        self, index: torch.Tensor, means: torch.Tensor, quats: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = torch.arange(1, self.waves.shape[2] + 1, device=times.device)
        angle = 2 * math.pi * times.clamp(0, self.length - 1)[:, None] * numbers / self.length
        both = torch.stack([angle.cos(), angle.sin()], dim=1)[..., None].to(means)
        return means + (both * self.waves[index]).sum((1, 2)), quats


@dataclass
class FreeMotion(Motion):
    """An offset for each Gaussian and frame; no rotation. offsets: (T, D, 3)."""

    kind: ClassVar[str] = "free"
    offsets: torch.Tensor

    @property
    def frames(self) -> int:
        return len(self.offsets)

    @property
    def count(self) -> int:
        return self.offsets.shape[1]

    def shapes(self) -> dict[str, tuple]:
        return {"offsets": (None, None, 3)}

    def pose(
        self, index: torch.Tensor, means: torch.Tensor, quats: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before, after, share = _between(times, self.frames)
        share = share[:, None].to(means)
        return means + torch.lerp(self.offsets[before, index], self.offsets[after, index], share), quats


MOTIONS = {kind.kind: kind for kind in (NodeMotion, BasisMotion, PolynomialMotion, FourierMotion, FreeMotion)}
"""By the name that a saved scene gives."""

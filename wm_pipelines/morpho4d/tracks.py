"""What a fit learns of motion: the parameters behind each kind of `Motion`, how a new frame begins, what holds it."""

from dataclasses import dataclass

import torch

from wm_pipelines.morpho4d.motion import BasisMotion, FourierMotion, FreeMotion, Motion, NodeMotion, PolynomialMotion
from wm_pipelines.morpho4d.quaternions import conjugate, from_matrices, multiply, rotate, unit
from wm_pipelines.morpho4d.seeding import Nodes

RATE = 3e-3
POLYNOMIAL_DEGREE, FOURIER_COUNT = 3, 2
ARAP_LAGS, ARAP_REACH = (1, 3), 4


@dataclass
class Track:
    """Parameters of a motion while it is fitted.

    Args:
        parameters: name -> tensor. rates: name -> learning rate.
    """

    nodes: Nodes
    parameters: dict[str, torch.Tensor]
    rates: dict[str, float]

    @property
    def frames(self) -> int:
        return len(self.nodes.centres)

    def motion(self) -> Motion:
        """As it is now; gradients go to the parameters."""
        raise NotImplementedError

    def admit(self, frame: int) -> None:
        """Begins `frame` from the one before."""

    def stiffness(self, frame: int, newest: int) -> torch.Tensor | None:
        """How little rigid, and how little smooth, the motion is around `frame`; None where nothing says so."""
        return None

    def steps(self, frame: int) -> torch.Tensor:
        """(M, 3), how far each node's object has come since the frame before; 0 until it begins."""
        step = self.nodes.centres[frame] - self.nodes.centres[frame - 1]
        return torch.where((self.nodes.first < frame)[:, None], step, 0.0)


class NodeTrack(Track):
    """Nodes go on as they did; each object as one rigid body."""

    def __init__(self, nodes: Nodes) -> None:
        frames, count = nodes.centres.shape[:2]
        xyz = nodes.points.expand(frames, count, 3).clone()
        quat = torch.tensor([1.0, 0, 0, 0]).expand(frames, count, 4).clone()
        super().__init__(nodes, {"node_xyz": xyz, "node_quat": quat}, {"node_xyz": RATE, "node_quat": 2 * RATE})
        self.ref_time = nodes.first[nodes.knn_index[:, 0]].float()

    def motion(self) -> Motion:
        skin = (self.nodes.knn_index, self.nodes.skin_weight, self.ref_time)
        return NodeMotion(self.parameters["node_xyz"], self.parameters["node_quat"], *skin)

    @torch.no_grad()
    def admit(self, frame: int) -> None:
        xyz, quat = self.parameters["node_xyz"], self.parameters["node_quat"]
        step = self.steps(frame)
        for i in self.nodes.object_id.unique():
            mine = self.nodes.object_id == i
            before, turned = xyz[frame - 1, mine], unit(quat[frame - 1, mine])
            centre = before.mean(0)
            turn = _turn(xyz[frame - 2, mine], before) if frame - 1 > int(self.nodes.first[mine][0]) else None
            if turn is None:
                xyz[frame, mine], quat[frame, mine] = before + step[mine], turned
            else:
                xyz[frame, mine] = rotate(turn, before - centre) + centre + step[mine]
                quat[frame, mine] = multiply(turn.expand_as(turned), turned)

    def stiffness(self, frame: int, newest: int) -> torch.Tensor | None:
        begin, end = max(frame - ARAP_REACH, 0), min(frame + ARAP_REACH, newest) + 1
        xyz, quat = self.parameters["node_xyz"][begin:end], unit(self.parameters["node_quat"][begin:end])
        edges = xyz[:, self.nodes.links] - xyz[:, :, None]
        edges = rotate(conjugate(quat)[:, :, None], edges)
        lengths = edges.norm(dim=-1)
        total = 0.1 * (xyz[2:] - 2 * xyz[1:-1] + xyz[:-2]).abs().mean() if len(xyz) > 2 else xyz.new_zeros(())
        for lag in ARAP_LAGS:
            if len(xyz) > lag:
                turned = (edges[lag:] - edges[:-lag]).norm(dim=-1).mean()
                total = total + 0.3 * (turned + (lengths[lag:] - lengths[:-lag]).abs().mean())
        return total


class FreeTrack(Track):
    """Every Gaussian begins a frame where its object has come to."""

    def __init__(self, nodes: Nodes) -> None:
        offsets = torch.zeros(len(nodes.centres), len(nodes.knn_index), 3)
        super().__init__(nodes, {"offsets": offsets}, {"offsets": RATE})

    def motion(self) -> Motion:
        return FreeMotion(self.parameters["offsets"])

    @torch.no_grad()
    def admit(self, frame: int) -> None:
        offsets = self.parameters["offsets"]
        offsets[frame] = offsets[frame - 1] + self.steps(frame)[self.nodes.knn_index[:, 0]]


class BasisTrack(Track):
    """One rigid path for each node, mixed as each Gaussian likes."""

    def __init__(self, nodes: Nodes) -> None:
        frames, count = nodes.centres.shape[:2]
        shares = torch.full((len(nodes.knn_index), count), 1e-4).scatter_add(1, nodes.knn_index, nodes.skin_weight)
        parameters = {
            "translations": torch.zeros(frames, count, 3),
            "rotations": torch.tensor([1.0, 0, 0, 0, 1, 0]).expand(frames, count, 6).clone(),
            "logits": shares.log(),
        }
        super().__init__(nodes, parameters, {"translations": RATE, "rotations": RATE, "logits": 10 * RATE})

    def motion(self) -> Motion:
        paths = (self.parameters["translations"], self.parameters["rotations"])
        return BasisMotion(*paths, self.parameters["logits"].softmax(-1))

    @torch.no_grad()
    def admit(self, frame: int) -> None:
        translations, rotations = self.parameters["translations"], self.parameters["rotations"]
        translations[frame] = translations[frame - 1] + self.steps(frame)
        rotations[frame] = rotations[frame - 1]


class PolynomialTrack(Track):
    """A cubic for each Gaussian."""

    def __init__(self, nodes: Nodes) -> None:
        coefficients = torch.zeros(len(nodes.knn_index), POLYNOMIAL_DEGREE, 3)
        super().__init__(nodes, {"coefficients": coefficients}, {"coefficients": RATE})

    def motion(self) -> Motion:
        return PolynomialMotion(self.parameters["coefficients"], self.frames)


class FourierTrack(Track):
    """Two waves for each Gaussian."""

    def __init__(self, nodes: Nodes) -> None:
        waves = torch.zeros(len(nodes.knn_index), 2, FOURIER_COUNT, 3)
        super().__init__(nodes, {"waves": waves}, {"waves": RATE})

    def motion(self) -> Motion:
        return FourierMotion(self.parameters["waves"], self.frames)


TRACKS = {
    "nodes": NodeTrack,
    "bases": BasisTrack,
    "polynomial": PolynomialTrack,
    "fourier": FourierTrack,
    "free": FreeTrack,
}


def _turn(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The unit quaternion (4,) that turns points (n, 3) about their middle as they turned (Kabsch)."""
    a, b = before - before.mean(0), after - after.mean(0)
    u, _, vt = torch.linalg.svd(a.T @ b)
    flip = torch.tensor([1.0, 1.0, float(torch.linalg.det(vt.T @ u.T).sign())])
    return from_matrices(vt.T @ (flip[:, None] * u.T))

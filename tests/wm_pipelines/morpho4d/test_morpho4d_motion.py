"""Quaternions and motions: against rotation matrices, at rest, between frames, and past the ends."""

import pytest
import torch

from wm_pipelines.morpho4d.motion import MOTIONS, NodeMotion
from wm_pipelines.morpho4d.quaternions import (
    blend,
    conjugate,
    dual,
    from_matrices,
    matrices,
    multiply,
    rotate,
    slerp,
    unit,
)

from .conftest import FRAMES, MOVING, draw, make_motion

ALL = torch.arange(MOVING)


def test_quaternions_are_rotations():
    p, q, v = unit(draw(40, 4).double()), unit(draw(40, 4, seed=1).double()), draw(40, 3).double()
    assert torch.allclose(matrices(multiply(p, q)), matrices(p) @ matrices(q), atol=1e-6)
    assert torch.allclose(matrices(p) @ matrices(conjugate(p)), torch.eye(3).double(), atol=1e-6)
    assert torch.allclose(rotate(q, v), (matrices(q) @ v[..., None])[..., 0])
    turned = from_matrices(matrices(q))
    assert torch.allclose(turned * (turned * q).sum(-1, keepdim=True).sign(), q, atol=1e-6)
    quarter = unit(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    assert torch.allclose(rotate(quarter, torch.tensor([[1.0, 0, 0]])), torch.tensor([[0.0, 1, 0]]), atol=1e-6)


def test_from_matrices_near_half_turns():
    for axis in torch.eye(3):
        q = unit(torch.cat([torch.tensor([1e-4]), axis])[None])
        assert torch.allclose(matrices(from_matrices(matrices(q))), matrices(q), atol=1e-5)


def test_slerp_goes_the_short_way_at_an_even_pace():
    a = unit(draw(30, 4).double())
    b = unit(draw(30, 4, seed=5).double())
    whole = (a * b).sum(-1).abs().clamp(max=1).acos()
    for share in (0.0, 0.3, 1.0):
        part = (slerp(a, b, torch.tensor(share)) * a).sum(-1).abs().clamp(max=1).acos()
        assert torch.allclose(part, share * whole, atol=1e-5)
    assert torch.allclose(slerp(a, a, torch.tensor(0.5)), a)


def test_blending_is_rigid_whatever_the_signs():
    """The blend of rigid motions is one, of equal motions that motion, and the sign of a quaternion says nothing."""
    q, t = unit(draw(20, 3, 4)), draw(20, 3, 3)
    weights = torch.softmax(draw(20, 3), -1)
    real, moved = blend(q, dual(q, t), weights)
    assert torch.allclose(real.norm(dim=-1), torch.ones(20), atol=1e-5)
    flipped = q * torch.tensor([1.0, -1.0, -1.0])[:, None]
    again = blend(flipped, dual(flipped, t), weights)
    assert torch.allclose(moved, again[1], atol=1e-4)
    same_q, same_t = q[:, :1].expand(-1, 3, -1), t[:, :1].expand(-1, 3, -1)
    real, moved = blend(same_q, dual(same_q, same_t), weights)
    assert torch.allclose(moved, t[:, 0], atol=1e-4)


def test_blending_motions_that_cancel_takes_the_first():
    q = torch.tensor([[[1.0, 0, 0, 0], [0, 1.0, 0, 0]]])
    q = torch.cat([q[:, :1], -q[:, :1]], dim=1)
    real, moved = blend(q, dual(q, torch.ones(1, 2, 3)), torch.tensor([[0.5, 0.5]]))
    assert real.isfinite().all() and moved.isfinite().all()


@pytest.mark.parametrize("kind", MOTIONS)
def test_every_motion_keeps_to_the_interface(kind):
    motion = make_motion(kind)
    motion.check()
    assert (motion.kind, motion.count, motion.frames) == (kind, MOVING, FRAMES)
    means, quats = draw(MOVING, 3), unit(draw(MOVING, 4))
    for time in (0.0, 1.0, 2.5, 4.0):
        there = motion.pose(ALL, means, quats, torch.full((MOVING,), time))
        assert there[0].shape == (MOVING, 3) and torch.allclose(there[1].norm(dim=-1), torch.ones(MOVING), atol=1e-5)
    for outside, end in ((-3.0, 0.0), (99.0, 4.0)):
        found = motion.pose(ALL, means, quats, torch.full((MOVING,), outside))
        exact = motion.pose(ALL, means, quats, torch.full((MOVING,), end))
        assert torch.allclose(found[0], exact[0], atol=1e-6) and torch.allclose(found[1], exact[1], atol=1e-6)


@pytest.mark.parametrize("kind", MOTIONS)
def test_each_gaussian_has_a_time_of_its_own(kind):
    motion, means, quats = make_motion(kind), draw(MOVING, 3), unit(draw(MOVING, 4))
    times = torch.linspace(0, 4, MOVING)
    mixed = motion.pose(ALL, means, quats, times)
    for n in range(MOVING):
        alone = motion.pose(ALL[n : n + 1], means[n : n + 1], quats[n : n + 1], times[n : n + 1])
        assert torch.allclose(mixed[0][n], alone[0][0], atol=1e-5)
        assert torch.allclose(mixed[1][n], alone[1][0], atol=1e-5)


def test_nodes_leave_what_rests_where_it_is_and_carry_it_rigidly():
    motion, means, quats = make_motion("nodes"), draw(MOVING, 3), unit(draw(MOVING, 4))
    still = motion.pose(ALL, means, quats, motion.ref_time)
    assert torch.allclose(still[0], means, atol=1e-5)
    turn, shift = unit(draw(1, 4, seed=9)), draw(1, 3, seed=9)
    xyz, quat = motion.node_xyz[:1], unit(motion.node_quat[:1])
    moved = rotate(turn, xyz) + shift, multiply(turn.expand_as(quat), quat)
    rigid = NodeMotion(
        *(torch.cat(pair) for pair in zip((xyz, quat), moved, strict=True)),
        *(motion.knn_index, motion.skin_weight, torch.zeros(MOVING)),
    )
    found = rigid.pose(ALL, means, quats, torch.ones(MOVING))
    assert torch.allclose(found[0], rotate(turn, means) + shift, atol=1e-4)
    assert torch.allclose(matrices(found[1]), matrices(multiply(turn.expand_as(quats), quats)), atol=1e-4)


def test_gradients_reach_the_paths():
    for kind in MOTIONS:
        motion, means = make_motion(kind), draw(MOVING, 3)
        learnt = [t.requires_grad_() for t in motion.tensors().values() if t.is_floating_point() and t.dim() > 1]
        out = motion.pose(ALL, means, unit(draw(MOVING, 4)), torch.full((MOVING,), 2.0))
        (out[0].sum() + out[1].sum()).backward()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in learnt), kind

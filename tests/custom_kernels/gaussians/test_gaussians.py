"""Blending of Gaussians in plain torch: against its definition, values and every gradient; projection and lists."""

import math

import pytest
import torch

from custom_kernels.gaussians import forms
from wm_pipelines.kernels import (
    assemble_tiles,
    composite_gaussians,
    composite_gaussians_reference,
    project_gaussians,
    tile_lists,
    tile_origins,
)

# Gaussians, channels, tiles, length of the lists, side of a tile, detached channels
SIZES = {
    "small": (12, 3, 3, 9, 4, 1),
    "odd tile": (7, 1, 2, 7, 5, 0),
    "many channels": (10, 40, 2, 10, 4, 3),
    "one Gaussian": (1, 2, 1, 1, 8, 2),
    "no channels": (5, 0, 2, 5, 4, 0),
    "opaque": (40, 3, 2, 40, 4, 0),
}


def make(size="small", dtype=torch.float64, seed=0):
    """Leaves splats and channels; lists, some of which end early; origins; options."""
    count, channels, tiles, longest, tile, detached = SIZES[size]
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    factor = 2 * draw(count, 2, 2) - 1
    inverse = (factor @ factor.mT + 0.3 * torch.eye(2, dtype=torch.float64)).inverse()
    conic = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], dim=1)
    opacity = 0.05 + 0.94 * draw(count, 1)
    if size == "opaque":
        conic, opacity = 0.05 * conic, 0.9 + 0.1 * draw(count, 1)
    splats = torch.cat([2 * tile * draw(count, 2), conic, opacity], dim=1).to(dtype).requires_grad_()
    values = draw(count, channels).to(dtype).requires_grad_()
    lists = torch.stack([torch.randperm(count, generator=g)[:longest] for _ in range(tiles)])
    if longest > 2 and tiles > 1:
        lists[0, longest // 2 :] = -1
    origins = tile * torch.tensor([[0, 0], [1, 0], [1, 1]], dtype=dtype)[:tiles]
    return splats, values, lists, origins, {"tile": tile, "detached": detached}


def gradients(function, splats, values, lists, origins, options, **more):
    out = function(splats, values, lists, origins, **options, **more)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return [out, *torch.autograd.grad((out * weight).sum(), [splats, values])]


def compare(made, tolerance, **more):
    found = gradients(composite_gaussians, *made, **more)
    exact = gradients(composite_gaussians_reference, *made)
    for mine, good in zip(found, exact, strict=True):
        assert mine.shape == good.shape and mine.isfinite().all()
        assert (mine - good).norm() <= tolerance * (good.norm() + 1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_output_and_gradients_are_those_of_the_definition(size, seed):
    compare(make(size, seed=seed), 1e-11)


def test_single_precision():
    compare(make("opaque", torch.float32), 1e-4)


def test_many_chunks_are_as_one(monkeypatch):
    whole = gradients(composite_gaussians, *make("opaque"))
    monkeypatch.setattr(forms, "CHUNK", 64)
    for one, many in zip(whole, gradients(composite_gaussians, *make("opaque")), strict=True):
        torch.testing.assert_close(one, many, rtol=1e-12, atol=1e-13)


def test_gradcheck_and_registration():
    splats, values, lists, origins, options = make("small")
    tile = options["tile"]

    def run(s, c):
        return composite_gaussians(s, c, lists, origins, tile=tile)

    assert torch.autograd.gradcheck(run, (splats, values))
    given = (splats, values, lists, origins, tile, 1, False)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.wm_kernels.composite_gaussians.default, given, test_utils=checks)


def test_features_that_are_detached_move_no_gaussian():
    splats, values, lists, origins, options = make("small")
    out = composite_gaussians(splats, values, lists, origins, tile=options["tile"], detached=2)
    d_splats, d_values = torch.autograd.grad(out[..., 1:-1].sum(), [splats, values])
    assert not d_splats.any() and d_values[:, 1:].any()


def test_far_from_a_tile_is_nothing_and_not_slow_numbers():
    """A narrow Gaussian far away: its exponent at the middle of the tile is under that of any number of the type."""
    splats = torch.tensor([[200.0, 200.0, 3.0, 0.0, 3.0, 0.9], [6.0, 1.0, 3.3, 0.0, 3.3, 0.9]])
    out = composite_gaussians(splats, torch.ones(2, 1), torch.tensor([[0, 1]]), torch.zeros(1, 2), tile=8)
    exact = composite_gaussians_reference(splats, torch.ones(2, 1), torch.tensor([[0, 1]]), torch.zeros(1, 2), tile=8)
    torch.testing.assert_close(out, exact, rtol=1e-4, atol=1e-5)
    assert out[0, :, -1].amax() > 0.3 and (out[0, :, -1] == 0).sum() > 40


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"splats": torch.zeros(3, 5)}, "`splats` must be"),
        ({"splats": torch.zeros(3, 6).half()}, "`splats` must be"),
        ({"channels": torch.zeros(2, 1)}, "`channels` must be"),
        ({"lists": torch.zeros(1, 3)}, "`lists` must be"),
        ({"lists": torch.tensor([[3]])}, "`lists` holds 3"),
        ({"lists": torch.tensor([[-2]])}, "`lists` holds -2"),
        ({"origins": torch.zeros(2, 2)}, "`origins` must be"),
        ({"tile": 0}, "`tile` must be"),
        ({"detached": 2}, "`detached` must be"),
        ({"backend": "cuda"}, "`backend` must be"),
        ({"backend": "triton"}, "the Triton kernels can't be used"),
    ],
)
def test_bad_input_is_named(change, complaint, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    plain = {
        **{"splats": torch.zeros(3, 6), "channels": torch.zeros(3, 1), "lists": torch.zeros(1, 3, dtype=torch.int64)},
        **{"origins": torch.zeros(1, 2), "tile": 4},
    }
    given = plain | change
    tensors = [given.pop(name) for name in ("splats", "channels", "lists", "origins")]
    with pytest.raises(ValueError, match=complaint):
        composite_gaussians(*tensors, **given)


# --- projection and lists --------------------------------------------------------------------------------------------


def world(count=60, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=g, dtype=dtype)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=g, dtype=dtype), dim=-1)
    scales = 0.02 + 0.2 * torch.rand(count, 3, generator=g, dtype=dtype)
    opacities = torch.rand(count, generator=g, dtype=dtype)
    k = torch.tensor([[40.0, 0, 17], [0, 42, 12], [0, 0, 1]], dtype=dtype)
    pose = torch.eye(4, dtype=dtype)
    pose[2, 3] = 4
    return means, quats, scales, opacities, k, pose


def test_projection_is_the_linear_map_of_nearby_points():
    """The 2-D covariance is that of the pinhole's derivative at the mean, by autograd, plus the dilation."""
    means, quats, scales, opacities, k, pose = world()
    shown = project_gaussians(means, quats, scales, opacities, k, pose, size=(24, 33), dilation=0.3)

    def pinhole(point):
        q = k @ (pose[:3, :3] @ point + pose[:3, 3])
        return q[:2] / q[2]

    w, x, y, z = quats.unbind(-1)
    turn = torch.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), 2 * (x * y + w * z),
         1 - 2 * (x * x + z * z), 2 * (y * z - w * x), 2 * (x * z - w * y), 2 * (y * z + w * x),
         1 - 2 * (x * x + y * y)], dim=-1,
    ).view(-1, 3, 3)  # fmt: skip
    inside = 0
    for n in range(len(means)):
        u, v, a, b, c, o = shown.splats[n].tolist()
        place = pinhole(means[n])
        assert torch.allclose(place, torch.tensor([u, v], dtype=torch.float64)) and o == opacities[n]
        if 0 <= u <= 33 and 0 <= v <= 24:
            inside += 1
            jacobian = torch.autograd.functional.jacobian(pinhole, means[n]) @ turn[n] * scales[n]
            cov = jacobian @ jacobian.T + 0.3 * torch.eye(2, dtype=torch.float64)
            found = torch.tensor([[a, b], [b, c]], dtype=torch.float64).inverse()
            torch.testing.assert_close(found, cov)
            far = math.sqrt(2 * math.log(max(255 * o, 1)))
            torch.testing.assert_close(shown.reach[n], far * cov.diagonal().sqrt())
    assert inside > 15


def test_behind_the_camera_or_too_faint_is_not_seen():
    means, quats, scales, opacities, k, pose = world()
    means[:20, 2] = -5
    opacities[20:30] = 1 / 300
    reach = project_gaussians(means, quats, scales, opacities, k, pose, size=(24, 33)).reach
    assert not reach[:30].any() and (reach[30:][opacities[30:] > 0.01] > 0).all()


@pytest.mark.parametrize("tile, size", [(8, (24, 33)), (5, (11, 16)), (16, (1, 1)), (4, (40, 8))])
def test_lists_lose_nothing(tile, size):
    """Tiles with their lists give what every pixel gives against all Gaussians in order of depth."""
    means, quats, scales, opacities, k, pose = world(200)
    shown = project_gaussians(means, quats, scales, opacities, k, pose, size=size)
    values = torch.rand(200, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    origins = tile_origins(size, tile, means)
    tiles, lists = tile_lists(shown, origins, tile)
    found = torch.zeros(len(origins), tile * tile, 4, dtype=torch.float64)
    found[tiles] = composite_gaussians(shown.splats, values, lists, origins[tiles], tile=tile)
    everything = shown.z.argsort().expand(len(origins), -1)
    exact = composite_gaussians_reference(shown.splats, values, everything, origins, tile=tile)
    torch.testing.assert_close(found, exact)
    picture = assemble_tiles(found, size, tile)
    assert picture.shape == (4, *size)
    row, column = size[0] - 1, size[1] - 1
    whole = found.view(-(-size[0] // tile), -(-size[1] // tile), tile, tile, 4)
    assert torch.equal(picture[:, row, column], whole[row // tile, column // tile, row % tile, column % tile])


def test_nothing_to_see():
    means, quats, scales, opacities, k, pose = world(5)
    shown = project_gaussians(means - 100, quats, scales, opacities, k, pose, size=(8, 8))
    origins = tile_origins((8, 8), 8, means)
    tiles, lists = tile_lists(shown, origins, 8)
    assert len(tiles) == 0 and lists.shape == (0, 0)
    out = composite_gaussians(shown.splats, torch.zeros(5, 2).double(), lists, origins[tiles], tile=8)
    assert out.shape == (0, 64, 3)

"""`temporal_motion_attention` in torch: output and every gradient against loops in fp64, registration, bad input."""

import itertools
import math

import pytest
import torch

from custom_kernels.temporal_motion_attention import forms, registered
from wm_pipelines.kernels import box_masks, temporal_motion_attention, temporal_motion_attention_reference

# B, grid, F, H, d, O
SIZES = {
    "odd": (2, (3, 5), 7, 2, 5, 2),
    "one of each": (1, (1, 1), 1, 1, 1, 1),
    "no objects": (2, (2, 3), 5, 3, 8, 0),
    "sixteen frames": (1, (4, 4), 16, 2, 40, 1),
}
NAMES = ("q", "k", "v", "tau", "rho")


def make(size, dtype=torch.float64, rho=True):
    """(leaves by name, everything else) of one call."""
    batch, grid, frames, heads, width, objects = SIZES[size]
    generator = torch.Generator().manual_seed(0)

    def rand(*shape, kind=torch.randn):
        return kind(*shape, generator=generator, dtype=torch.float64).to(dtype)

    shape = (batch, grid[0] * grid[1], frames, heads, width)
    leaves = {name: rand(*shape) for name in "qkv"} | {"tau": rand(batch, kind=torch.rand) + 0.5}
    if rho:
        leaves["rho"] = rand(batch, heads, 2 * frames - 1)
    corners = rand(batch, objects, frames, 2, 2, kind=torch.rand).sort(-1).values
    return leaves, {"boxes": corners.transpose(-1, -2).flatten(-2), "grid": grid, "gamma": rand(objects).abs() * 3}


def literal(q, k, v, tau, rho=None, *, boxes, grid, gamma):
    """One pixel and head at a time."""
    (batch, pixels, frames, heads, width), out = q.shape, torch.empty_like(q)
    masks = box_masks(boxes, grid)
    for b, u, h in itertools.product(range(batch), range(pixels), range(heads)):
        s = tau[b] * (q[b, u, :, h] @ k[b, u, :, h].t()) / width**0.5
        for o in range(boxes.shape[1]):
            m = masks[b, o, :, u]
            s = s - gamma[o] * (m[:, None] - m[None]).abs()
        if rho is not None:
            s = s + torch.stack(
                [torch.stack([rho[b, h, i - j + frames - 1] for j in range(frames)]) for i in range(frames)]
            )
        out[b, u, :, h] = s.softmax(-1) @ v[b, u, :, h]
    return out


def gradients(function, leaves, rest, **options):
    """The output, and the gradient of each leaf."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in leaves.items()}
    out = function(**leaves, **{"rho": None, **rest} if "rho" not in leaves else rest, **options)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return [out, *torch.autograd.grad(out, list(leaves.values()), g)]


def compare(mine, expected, tolerance=1e-11):
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture
def small_chunks(monkeypatch):
    """Many chunks, so that their borders are seen."""
    monkeypatch.setattr(forms, "CHUNK", 4 * 7 * 7 * 2)


@pytest.mark.parametrize("size", ["odd", "one of each", "no objects"])
@pytest.mark.parametrize("rho", [True, False])
def test_output_and_every_gradient(size, rho, small_chunks):
    made = make(size, rho=rho)
    compare(gradients(temporal_motion_attention, *made), gradients(literal, *made))


def test_the_reference_is_the_definition():
    made = make("odd")
    compare(gradients(temporal_motion_attention_reference, *made), gradients(literal, *made))


def test_at_rest_it_is_plain_attention():
    leaves, rest = make("sixteen frames")
    q, k, v = (leaves[name] for name in "qkv")
    out = temporal_motion_attention(q, k, v, rest["boxes"], grid=rest["grid"], tau=1.0, gamma=0.0, rho=None)
    heads = (t.transpose(2, 3) for t in (q, k, v))
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(*heads).transpose(2, 3))


def test_shared_tables_and_numbers():
    """One tau, gamma and rho for all batch rows; the gradient of a shared table is the sum."""
    leaves, rest = make("odd")
    shared = {"tau": leaves["tau"][0], "rho": leaves["rho"][0]}
    spread = {"tau": shared["tau"].expand(2), "rho": shared["rho"].expand(2, -1, -1)}
    tensors = {name: leaves[name] for name in "qkv"}
    one = gradients(temporal_motion_attention, tensors | shared, rest)
    two = gradients(temporal_motion_attention, tensors | spread, rest)
    compare(one[:4], two[:4])
    compare(one[4:], [t.sum(0) for t in two[4:]])
    numbers = [
        temporal_motion_attention(**tensors, **rest | {"gamma": gamma}, tau=tau, rho=None)
        for tau, gamma in ((1.5, 2.0), (torch.tensor(1.5), torch.full((2, 2), 2.0)))
    ]
    assert torch.equal(*numbers)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_narrower_types(dtype, tolerance):
    leaves, rest = make("sixteen frames", dtype)
    found = gradients(temporal_motion_attention, leaves, rest)
    wide = [{n: t.double() if isinstance(t, torch.Tensor) else t for n, t in part.items()} for part in (leaves, rest)]
    exact = gradients(temporal_motion_attention_reference, *wide)
    for mine, good in zip(found, exact, strict=True):
        assert (mine.double() - good).norm() <= tolerance * good.norm()
    assert [t.dtype for t in found] == [dtype] * 6


def test_only_the_gradients_that_are_asked_for_are_made():
    leaves, rest = make("odd")
    everything = dict(zip(NAMES, gradients(temporal_motion_attention, leaves, rest)[1:], strict=True))
    for needs in itertools.product([False, True], repeat=5):
        wanted = [name for name, need in zip(NAMES, needs, strict=True) if need]
        mine = {name: t.clone().requires_grad_(name in wanted) for name, t in leaves.items()}
        out = temporal_motion_attention(**mine, **rest)
        if wanted:
            g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            out.backward(g)
        assert [name for name in NAMES if mine[name].grad is not None] == wanted
        for name in wanted:
            torch.testing.assert_close(mine[name].grad, everything[name])


def test_gradcheck():
    leaves, rest = make("odd")

    def run(*tensors):
        return temporal_motion_attention(**dict(zip(NAMES, tensors, strict=True)), **rest)

    assert torch.autograd.gradcheck(run, [leaves[name].requires_grad_() for name in NAMES], fast_mode=True)


def test_frames_before_pixels_in_memory():
    leaves, rest = make("odd")

    def twisted(q, k, v, **given):
        views = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
        assert not views[0].is_contiguous()
        return temporal_motion_attention(*views, **given)

    compare(gradients(twisted, leaves, rest), gradients(temporal_motion_attention, leaves, rest))


def test_every_element_is_written(monkeypatch):
    plain = torch.empty_like
    poisoned = lambda *args, **kwargs: plain(*args, **kwargs).fill_(math.nan)  # noqa: E731
    monkeypatch.setattr(torch, "empty_like", poisoned)
    made = make("odd")
    mine = gradients(temporal_motion_attention, *made)
    monkeypatch.undo()
    compare(mine, gradients(literal, *made))


def test_compiles_with_gradients_in_one_graph():
    made = make("odd", torch.float32)
    compiled = torch.compile(temporal_motion_attention, fullgraph=True, backend="aot_eager")
    compare(*(gradients(f, *made) for f in (compiled, temporal_motion_attention)), tolerance=1e-5)


def test_registration_is_sound():
    """PyTorch's own check: schema, fake tensors, autograd registration, and tracing."""
    leaves, rest = make("odd", torch.float32)
    q, k, v, tau, rho = (leaves[name].requires_grad_() for name in NAMES)
    arguments = (q, k, v, rest["boxes"], tau, rest["gamma"].expand(2, -1), rho, 3, 5, False)
    torch.library.opcheck(registered.registered, arguments)
    frozen = [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments]
    torch.library.opcheck(registered.registered_backward, (frozen[0].clone(), *frozen, [True] * 5))


def test_autocast_casts_as_for_plain_attention():
    leaves, rest = make("odd", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(temporal_motion_attention, leaves, rest)
    assert found[0].dtype == torch.bfloat16 and found[1].dtype == torch.float32
    for mine, good in zip(found, gradients(temporal_motion_attention, leaves, rest), strict=True):
        assert (mine.float() - good).norm() <= 0.02 * good.norm()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"q": torch.zeros(2, 15, 7, 10)}, r"`q` must be \(B, L, F, H, d\) of floats, got \(2, 15, 7, 10\)"),
        ({"v": torch.zeros(2, 15, 7, 2, 4).double()}, r"`v` must be as `q`, \(2, 15, 7, 2, 5\)"),
        ({"k": torch.zeros(2, 15, 7, 2, 5)}, "`k` must be as `q`, .* of torch.float64, got .* of torch.float32"),
        ({"grid": (5, 4)}, r"`grid` must be \(h, w\) with h·w = 15"),
        ({"boxes": torch.zeros(2, 2, 6, 4)}, r"`boxes` must be \(B, O, F, 4\), \(2, O, 7, 4\)"),
        ({"boxes": torch.full((2, 2, 7, 4), -0.1)}, r"`boxes` must be .* in \[0, 1\]"),
        ({"boxes": torch.zeros(2, 2, 7, 4, requires_grad=True)}, "`boxes` has no gradient here"),
        ({"tau": torch.ones(3)}, r"`tau` must be a number or \(B,\), \(\) or \(2,\), got \(3,\)"),
        ({"gamma": torch.ones(3)}, r"`gamma` must be a number or \(O,\) or \(B, O\), \(\) or \(2,\) or \(2, 2\)"),
        ({"gamma": torch.ones(2, requires_grad=True)}, "`gamma` has no gradient here"),
        ({"rho": torch.zeros(2, 12)}, r"`rho` must be \(H, 2F−1\) or \(B, H, 2F−1\), \(2, 13\) or \(2, 2, 13\)"),
        ({"rho": torch.zeros(2, 13, device="meta")}, "`rho` must be on cpu as `q` is, got meta"),
        ({"backend": "triton"}, "TRITON_INTERPRET=1|triton is not installed"),
    ],
)
def test_bad_input(change, message):
    leaves, rest = make("odd")
    with pytest.raises(ValueError, match=message):
        temporal_motion_attention(**{**leaves, **rest, **change})

"""`motion_attention` in torch: outputs and gradients against loops in fp64, registration, bad input."""

import itertools
import math

import pytest
import torch

from custom_kernels.motion_attention import forms, op
from custom_kernels.shared.boxes import box_gradient
from wm_pipelines.kernels import (
    MotionAttention,
    MotionAttentionMaps,
    box_masks,
    motion_attention,
    motion_attention_reference,
)

FORMS = ("explicit", "kept", "indicator")

# B, F, H, grid, d, N, O, slots as (token, object)
SIZES = {
    "odd": (2, 3, 2, (3, 5), 7, 11, 2, [(1, 0), (2, 0), (5, 1)]),
    "one of each": (1, 1, 1, (1, 1), 1, 1, 1, [(0, 0)]),
    "shared token": (2, 2, 3, (4, 4), 8, 9, 3, [(4, 0), (4, 1), (8, 2), (0, 2)]),
    "CLIP": (1, 2, 2, (5, 8), 40, 77, 2, [(2, 0), (76, 1)]),
    "128 keys": (1, 2, 1, (7, 3), 64, 128, 1, [(127, 0)]),
    "226 keys": (2, 1, 2, (6, 6), 32, 226, 2, [(0, 0), (225, 1), (17, 1)]),
    "512 keys": (1, 2, 2, (4, 7), 16, 512, 2, [(511, 0), (300, 1)]),
    "no slots": (2, 2, 2, (3, 4), 8, 10, 2, []),
    "no objects": (1, 2, 2, (3, 4), 8, 10, 0, []),
}


def boxes_of(batch, objects, frames, generator):
    corners = torch.rand(batch, objects, frames, 2, 2, generator=generator, dtype=torch.float64).sort(-1).values
    boxes = corners.transpose(-1, -2).flatten(-2)  # x0 y0 x1 y1
    if objects and frames > 1:
        boxes[0, 0, 1] = 0  # absent in this frame
    return boxes


def make(size, dtype=torch.float64, padding=True, bias=True, missing=True, seed=0):
    """(leaves by name, everything else) of one call."""
    batch, frames, heads, grid, width, keys, objects, slots = SIZES[size]
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    leaves = {
        "q": randn(batch, frames, heads, grid[0] * grid[1], width),
        "k": randn(batch, heads, keys, width),
        "v": randn(batch, heads, keys, width),
        "boxes": boxes_of(batch, objects, frames, generator).to(torch.promote_types(dtype, torch.float32)),
    }
    if bias:
        leaves |= {"bias_in": randn(batch, objects).abs(), "bias_out": randn(objects).abs()}
    token = torch.tensor([n for n, _ in slots], dtype=torch.int64)
    if missing and batch > 1 and len(token):
        token = token.repeat(batch, 1)
        token[-1, 0] = -1
    key_bias = None
    if padding and keys > 1:
        key_bias = torch.zeros(batch, keys, dtype=dtype)
        used = {n for n, _ in slots}
        key_bias[-1, [n for n in range(keys // 2, keys) if n not in used]] = -math.inf
        key_bias[0, 0] = -0.7
    rest = {"slot_token": token, "slot_object": torch.tensor([o for _, o in slots], dtype=torch.int64), "grid": grid}
    return leaves, rest | {"key_bias": key_bias}


def literal(q, k, v, boxes, slot_token, slot_object, *, grid, key_bias, bias_in=None, bias_out=None):
    """The equations one frame, head and slot at a time; masks by the area of two rectangles' intersection."""
    (batch, frames, heads, cells, width), objects = q.shape, boxes.shape[1]
    token = slot_token.expand(batch, -1)
    columns = [(u % grid[1], u // grid[1]) for u in range(cells)]
    out, lse, maps = torch.empty_like(q), q.new_empty(q.shape[:4]), q.new_zeros(*q.shape[:4], token.shape[1])
    sums = q.new_zeros(4, batch, frames, heads, token.shape[1])
    for b, f in itertools.product(range(batch), range(frames)):
        masks = [torch.stack([_area(boxes[b, o, f], at, grid) for at in columns]) for o in range(objects)]
        for h in range(heads):
            s = q[b, f, h] @ k[b, h].t() / width**0.5
            if key_bias is not None:
                s = s + key_bias[b]
            for n, o in zip(token[b].tolist(), slot_object.tolist(), strict=True):
                if n >= 0 and bias_in is not None:
                    inside, outside = (t.expand(batch, objects)[b, o] for t in (bias_in, bias_out))
                    extra = inside * masks[o] - outside * (1 - masks[o])
                    s = s + extra[:, None] * torch.nn.functional.one_hot(torch.tensor(n), s.shape[1])
            lse[b, f, h] = torch.logsumexp(s, -1)
            p = torch.exp(s - lse[b, f, h][:, None])
            out[b, f, h] = p @ v[b, h]
            for j, (n, o) in enumerate(zip(token[b].tolist(), slot_object.tolist(), strict=True)):
                if n < 0:
                    continue
                maps[b, f, h, :, j] = a = p[:, n]
                x = a.new_tensor([(i + 0.5) / grid[1] for i, _ in columns])
                y = a.new_tensor([(i + 0.5) / grid[0] for _, i in columns])
                sums[:, b, f, h, j] = torch.stack([(masks[o] * a).sum(), a.sum(), (x * a).sum(), (y * a).sum()])
    return MotionAttentionMaps(out, lse, *sums.unbind(0), maps)


def _area(box, at, grid):
    sides = []
    for axis, size in ((0, grid[1]), (1, grid[0])):
        low, high = torch.clamp(box[axis] * size, min=at[axis]), torch.clamp(box[axis + 2] * size, max=at[axis] + 1)
        sides.append((high - low).clamp(min=0))
    return sides[0] * sides[1]


def gradients(function, leaves, rest, outputs=range(7), seed=1, **options):
    """Every output, and the gradient of each leaf from random gradients of the chosen outputs."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in leaves.items()}
    found = function(**leaves, **rest, **options)
    generator = torch.Generator().manual_seed(seed)
    random = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in found]
    total = sum((found[i] * random[i]).sum() for i in outputs if i < len(found))
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return list(found), {
        n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(leaves.items(), grads, strict=True)
    }


def compare(mine, expected, tolerance=1e-11):
    (found, grads), (exact, exact_grads) = mine, expected
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for name, b in exact_grads.items():
        torch.testing.assert_close(grads[name], b, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    monkeypatch.setattr(op, "choose_form", lambda *_: request.param)
    return request.param


@pytest.fixture
def small_chunks(monkeypatch):
    """Many chunks, so that their borders are seen."""
    monkeypatch.setattr(forms, "CHUNK", 64)
    monkeypatch.setattr(forms, "ROWS", 5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_every_gradient(size, bias, form):
    made = make(size, bias=bias)
    compare(gradients(motion_attention, *made, return_maps=True), gradients(literal, *made))


@pytest.mark.parametrize("size", ["odd", "shared token"])
def test_chunk_borders(size, small_chunks):
    made = make(size)
    compare(gradients(motion_attention, *made, return_maps=True, memory="low"), gradients(literal, *made))


@pytest.mark.parametrize("outputs", [(0,), (1,), (2, 3), (4, 5), (6,), (2, 6), (0, 3)])
def test_gradients_of_each_output_alone(outputs, small_chunks):
    """Without a gradient for out its product is left out; the rest must not miss it."""
    made = make("odd")
    mine = gradients(motion_attention, *made, outputs=outputs, return_maps=True)
    compare(mine, gradients(literal, *made, outputs=outputs))


def test_the_reference_is_the_definition():
    for size in ("odd", "shared token", "no slots"):
        made = make(size)
        compare(gradients(motion_attention_reference, *made), gradients(literal, *made))


def test_without_slots_it_is_plain_attention(form):
    leaves, rest = make("no objects", padding=False)
    found = motion_attention(**leaves, **rest)
    assert isinstance(found, MotionAttention) and found.Z.shape == (1, 2, 2, 0)
    q, k, v = (leaves[name] for name in "qkv")
    plain = torch.nn.functional.scaled_dot_product_attention(q, k[:, None], v[:, None])
    torch.testing.assert_close(found.out, plain)


def test_sums_are_what_their_names_say():
    """A box over the whole picture holds everything; one over the left half has its centroid on the left."""
    leaves, rest = make("CLIP", bias=False)
    leaves["boxes"][:] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    leaves["boxes"][:, 1] = torch.tensor([0.0, 0.0, 0.5, 1.0])
    found = motion_attention(**leaves, **rest, bias_out=30.0)
    torch.testing.assert_close(found.I, found.Z)
    assert (found.Cx[..., 1] / found.Z[..., 1]).max() < 0.5
    half = motion_attention(**leaves, **rest)
    assert (half.I[..., 1] < half.Z[..., 1]).all()


def test_float_biases_equal_tensors_of_them():
    leaves, rest = make("odd", bias=False)
    results = [
        motion_attention(**leaves, **rest, bias_in=a, bias_out=b)
        for a, b in ((3.0, 1.5), (torch.tensor(3.0), torch.full((2,), 1.5)), (torch.full((2, 2), 3.0), 1.5))
    ]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
    none = motion_attention(**leaves, **rest)
    torch.testing.assert_close(motion_attention(**leaves, **rest, bias_in=0.0).out, none.out)


@pytest.mark.parametrize(
    "dtype, tolerance, form",
    [
        *((torch.float32, 1e-5, form) for form in FORMS),
        (torch.float16, 2e-3, "explicit"),
        (torch.bfloat16, 1.5e-2, "explicit"),
    ],
)
@pytest.mark.parametrize("size", ["odd", "CLIP", "512 keys"])
def test_narrower_types(size, dtype, tolerance, form, monkeypatch):
    monkeypatch.setattr(op, "choose_form", lambda *_: form)
    leaves, rest = make(size, dtype)
    found, grads = gradients(motion_attention, leaves, rest, return_maps=True)
    wide = {name: t.double() for name, t in leaves.items()}
    key_bias = None if rest["key_bias"] is None else rest["key_bias"].double()
    exact, exact_grads = gradients(literal, wide, rest | {"key_bias": key_bias})
    assert found[0].dtype == dtype and all(t.dtype == torch.float32 for t in found[1:])
    for mine, good in [*zip(found, exact, strict=True), *((grads[n], exact_grads[n]) for n in grads)]:
        assert (mine.double() - good).norm() <= tolerance * good.norm() + 1e-12
    assert all(grads[name].dtype == t.dtype for name, t in leaves.items())


def test_the_choice_of_a_form():
    def form(keys, dtype=torch.float32, memory="fast", training=True, rows=4096, device="cpu"):
        return forms.choose_form(rows, keys, dtype, torch.device(device), memory, training)

    assert (form(77), form(77, training=False), form(512), form(512, rows=40)) == (
        "kept", "explicit", "indicator", "explicit",
    )  # fmt: skip
    for options in ({"memory": "low"}, {"dtype": torch.float16}, {"dtype": torch.bfloat16}, {"device": "meta"}):
        assert form(77, **options) == form(512, **options) == "explicit"


NAMES = ("q", "k", "v", "boxes", "bias_in", "bias_out")


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=6)))
def test_only_the_gradients_that_are_asked_for_are_made(needs):
    leaves, rest = make("odd")
    wanted = [name for name, need in zip(NAMES, needs, strict=True) if need]
    mine = {name: t.clone().requires_grad_(name in wanted) for name, t in leaves.items()}
    found = motion_attention(**mine, **rest)
    if not wanted:
        assert not any(t.requires_grad for t in found)
        return
    sum(t.square().sum() for t in found).backward()
    assert [name for name in NAMES if mine[name].grad is not None] == wanted
    everything = {name: t.clone().requires_grad_() for name, t in leaves.items()}
    sum(t.square().sum() for t in motion_attention(**everything, **rest)).backward()
    for name in wanted:
        torch.testing.assert_close(mine[name].grad, everything[name].grad)


def test_gradcheck(small_chunks):
    leaves, rest = make("odd")
    leaves["boxes"][0, 0, 1] = torch.tensor([0.21, 0.13, 0.77, 0.9])  # at an empty box the mask has a kink
    given = [leaves[name].requires_grad_() for name in NAMES]

    def run(*tensors):
        return tuple(motion_attention(**dict(zip(NAMES, tensors, strict=True)), **rest, return_maps=True))

    assert torch.autograd.gradcheck(run, given, fast_mode=True)


def test_a_second_derivative_is_refused():
    leaves, rest = make("odd")
    q = leaves["q"].requires_grad_()
    (grad,) = torch.autograd.grad(motion_attention(**leaves, **rest).Z.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|differentiate twice"):
        grad.sum().backward()


def test_repeats_are_bit_equal(form):
    made = make("512 keys", torch.float32)
    first, second = (gradients(motion_attention, *made, return_maps=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def test_non_contiguous_input(form):
    """As heads lie after a projection, frames in front or behind, and keys that are one batch row expanded."""
    leaves, rest = make("odd", missing=False)
    leaves["k"], leaves["v"] = (leaves[name][:1].expand(2, -1, -1, -1) for name in "kv")
    expected = gradients(literal, leaves, rest)

    def twisted(**given):
        q = given.pop("q").permute(3, 1, 0, 4, 2).contiguous().permute(2, 1, 4, 0, 3)
        k = given.pop("k").transpose(-1, -2).contiguous().transpose(-1, -2)
        boxes = given.pop("boxes").transpose(0, 2).contiguous().transpose(0, 2)
        assert not (q.is_contiguous() or k.is_contiguous() or boxes.is_contiguous())
        return motion_attention(q=q, k=k, boxes=boxes, **given, return_maps=True)

    compare(gradients(twisted, leaves, rest), expected)


def test_every_element_is_written(form, monkeypatch):
    plain = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        made = plain(self, *args, **kwargs)
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    made = make("odd")
    compare(gradients(motion_attention, *made, return_maps=True), gradients(literal, *made))


def test_without_data_shapes_are_right():
    """On the meta device, where large models are counted."""
    leaves, rest = make("shared token")
    leaves = {name: t.to("meta").requires_grad_() for name, t in leaves.items()}
    rest = {name: t.to("meta") if isinstance(t, torch.Tensor) else t for name, t in rest.items()}
    found = motion_attention(**leaves, **rest, return_maps=True)
    (found.out.sum() + found.Z.sum()).backward()
    assert found.out.shape == leaves["q"].shape and found.maps.shape == (2, 2, 3, 16, 4) and found.I.shape[-1] == 4
    assert all(t.grad.shape == t.shape for t in leaves.values())


def test_low_memory_keeps_no_map_for_the_backward_pass():
    leaves, rest = make("512 keys", torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        motion_attention(**{name: t.requires_grad_() for name, t in leaves.items()}, **rest, memory="low")
    given = {t.data_ptr() for t in leaves.values()}
    assert max(t.numel() for t in kept if t.data_ptr() not in given) <= rest["key_bias"].numel()


# ---- torch.compile, autocast ----


@pytest.mark.parametrize("maps", [True, False])
def test_compiles_with_gradients_in_one_graph(maps):
    made = make("odd", torch.float32)
    compiled = torch.compile(motion_attention, fullgraph=True, backend="aot_eager")
    results = [gradients(f, *made, return_maps=maps) for f in (compiled, motion_attention)]
    compare(*results, tolerance=1e-5)


@pytest.mark.parametrize("form", [*FORMS])
def test_registration_is_sound(form):
    """PyTorch's own check: schema, fake tensors, autograd registration, and tracing."""
    from custom_kernels.motion_attention.registered import registered, registered_backward

    leaves, rest = make("shared token", torch.float32)
    leaves["bias_out"] = leaves["bias_out"].expand(2, -1).contiguous()
    made = [leaves[name].requires_grad_() for name in NAMES]
    arguments = (*made[:4], rest["slot_token"], rest["slot_object"], rest["key_bias"], *made[4:], 4, 4, True, form)
    torch.library.opcheck(registered, arguments)
    frozen = [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments]
    *outputs, kept = (t.detach() for t in registered(*frozen))
    kept = kept if form == "kept" else None
    torch.library.opcheck(registered_backward, (*outputs, *frozen[:9], None, None, kept, 4, 4, form, [True] * 6))


def test_autocast_multiplies_in_its_dtype_and_sums_in_float32():
    leaves, rest = make("CLIP", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, grads = gradients(motion_attention, leaves, rest)
    exact, exact_grads = gradients(motion_attention, leaves, rest)
    assert found[0].dtype == torch.bfloat16 and found[3].dtype == torch.float32
    for mine, good in [*zip(found, exact, strict=True), *((grads[n], exact_grads[n]) for n in NAMES)]:
        assert (mine.double() - good.double()).norm() <= 0.02 * good.norm()
    assert grads["q"].dtype == torch.float32


def test_under_autocast_the_inputs_need_not_be_of_one_dtype():
    """As where a norm of the queries runs in fp32 and the values come in bf16 (Wan)."""
    leaves, rest = make("CLIP", torch.float32)
    half = {n: t.bfloat16() if n in "qkv" else t for n, t in leaves.items()}
    with torch.autocast("cpu", torch.bfloat16):
        mixed, plain = (motion_attention(**given, **rest) for given in (half | {"q": half["q"].float()}, half))
    assert all(torch.equal(a, b) for a, b in zip(mixed, plain, strict=True))


def test_fewer_keys_than_slots(form):
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, 1, 1, 4, 3), (1, 1, 2, 3), (1, 1, 2, 3)]
    q, k, v = (torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes)
    boxes = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64).view(1, 1, 1, 4)
    slots = torch.tensor([0, 1, 1]), torch.zeros(3, dtype=torch.int64)
    mine, exact = (
        torch.autograd.grad(f(q, k, v, boxes, *slots, grid=(2, 2), bias_in=1.0).lse.sum(), q)
        for f in (motion_attention, motion_attention_reference)
    )
    torch.testing.assert_close(mine, exact)


# ---- masks ----


@pytest.mark.parametrize("corner", [0.25, 0.3])
def test_gradient_of_boxes_also_on_lines_of_the_grid(corner):
    """The mean of both one-sided derivatives, by finite differences in fp64."""
    weight = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    box, step = torch.tensor([corner, 0.25, 0.75, 0.875], dtype=torch.float64), 1e-6 * torch.eye(4).double()
    numeric = ((box_masks(box + step, (8, 8)) - box_masks(box - step, (8, 8))) @ weight) / 2e-6
    torch.testing.assert_close(box_gradient(box, (8, 8), weight), numeric, rtol=1e-6, atol=1e-6)


def test_masks_are_exact_areas():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 0.625], [0.3, 0.3, 0.3, 0.9], [0.0] * 4])
    masks = box_masks(boxes.double(), (4, 8))
    assert torch.equal(masks[0], torch.ones(32, dtype=torch.float64))
    half_row = torch.zeros(4, 8, dtype=torch.float64)
    half_row[2, 2:6] = 0.5
    assert torch.equal(masks[1].view(4, 8), half_row) and not masks[2:].any()
    random = boxes_of(3, 2, 5, torch.Generator().manual_seed(0))
    area = (random[..., 2] - random[..., 0]) * (random[..., 3] - random[..., 1])
    torch.testing.assert_close(box_masks(random, (5, 9)).sum(-1) / 45, area)


# ---- bad input ----


def bad(change, message):
    return pytest.param(change, message, id=message[:40])


@pytest.mark.parametrize(
    "change, message",
    [
        bad({"q": torch.zeros(2, 3, 2, 15)}, r"`q` must be \(B, F, H, L, d\) of floats, got \(2, 3, 2, 15\)"),
        bad({"k": torch.zeros(2, 2, 11, 8)}, r"`k` must be \(B, H, N, d\), \(2, 2, N, 7\)"),
        bad({"v": torch.zeros(2, 2, 11, 7)}, "`v` must be .* of torch.float64, got .* of torch.float32"),
        bad({"v": torch.zeros(2, 2, 12, 7).double()}, "`v` must have the keys of `k`, 11, and at least one, got 12"),
        bad({"grid": (3, 4)}, r"`grid` must be \(h, w\) with h·w = 15, the cells of `q`, got \(3, 4\)"),
        bad({"boxes": torch.zeros(2, 2, 4, 4)}, r"`boxes` must be \(B, O, F, 4\), \(2, O, 3, 4\)"),
        bad({"boxes": torch.full((2, 2, 3, 4), 1.5)}, r"in \[0, 1\] with x0 <= x1 .* batch row 0, object 0, frame 0"),
        bad({"boxes": torch.tensor([0.5, 0, 0.2, 1]).expand(2, 2, 3, 4)}, "x0 <= x1 and y0 <= y1, got"),
        bad({"boxes": torch.full((2, 2, 3, 4), math.nan)}, "got .nan, nan, nan, nan. for batch row 0"),
        bad({"slot_token": torch.tensor([1, 2])}, r"`slot_token` must be \(J,\) or \(B, J\), \(3,\) or \(2, 3\)"),
        bad({"slot_token": torch.tensor([1.0, 2, 3])}, "`slot_token` must be .* of integers, got .* torch.float32"),
        bad({"slot_token": torch.tensor([1, 2, 11])}, r"`slot_token` must be in \[-1, 10\], got 1 to 11"),
        bad({"slot_token": torch.tensor([1, 2, -2])}, r"`slot_token` must be in \[-1, 10\], got -2 to 2"),
        bad({"slot_object": torch.tensor([0, 1, 2])}, r"`slot_object` must be in \[0, 1\], got 0 to 2"),
        bad({"slot_object": torch.tensor([[0, 1, 1]])}, r"`slot_object` must be \(J,\) of integers"),
        bad({"key_bias": torch.zeros(11)}, r"`key_bias` must be \(B, N\), \(2, 11\) of floats"),
        bad({"key_bias": torch.ones(2, 11).bool()}, "of floats to add, got .* torch.bool"),
        bad({"key_bias": torch.zeros(2, 11, requires_grad=True)}, "`key_bias` has no gradient here"),
        bad({"bias_in": torch.zeros(3)}, r"`bias_in` must be a number, \(O,\) or \(B, O\), \(2,\) or \(2, 2\)"),
        bad({"bias_out": torch.zeros(2, device="meta")}, "`bias_out` must be on cpu as `q` is, got meta"),
        bad({"memory": "none"}, "`memory` must be 'fast' or 'low', got 'none'"),
        bad({"boxes": torch.zeros(2, 2, 3, 4, device="meta")}, "`boxes` must be on cpu as `q` is, got meta"),
        bad({"backend": "cuda"}, "`backend` must be 'auto', 'triton' or 'torch'"),
        bad({"backend": "triton"}, "TRITON_INTERPRET=1|triton is not installed"),
    ],
)
def test_bad_input(change, message):
    leaves, rest = make("odd", missing=False)
    with pytest.raises(ValueError, match=message):
        motion_attention(**{**leaves, **rest, **change})

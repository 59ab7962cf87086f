"""Quasi-attention: each way of running it is the definition, gradients too, and Ĝ is cropped as its indices mean."""

import warnings

import pytest
import torch

from wm_pipelines.graph_transformer.attention import Cells, component_order, quasi_attention
from wm_pipelines.graph_transformer.modeling import PENALTY, QuasiAttentionModel
from wm_pipelines.runtime.noise import randn
from wm_pipelines.runtime.random import keyed


def example(seed=0, batch=2, heads=3, size=19, width=5, dtype=torch.float64, penalty=False, ghat=True):
    q, k, v = (randn((batch, heads, size, width), "attention", name, seed).to(dtype) for name in "qkv")
    allowed = randn((batch, size, size), "allowed", seed) > 0.8
    allowed = allowed | allowed.transpose(1, 2) | torch.eye(size).bool()
    valid = torch.ones(batch, size, dtype=torch.bool)
    valid[-1, size - 4 :] = False
    allowed[-1, ~valid[-1]] = True
    allowed[:, 0] = allowed[:, :, 0] = True
    allowed = allowed & valid[:, None]
    bias = randn((heads, size, size), "ghat", seed).to(dtype) if ghat else None
    cost = randn((heads,), "beta", seed).abs().to(dtype) if penalty else None
    return q, k, v, Cells(allowed, valid, bias, cost)


def definition(q, k, v, cells):
    """softmax(QKᵀ/√d + G + λĜ)V row by row over the keys that are open, without an infinity."""
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                open_keys = cells.valid[b] & (cells.allowed[b, i] if cells.penalty is None else True)
                keys = open_keys.nonzero().flatten()
                logits = (k[b, h, keys] @ q[b, h, i]) / q.shape[-1] ** 0.5
                if cells.ghat is not None:
                    logits = logits + cells.ghat[h, i, keys]
                if cells.penalty is not None:
                    logits = logits - cells.penalty[h] * ~cells.allowed[b, i, keys]
                out[b, h, i] = logits.softmax(0) @ v[b, h, keys]
    return out


@pytest.mark.parametrize("backend", ["explicit", "sdpa", "flex", "auto"])
@pytest.mark.parametrize("options", [{"ghat": False}, {}, {"penalty": True}])
def test_every_backend_is_the_definition(backend, options):
    q, k, v, cells = example(**options)
    with warnings.catch_warnings(action="ignore"):
        out = quasi_attention(q, k, v, cells, backend)
    torch.testing.assert_close(out, definition(q, k, v, cells), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("penalty", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_sdpa_are_those_of_the_explicit_form(seed, penalty):
    q, k, v, cells = example(seed, penalty=penalty)
    found = []
    for backend in ("explicit", "sdpa"):
        given = [t.clone().requires_grad_(True) for t in (q, k, v, cells.ghat)]
        cost = cells.penalty.clone().requires_grad_(True) if penalty else None
        own = Cells(cells.allowed, cells.valid, given[3], cost)
        weight = randn(tuple(q.shape), "weight", seed).double()
        (quasi_attention(*given[:3], own, backend) * weight).sum().backward()
        found.append([t.grad for t in [*given, *([cost] if penalty else [])]])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    if not penalty:  # a cut cell has no gradient
        assert not found[0][3][:, ~cells.allowed.any(0)].any() and found[0][3].any()
    else:  # a soft one has
        cut = ~cells.allowed.any(0) & cells.valid.all(0)
        assert found[0][3][:, cut].any() and found[0][4].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_gives_numbers(dtype):
    q, k, v, cells = example(dtype=dtype)
    for backend in ("explicit", "sdpa"):
        out = quasi_attention(q, k, v, cells, backend)
        assert out.dtype == dtype and bool(out.isfinite().all())
        assert (out.double() - definition(*(t.double() for t in (q, k, v)), cells)).abs().max() < 0.05


def test_what_does_not_fit_is_refused():
    q, k, v, cells = example()
    with pytest.raises(ValueError, match="`backend` is 'fast'; allowed: auto, explicit, sdpa, flex"):
        quasi_attention(q, k, v, cells, "fast")
    with pytest.raises(ValueError, match=r"`cells` is for \(2, 19, 19\).*attention is \(2, 18, 19\)"):
        quasi_attention(q[:, :, 1:], k, v, cells)
    with pytest.raises(ValueError, match="'flex' has no gradient on the CPU"):
        quasi_attention(q.requires_grad_(True), k, v, cells, "flex")


def test_components_stand_together_and_padding_is_last():
    labels = torch.tensor([0, 1, 2, 1, 2, 3, 1, 0, 9, 9])  # 0 sees all, 9 is padding
    valid = labels != 9
    cells = (labels[:, None] == labels[None]) | (labels == 0)[:, None] | (labels == 0)[None]
    order = component_order((cells & valid)[None], valid[None])[0]
    assert labels[order].tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 9, 9]
    mask = Cells(*_blocks(512)).plan.mask
    assert mask.sparsity() > 50  # of the blocks; none would be left out in the order given


def _blocks(size):
    label = torch.from_numpy(keyed("blocks").permutation(size)) // 128
    return (label[:, None] == label[None])[None], torch.ones(1, size, dtype=torch.bool)


# the trained bias


@pytest.mark.parametrize(
    ("s_img", "per_layer", "count"),
    [(145, False, 410_700), (145, True, 4_928_400), (241, False, 947_532), (241, True, 11_370_384)],
)
def test_parameters_at_the_size_of_vilt(s_img, per_layer, count):
    with torch.device("meta"):
        model = QuasiAttentionModel(40, s_img, 12, per_layer, layers=12)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("per_layer", [False, True])
def test_text_and_picture_begin_at_fixed_places(per_layer):
    model = QuasiAttentionModel(5, 4, 2, per_layer, lam=0.5, layers=3)
    with torch.no_grad():
        model.ghat.copy_(torch.arange(model.ghat.numel()).reshape(model.ghat.shape))
    table = model.ghat[1] if per_layer else model.ghat
    found, beta = model(3, 5, layer=1)
    places = [0, 1, 2, 5, 6]
    assert beta is None and torch.equal(found, 0.5 * table[:, places][:, :, places])


@pytest.mark.parametrize(
    ("text", "total", "said"),
    [
        (40, 312, "sequence 312 exceeds Ghat 281; enlarge s_img or disable ghat"),
        (50, 290, "sequence 290 exceeds Ghat 281; enlarge s_text or disable ghat"),
        (10, 260, "250 of the sequence's 260 tokens exceed Ghat's 241; enlarge s_img or disable ghat"),
    ],
)
def test_more_tokens_than_the_bias_has_are_refused(text, total, said):
    with torch.device("meta"):
        model = QuasiAttentionModel(40, 241, 2)
    with pytest.raises(ValueError, match=said):
        model.check(text, total)
    model.check(40, 281)


@pytest.mark.parametrize("options", [{"per_layer": True}, {"soft": True}, {"lam": 0.25, "soft": True}])
def test_it_is_saved_under_its_names(tmp_path, options):
    import json

    from safetensors import safe_open

    model = QuasiAttentionModel(4, 3, 2, layers=3, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(randn(tuple(parameter.shape), "saved", len(options)))
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "diffusion_pytorch_model.safetensors", "pt") as file:
        wanted = {"quasi_attention.ghat"} | ({"quasi_attention.beta"} if "soft" in options else set())
        assert set(file.keys()) == wanted
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"s_text", "s_img", "heads", "per_layer", "lambda"} <= set(config)
    assert config["lambda"] == options.get("lam", 1.0)
    again = QuasiAttentionModel.from_pretrained(tmp_path)
    assert again.config["lambda"] == config["lambda"] and again.config.soft == options.get("soft", False)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_soft_mask_starts_as_a_cost_and_padding_stays_cut():
    q, k, v, cells = example(ghat=False)
    model = QuasiAttentionModel(19, 0, 3, soft=True).double()
    own = model.cells(cells.allowed, cells.valid, 19)
    bias = own.additive(torch.float64)
    cut = ~cells.allowed[0] & cells.valid[0]
    assert bool((bias[0][:, cut] == -PENALTY).all()) and bool((bias[-1][:, :, ~cells.valid[-1]] == -torch.inf).all())
    quasi_attention(q, k, v, own).sum().backward()
    assert model.beta.grad.abs().min() > 0
    for wrong in ({"s_text": 0}, {"s_img": -1}, {"heads": 0}, {"layers": True}):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
            QuasiAttentionModel(**{"s_text": 2, "s_img": 1, "heads": 1, **wrong})

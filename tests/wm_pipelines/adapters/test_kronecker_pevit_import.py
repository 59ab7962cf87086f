"""The authors' keys on a CLIP vision tower: orientation, √head_dim of the query, copies, what is refused."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from wm_pipelines.adapters.kronecker import load_adapter, load_pevit, save_adapter

N, WIDTH, LAYERS, HEADS, SCALE = 4, 16, 2, 2, 160.0
SIZES = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
PICTURES = {"image_size": 8, "patch_size": 4, "projection_dim": 8}


@pytest.fixture
def make_tower():
    def build():
        torch.manual_seed(0)
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES, **PICTURES)).eval()

    return build


@pytest.fixture
def checkpoint():
    """A state dict as the authors' classifier has it: factors, aliases of the rules, biases, tensors of the base."""
    generator = torch.Generator().manual_seed(1)

    def noise(*size):
        return 0.05 * torch.randn(*size, generator=generator)

    root = "backbone.visual.transformer"
    state = {
        "backbone.visual.proj": noise(WIDTH, 8),
        "layers.0.weight": noise(3, 8),
        "channel_bn.running_mean": noise(8),
    }
    rules = {
        f"phm_rule{k}_{side}": 10 * noise(*size)
        for k in "12"
        for side, size in (("left", (N, N, 1)), ("right", (N, 1, N)))
    }
    state |= {f"{root}.{key}": tensor for key, tensor in rules.items()}
    for layer in range(LAYERS):
        attention = f"{root}.resblocks.{layer}.attn"
        state |= {f"{attention}.{key}": tensor.clone() for key, tensor in rules.items()}
        state[f"{attention}.b"] = torch.zeros(WIDTH)
        for kind in "qv":
            state[f"{attention}.{kind}_proj_adapter1_left"] = noise(N, WIDTH // N, 1)
            state[f"{attention}.{kind}_proj_adapter1_right"] = noise(N, 1, WIDTH // N)
    return state


def h(state, layer, rule, factors):
    """H of the published code, in fp64: Σ_i (left rule @ right rule)_i ⊗ (left @ right)_i; y = x H."""
    root = "backbone.visual.transformer"
    left, right = (state[f"{root}.phm_rule{rule}_{side}"].double() for side in ("left", "right"))
    attention = f"{root}.resblocks.{layer}.attn.{factors}_proj_adapter1"
    inner = state[f"{attention}_left"].double() @ state[f"{attention}_right"].double()
    return sum(torch.kron((left @ right)[i], inner[i]) for i in range(N))


@pytest.mark.parametrize(("variant", "value"), [("paper", "v"), ("released", "q")])
def test_attention_is_that_of_the_authors(make_tower, checkpoint, tmp_path, variant, value):
    """Their order: the query is divided by √head_dim, then its delta is added."""
    save_file(checkpoint, tmp_path / "a.safetensors")
    model = load_pevit(make_tower(), tmp_path / "a.safetensors", variant=variant)
    plain = make_tower().double()
    x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(2))
    for layer in range(LAYERS):
        adapted = model.vision_model.encoder.layers[layer].self_attn
        base = plain.vision_model.encoder.layers[layer].self_attn

        def heads(t):
            return t.view(3, 5, HEADS, -1).transpose(1, 2)

        wide = x.double()
        q = base.q_proj(wide) / (WIDTH // HEADS) ** 0.5 + SCALE * wide @ h(checkpoint, layer, 1, "q")
        v = base.v_proj(wide) + SCALE * wide @ h(checkpoint, layer, 2, value)
        weights = (heads(q) @ heads(base.k_proj(wide)).transpose(-1, -2)).softmax(-1)
        expected = base.out_proj((weights @ heads(v)).transpose(1, 2).reshape(3, 5, WIDTH))
        found = adapted(x)[0]
        assert (found - base.float()(x)[0]).abs().max() > 1e-3
        base.double()
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_two_sets_and_a_file_of_ours(make_tower, checkpoint, tmp_path):
    save_file(checkpoint, tmp_path / "a.safetensors")
    model = load_pevit(make_tower(), tmp_path / "a.safetensors", "clip")
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = model(pixels).image_embeds
    trained = sum(p.numel() for n, p in model.named_parameters() if "kronecker_" in n)
    assert trained == 4 * N**2 + LAYERS * 4 * WIDTH  # two sets of A, and U, V of q and v in every layer
    save_adapter(model, tmp_path / "ours", "clip")
    again = load_adapter(make_tower(), tmp_path / "ours").eval()
    assert torch.equal(again(pixels).image_embeds, expected)


def test_the_text_tower_of_a_whole_clip_is_left_alone(checkpoint, tmp_path):
    config = CLIPConfig(text_config={**SIZES, "vocab_size": 20}, vision_config={**SIZES, **PICTURES}, projection_dim=8)
    save_file(checkpoint, tmp_path / "a.safetensors")
    model = load_pevit(CLIPModel(config), tmp_path / "a.safetensors")
    adapted = [name for name, layer in model.named_modules() if hasattr(layer, "spec")]
    assert len(adapted) == 2 * LAYERS and all(name.startswith("vision_model.") for name in adapted)


ATTENTION = "backbone.visual.transformer.resblocks.1.attn"


def zero(kind):
    def change(state):
        for key in state:
            if f"{kind}_proj_adapter1" in key:
                state[key] = torch.zeros_like(state[key])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[f"{ATTENTION}.phm_rule1_left"].add_(1), "attn.phm_rule1_left` differs from another copy"),
        (lambda s: s[f"{ATTENTION}.b"].add_(0.1), "attn.b` is a trained bias, which the published code permutes"),
        (lambda s: s.pop(f"{ATTENTION}.v_proj_adapter1_left"), "lacks .*resblocks.1.attn.v_proj_adapter1_left"),
        (lambda s: [s.pop(k) for k in list(s) if "phm_rule2_right" in k], "lacks \\['phm_rule2_right'\\]"),
        (lambda s: [s.pop(k) for k in list(s) if "attn" in k or "phm" in k], "is not a PEViT adapter"),
        (lambda s: [s.pop(k) for k in list(s) if "resblocks.1" in k], "has 1 layers; the model has 4 query and value"),
        (lambda s: s.update({f"{ATTENTION}.q_proj_adapter1_left": torch.ones(N, 3, 1)}), "1/q/left.*\\(4, 3, 1\\)"),
        (zero("v"), "factors of v are all zero; variant='released' gives it the query's"),
        (zero("q"), "factors of q are all zero$"),
    ],
)
def test_what_can_not_be_imported(make_tower, checkpoint, tmp_path, change, message):
    change(checkpoint)
    save_file(checkpoint, tmp_path / "a.safetensors")
    model = make_tower()
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        load_pevit(model, tmp_path / "a.safetensors")
    assert list(model.state_dict()) == keys


def test_bad_arguments(make_tower, checkpoint, tmp_path):
    save_file(checkpoint, tmp_path / "a.safetensors")
    torch.save(checkpoint, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="`variant` must be 'paper' or 'released', got 'code'"):
        load_pevit(make_tower(), tmp_path / "a.safetensors", variant="code")
    with pytest.raises(ValueError, match="`scale` must be finite and above 0, got 0.0"):
        load_pevit(make_tower(), tmp_path / "a.safetensors", scale=0.0)
    with pytest.raises(ValueError, match="Only safetensors files are; convert a torch pickle yourself"):
        load_pevit(make_tower(), tmp_path / "a.pt")
    wide = CLIPVisionModelWithProjection(CLIPVisionConfig(**{**SIZES, "hidden_size": 24}, **PICTURES))
    with pytest.raises(ValueError, match="config says shape"):
        load_pevit(wide, tmp_path / "a.safetensors")
    assert not any("kronecker" in key for key in wide.state_dict())

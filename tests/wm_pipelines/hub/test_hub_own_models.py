"""Every model class of ours as users of diffusers handle theirs: files, device maps, layerwise casting."""

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.hooks import apply_layerwise_casting
from safetensors.torch import load_file, save_file
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerLinear
from wm_pipelines.cpl.modeling import CPLPromptLearner
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.transformer import FlexEControlTransformerModel
from wm_pipelines.graph_transformer.modeling import QuasiAttentionModel
from wm_pipelines.hub.models import WMModel
from wm_pipelines.kadaptation.modeling import KAdaptationHead
from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.mojito.videocrafter import FpsEmbedding
from wm_pipelines.runtime.noise import randn

UNET = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 16,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4, "norm_num_groups": 4,
}  # fmt: skip
JOINT = {"num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 8, "num_layers": 2}
SD3 = {
    "sample_size": 8,
    "pos_embed_max_size": 8,
    "attention_head_dim": 8,
    "in_channels": 4,
    "caption_projection_dim": 16,
    **JOINT,
}
FLUX = {"in_channels": 16, "num_single_layers": 1, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6), **JOINT}
CONTROL = {"n": 2, "r": 1, "condition_stride": 4}


def config_of(base):
    return {key: value for key, value in dict(base.config).items() if not key.startswith("_")}


def control(preset):
    config = config_of(UNet2DConditionModel(**UNET))
    sizes = {"feature_channels": [8, 12], "pre_channels": [8, 8], "map_stride": 2}
    return FlexEControlModel(unet_config=config, preset=preset, **sizes, **CONTROL)


def on_transformer(kind, config, **options):
    shape = {"transformer": kind.__name__, "transformer_config": config_of(kind(**config)), "num_layers": 2}
    return FlexEControlTransformerModel(**shape, pre_channels=(4, 4), **CONTROL, **options)


LATENT, TEXT, POOLED = randn((2, 4, 8, 8), "latent"), randn((2, 5, 16), "text"), randn((2, 8), "pooled")
TOKENS, IDS = randn((2, 16, 16), "tokens"), torch.zeros(16, 3)
AT_UNET = {
    "sample": LATENT, "timestep": 10, "encoder_hidden_states": TEXT,
    "features": [randn((2, 8, 8, 8), "fine"), randn((2, 12, 4, 4), "coarse")],
}  # fmt: skip
AT_SD3 = {
    "hidden_states": LATENT, "feature": randn((2, 4, 8, 8), "map"), "timestep": torch.full((2,), 500.0),
    "encoder_hidden_states": TEXT[..., :12], "pooled_projections": POOLED,
}  # fmt: skip
AT_FLUX = {
    **AT_SD3, "hidden_states": TOKENS, "feature": randn((2, 16, 16), "packed"), "timestep": torch.full((2,), 0.5),
    "img_ids": IDS, "txt_ids": torch.zeros(5, 3),
}  # fmt: skip
INTENSITY = {"targets": ("time_embedding",), "widths": (24,), "embedding_dim": 8, "hidden_dim": 12, "text_dim": 16}
MODELS = {
    "flexecontrol": (lambda: control("transformer"), AT_UNET),
    "flexecontrol paper": (lambda: control("paper"), AT_UNET),
    "flexecontrol sd3": (lambda: on_transformer(SD3Transformer2DModel, SD3), AT_SD3),
    "flexecontrol flux": (lambda: on_transformer(FluxTransformer2DModel, FLUX, num_single_layers=1), AT_FLUX),
    "intensity": (lambda: MotionIntensityModel(**INTENSITY), {"levels": [None, 5.0], "text": TEXT[:, 0]}),
    "fps": (lambda: FpsEmbedding(embedding_dim=8, time_embed_dim=16), {"fps": 12.0}),
    "quasi attention": (lambda: QuasiAttentionModel(8, 5, heads=2, soft=True), {"text_length": 3, "length": 8}),
    "head": (lambda: KAdaptationHead(16, ["a", "b", "c"]), {"features": TEXT[:, 0]}),
    "head with norm": (lambda: KAdaptationHead(16, ["a", "b", "c"], "linear_bn"), {"features": TEXT[:, 0]}),
    "prompt learner": (lambda: CPLPromptLearner(text_width=24, joint_dim=16), {"image_features": TEXT[:, 0]}),
    "judge": (lambda: DioramaJudge((8, 8, 16)), {"pictures": randn((2, 3, 8, 8), "pictures").sigmoid()}),
}


def made(name):
    """The model and what it is called with; nothing in it is zero."""
    build, inputs = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        with torch.no_grad():
            for p in model.parameters():
                if not p.any():
                    p.normal_(0, 0.1)
    return model.eval(), inputs


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "-"))
def given(request):
    return made(request.param)


def flat(out):
    out = list(out.values()) if isinstance(out, dict) else out
    if isinstance(out, torch.Tensor):
        return out.flatten()
    return torch.cat([flat(part) for part in out if part is not None])


def run(model, inputs):
    with torch.no_grad():
        return flat(model(**inputs))


def test_each_class_is_here():
    classes, left = set(), [WMModel]
    while left:
        left += (below := left.pop().__subclasses__())
        classes |= {kind for kind in below if kind.__module__.startswith("wm_pipelines.")}
    assert classes == {type(build()) for build, _ in MODELS.values()}


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_makes_it(name):
    made_again = made(name)[0].state_dict()
    for key, value in made(name)[0].state_dict().items():
        assert torch.equal(value, made_again[key]) and value.float().abs().max() < 100, key


@pytest.mark.parametrize("how", [{}, {"variant": "fp16"}, {"max_shard_size": "1KB"}])
def test_files(given, tmp_path, how):
    model, inputs = given
    y = run(model, inputs)
    model.save_pretrained(tmp_path, **how)
    name = "diffusion_pytorch_model" + (".fp16" if "variant" in how else "")
    assert (tmp_path / f"{name}.safetensors").exists() or list(tmp_path.glob(f"{name}-*.safetensors"))
    loaded = type(model).from_pretrained(tmp_path, variant=how.get("variant")).eval()
    assert torch.equal(run(loaded, inputs), y) and y.any()


def test_a_file_that_lacks_a_tensor(given, tmp_path):
    model, _ = given
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    gone = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != gone}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks? .*{gone}"):
        type(model).from_pretrained(tmp_path)
    if not isinstance(model, FlexEControlModel):  # which looks for itself
        _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == {gone}


@pytest.mark.parametrize("room", [2.0, 0.4])
def test_a_device_map(given, tmp_path, room):
    model, inputs = given
    model.save_pretrained(tmp_path)
    most = {"cpu": int(room * sum(t.nbytes for t in model.state_dict().values()))}
    loaded = type(model).from_pretrained(
        tmp_path, device_map="auto", max_memory=most, offload_folder=tmp_path / "offloaded"
    )
    assert ("disk" in loaded.hf_device_map.values()) == (room < 1)
    assert torch.equal(run(loaded.eval(), inputs), run(model, inputs))


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float16])
@pytest.mark.parametrize("name", ["flexecontrol", "flexecontrol sd3", "flexecontrol flux", "prompt learner", "fps"])
def test_layerwise_casting_trains(name, stored):
    """Gradients are those of a model whose cast weights were rounded: a layer's weights are of another type again
    when the backward pass runs. Under autocast, as convolutions of torch know their weights of that time only there.
    """
    (model, inputs), (rounded, _) = made(name), made(name)
    model.enable_layerwise_casting(storage_dtype=stored, compute_dtype=torch.float32)
    cast = [key for key, p in model.named_parameters() if p.dtype == stored]
    assert cast and (not name.startswith("flexecontrol") or any("kronecker_u" in key for key in cast))
    with torch.no_grad():
        for key in cast:
            rounded.get_parameter(key).copy_(model.get_parameter(key))
    for each in (model, rounded):
        with torch.autocast("cpu", torch.bfloat16):
            loss = flat(each(**inputs)).square().mean()
        loss.backward()
    wanted = {key: p.grad for key, p in rounded.named_parameters() if p.grad is not None}
    assert not name.startswith("flexecontrol") or any("kronecker_v" in key for key in wanted)
    for key, grad in wanted.items():
        assert torch.equal(model.get_parameter(key).grad, grad), key


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("flexecontrol")])
def test_gradient_checkpointing(name):
    (model, inputs), (plain, _) = made(name), made(name)
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    for each in (model, plain):
        flat(each.train()(**inputs)).square().mean().backward()
    for key, p in plain.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(model.get_parameter(key).grad, p.grad)


@pytest.mark.parametrize("factored", [True, False])
def test_a_layer_trains_under_layerwise_casting_whatever_its_factors(factored):
    torch.manual_seed(0)
    layer = KroneckerLinear(16, 8, n=4, r=2, factored=factored, dtype=torch.float32)
    nn.init.normal_(layer.kronecker_u)
    for p in layer.parameters():
        p.data = p.data.bfloat16().float()
    x = randn((3, 16), "x")
    layer(x).square().sum().backward()
    wanted = {key: p.grad for key, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    apply_layerwise_casting(layer, torch.bfloat16, torch.float32)
    layer(x).square().sum().backward()
    assert layer.kronecker_u.dtype == torch.bfloat16
    for key, grad in wanted.items():
        torch.testing.assert_close(layer.get_parameter(key).grad, grad, rtol=0, atol=0)

"""VQGANs of taming's layout as `VQModel`: equal to the original modules, published counts, and what is refused."""

import pickle

import pytest
import torch
import yaml
from diffusers import VQModel
from safetensors.torch import save_file

from wm_pipelines.hub.conversion import vae_source
from wm_pipelines.hub.stock import load_model
from wm_pipelines.tokens.convert import META, convert, read_checkpoint, read_config, to_vqmodel
from wm_pipelines.tokens.pictures import PictureTokens

CHAMELEON = {
    "embed_dim": 256,
    "n_embed": 8192,
    "ddconfig": {
        "double_z": False, "z_channels": 256, "resolution": 512, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    },
}  # fmt: skip


def params(attn_resolutions=(), ch_mult=(1, 2), num_res_blocks=1, embed_dim=5):
    sizes = {"ch_mult": list(ch_mult), "num_res_blocks": num_res_blocks, "attn_resolutions": list(attn_resolutions)}
    small = {"ch": 32, "z_channels": 7, "resolution": 16}
    return {"embed_dim": embed_dim, "n_embed": 40, "ddconfig": {**CHAMELEON["ddconfig"], **small, **sizes}}


def model_config(given):
    """As `read_config`, without a file and without attention between the levels."""
    levels, sizes = len(given["ddconfig"]["ch_mult"]), given["ddconfig"]
    return {
        "block_out_channels": [sizes["ch"] * m for m in sizes["ch_mult"]],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": sizes["num_res_blocks"],
        "latent_channels": sizes["z_channels"],
        "vq_embed_dim": given["embed_dim"],
        "num_vq_embeddings": given["n_embed"],
    }


def write_config(path, given, **more):
    training = {"lossconfig": {"target": "taming.modules.losses.DummyLoss"}, "ckpt_path": None}
    model = {"target": "taming.models.vqgan.VQModel", "params": {**given, **training, **more}}
    path.write_text(yaml.safe_dump({"model": model}))
    return path


@pytest.fixture(scope="module")
def make(taming):
    """`make(given)`: an original with weights so large that every part shows, its codes among what it sees."""

    def build(given, seed=0):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            original = taming(**given).eval()
            for p in original.parameters():
                p.add_(0.1 * torch.randn_like(p))
            seen = original.features(2 * torch.rand(4, 3, 16, 16) - 1).flatten(0, 2)
            original.quantize.embedding.weight.copy_(seen[torch.randperm(len(seen))[: given["n_embed"]]] + 0.01)
        return original

    return build


@pytest.fixture(scope="module")
def original(make):
    return make(params())


@pytest.mark.parametrize(
    "given",
    [
        params(),
        params(ch_mult=(1, 1, 2), num_res_blocks=2),
        params(attn_resolutions=(8,)),
        params(attn_resolutions=(16, 4), ch_mult=(1, 2, 1), embed_dim=7),
        params(ch_mult=(1,)),
    ],
)
def test_features_codes_and_pictures_are_the_originals(make, given, tmp_path):
    original = make(given)
    config = read_config(write_config(tmp_path / "vqgan.yaml", given))
    vq = to_vqmodel(original.state_dict(), config)
    tokens, x = PictureTokens(vq), torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, codes = original.features(2 * x - 1), original.codes(2 * x - 1)
        assert len(codes.unique()) > 20 and features.std() > 0.1
        assert (tokens.features(x) - features).abs().max() <= 1e-5 * features.abs().max()
        assert torch.equal(tokens.encode(x), codes)
        decoded = original.decode(codes)
        raw = vq.decode(tokens.embed(codes).permute(0, 3, 1, 2), force_not_quantize=True).sample
        assert (raw - decoded).abs().max() <= 1e-5 * decoded.abs().max()
        assert torch.allclose(tokens.decode(codes), (decoded / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_every_tensor_of_the_original_has_its_place(original):
    vq = to_vqmodel(original.state_dict(), model_config(params()))
    names = {vae_source(name, 2): p for name, p in vq.state_dict().items()}
    state = original.state_dict()
    assert names.keys() == state.keys() and len(names) == len(vq.state_dict())
    assert all(torch.equal(p, state[name].reshape(p.shape)) for name, p in names.items())
    assert not vq.training and not any(p.requires_grad for p in vq.parameters())


def test_transformers_own_encoder_finds_the_same_codes(tmp_path):
    """`ChameleonVQVAE`, which has no decoder; weights of its checkpoints lie behind `model.vqmodel.`."""
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE, ChameleonVQVAEConfig

    config = model_config(params())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        stock = ChameleonVQVAE(
            ChameleonVQVAEConfig(
                embed_dim=5,
                num_embeddings=40,
                latent_channels=7,
                resolution=16,
                base_channels=32,
                channel_multiplier=[1, 2],
                num_res_blocks=1,
            )
        )
        for p in stock.parameters():
            p.add_(0.1 * torch.randn_like(p))
        x = torch.rand(2, 3, 16, 16)
        seen = stock.quant_conv(stock.encoder(2 * x - 1)).permute(0, 2, 3, 1).reshape(-1, 5)
        stock.quantize.embedding.weight.copy_(seen[torch.randperm(len(seen))[:40]])
        decoder = VQModel(**config).decoder.state_dict()
    state = {f"model.vqmodel.{name}": p for name, p in stock.state_dict().items()}
    with pytest.raises(ValueError, match=r"lacks \d+ keys \['model.vqmodel.decoder"):
        to_vqmodel(state, config, "model.vqmodel.")
    state |= {f"model.vqmodel.decoder.{vae_source(name, 2)}": p for name, p in decoder.items()}
    halves = list(state.items())[::2], list(state.items())[1::2]
    for n, half in enumerate(halves):
        save_file(dict(half) | {f"lm_head.{n}": torch.ones(1)}, tmp_path / f"model-0000{n}-of-00002.safetensors")
    tokens = PictureTokens(convert(tmp_path, tmp_path / "out", config, "model.vqmodel."))
    with torch.no_grad():
        found = stock.encode(2 * x - 1)
        assert torch.equal(tokens.encode(x).flatten(), found.image_tokens)
        before = stock.quant_conv(found.last_hidden_state).permute(0, 2, 3, 1)  # theirs ends before `quant_conv`
        assert torch.allclose(tokens.features(x), before, atol=1e-5)


def test_real_size_has_the_published_counts(taming, tmp_path):
    given = read_config(write_config(tmp_path / "vqgan.yaml", CHAMELEON))
    assert given == {**META, "in_channels": 3, "out_channels": 3}
    with torch.device("meta"):
        state = taming(**CHAMELEON).state_dict()
    vq = to_vqmodel(state)

    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert size(vq) == 68_718_467 == sum(p.numel() for p in state.values())
    assert [size(part) for part in (vq.encoder, vq.decoder, vq.quantize)] == [27_194_880, 39_294_851, 2_097_152]
    assert size(vq.quant_conv) == size(vq.post_quant_conv) == 65_792
    assert PictureTokens(vq).grid(512, 512) == (32, 32) and PictureTokens(vq).num_codes == 8192


@pytest.mark.parametrize("form", ["lightning.ckpt", "plain.ckpt", "tensors.safetensors", "prefixed.ckpt"])
def test_files_become_a_folder_that_loads_plainly(original, tmp_path, form, wm):
    source, prefix = tmp_path / form, "first_stage_model." * form.startswith("prefixed")
    state = {**original.state_dict(), "loss.discriminator.main.0.weight": torch.ones(3)}
    state = {prefix + name: p for name, p in state.items()} | {"model.other": torch.ones(1)} if prefix else state
    if form.endswith(".safetensors"):
        save_file(state, source)
    else:
        torch.save({"state_dict": state, "epoch": 7} if form.startswith("lightning") else state, source)
    config = write_config(tmp_path / "vqgan.yaml", params())
    said = wm("convert", "vqgan", source, tmp_path / "out", "--config", config, "--prefix", prefix)
    assert f"{sum(p.numel() for p in original.parameters()):,} parameters" in said
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".json", ".safetensors"}
    loaded = load_model(VQModel, tmp_path / "out")
    assert loaded.dtype == torch.float32 and loaded.config.num_vq_embeddings == 40
    for name, p in loaded.state_dict().items():
        assert torch.equal(p, original.state_dict()[vae_source(name, 2)].reshape(p.shape)), name
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(PictureTokens(loaded).encode(x), original.codes(2 * x - 1))


def test_half_weights_are_saved_in_float32(original, tmp_path):
    save_file({k: v.bfloat16() for k, v in original.state_dict().items()}, tmp_path / "half.safetensors")
    vq = convert(tmp_path / "half.safetensors", tmp_path / "out", model_config(params()))
    assert vq.dtype == load_model(VQModel, tmp_path / "out").dtype == torch.float32
    assert torch.equal(vq.quant_conv.bias, original.quant_conv.bias.bfloat16().float())


def test_code_in_a_checkpoint_is_not_run(tmp_path, original):
    mark = tmp_path / "executed"

    class Mark:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    torch.save({"state_dict": original.state_dict(), "callbacks": Mark()}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps({"state_dict": Mark()}, protocol=2))
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(ValueError, match="is not a plain torch file of tensors"):
            convert(tmp_path / name, tmp_path / "out", model_config(params()))
    assert not mark.exists() and not (tmp_path / "out").exists()
    torch.load(tmp_path / "a.ckpt", weights_only=False)["callbacks"].close()
    assert mark.exists()  # the control


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decoder.up.1.upsample.conv.bias"), r"lacks 1 keys \['decoder.up.1.upsample.conv.bias'\]"),
        (lambda s: s.pop("quantize.embedding.weight"), "quantize.embedding.weight"),
        (lambda s: s.update({"encoder.extra": torch.ones(1)}), r"has 1 that have no place \['encoder.extra'\]"),
        (lambda s: s.update({"quant_conv.bias": torch.ones(9)}), r"quant_conv.bias has shape \(9,\)"),
        (lambda s: s.clear(), "has no tensor whose name begins with ''"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_written(original, tmp_path, change, message):
    state = dict(original.state_dict())
    change(state)
    torch.save({"state_dict": state}, tmp_path / "vqgan.ckpt")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "vqgan.ckpt", tmp_path / "out", model_config(params()))
    assert [p.name for p in tmp_path.iterdir()] == ["vqgan.ckpt"]


def test_sources_and_targets_that_do_not_serve_are_refused(original, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for missing in ("cut.safetensors", "none.safetensors"):
        with pytest.raises(ValueError, match=f"{missing}' is not a safetensors file"):
            read_checkpoint(tmp_path / missing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no tensor"):
        read_checkpoint(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"folder '.*' exists and is not empty"):
        convert(tmp_path / "none.ckpt", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": None}, "embed_dim is None; sizes are integers above 0"),
        ({"n_embed": 0}, "n_embed is 0"),
        ({"remap": "used.npy"}, "remap is 'used.npy'; VQModel has None"),
        ({"temperature": 1}, r"has \['temperature'\]"),
        ({"ddconfig": {"double_z": True}}, "double_z is True; VQModel has False"),
        ({"ddconfig": {"ch_mult": 4}}, "ch_mult is 4"),
        ({"ddconfig": {"ch_mult": []}}, r"ch_mult is \[\]; it must begin with 1"),
        ({"ddconfig": {"ch_mult": [2, 2]}}, r"ch_mult is \[2, 2\]; it must begin with 1"),
        ({"ddconfig": {"attn_resolutions": [8.5]}}, r"attn_resolutions is \[8.5\]"),
        ({"ddconfig": {"ch": True}}, "ch is True"),
    ],
)
def test_configurations_that_can_not_be_followed_are_refused(tmp_path, change, message):
    given = params()
    given["ddconfig"] |= change.get("ddconfig", {})
    path = write_config(tmp_path / "vqgan.yaml", given, **{k: v for k, v in change.items() if k != "ddconfig"})
    with pytest.raises(ValueError, match=f"vqgan.yaml: .*{message}"):
        read_config(path)


@pytest.mark.parametrize(
    "text", ["[1]", "model: 3", "model:", "model: {params: {embed_dim: 3}}", "model: {params: {ddconfig: x}}"]
)
def test_other_yaml_is_no_configuration(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match="x.yaml is no VQGAN configuration"):
        read_config(tmp_path / "x.yaml")

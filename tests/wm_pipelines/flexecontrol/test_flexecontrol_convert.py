"""The Uni-ControlNet converter, on files built from the key layout of the authors' model."""

import pytest
import torch

from wm_pipelines.flexecontrol.convert import SD15_UNET, convert, read_adapters, to_model
from wm_pipelines.flexecontrol.modeling import FlexEControlModel, SlotInput

FULL = dict(widths=(320, 640, 1280, 1280), layers=2, context=768, features=(192, 256, 384, 512), pre=(32, 64, 128))
SMALL = dict(widths=(8, 16, 16), layers=1, context=16, features=(4, 6, 8), pre=(4, 5), embed=12)
SMALL_OPTIONS = dict(condition_stride=4, feature_channels=[4, 6, 8], pre_channels=[4, 5])


def key_table(widths, layers, context, features, pre, types=7, embed=768):
    """Key -> shape, written out in the source's own numbering (LDM blocks), not through the converter."""
    table = {}

    def affine(key, channels):
        table[f"{key}.weight"] = table[f"{key}.bias"] = (channels,)

    def conv(key, out, into, kernel=3):
        table[f"{key}.weight"], table[f"{key}.bias"] = (out, into, kernel, kernel), (out,)

    def linear(key, out, into, bias=True):
        table[f"{key}.weight"] = (out, into)
        if bias:
            table[f"{key}.bias"] = (out,)

    def resblock(key, into, out, feature=None):
        if feature is None:
            affine(f"{key}.in_layers.0", into)
            affine(f"{key}.out_layers.0", out)
        else:
            for norm, channels in (("norm_in", into), ("norm_out", out)):
                conv(f"{key}.{norm}.conv_gamma", channels, feature)
                conv(f"{key}.{norm}.conv_beta", channels, feature)
        conv(f"{key}.in_layers.2", out, into)
        linear(f"{key}.emb_layers.1", out, 4 * widths[0])
        conv(f"{key}.out_layers.3", out, out)
        if into != out:
            conv(f"{key}.skip_connection", out, into, 1)

    def transformer(key, c):
        affine(f"{key}.norm", c)
        conv(f"{key}.proj_in", c, c, 1)
        conv(f"{key}.proj_out", c, c, 1)
        block = f"{key}.transformer_blocks.0"
        for attn, width in (("attn1", c), ("attn2", context)):
            linear(f"{block}.{attn}.to_q", c, c, False)
            linear(f"{block}.{attn}.to_k", c, width, False)
            linear(f"{block}.{attn}.to_v", c, width, False)
            linear(f"{block}.{attn}.to_out.0", c, c)
        linear(f"{block}.ff.net.0.proj", 8 * c, c)
        linear(f"{block}.ff.net.2", c, 4 * c)
        for norm in ("norm1", "norm2", "norm3"):
            affine(f"{block}.{norm}", c)

    local, extractor = "local_adapter", "local_adapter.feature_extractor"
    linear(f"{local}.time_embed.0", 4 * widths[0], widths[0])
    linear(f"{local}.time_embed.2", 4 * widths[0], 4 * widths[0])
    conv(f"{local}.input_blocks.0.0", widths[0], 4)
    skips, number, channels = [widths[0]], 1, widths[0]
    for level, width in enumerate(widths):
        for layer in range(layers):
            resblock(f"{local}.input_blocks.{number}.0", channels, width, features[level] if layer == 0 else None)
            if level < len(widths) - 1:
                transformer(f"{local}.input_blocks.{number}.1", width)
            skips.append(width)
            channels, number = width, number + 1
        if level < len(widths) - 1:
            conv(f"{local}.input_blocks.{number}.0.op", width, width)
            skips.append(width)
            number += 1
    resblock(f"{local}.middle_block.0", channels, channels)
    transformer(f"{local}.middle_block.1", channels)
    resblock(f"{local}.middle_block.2", channels, channels)
    for i, width in enumerate(skips):
        conv(f"{local}.zero_convs.{i}.0", width, width, 1)
    conv(f"{local}.middle_block_out.0", channels, channels, 1)

    into, index = 3 * types, 0
    for i, width in enumerate(pre):
        for _ in range(1 if i == 0 else 2):
            conv(f"{extractor}.pre_extractor.{index}", width, into)
            into, index = width, index + 2
    for i, width in enumerate(features):
        conv(f"{extractor}.extractors.{i}.0", width, into)
        conv(f"{extractor}.zero_convs.{i}", width, width)
        into = width

    affine("global_adapter.norm1", embed)
    affine("global_adapter.norm2", 2 * embed)
    linear("global_adapter.ff1.net.0.proj", 8 * embed, embed)
    linear("global_adapter.ff1.net.2", 2 * embed, 4 * embed)
    linear("global_adapter.ff2.net.0.proj", 16 * embed, 2 * embed)
    linear("global_adapter.ff2.net.2", 4 * context, 8 * embed)
    return table


def size(shape):
    return int(torch.Size(shape).numel())


@pytest.fixture(scope="module")
def small_state():
    generator = torch.Generator().manual_seed(0)
    return {key: 0.2 * torch.randn(shape, generator=generator) for key, shape in key_table(**SMALL).items()}


@pytest.fixture(scope="module")
def small_file(small_state, tmp_path_factory):
    """As the original: a whole model in one file, adapters among the rest."""
    path = tmp_path_factory.mktemp("uni") / "uni.ckpt"
    rest = {"model.diffusion_model.out.0.weight": torch.ones(3), "cond_stage_model.x": torch.ones(2)}
    torch.save({**small_state, **rest}, path)
    return path


@pytest.fixture(scope="module")
def small_options(tiny_sd):
    return dict(unet_config={k: v for k, v in tiny_sd["unet"].config.items() if k[0] != "_"}, **SMALL_OPTIONS)


def test_full_size_layout_has_the_published_totals_and_converts(tmp_path):
    """Every tensor is one number seen through zero strides, so that the 'checkpoint' is small."""
    table = key_table(**FULL)
    path = tmp_path / "uni.ckpt"
    torch.save({key: torch.zeros(1, dtype=torch.float16).expand(shape) for key, shape in table.items()}, path)
    totals = {
        p: sum(size(s) for k, s in table.items() if k.startswith(p)) for p in ("local_adapter", "global_adapter")
    }
    assert totals == {"local_adapter": 411_903_552, "global_adapter": 47_213_568}
    model = to_model(read_adapters(path))
    assert sum(p.numel() for p in model.parameters()) == 411_903_552 + 47_213_568
    assert sum(p.numel() for p in model.trainable_parameters().values()) == 411_903_552
    assert model.config.preset == "uni" and model.config.backgrounds == [0, 0, 0, 1, 0, 0, 0]
    assert model.config.unet_config["cross_attention_dim"] == SD15_UNET["cross_attention_dim"]


def test_each_of_our_tensors_comes_from_the_authors_block_of_its_place(small_state, small_file, small_options):
    got = to_model(read_adapters(small_file), **small_options).state_dict()
    block = "local_adapter.input_blocks"
    for ours, theirs in {
        "conv_in.weight": f"{block}.0.0.weight",
        "time_embedding.linear_2.bias": "local_adapter.time_embed.2.bias",
        "down_blocks.0.resnets.0.norm1.conv_gamma.weight": f"{block}.1.0.norm_in.conv_gamma.weight",
        "down_blocks.1.resnets.0.norm2.conv_beta.bias": f"{block}.3.0.norm_out.conv_beta.bias",
        "down_blocks.1.resnets.0.conv1.weight": f"{block}.3.0.in_layers.2.weight",
        "down_blocks.1.resnets.0.time_emb_proj.weight": f"{block}.3.0.emb_layers.1.weight",
        "down_blocks.1.resnets.0.conv2.weight": f"{block}.3.0.out_layers.3.weight",
        "down_blocks.1.resnets.0.conv_shortcut.weight": f"{block}.3.0.skip_connection.weight",
        "down_blocks.0.downsamplers.0.conv.weight": f"{block}.2.0.op.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (
            f"{block}.3.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "mid_block.resnets.0.norm1.weight": "local_adapter.middle_block.0.in_layers.0.weight",
        "mid_block.resnets.1.norm2.bias": "local_adapter.middle_block.2.out_layers.0.bias",
        "mid_block.attentions.0.proj_in.weight": "local_adapter.middle_block.1.proj_in.weight",
        "zero_convs.3.weight": "local_adapter.zero_convs.3.0.weight",
        "zero_conv_mid.bias": "local_adapter.middle_block_out.0.bias",
        "feature_extractor.pre_extractor.0.weight": "local_adapter.feature_extractor.pre_extractor.0.weight",
        "feature_extractor.extractors.1.0.weight": "local_adapter.feature_extractor.extractors.1.0.weight",
        "feature_extractor.zero_convs.2.bias": "local_adapter.feature_extractor.zero_convs.2.bias",
        "global_projection.ff1.net.0.proj.weight": "global_adapter.ff1.net.0.proj.weight",
        "global_projection.norm2.bias": "global_adapter.norm2.bias",
    }.items():
        assert torch.equal(got[ours], small_state[theirs]), ours
    assert len(got) == len(small_state)


def test_folder_loads_and_runs(small_file, small_options, tmp_path):
    made = convert(small_file, tmp_path / "out", dtype=torch.float32, **small_options)
    loaded = FlexEControlModel.from_pretrained(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]  # no partial folder is left
    sample, text = torch.randn(1, 4, 16, 16), torch.randn(1, 7, 16)
    slots = [SlotInput("sketch", torch.rand(1, 3, 64, 64)), SlotInput("sketch", torch.rand(1, 3, 64, 64), 0.5)]
    with torch.no_grad():
        a, b = (m(sample, 5, text, m.condition_features(slots)).mid_block_res_sample for m in (made, loaded))
    assert torch.equal(a, b) and a.any()
    assert tuple(loaded.global_tokens(torch.randn(1, 12)).shape) == (1, 4, 16)
    assert convert(small_file, tmp_path / "half", **small_options).dtype == torch.float16


def test_lightning_file_and_no_global_adapter(small_state, small_options, tmp_path):
    path = tmp_path / "local.ckpt"
    torch.save({"state_dict": {k: v for k, v in small_state.items() if k.startswith("local")}, "epoch": 3}, path)
    model = to_model(read_adapters(path), **small_options)
    assert model.global_projection is None


def test_another_number_of_types(small_options, tmp_path):
    path = tmp_path / "nine.ckpt"
    torch.save({k: torch.zeros(s) for k, s in key_table(**SMALL, types=9).items()}, path)
    adapters = read_adapters(path)
    with pytest.raises(ValueError, match=r"checkpoint has 9 condition types, model has 7: pass types=\[...\]"):
        to_model(adapters, **small_options)
    names = ["canny", "lines", "softedge", "sketch", "pose", "depth", "seg", "normal", "box"]
    assert to_model(adapters, names, **small_options).config.types == names


def test_keys_and_shapes_that_do_not_fit_are_named(small_state, small_options):
    short = dict(small_state)
    del short["local_adapter.middle_block_out.0.bias"]
    short["local_adapter.surprise"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"lacks 1 keys \['local_adapter.middle_block_out.0.bias'\] and has 1 that .*surprise"
    ):
        to_model(short, **small_options)
    wrong = {**small_state, "local_adapter.zero_convs.0.0.weight": torch.zeros(9, 8, 1, 1)}
    with pytest.raises(
        ValueError, match=r"zero_convs.0.0.weight has shape \(9, 8, 1, 1\); this base needs \(8, 8, 1, 1\)"
    ):
        to_model(wrong, **small_options)


class Payload:
    def __reduce__(self):
        return (print, ("run",))


def test_files_that_are_not_tensors_are_refused_and_never_run(small_file, tmp_path, capsys):
    evil = tmp_path / "evil.ckpt"
    torch.save({"local_adapter.x": Payload()}, evil)
    with pytest.raises(ValueError, match="not a plain torch file of tensors"):
        read_adapters(evil)
    assert capsys.readouterr().out == ""
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(small_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a plain torch file of tensors"):
        read_adapters(cut)
    with pytest.raises(ValueError, match="does not exist"):
        read_adapters(tmp_path / "none.ckpt")
    other = tmp_path / "other.ckpt"
    torch.save({"weight": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="no key beginning with 'local_adapter.'"):
        read_adapters(other)


def test_a_full_folder_is_not_overwritten(small_file, small_options, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="is not empty"):
        convert(small_file, tmp_path, **small_options)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_names_types_and_numbers_that_it_knows(small_file, wm, tmp_path):
    with pytest.raises(ValueError, match="`dtype` is 'int8'; allowed: float16, bfloat16, float32"):
        wm("convert", "uni-controlnet", small_file, tmp_path / "out", "--dtype", "int8")
    with pytest.raises(ValueError, match="checkpoint has . condition types, model has 1: pass types="):
        wm("convert", "uni-controlnet", small_file, tmp_path / "out", "--types", "canny")
    assert not (tmp_path / "out").exists()

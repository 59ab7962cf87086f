"""Losses and training of FlexEControl: formulas, dropout, same-type splitting, and a few real steps."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.carrier import is_copy
from wm_pipelines.flexecontrol.network.slots import SlotInput
from wm_pipelines.flexecontrol.training.augmentation import (
    Shown,
    build_slots,
    choose,
    keep_conditions,
    usable_objects,
    widen,
)
from wm_pipelines.flexecontrol.training.losses import attention_loss, controlled_area, masked_noise_loss
from wm_pipelines.flexecontrol.training.scenes import SceneTask
from wm_pipelines.media.conditions import BACKGROUND
from wm_pipelines.media.pictures import to_tensor
from wm_pipelines.training import KeyedNoise, Recipe, build, train


def boxes(*spans, size=64):
    masks = torch.zeros(1, len(spans), size, size)
    for p, (top, bottom, left, right) in enumerate(spans):
        masks[0, p, top:bottom, left:right] = 1
    return masks


# ---- formulas ----


def test_attention_loss_by_hand():
    masks = boxes((0, 8, 0, 8), (8, 16, 8, 16), size=16)
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, 0, 0, 0] = 0.02  # right place: own maximum makes it 1
    maps[0, 1, 0, 0], maps[0, 1, 1, 1] = 0.04, 0.01  # mostly the wrong place
    valid = torch.ones(1, 2, dtype=torch.bool)
    second = (1 + 0.75**2) / 4
    assert attention_loss(maps, masks, valid).item() == pytest.approx(second / 2)
    assert attention_loss(7 * maps, masks, valid).item() == pytest.approx(second / 2)  # scale does not count
    valid[0, 0] = False
    assert attention_loss(maps, masks, valid).item() == pytest.approx(second)


def test_attention_loss_of_dropped_captions_is_zero_but_counts_in_the_mean():
    masks = boxes((0, 8, 0, 8), size=16).repeat(2, 1, 1, 1)
    maps = torch.rand(2, 1, 4, 4, requires_grad=True)
    valid = torch.tensor([[True], [False]])
    loss = attention_loss(maps, masks, valid)
    alone = attention_loss(maps[:1], masks[:1], valid[:1])
    assert loss.item() == pytest.approx(alone.item() / 2)
    loss.backward()
    assert maps.grad[0].any() and not maps.grad[1].any()
    empty = attention_loss(torch.zeros(1, 1, 4, 4), masks[:1], valid[:1])  # an empty map divides by 1e-6, not by 0
    assert empty.isfinite()


def test_thin_masks_survive_pooling():
    line = boxes((21, 22, 0, 64))
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 2] = 1
    assert attention_loss(maps, line, torch.ones(1, 1, dtype=torch.bool)).item() == 0
    error = masked_noise_loss(torch.ones(1, 4, 16, 16), torch.zeros(1, 4, 16, 16), line)
    assert error.item() == pytest.approx(1 / 16)


def test_masked_noise_loss_is_a_mean_over_everything():
    a, b = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    half = torch.zeros(2, 1, 64, 64)
    half[..., :32] = 1
    expected = ((a - b)[..., :4] ** 2).sum() / a.numel()
    assert masked_noise_loss(a, b, half).item() == pytest.approx(expected.item(), rel=1e-5)
    assert masked_noise_loss(a, b, torch.ones(2, 1, 64, 64)).item() == pytest.approx(((a - b) ** 2).mean().item())
    assert masked_noise_loss(a, b, torch.zeros(2, 1, 64, 64)).item() == 0


def test_controlled_area_knows_polarity_and_pose():
    like, blank = torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8)
    drawn, dark = blank.clone(), torch.ones(2, 3, 8, 8)
    drawn[:, :, 2] = 1
    dark[:, :, 5] = 0  # a black line on white
    white = {**BACKGROUND, "sketch": 1.0}
    both = [SlotInput("canny", drawn, torch.tensor([1.0, 0.0])), SlotInput("sketch", dark)]
    area = controlled_area(both, white, like)
    assert area[0, 0, [2, 5]].all() and area[0].sum() == 16 and area[1].sum() == 8
    region = torch.zeros(2, 1, 8, 8)
    region[..., :4] = 1
    assert controlled_area([SlotInput("canny", drawn, 1.0, region)], white, like)[0].sum() == 4
    assert controlled_area([SlotInput("pose", blank, torch.tensor([0.0, 1.0]))], white, like).sum(
        (1, 2, 3)
    ).tolist() == [
        0,
        64,
    ]
    assert not controlled_area([], white, like).any()


# ---- what a sample is shown ----


def test_condition_dropout_has_the_stated_chances():
    rng = np.random.default_rng(0)
    types = ["canny", "depth", "seg", "lines"]
    drawn = [tuple(keep_conditions(types, rng)) for _ in range(4000)]
    everything = sum(d == tuple(types) for d in drawn) / 4000
    nothing = sum(d == () for d in drawn) / 4000
    expected = 0.1 + 0.8 / 16
    assert everything == pytest.approx(expected, abs=0.025) and nothing == pytest.approx(expected, abs=0.025)
    for t in types:
        assert sum(t in d for d in drawn) / 4000 == pytest.approx(0.5, abs=0.03)
    assert keep_conditions(types, rng, keep_all=1.0) == types
    assert keep_conditions(types, rng, keep_all=0.0, drop_all=1.0) == []
    alone = [tuple(keep_conditions(types, rng, keep_one=0.8)) for _ in range(4000)]
    for t in types:
        assert alone.count((t,)) / 4000 == pytest.approx(0.2, abs=0.025)
    often = [keep_conditions(types, rng, keep_all=0, drop_all=0, keep_one=1.0, alone=["depth", "depth", "seg"])
             for _ in range(2000)]  # fmt: skip
    assert often.count(["depth"]) / 2000 == pytest.approx(2 / 3, abs=0.04)
    assert often.count(["depth"]) + often.count(["seg"]) == 2000


def test_usable_objects():
    masks = boxes((0, 32, 0, 32), (0, 2, 0, 2), (0, 64, 0, 64), (0, 32, 4, 36), (40, 60, 40, 60))[0]
    # 1: too small; 2: nearly all of the picture; 0 and 3 overlap by more than half
    assert usable_objects(masks) == [4]
    assert usable_objects(masks[[0, 4]]) == [0, 1]
    assert usable_objects(torch.zeros(2, 8, 8)) == []


def test_split_conditions_draw_non_empty_subsets_of_the_usable_objects():
    rng = np.random.default_rng(1)
    drawn = [choose(["canny", "seg"], [0, 2], rng, split=1.0, keep_all=1.0) for _ in range(50)]
    parts = {part for sample in drawn for part in sample.conditions.values()}
    assert parts == {(0,), (2,), (0, 2)}
    assert choose(["canny"], [0], rng, split=0.0, keep_all=1.0) == Shown({"canny": None})
    assert choose(["canny"], [], rng, split=1.0, keep_all=1.0) == Shown({"canny": None})


def test_slots_of_a_batch():
    masks = torch.cat([boxes((0, 16, 0, 16), (32, 48, 32, 48))] * 3)
    shown = [Shown({"canny": (0, 1)}), Shown({"canny": None, "seg": (1,)}), Shown({})]
    asked = []

    def map_of(kind, rows):
        asked.append((kind, rows))
        return torch.full((len(rows), 3, 64, 64), 0.5)

    slots = build_slots(shown, ["canny", "depth", "seg"], map_of, masks)
    assert asked == [("canny", [0, 1]), ("seg", [1])]
    assert [s.type for s in slots] == ["canny", "canny", "seg"]
    assert [s.strength.tolist() for s in slots] == [[1, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert torch.equal(slots[0].region[0, 0], widen(masks[0, 0])) and slots[0].region[1].all()
    assert torch.equal(slots[1].region[0, 0], widen(masks[0, 1]))
    assert not slots[0].image[2].any()


def test_split_parts_add_up_to_the_whole_inside_the_objects(tiny_sd):
    """Shown as two slots of one type, or as one map cut to both objects: the network sees the same."""
    masks = boxes((0, 16, 0, 16), (32, 48, 32, 48))
    image = torch.rand(1, 3, 64, 64)
    model = FlexEControlModel.from_unet(
        tiny_sd["unet"], n=2, r=1, condition_stride=4, feature_channels=(4, 6, 8), pre_channels=(4, 5)
    )
    seen = []
    handle = model.feature_extractor.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.condition_features(build_slots([Shown({"seg": (0, 1)})], ["seg"], lambda kind, rows: image, masks))
    union = widen(masks).amax(1, keepdim=True)
    model.condition_features([SlotInput("seg", image, region=union)])
    handle.remove()
    assert torch.allclose(seen[0], seen[1])


# ---- the task ----


@pytest.fixture(scope="module")
def base_folder(tiny_sd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    StableDiffusionPipeline(
        **tiny_sd, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
    return folder


def recipe(base_folder, steps=2, **options):
    small = dict(
        base=str(base_folder),
        length=6,
        n=2,
        r=1,
        feature_channels=[4, 6, 8],
        pre_channels=[4, 5],
        types=["canny", "depth", "seg"],
    )
    return Recipe(task="flexecontrol", steps=steps, batch_size=3, lr=1e-3, options={**small, **options})


@pytest.fixture(scope="module")
def task(base_folder):
    task = build(recipe(base_folder, lambda_ca=0.5, lambda_mask=0.5, text_drop=0.0, keep_all=1.0))
    with torch.no_grad():  # open the gates, so that one backward pass reaches everything
        for name, p in task.control.named_parameters():
            if "zero_conv" in name or name.endswith("kronecker_u"):
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    return task


def test_loss_is_the_weighted_sum_and_only_the_adapter_gets_gradients(task):
    parts = task.loss([0, 3, 5], 0, KeyedNoise(0, 0))
    expected = parts["ldm"] + 0.5 * parts["ca"] + 0.5 * parts["mask"]
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts["ca"] > 0 and 0 < parts["mask"] <= parts["ldm"]
    parts["loss"].backward()
    trained = dict(task.trainable())
    assert trained.keys() == {f"control.{n}" for n, p in task.control.named_parameters() if not is_copy(n)}
    without = [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
    assert not without
    for module in (task.unet, task.vae, task.text_encoder):
        assert all(p.grad is None for p in module.parameters())
    assert all(p.grad is None for n, p in task.control.named_parameters() if is_copy(n))
    task.control.zero_grad()


def test_the_frozen_encoder_keeps_no_graph(task):
    seen = {}
    handles = [
        task.unet.mid_block.register_forward_hook(lambda module, args, output: seen.update(mid=output)),
        task.unet.up_blocks[0].register_forward_hook(lambda module, args, output: seen.update(up=output)),
    ]
    task.loss([0, 1], 0, KeyedNoise(0, 0))
    for handle in handles:
        handle.remove()
    assert not seen["mid"].requires_grad and seen["up"].requires_grad


def test_loss_depends_on_seed_step_and_sample_alone(task):
    first = task.loss([0, 3], 7, KeyedNoise(0, 7))["loss"].item()
    torch.manual_seed(99)
    assert task.loss([0, 3], 7, KeyedNoise(0, 7))["loss"].item() == first
    assert task.loss([0, 3], 8, KeyedNoise(0, 8))["loss"].item() != first
    alone = [task.loss([i], 7, KeyedNoise(0, 7))["ldm"].item() for i in (0, 3)]
    assert task.loss([3, 0], 7, KeyedNoise(0, 7))["ldm"].item() == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_captions_spans_and_masks_agree(task):
    texts, tokens, masks = task.captions([0, 5], KeyedNoise(0, 0))
    for b, i in enumerate((0, 5)):
        ids = task.tokenizer(texts[b]).input_ids
        for obj in task.source.scenes[i].objects:
            words = task.tokenizer.decode([ids[j] for j in tokens[b, obj.id - 1].nonzero().flatten()])
            assert obj.colour in words and obj.shape in words
            assert torch.equal(masks[b, obj.id - 1], (task.source.ids[i] == obj.id).float())


def test_half_of_the_scenes_have_one_shape(task):
    same = [len({o.shape for o in scene.objects}) == 1 for scene in task.source.scenes]
    assert all(same[:3]) and len(same) == 6 and "3 with one shape" in task.data


def test_training_moves_the_adapter_and_exports_it(base_folder, tmp_path):
    wanted = recipe(base_folder, fast="per_type", text_drop=0.5)
    run = build(wanted)
    before = {name: p.detach().clone() for name, p in run.control.named_parameters()}
    record = train(run, wanted, tmp_path)
    assert record.steps == 2 and "6 scenes" in record.data
    moved = {name for name, p in run.control.named_parameters() if not torch.equal(p, before[name])}
    assert moved and not any(is_copy(name) for name in moved)
    loaded = FlexEControlModel.from_pretrained(tmp_path / "export")
    assert loaded.config.fast == "per_type" and loaded.config.map_stride == 2
    assert loaded.config.types == ["canny", "depth", "seg"]  # no slot that was not trained
    state = run.control.state_dict()
    assert all(torch.equal(p, state[name].half().float()) for name, p in loaded.state_dict().items())
    again = build(recipe(base_folder, fast="per_type"))
    again.load_weights(str(tmp_path / "export"))
    assert torch.equal(again.control.zero_conv_mid.weight, loaded.zero_conv_mid.weight)


def test_an_adapter_goes_on_with_the_copy_of_its_new_base(base_folder, tmp_path):
    """A base that was trained further keeps its own encoder under weights of an adapter of the old one."""
    first, second = build(recipe(base_folder)), build(recipe(base_folder))
    with torch.no_grad():
        for p in first.control.parameters():
            p.fill_(0.25)
    first.export(tmp_path)
    second.load_weights(str(tmp_path))
    for name, p in second.control.named_parameters():
        assert torch.equal(p, second.unet.state_dict()[name]) if is_copy(name) else (p == 0.25).all()


def test_a_share_of_the_timesteps_is_early(base_folder):
    run, indices = build(recipe(base_folder)), list(range(400))
    usual = run.timesteps(indices, KeyedNoise(0, 0))
    run.options["early"] = 0.5
    mixed = run.timesteps(indices, KeyedNoise(0, 0))
    last = run.schedule.config.num_train_timesteps
    changed = mixed != usual
    assert 0.4 < changed.float().mean() < 0.6 and 0.25 < (usual >= 0.7 * last).float().mean() < 0.35
    assert mixed[changed].min() >= 0.7 * last and mixed.max() < last


def test_lora_arm_exports_a_merged_adapter(base_folder, tmp_path):
    run = build(recipe(base_folder, preset="carrier", lora_rank=2, lambda_ca=0, lambda_mask=0))
    names = [name for name, _ in run.trainable()]
    assert sum("lora_" in name for name in names) == 2 * 12 and not any("kronecker" in name for name in names)
    with torch.no_grad():
        for name, p in run.trainable():
            if "lora_B" in name:
                p.fill_(0.1)
    run.export(tmp_path)
    loaded = FlexEControlModel.from_pretrained(tmp_path)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    assert not torch.allclose(loaded.state_dict()[name], run.unet.state_dict()[name], atol=1e-2)
    assert set(run.loss([0], 0, KeyedNoise(0, 0))) == {"loss", "ldm"}


@pytest.fixture
def folder(tmp_path):
    """Two captioned pictures in Uni-ControlNet's layout, with phrases for the first."""
    rng = np.random.default_rng(0)
    captions = {"a": "a red cube and a blue sphere", "b": "a green cone"}
    for kind in ("images", "conditions/hed", "masks"):
        (tmp_path / kind).mkdir(parents=True)
        for name in captions:
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            if kind == "masks":
                pixels = np.zeros((64, 64), np.uint8)
                pixels[:20, :20], pixels[40:60, 40:60] = 1, 2
            Image.fromarray(pixels).save(tmp_path / kind / f"{name}.png")
    (tmp_path / "anno.txt").write_text("".join(f"{k}\t{v}\n" for k, v in captions.items()))
    (tmp_path / "spans.json").write_text('{"a": [[0, 10], [15, 28]]}')
    return tmp_path


def folder_recipe(base_folder, folder, **options):
    options = {"data": str(folder), "size": 64, "map_stride": 2, "text_drop": 0.0, "keep_all": 1.0, **options}
    small = recipe(base_folder, **options)
    kept = {key: value for key, value in small.options.items() if key != "length"}
    return small.model_copy(update={"task": "flexecontrol-folder", "options": kept})


def test_a_folder_in_the_layout_of_uni_controlnet_trains(base_folder, folder):
    wanted = folder_recipe(base_folder, folder, types=["softedge", "canny"], split=1.0)
    run = build(wanted)
    assert run.length == 2 and "1 with phrases" in run.data
    hed = run.source.maps("softedge", [1])  # its own name is found under the authors'
    assert torch.equal(hed[0], to_tensor(Image.open(folder / "conditions/hed/b.png")))
    assert run.source.masks([0, 1]).sum((2, 3)).tolist() == [[400, 400], [0, 0]]
    parts = run.loss([0, 1], 0, KeyedNoise(0, 0))
    assert parts["ca"] > 0 and parts["loss"].isfinite()
    (folder / "spans.json").unlink()
    without = build(wanted).loss([0, 1], 0, KeyedNoise(0, 0))
    assert without["ca"] == 0 and without["loss"].isfinite()


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda f: (f / "anno.txt").unlink(), {}, "has no anno.txt"),
        (lambda f: (f / "anno.txt").write_text("a no tab\n"), {}, "line 1 is not 'id TAB caption'"),
        (lambda f: (f / "images/b.png").unlink(), {}, r"images/b.jpg \(or .png\) is missing"),
        (
            lambda f: (f / "spans.json").write_text('{"b": [[0, 99]]}'),
            {},
            r"\(0, 99\) is no span of the caption",
        ),
        (lambda f: None, dict(types=["depth"]), "no folder conditions/depth, and no offline extractor makes depth"),
        (lambda f: None, dict(size=60), "options.size is 60; it must be a multiple of 16"),
        (lambda f: None, dict(data=None), "options.data is missing"),
    ],
)
def test_bad_folders(base_folder, folder, spoil, options, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        build(folder_recipe(base_folder, folder, **{"types": ["softedge"], **options}))


def test_ids_stay_inside_the_folder(base_folder, folder):
    (folder / "spans.json").unlink()
    (folder / "anno.txt").write_text("../masks/b\tx\n")  # exists, but is not a picture of images/
    with pytest.raises(ValueError, match=r"images/../masks/b.jpg \(or .png\) is missing"):
        build(folder_recipe(base_folder, folder, types=["softedge"]))


def test_a_picture_of_another_size_is_named(base_folder, folder):
    Image.new("RGB", (32, 64)).save(folder / "images/b.png")
    run = build(folder_recipe(base_folder, folder, types=["softedge"]))
    with pytest.raises(ValueError, match="b.png in images is 64x32; height and width must be 64x64, as options.size"):
        run.loss([1], 0, KeyedNoise(0, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lamda_ca=1), "options: .*'lamda_ca'.* did you mean 'lambda_ca'"),
        (dict(types=["pose"]), "options.types: the data gives no 'pose'"),
        (dict(types=["hedge"]), "options.types: the data gives no 'hedge'"),
        (dict(alone=["lines"]), "options.alone: 'lines' is none of options.types"),
        (dict(lora_rank=2), "lora_rank needs preset 'carrier'"),
        (dict(n=5), "n=5 does not divide"),
        (dict(base="nowhere"), "nowhere"),
    ],
)
def test_bad_options(base_folder, options, message):
    with pytest.raises(ValueError, match=message):
        SceneTask(recipe(base_folder, **options))


def test_a_map_stride_without_attention_is_refused(base_folder):
    run = build(recipe(base_folder, map_stride=8))
    with pytest.raises(ValueError, match="map_stride=8: no cross-attention"):
        run.loss([0], 0, KeyedNoise(0, 0))

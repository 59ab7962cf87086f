"""Weights of places, the world model's training, labels from a dynamics model, and the base of the miniature world."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from wm_pipelines import DynamicsModelPipeline, WorldModelPipeline
from wm_pipelines.media.pictures import save_image
from wm_pipelines.tokens.pictures import PictureTokens
from wm_pipelines.training import KeyedNoise, Recipe, build, train
from wm_pipelines.world_model.weights import (
    code_change,
    recognition_weights,
    vae_l2,
    vq_l2,
    weighted_denoising_loss,
)


def test_weights_follow_the_formula():
    distances = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0)) ** 4
    for alpha in (0.0, 0.5, 0.8, 0.99):
        weights = recognition_weights(distances, alpha)
        raw = (alpha + (1 - alpha) * distances / distances.mean((1, 2), keepdim=True)).clamp(0, 10)
        assert torch.allclose(weights, raw / raw.mean((1, 2), keepdim=True), atol=1e-5)
        assert torch.allclose(weights.mean((1, 2)), torch.ones(5), atol=1e-5)
    assert torch.equal(recognition_weights(distances, 1.0), torch.ones(5, 4, 4))
    same = distances.clone()
    same[2] = 0
    weights = recognition_weights(same, 0.5)
    assert torch.equal(weights[2], torch.ones(4, 4)) and not torch.equal(weights[1], torch.ones(4, 4))
    cut = torch.zeros(1, 20, 20)
    cut[0, 0, 0] = 1.0  # a scene cut in one place: limited before the mean is made 1
    assert recognition_weights(cut, 0.5).max() < 20
    for bad, alpha, message in (
        (distances, 1.1, "`alpha` is 1.1"), (-distances, 0.5, "`distances`"), (distances / 0, 0.5, "`distances`"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            recognition_weights(bad, alpha)


def test_recognisers(token_models):
    tokens = PictureTokens(token_models.make_vq())
    before, after = token_models.pictures(2), token_models.pictures(2)
    after[:, :, :4, :4] = 1 - after[:, :, :4, :4]
    with torch.no_grad():
        features = [tokens.vq.encode(2 * pictures - 1).latents for pictures in (before, after)]
    assert torch.allclose(vq_l2(tokens)(before, after), (features[0] - features[1]).square().sum(1), atol=1e-6)
    changed = code_change(tokens)(before, after)
    assert changed.shape == (2, 4, 4) and set(changed.unique().tolist()) <= {0.0, 1.0}
    assert not vq_l2(tokens)(before, before).any() and not code_change(tokens)(before, before).any()


def test_the_form_for_editors_that_diffuse_latents():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4).eval()  # fmt: skip
    before = torch.rand(2, 3, 16, 16)
    distances = vae_l2(vae)(before, 1 - before)
    assert distances.shape == (2, 8, 8) and (distances > 0).any()
    predicted, wanted = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    plain = weighted_denoising_loss(predicted, wanted, recognition_weights(distances, 1.0))
    assert torch.equal(plain, functional.mse_loss(predicted, wanted))
    weights = recognition_weights(distances, 0.5)
    by_hand = (weights[:, None] * (predicted - wanted) ** 2).mean()
    assert torch.allclose(weighted_denoising_loss(predicted, wanted, weights), by_hand)


@pytest.fixture
def folder(token_models, tmp_path):
    """Three pictures, a labelled folder of eight pairs, an unlabelled one of six, and a base."""
    for name, count, action in (("own", 8, {"action": "move the red cube"}), ("more", 6, {})):
        (tmp_path / name).mkdir()
        for n in range(3):
            Image.new("RGB", (16, 16), (80 * n, 20, 20)).save(tmp_path / name / f"{n}.png")
        rows = [{"source": f"{n % 3}.png", "target": f"{(n + 1) % 3}.png", **action} for n in range(count)]
        (tmp_path / name / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    WorldModelPipeline(**token_models.make_parts("plain")).save_pretrained(tmp_path / "base")
    return tmp_path


def recipe(folder, **options):
    options = {"base": str(folder / "base"), "data": str(folder / "own"), "rank": 2, **options}
    return Recipe(task="world-model", steps=2, batch_size=2, lr=1e-2, options=options)


def test_alpha_one_is_plain_and_others_are_not(folder):
    found = {}
    for alpha in (1.0, 0.8):
        task = build(recipe(folder, alpha=alpha))
        found[alpha] = task.loss([0, 1, 2], 0, KeyedNoise(0, 0))["loss"].detach()
    plain = build(recipe(folder, alpha=1.0))
    samples, _ = zip(*(plain.sample(n, KeyedNoise(0, 0)) for n in range(3)), strict=True)
    from wm_pipelines.dynamics.training import completion_loss

    assert torch.equal(found[1.0], completion_loss(plain.backend, samples, [None] * 3, plain.device).detach())
    assert not torch.equal(found[1.0], found[0.8])
    _, weights = build(recipe(folder, alpha=0.8)).sample(0, KeyedNoise(0, 0))
    assert torch.equal(weights[-2:], torch.ones(2)) and len(weights) == 18  # the end of the picture, and the stop


def test_a_run_exports_what_loads_on_its_base(folder, token_models):
    made = recipe(folder)
    task = build(made)
    train(task, made, folder / "run")
    world = WorldModelPipeline.from_base(folder / "base", folder / "run" / "export")
    picture = token_models.pictures(1)[0]
    out = world(picture, "move the red cube", generator=torch.Generator().manual_seed(0))
    base = WorldModelPipeline.from_pretrained(folder / "base")
    assert not torch.equal(out.logprobs, base(picture, "move", generator=torch.Generator().manual_seed(0)).logprobs)
    assert world.adapter == "world" and base.adapter is None


def test_labels_come_through_the_gate_only(folder, monkeypatch):
    base = str(folder / "base")
    options = {"dynamics": base, "unlabelled": str(folder / "more"), "held_out": 2}
    with pytest.raises(ValueError, match="options.dynamics is a WorldModelPipeline; it must be a dynamics model"):
        build(recipe(folder, **options, **as_recorded(monkeypatch, WorldModelPipeline)))
    as_recorded(monkeypatch, DynamicsModelPipeline)
    with pytest.raises(ValueError, match="says 0.0% of 2 held-out actions right, below `least_accuracy` 50.0%"):
        build(recipe(folder, **options))
    task = build(recipe(folder, **options, least_accuracy=0.0, keep=0.5))
    assert task.labelled == 6 and len(task.pairs) == 9 and task.length is None
    said = [words for (words,) in task.pairs.actions[6:]]
    assert all(said) and said != ["move the red cube"] * 3
    several = build(recipe(folder, **options, least_accuracy=0.0, keep=0.5, num_action_samples=4))
    assert all(1 <= len(words) <= 4 for words in several.pairs.actions[6:]) and len(several.pairs) == 9
    assert max(len(set(words)) for words in several.pairs.actions[6:]) > 1
    with pytest.raises(ValueError, match="`num_action_samples` is -1"):
        build(recipe(folder, **options, num_action_samples=-1))
    drawn = [task.index_of(n, KeyedNoise(0, 0)) for n in range(400)]
    assert set(drawn) == set(range(9)) and 0.4 < sum(n < 6 for n in drawn) / 400 < 0.6
    assert torch.isfinite(task.loss([0, 1], 0, KeyedNoise(0, 0))["loss"])


def as_recorded(monkeypatch, kind):
    """The base has no record that says what it is; `kind` stands in for one."""
    from wm_pipelines.world_model import training

    class Auto:
        from_pretrained = staticmethod(kind.from_pretrained)

    monkeypatch.setattr(training, "AutoWMPipeline", Auto)
    return {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "options.alpha is 1.5"),
        ({"below": 0}, "options.below is 0; it must lie in"),
        ({"recognizer": "eyes"}, "options.recognizer is 'eyes'; allowed: vq_l2, code_change"),
        ({"dynamics": "dynamics"}, "options.dynamics and options.unlabelled go together"),
        ({"data": "nowhere"}, "options.data is 'nowhere'; it must be 'diorama', a .json file"),
    ],
)
def test_bad_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        build(recipe(folder, **options))


def test_unlabelled_pairs_need_a_labeller(folder):
    with pytest.raises(ValueError, match="options.data: pair '1:0.png' has no action"):
        build(recipe(folder, data=str(folder / "more")))


def test_the_shipped_recipes_make_models_of_eight_megabytes_from_one_file_of_codes():
    from wm_pipelines.dynamics.adapters import add_adapter
    from wm_pipelines.dynamics.training import TARGETS
    from wm_pipelines.training import load_recipe, recipe_path
    from wm_pipelines.world_model.base_training import BASE_DEFAULTS, make_model, make_tokenizer

    base, *both = (load_recipe(recipe_path(name)) for name in ("diorama-world", "dynamics", "world-model"))
    with torch.device("meta"):
        model = make_model(make_tokenizer(), 1024, 512, {**BASE_DEFAULTS, **base.options})
        for recipe in both:
            assert 0 < recipe.options["rank"] <= 64
            add_adapter(model, recipe.task, recipe.options["rank"], targets=TARGETS[recipe.options["targets"]])
    assert 2 * sum(p.numel() for p in model.parameters()) < 8e6  # fp16
    assert {recipe.options["length"] for recipe in (base, *both)} == {16000}


def test_adapters_are_sealed_with_the_base_that_they_stand_on(token_models, tmp_path, monkeypatch):
    """By its name and its files' fingerprint; a base that no one else could find is refused."""
    from wm_pipelines import AutoWMPipeline, hub
    from wm_pipelines.config import WMConfig
    from wm_pipelines.hub.sealing import seal_run

    root = tmp_path / "embedded"
    base = WorldModelPipeline(**token_models.make_parts("plain"))
    base.wm_config = WMConfig(method="diorama-world", method_config={"image_size": 16})
    base.save_pretrained(root / "diorama-world")
    monkeypatch.setattr(hub.store, "EMBEDDED_ROOT", root)
    (tmp_path / "own").mkdir()
    for n, picture in enumerate(token_models.pictures(2)):
        save_image(picture, tmp_path / "own" / f"{n}.png")
    row = {"source": "0.png", "target": "1.png", "action": "move the red cube"}
    (tmp_path / "own" / "pairs.jsonl").write_text(json.dumps(row))
    for name, kind in (("dynamics", DynamicsModelPipeline), ("world-model", WorldModelPipeline)):
        options = {"data": str(tmp_path / "own"), "rank": 2}
        made = Recipe(task=name, steps=1, batch_size=1, options=options)
        train(build(made), made, tmp_path / name)
        config = seal_run(tmp_path / name, root / name)
        assert config.base_model.embedded == "diorama-world" and config.base_model.fingerprint
        assert config.method_config.tuning == "lora"
        assert isinstance(AutoWMPipeline.from_pretrained(name), kind)
    for name, kind in (("dynamics", DynamicsModelPipeline), ("world-model", WorldModelPipeline)):
        made = Recipe(task=name, steps=1, batch_size=1, options={"data": str(tmp_path / "own"), "rank": 0})
        train(build(made), made, tmp_path / f"whole-{name}")
        config = seal_run(tmp_path / f"whole-{name}", tmp_path / f"sealed-{name}")  # stands alone
        assert config.method_config.tuning == "full" and config.base_model is None
        whole = AutoWMPipeline.from_pretrained(tmp_path / f"sealed-{name}")
        assert isinstance(whole, kind) and whole.adapter is None and whole.layout == base.layout
    made = Recipe(task="dynamics", steps=1, batch_size=1, options={**options, "base": str(root / "diorama-world")})
    train(build(made), made, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="a base must be an embedded name or a Hub id, got"):
        seal_run(tmp_path / "elsewhere", tmp_path / "sealed")


def test_bad_shares_of_what_the_base_reads(tmp_path):
    for shares in ({"captions": 0.8, "sentences": 0.3}, {"sentences": -0.1}):
        with pytest.raises(ValueError, match="options.captions and options.sentences are"):
            build(Recipe(task="diorama-world", steps=1, batch_size=1, options=shares))


def test_from_tokeniser_to_both_directions_in_the_miniature_world(tmp_path):
    """Each stage stands on the export of the one before, at tiny size."""

    def run(name, kind="", **options):
        made = Recipe(task=name, steps=2, batch_size=2, lr=1e-3, options=options)
        task = build(made)
        train(task, made, tmp_path / f"{kind}{name}")
        return str(tmp_path / f"{kind}{name}" / "export"), task

    tokens, task = run("diorama-tokens", length=6, channels=[8, 8, 8, 8], codes=32, dim=4)
    with torch.no_grad():
        assert torch.allclose(task.tokens.codebook, task.codebook(), atol=1e-6)
    again = build(Recipe(task="diorama-tokens", steps=1, batch_size=2, options=task.options))
    again.load_weights(tokens)
    assert torch.allclose(again.codebook(), task.tokens.codebook, atol=1e-2)
    cache = str(tmp_path / "codes")  # one file for all three
    small = {"width": 32, "layers": 1, "heads": 2, "inner": 32}
    world, task = run("diorama-world", tokens=tokens, length=6, cache=cache, **small)
    kinds = [task.sample(0, KeyedNoise(0, step)) for step in range(60)]
    whole = [[*sample.prompt, *sample.completion] for sample in kinds]
    codes = set(task.backend.codes.ids.tolist())
    pictures = Counter(sum(token in codes for token in tokens) // 64 for tokens in whole)
    assert {2 * 64 + 5} == {len(tokens) for tokens in whole if sum(t in codes for t in tokens) == 128}
    assert pictures[2] > pictures[1] > pictures[0] > 0  # pairs, a picture with its caption, a sentence alone
    alone = {task.tokenizer.decode(tokens[1:-1]) for tokens in whole if not codes & set(tokens)}
    assert alone <= set(task.pairs.actions[0])
    other, _ = run("diorama-tokens", "other ", length=6, channels=[8, 8, 8, 8], codes=32, dim=4, dyed=1.0)
    moved = build(Recipe(task="diorama-world", steps=1, batch_size=2, options={"tokens": other, "length": 6, **small}))
    moved.load_weights(world)
    rows, was = (t.model.get_input_embeddings().weight[-32:] for t in (moved, task))
    nearest = torch.cdist(moved.backend.pictures.codebook, task.backend.pictures.codebook).argmin(1)
    saved = WorldModelPipeline.from_pretrained(world).model.get_input_embeddings().weight[-32:]
    assert torch.equal(rows, saved[nearest].to(rows)) and torch.allclose(rows, was[nearest], atol=1e-2)
    fewer, _ = run("diorama-tokens", "fewer ", length=6, channels=[8, 8, 8, 8], codes=16, dim=4)
    with pytest.raises(ValueError, match=r"init_from: its codes are \(32, 4\); those of options.tokens are \(16, 4\)"):
        options = {"tokens": fewer, "length": 6, **small}
        build(Recipe(task="diorama-world", steps=1, batch_size=2, options=options)).load_weights(world)
    made = Path(cache).stat().st_mtime_ns
    dynamics, task = run("dynamics", base=world, length=6, rank=2, targets="linear", cache=cache)
    assert all(1 <= len(words) <= 4 for words in task.pairs.actions) and all(task.pairs.kinds)
    adapter, task = run("world-model", base=world, length=6, rank=2, cache=cache)
    assert Path(cache).stat().st_mtime_ns == made and (task.pairs.distances > 0).any()
    pipe = WorldModelPipeline.from_base(world, adapter)
    judge = DynamicsModelPipeline.from_base(world, dynamics)
    picture = pipe.decode(task.pairs.source[:1])[0]
    out = pipe(picture, task.pairs.actions[0][0], num_candidates=2, verifier=judge)
    assert out.images[0][0].size == (64, 64) and out.scores.isfinite().all()
    assert pipe.tokenizer.decode(pipe.backend.sequences.words("move the red cube")).strip() == "move the red cube"
    assert len(pipe.backend.sequences.words("move the red cube")) == 4

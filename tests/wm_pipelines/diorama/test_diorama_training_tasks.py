"""The tasks behind the base checkpoints: they learn, and what they export loads plainly."""

import pytest
import torch
from safetensors import safe_open

from wm_pipelines.diorama.scene import COLOURS, SHAPES
from wm_pipelines.diorama.training import EARLY, RELATION, turned
from wm_pipelines.hub import embedded
from wm_pipelines.training import KeyedNoise, Recipe, build, train


def run(task, tmp_path, **options):
    recipe = Recipe(task=task, steps=2, batch_size=2, lr=1e-3, options=options)
    made = build(recipe)
    before = {name: p.detach().clone() for name, p in made.trainable()}
    record = train(made, recipe, tmp_path / task)
    assert record.steps == 2 and any((p != before[name]).any() for name, p in made.trainable())
    return tmp_path / task / "export", made


def test_vae_scales_its_latents_to_unit_spread_and_the_base_loads_plainly(tmp_path):
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    folder, task = run("diorama-vae", tmp_path, length=6, channels=[8, 8, 8])
    vae = AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        latents = vae.encode(task.images.pictures(range(6)) * 2 - 1).latent_dist.mean
    assert abs((latents * vae.config.scaling_factor).std().item() - 1) < 0.05

    folder, task = run("diorama-sd", tmp_path, length=6, vae=str(folder))
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    assert {m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    assert pipe.scheduler.config.prediction_type == "v_prediction" and pipe.safety_checker is None
    with safe_open(folder / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # as transformers 4 wants them
    for mine, loaded in zip(task.text_encoder.parameters(), pipe.text_encoder.parameters(), strict=True):
        torch.testing.assert_close(loaded, mine, rtol=1e-3, atol=1e-4)
    weights = pipe.unet.state_dict()
    for name, value in task.unet.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)  # fp16 on disk


def test_sd_needs_its_vae():
    with pytest.raises(ValueError, match="options.vae is missing"):
        build(Recipe(task="diorama-sd", steps=1, batch_size=1))


def base_task(**options):
    options = {"length": 12, "vae": str(embedded("diorama-sd") / "vae"), **options}
    return build(Recipe(task="diorama-sd", steps=1, batch_size=12, options=options))


def test_a_turned_caption_is_false_and_names_nothing_held_out():
    assert turned("a red cube to the left of a blue cone") == "a red cube to the right of a blue cone"
    assert turned("a red cube behind a blue cone") == "a red cube in front of a blue cone"
    assert turned("a red cube and a blue cone") is None
    assert turned("a red cube left of another red cube") is None  # true both ways round
    assert turned("a red cube right of a blue sphere") is None  # "left of", cube, sphere is held out


def test_early_draws_where_relations_are_read():
    plain, early = base_task(), base_task(early=1.0)
    noise, indices = KeyedNoise(0, 0), list(range(12))
    words = [plain.words(i, noise) for i in indices]
    says = torch.tensor([bool(RELATION.search(text)) for text in words])
    usual, drawn = plain.timesteps(indices, words, noise), early.timesteps(indices, words, noise)
    assert says.any() and (drawn[says] >= EARLY).all() and (usual[says] < EARLY).any()
    assert torch.equal(usual[~says], drawn[~says])


def test_the_plan_is_read_cell_by_cell_and_not_exported(tmp_path):
    folder, task = run("diorama-sd", tmp_path, length=6, vae=str(embedded("diorama-sd") / "vae"), plan=1.0)
    assert "planner" in task.modules() and not (folder / "planner").exists()
    again = base_task(plan=1.0)
    again.load_weights(str(folder))  # there is none to load
    assert "planner" not in base_task().modules()

    n = next(n for n, scene in enumerate(again.scenes) if len(scene.objects) == 1)
    (thing,) = again.scenes[n].objects
    again.ids[n] = 0
    again.ids[n, 16:32, 48:] = thing.id  # second row, last column
    tokens = again.planner.weight.new_zeros(1, 16, 13)
    again.planner = torch.nn.Identity()
    tokens[..., 0] = 20
    tokens[0, 7, 0], tokens[0, 7, 1 + list(COLOURS).index(thing.colour)] = 0, 20
    tokens[0, 7, 9 + SHAPES.index(thing.shape)] = 20
    assert again.plan_loss([n], tokens) < 1e-3
    assert again.plan_loss([n], tokens.flip(1)) > 5  # the solid in another cell


def test_words_only_leaves_the_unet_alone(tmp_path):
    with pytest.raises(ValueError, match="options.words_only needs options.plan"):
        base_task(words_only=True)
    task = base_task(plan=1.0, words_only=True)
    recipe = Recipe(task="diorama-sd", steps=2, batch_size=4, lr=1e-3, init_from="diorama-sd")
    train(task, recipe, tmp_path)
    trained, shipped = base_task(), base_task()
    trained.load_weights(str(tmp_path / "export"))
    shipped.load_weights("diorama-sd")
    for mine, before in zip(trained.unet.parameters(), shipped.unet.parameters(), strict=True):
        assert torch.equal(mine, before)
    pairs = zip(trained.text_encoder.parameters(), shipped.text_encoder.parameters(), strict=True)
    assert any(not torch.equal(mine, before) for mine, before in pairs)


def test_turned_adds_false_captions_on_the_same_noise():
    noise, indices = KeyedNoise(0, 0), list(range(12))
    plain, asked = base_task(early=1.0), base_task(early=1.0, turned=1.0)
    seen = []
    asked.unet.register_forward_pre_hook(lambda module, args: seen.append(args))
    before, losses = plain.loss(indices, 0, noise), asked.loss(indices, 0, noise)
    torch.testing.assert_close(losses["error"], before["loss"])
    assert 12 < len(seen[0][0]) <= 15 and (seen[0][1][12:] >= EARLY).all()
    assert losses["loss"] > losses["error"] and 0 <= losses["told"] <= 1
    assert list(before) == ["loss"]


def test_judge_exports_what_it_learnt(tmp_path):
    from wm_pipelines.diorama.judge import DioramaJudge

    folder, task = run("diorama-judge", tmp_path, length=4)
    weights = DioramaJudge.from_pretrained(folder).state_dict()
    for name, value in task.judge.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)

"""Tuning an editor that diffuses latents: the loss by hand, what is dropped, resuming, and what loads the result."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from torch.nn import functional

from wm_pipelines.hub import embedded
from wm_pipelines.media.pictures import save_image
from wm_pipelines.training import KeyedNoise, Recipe, build, train
from wm_pipelines.world_model import latents
from wm_pipelines.world_model.weights import recognition_weights, vae_l2

ACTIONS = ("move the red cube to the left", "remove the blue cone")
SD = "StableDiffusionPipeline"


@pytest.fixture(scope="module")
def root(tiny_editor, token_models, tmp_path_factory):
    """Bases, five pictures, and pairs of them in both layouts of files."""
    root = tmp_path_factory.mktemp("editor")
    tiny_editor.make().save_pretrained(root / "editor")
    tiny_editor.make(SD, prediction_type="v_prediction").save_pretrained(root / "sd")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(embedded("diorama-sd") / "tokenizer" / name, root / "sd" / "tokenizer")
    for n, picture in enumerate(token_models.pictures(5)):
        save_image(picture, root / f"{n}.png")
    rows = [(f"{n}.png", f"{n + 1}.png", ACTIONS[n % 2]) for n in range(4)]
    aurora = [{"input": a, "output": b, "instruction": words} for a, b, words in rows]
    (root / "train.json").write_text(json.dumps(aurora))
    folder = [{"source": a, "target": b, "action": words} for a, b, words in rows]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, folder)))
    return root


def recipe(root, steps=2, **options):
    options = {"base": str(root / "editor"), "data": str(root / "train.json"), **options}
    return Recipe(task="world-editor", steps=steps, batch_size=2, lr=1e-2, options=options)


def by_hand(task, indices, noise):
    """Prediction and target of a batch that sees everything, from the stock parts."""
    drawn = noise.randn(indices, (2, *task.pairs.target.shape[1:]), "noise")
    clean = (task.pairs.target[indices] + task.pairs.deviation[indices] * drawn[:, 0]) * task.vae.config.scaling_factor
    t = noise.integers(indices, (), "timestep", 0, 1000)
    noisy = task.schedule.add_noise(clean, drawn[:, 1], t)
    words = [task.given(n, noise)[0] for n in indices]
    ids = task.tokenizer(words, padding="max_length", max_length=77, return_tensors="pt").input_ids
    states = task.text_encoder(ids).last_hidden_state
    velocity = task.schedule.config.prediction_type == "v_prediction"
    wanted = task.schedule.get_velocity(clean, drawn[:, 1], t) if velocity else drawn[:, 1]
    return task.unet(torch.cat([noisy, task.pairs.source[indices]], 1), t, states).sample, wanted


@pytest.mark.parametrize("base", ["editor", "sd"])
@pytest.mark.parametrize("alpha", [1.0, 0.8, 0.5])
def test_the_loss_is_the_weighed_error_of_stock_parts(root, base, alpha):
    task = build(recipe(root, base=str(root / base), alpha=alpha, drop=0.0))
    indices, noise = [2, 0, 3], KeyedNoise(1, 7)
    predicted, wanted = by_hand(task, indices, noise)
    found = task.loss(indices, 7, noise)["loss"]
    if alpha == 1:
        assert torch.equal(found, functional.mse_loss(predicted, wanted))
    pictures = [[task_read(root, n + more) for n in indices] for more in (0, 1)]
    distances = vae_l2(task.vae)(*map(torch.stack, pictures))
    weights = recognition_weights(distances, alpha)[:, None]
    assert torch.allclose(found, (weights * (predicted - wanted) ** 2).mean(), rtol=1e-4)
    assert (alpha == 1) == bool((weights == 1).all())


def task_read(root, n):
    from wm_pipelines.media.pictures import load_image, to_tensor

    return to_tensor(load_image(root / f"{n}.png"))


def test_latents_are_those_that_the_stock_pipeline_sees(root, tiny_editor):
    task = build(recipe(root))
    pipe = tiny_editor.make()
    for n in range(4):
        wanted = pipe.prepare_image_latents(2 * task_read(root, n)[None] - 1, 1, 1, torch.float32, "cpu", False)
        assert torch.allclose(task.pairs.source[n], wanted[0], atol=1e-5)
    assert task.pairs.actions == tuple((ACTIONS[n % 2],) for n in range(4))


def test_a_text_to_image_model_becomes_an_editor_that_predicts_what_it_did(root, tiny_editor):
    task, stock = build(recipe(root, base=str(root / "sd"))), tiny_editor.make(SD).unet
    assert task.unet.config.in_channels == 8 and task.unet.conv_in.weight.shape[1] == 8
    noisy, states, t = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16), torch.tensor([3, 900])
    with torch.no_grad():
        wanted = stock(noisy, t, states).sample
        for source in (torch.zeros(2, 4, 8, 8), torch.randn(2, 4, 8, 8)):
            found = task.unet(torch.cat([noisy, source], 1), t, states).sample
            assert torch.allclose(found, wanted, atol=1e-5)
    task.loss([0, 1], 0, KeyedNoise(0, 0))["loss"].backward()
    assert task.unet.conv_in.weight.grad[:, 4:].abs().sum() > 0


def test_words_and_source_are_dropped_apart_and_together(root):
    task = build(recipe(root, drop=0.2))
    kinds = [task.given(n % 4, KeyedNoise(0, n)) for n in range(2000)]
    shares = {(bool(words), seen): 0 for words in (True, False) for seen in (True, False)}
    for words, seen in kinds:
        shares[bool(words), seen] += 1 / 2000
    wanted = {(True, True): 0.4, (False, True): 0.2, (False, False): 0.2, (True, False): 0.2}
    assert all(abs(shares[kind] - share) < 0.045 for kind, share in wanted.items())
    whole = build(recipe(root, drop=0.0))
    assert all(whole.given(0, KeyedNoise(0, n)) == (ACTIONS[0], True) for n in range(200))


@pytest.mark.parametrize(("data", "text"), [("train.json", False), (".", True)])
def test_a_run_exports_what_the_stock_class_loads(root, tmp_path, token_models, data, text):
    from wm_pipelines.aurora_bench.editors import load_editor
    from wm_pipelines.world_model.editing import EditorWorldModel
    from wm_pipelines.world_model.editors import Editor

    made = recipe(root, data=str(root / data), base=str(root / "sd"), train_text_encoder=text)
    task = build(made)
    before = {key: value.clone() for key, value in task.text_encoder.state_dict().items()}
    train(task, made, tmp_path / "run")
    export = tmp_path / "run" / "export"
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(export)
    for name in ("unet", "vae", "text_encoder"):
        own = getattr(task, name).state_dict()
        for key, value in getattr(pipe, name).state_dict().items():
            assert value.dtype == torch.float32 and torch.equal(value, own[key].half().float()), key
    moved = any(not torch.equal(value, before[key]) for key, value in task.text_encoder.state_dict().items())
    assert moved == text and pipe.scheduler.config.prediction_type == "v_prediction"
    assert all((export / "tokenizer" / name).is_file() for name in ("vocab.json", "merges.txt"))
    picture = token_models.pictures(1)[0]
    out = EditorWorldModel(Editor(pipe, settings={"num_inference_steps": 2}))(picture, ACTIONS[0], output_type="pt")
    assert out.images[0].shape == (1, 3, 16, 16) and out.images[0].isfinite().all()
    assert callable(load_editor(str(export)))
    with pytest.raises(ValueError, match="'likelihood' needs a token model"):
        load_editor(str(export), 2, "likelihood")
    again = build(recipe(root, base=str(export)))  # a tuned editor is a base
    assert torch.equal(again.unet.conv_in.weight, pipe.unet.conv_in.weight)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(root, tmp_path):
    whole, part = recipe(root, steps=4), recipe(root, steps=2)
    train(build(whole), whole, tmp_path / "whole")
    train(build(part), part, tmp_path / "stopped")
    train(build(whole), whole, tmp_path / "stopped")
    files = [
        tmp_path / name / "export" / "unet" / "diffusion_pytorch_model.safetensors" for name in ("whole", "stopped")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_learns(root):
    made = recipe(root, steps=1)
    task = build(made)

    def error():
        with torch.no_grad():
            return float(sum(task.loss([0, 1, 2, 3], 0, KeyedNoise(5, n))["loss"] for n in range(8)) / 8)

    before, optimiser = error(), torch.optim.Adam(task.unet.parameters(), lr=3e-3)
    for step in range(25):
        optimiser.zero_grad()
        task.loss([0, 1, 2, 3], step, KeyedNoise(0, step))["loss"].backward()
        optimiser.step()
    assert error() < 0.9 * before


def test_pairs_of_the_miniature_world_and_the_file_that_keeps_them(root, tmp_path, monkeypatch):
    cache = tmp_path / "latents"
    options = {"data": "diorama", "length": 3, "side": 64, "cache": str(cache)}
    first = build(recipe(root, **options))
    assert first.pairs.source.shape == (3, 4, 32, 32) and all(len(words) > 1 for words in first.pairs.actions)
    assert (first.weights.flatten(1).max(1).values > 1).all()
    monkeypatch.setattr(latents, "read_batch", lambda *_: pytest.fail("the pictures were made again"))
    again = build(recipe(root, **options))
    for name in ("source", "target", "deviation"):
        assert torch.equal(getattr(first.pairs, name), getattr(again.pairs, name))
    assert first.pairs.actions == again.pairs.actions
    with pytest.raises(ValueError, match="holds other latents, .*asked for.*; delete it or name another"):
        build(recipe(root, **{**options, "length": 4}))


def test_a_sealed_run_loads_as_the_stock_class(root, tmp_path):
    from wm_pipelines import AutoWMPipeline
    from wm_pipelines.hub.sealing import seal_run

    made = recipe(root, steps=1)
    train(build(made), made, tmp_path / "run")
    config = seal_run(tmp_path / "run", tmp_path / "sealed")
    assert config.method == "world-editor" and config.method_config.alpha == 0.8 and config.base_model is None
    assert type(AutoWMPipeline.from_pretrained(tmp_path / "sealed")) is StableDiffusionInstructPix2PixPipeline


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.2}, r"options.alpha is 1.2; it must lie in \[0, 1\]"),
        ({"drop": 0.4}, r"options.drop is 0.4; it must lie in \[0, 0.3\]"),
        ({"drop": True}, "options.drop is True"),
        ({"train_text_encoder": "yes"}, "options.train_text_encoder is 'yes'; it must be true or false"),
        ({"side": 15}, "options.side is 15; it must be a multiple of 4"),
        ({"side": 0}, "options.side is 0"),
        ({"aplha": 1}, "unknown 'aplha', did you mean 'alpha'"),
        ({"data": "nowhere"}, "options.data is 'nowhere'; it must be 'diorama', a .json file"),
        ({"side": 32}, "`data` is 16x16, but the model takes 32x32; pass resize='pad' or resize='crop'"),
    ],
)
def test_options_that_mean_nothing(root, options, message):
    with pytest.raises(ValueError, match=message):
        build(recipe(root, **options))


def test_bases_and_pairs_that_cannot_serve(root, tmp_path, token_models):
    shutil.copytree(root / "editor", tmp_path / "other")
    index = tmp_path / "other" / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionInstructPix2PixPipeline", "FluxKontextPipeline"))
    with pytest.raises(ValueError, match="is a FluxKontextPipeline; an editor is tuned from StableDiffusionInstruct"):
        build(recipe(root, base=str(tmp_path / "other")))
    from diffusers import UNet2DConditionModel

    shutil.copytree(root / "sd", tmp_path / "inpaint")
    UNet2DConditionModel(
        sample_size=8, in_channels=9, block_out_channels=(8, 8), layers_per_block=1, cross_attention_dim=16,
        attention_head_dim=2, norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(tmp_path / "inpaint" / "unet")  # fmt: skip
    with pytest.raises(
        ValueError, match="has a UNet of 9 input channels; an editor on its VAE has 8, a text-to-image"
    ):
        build(recipe(root, base=str(tmp_path / "inpaint")))
    shutil.copytree(root / "sd", tmp_path / "sampler")
    (tmp_path / "sampler" / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "os"}')
    with pytest.raises(ValueError, match="has a scheduler 'os', which is none of diffusers"):
        build(recipe(root, base=str(tmp_path / "sampler")))
    for n, picture in enumerate(token_models.pictures(2)):
        save_image(picture, tmp_path / f"{n}.png")
    row = {"source": "0.png", "target": "1.png"}
    for more, message in (({}, "pair '1:0.png' has no action"), ({"action": "cube " * 80}, "has 82 tokens; the text")):
        (tmp_path / "pairs.jsonl").write_text(json.dumps({**row, **more}))
        with pytest.raises(ValueError, match=message):
            build(recipe(root, data=str(tmp_path)))
    save_image(torch.rand(3, 20, 16), tmp_path / "1.png")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({**row, "action": "move"}))
    for resize, message in ((None, "different sizes"), ("crop", "would cut them at two boxes")):
        with pytest.raises(ValueError, match=f"pair 1:0.png: .*{message}"):
            build(recipe(root, data=str(tmp_path), resize=resize))

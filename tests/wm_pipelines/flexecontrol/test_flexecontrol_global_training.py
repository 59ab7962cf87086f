"""Training of the global adapter: on Diorama with a CLIP's vectors, and on a folder that brings its own."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline
from wm_pipelines.training import KeyedNoise, Recipe, build, train

SIZES = dict(n=2, r=1, feature_channels=[4, 6, 8], pre_channels=[4, 5], types=["canny", "depth"])


@pytest.fixture(scope="module")
def base_folder(tiny_sd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    StableDiffusionPipeline(
        **tiny_sd, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A tiny CLIP vision tower with its image processor."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("clip")
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, projection_dim=12, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def recipe(base_folder, encoder_folder):
    def make(steps=2, init_from=None, **options):
        options = {**SIZES, "base": base_folder, "image_encoder": encoder_folder, "length": 6, **options}
        return Recipe(
            task="flexecontrol-global", steps=steps, batch_size=3, lr=1e-2, init_from=init_from, options=options
        )

    return make


@pytest.fixture
def folder(tmp_path):
    """Two captioned pictures in Uni-ControlNet's layout, each with its content vector."""
    rng = np.random.default_rng(0)
    for kind in ("images", "conditions/content"):
        (tmp_path / kind).mkdir(parents=True)
    for name in "ab":
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        np.save(tmp_path / "conditions/content" / f"{name}.npy", rng.normal(size=(1, 8)).astype(np.float16))
    (tmp_path / "anno.txt").write_text("a\ta red cube\nb\ta green cone\n")
    return tmp_path


def folder_recipe(base_folder, folder):
    options = {**SIZES, "types": ["canny"], "base": base_folder, "data": str(folder), "size": 64, "map_stride": 2}
    return Recipe(task="flexecontrol-global-folder", steps=1, batch_size=2, options=options)


def test_only_the_global_adapter_learns_and_every_parameter_of_it(recipe):
    task = build(recipe(drop=0.0, drop_all=0.0))
    names = {name for name, _ in task.trainable()}
    assert names == {f"control.global_projection.{n}" for n, _ in task.control.global_projection.named_parameters()}
    assert task.control.config.global_embed_dim == 12 and task.source.vectors.shape == (6, 12)
    task.loss([0, 2, 4], 0, KeyedNoise(0, 0))["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for _, p in task.trainable())
    others = [p for n, p in task.control.named_parameters() if not n.startswith("global_projection")]
    assert all(p.grad is None for p in [*others, *task.unet.parameters()])


def test_an_encoder_in_half_precision_serves_too(recipe, encoder_folder, tmp_path):
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    encoder = CLIPVisionModelWithProjection.from_pretrained(encoder_folder).half()
    del encoder.config.dtype  # as where the halves of a whole CLIP are read from one file
    encoder.save_pretrained(tmp_path)
    CLIPImageProcessor.from_pretrained(encoder_folder).save_pretrained(tmp_path)
    task = build(recipe(image_encoder=str(tmp_path)))
    assert task.source.vectors.dtype == torch.float32
    assert torch.isfinite(task.loss([0, 1], 0, KeyedNoise(0, 0))["loss"])


def test_a_dropped_content_is_the_zero_vector(recipe):
    given, dropped = (build(recipe(keep_all=1.0 - x, drop_all=x)) for x in (0.0, 1.0))
    dropped.control.load_state_dict(given.control.state_dict())
    for task in (given, dropped):
        task.control.eval()
    seen = {}
    for name, task in (("given", given), ("dropped", dropped)):
        task.control.global_projection.register_forward_pre_hook(lambda m, args, n=name: seen.update({n: args[0]}))
        task.loss([0, 1], 0, KeyedNoise(0, 0))
    assert torch.equal(seen["given"], given.source.vectors[:2]) and not seen["dropped"].any()


def test_it_joins_a_trained_local_adapter_and_the_pipeline_takes_the_result(recipe, tiny_sd, encoder_folder, tmp_path):
    local = Recipe(
        task="flexecontrol", steps=1, batch_size=3, lr=1e-2,
        options={k: v for k, v in recipe().options.items() if k != "image_encoder"},
    )  # fmt: skip
    train(build(local), local, tmp_path / "local")
    wanted = recipe(init_from=str(tmp_path / "local/export"))
    train(build(wanted), wanted, tmp_path / "both")
    before = FlexEControlModel.from_pretrained(tmp_path / "local/export").state_dict()
    both = FlexEControlModel.from_pretrained(tmp_path / "both/export").eval()
    assert all(torch.equal(both.state_dict()[name], value) for name, value in before.items())
    assert both.config.global_adapter

    pipe = FlexEControlPipeline(**tiny_sd, control=both)
    pipe.set_progress_bar_config(disable=True)
    vectors = build(wanted).source.vectors

    def picture(vector):
        return pipe(
            "a red cube", global_image=vector, num_inference_steps=2, output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip

    assert not torch.equal(picture(vectors[0]), picture(vectors[1]))
    assert torch.equal(picture(vectors[0]), picture(vectors[0]))


def test_a_local_run_refuses_a_checkpoint_with_a_global_adapter(recipe, tmp_path):
    build(recipe()).export(tmp_path)
    options = {k: v for k, v in recipe().options.items() if k != "image_encoder"}
    task = build(Recipe(task="flexecontrol", steps=1, batch_size=1, options=options))
    with pytest.raises(ValueError, match="adapter of other settings.*global_projection"):
        task.load_weights(str(tmp_path))


def test_options_about_local_conditions_are_refused(recipe):
    with pytest.raises(ValueError, match="options: unknown 'keep_one'"):
        build(recipe(keep_one=0.5))


def test_pickled_encoders_are_never_read(recipe, encoder_folder, tmp_path):
    from transformers import CLIPVisionModelWithProjection

    shutil.copytree(encoder_folder, tmp_path / "clip")
    weights = CLIPVisionModelWithProjection.from_pretrained(encoder_folder).state_dict()
    (tmp_path / "clip" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "clip" / "pytorch_model.bin")
    with pytest.raises((OSError, ValueError), match="safetensors"):
        build(recipe(image_encoder=str(tmp_path / "clip")))


def test_a_folder_brings_its_vectors(base_folder, folder):
    task = build(folder_recipe(base_folder, folder))
    assert task.control.config.global_embed_dim == 8
    loss = task.loss([0, 1], 0, KeyedNoise(0, 0))
    assert set(loss) == {"loss"} and loss["loss"].isfinite()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: [p.unlink() for p in c.glob("*.npy")], "has no conditions/content/ID.npy"),
        (lambda c: np.save(c / "a.npy", np.zeros((2, 4))), r"must be one vector of finite numbers, it is \(2, 4\)"),
        (lambda c: np.save(c / "a.npy", np.full(8, np.nan)), "must be one vector of finite numbers"),
        (lambda c: np.save(c / "a.npy", np.array(["x"] * 8)), "must be one vector of finite numbers, it is .* of <U1"),
        (lambda c: (c / "a.npy").write_bytes(b"no array"), "a.npy can't be read"),
        (lambda c: np.save(c / "a.npy", np.array([{}], object)), "a.npy can't be read"),
    ],
)
def test_bad_vectors_are_named_before_training(base_folder, folder, spoil, message):
    spoil(folder / "conditions/content")
    with pytest.raises(ValueError, match=message):
        build(folder_recipe(base_folder, folder))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: (c / "b.npy").unlink(), "content/b.npy is missing"),
        (lambda c: np.save(c / "b.npy", np.zeros(5)), "b.npy has 5 values, the first file has 8"),
    ],
)
def test_every_picture_has_a_vector_of_the_same_size(base_folder, folder, spoil, message):
    spoil(folder / "conditions/content")
    with pytest.raises(ValueError, match=message):
        build(folder_recipe(base_folder, folder))

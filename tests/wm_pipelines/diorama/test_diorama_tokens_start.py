"""A tokeniser that starts from a VAE: what it decodes, how many codes it uses, and what is refused."""

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from torch.nn import functional

from wm_pipelines.diorama.tokens_training import centres, dyed
from wm_pipelines.hub import embedded
from wm_pipelines.hub.stock import load_model
from wm_pipelines.tokens.pictures import PictureTokens
from wm_pipelines.training import KeyedNoise, Recipe, build

OPTIONS = {"length": 24, "channels": [24, 48, 64], "latent": 4, "dim": 4, "codes": 64}


def make(**options):
    return build(Recipe(task="diorama-tokens", steps=1, batch_size=4, options={**OPTIONS, **options}))


@pytest.fixture(scope="module")
def task():
    made = make()
    made.load_weights("diorama-sd")
    return made


def test_before_quantisation_it_decodes_as_the_vae_does(task):
    vae = load_model(AutoencoderKL, embedded("diorama-sd") / "vae").float()
    pictures = task.images.pictures(range(4))
    with torch.no_grad():
        wanted = vae.decode(vae.encode(pictures * 2 - 1).latent_dist.mean).sample
        features = task.tokens.features(pictures).permute(0, 3, 1, 2).contiguous()
        found = task.vq.decode(features, force_not_quantize=True).sample
    assert torch.allclose(found, wanted, atol=1e-4)
    assert features.mean((0, 2, 3)).abs().max() < 0.2 and (features.std((0, 2, 3)) - 1).abs().max() < 0.2


def test_its_codes_are_near_what_they_stand_for(task):
    with torch.no_grad():
        features = task.tokens.features(task.images.pictures(range(8))).flatten(0, 2)
        away = torch.cdist(features, task.codebook()).amin(1)
        random = torch.cdist(features, torch.randn(64, 4, generator=torch.Generator().manual_seed(0))).amin(1)
    assert away.mean() < 0.6 * random.mean()


def test_centres_of_groups_are_their_means():
    groups = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = groups.repeat_interleave(30, 0) + 0.1 * torch.randn(90, 2, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(centres(vectors, 3), vectors.reshape(3, 30, 2).mean(1), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"dim": 8}, "options.latent = options.dim = 4"), ({"channels": [24, 32, 64]}, "another architecture")],
)
def test_a_vae_of_another_form_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make(**options).load_weights("diorama-sd")


def test_an_export_is_gone_on_from(task, tmp_path):
    task.export(tmp_path)
    again = make()
    again.load_weights(str(tmp_path))
    assert torch.allclose(again.codebook(), task.codebook(), atol=2e-3)


def test_dyed_pictures_have_their_channels_in_another_order():
    pictures = torch.rand(24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    rows = list(range(24))
    found = dyed(pictures, rows, KeyedNoise(0, 3), 0.6)
    assert torch.equal(found.sort(1).values, pictures.sort(1).values)
    changed = (found != pictures).flatten(1).any(1).sum()
    assert 5 < changed < 19  # three of five are drawn, a sixth of these stay
    assert torch.equal(found, dyed(pictures, rows, KeyedNoise(0, 3), 0.6))
    assert torch.equal(found[5:], dyed(pictures[5:], rows[5:], KeyedNoise(0, 3), 0.6))
    assert torch.equal(dyed(pictures, rows, KeyedNoise(0, 3), 0.0), pictures)


def test_a_floor_of_few_codes(task, tmp_path):
    plain, calm = tmp_path / "plain", tmp_path / "calm"
    task.export(plain)
    task.options["floor"] = 2
    try:
        task.export(calm)
    finally:
        task.options["floor"] = 0
    pictures = task.images.pictures(range(12))
    near = functional.max_pool2d((task.images.ids[:12] > 0).float()[:, None], 4)
    floor = functional.max_pool2d(near, 3, 1, 1)[:, 0] == 0
    used = []
    for folder in (plain, calm):
        tokens = PictureTokens(load_model(VQModel, folder).float())
        assert tokens.num_codes == 64 and tokens.codebook.isfinite().all()
        used.append(tokens.encode(pictures)[floor].unique(return_counts=True)[1])
    assert len(used[1]) < len(used[0]) and used[1].max() > used[0].max()

"""A tokeniser that starts from a VAE: what it decodes, how many codes it uses, and what is refused."""

import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from wm_pipelines.diorama.tokens_training import bare_places, centres, dyed
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


def test_dyed_solids_have_their_channels_in_another_order():
    rng = torch.Generator().manual_seed(0)
    pictures, solid = torch.rand(24, 3, 4, 4, generator=rng), torch.rand(24, 4, 4, generator=rng) < 0.5
    rows = list(range(24))
    found = dyed(pictures, solid, rows, KeyedNoise(0, 3), 0.6)
    assert torch.equal(found.sort(1).values, pictures.sort(1).values)
    assert torch.equal(found.movedim(1, -1)[~solid], pictures.movedim(1, -1)[~solid])  # the floor stays
    changed = (found != pictures).flatten(1).any(1).sum()
    assert 5 < changed < 19  # three of five are drawn, a sixth of these stay
    assert torch.equal(found, dyed(pictures, solid, rows, KeyedNoise(0, 3), 0.6))
    assert torch.equal(found[5:], dyed(pictures[5:], solid[5:], rows[5:], KeyedNoise(0, 3), 0.6))
    assert torch.equal(dyed(pictures, solid, rows, KeyedNoise(0, 3), 0.0), pictures)


def test_places_of_bare_floor_hold_neither_solid_nor_shadow():
    pictures, ids = torch.full((1, 3, 8, 12), 0.5), torch.zeros(1, 8, 12, dtype=torch.uint8)
    ids[0, 3, 3] = 1  # a solid in the colour of the floor
    pictures[0, :, 1, 5] = 0.4  # a shadow
    assert bare_places(pictures, ids, 4).tolist() == [[[False, False, True], [True, True, True]]]


def test_bare_floor_is_drawn_to_one_point(task):
    task.options["bare"] = 1.0
    try:
        parts = task.loss([0, 1, 2, 3], 0, KeyedNoise(0, 0))
    finally:
        task.options["bare"] = 0.0
    pictures, ids = task.images.pictures(range(4)), task.images.ids[:4]
    bare = task.tokens.features(pictures)[bare_places(pictures, ids, 4)]
    assert len(bare) > 500 and torch.allclose(parts["bare"], bare.var(0, correction=0).mean(), rtol=1e-4)


def test_a_floor_of_few_codes(task, tmp_path):
    plain, calm = tmp_path / "plain", tmp_path / "calm"
    task.export(plain)
    task.options["floor"] = 2
    try:
        task.export(calm)
    finally:
        task.options["floor"] = 0
    pictures = task.images.pictures(range(12))
    bare = bare_places(pictures, task.images.ids[:12], 4)
    used = []
    for folder in (plain, calm):
        tokens = PictureTokens(load_model(VQModel, folder).float())
        assert tokens.num_codes == 64 and tokens.codebook.isfinite().all()
        used.append(tokens.encode(pictures)[bare].bincount(minlength=64).sort(descending=True).values)
    assert used[1][:2].sum() > 0.95 * used[1].sum() and used[0][:2].sum() < used[1][:2].sum()

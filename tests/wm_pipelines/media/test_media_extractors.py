"""The extractors find what is in a picture, nothing where there is nothing, and refuse what needs a model."""

import numpy as np
import pytest
import torch

from wm_pipelines.media import conditions as kinds
from wm_pipelines.media import extractors

LINE_TYPES = ("canny", "softedge", "lines", "sketch")


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """(3, 64, 64): a red square on grey, rows and columns 16 to 47."""
    picture = torch.full((3, 64, 64), 0.45)
    picture[:, 16:48, 16:48] = torch.tensor([0.8, 0.1, 0.1]).view(3, 1, 1)
    return picture


def distance_to_outline() -> torch.Tensor:
    """(64, 64) distance to the square's outline, which lies between pixels 15|16 and 47|48."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    outside = torch.stack([15.5 - rows, rows - 47.5, 15.5 - columns, columns - 47.5])
    signed = outside.amax(0)
    corner = outside.reshape(2, 2, 64, 64).amax(1).clamp_min(0).norm(dim=0)
    return torch.where(signed > 0, corner, -signed)


@pytest.mark.parametrize("type", ["canny", "lines", "sketch"])
def test_edges_lie_on_the_outline_and_cover_it(photo, type):
    edges = kinds.extract(type, photo)
    assert edges.shape == (3, 64, 64) and edges.dtype == torch.float32
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    found = edges[0] > 0
    assert distance_to_outline()[found].max() <= 2
    near = torch.nn.functional.max_pool2d(edges[None, :1], 5, 1, 2)[0, 0] > 0
    assert near[distance_to_outline() < 1].float().mean() > 0.95
    # One pixel wide: about the square's perimeter, not twice that.
    assert 100 < found.sum() < 160


def test_softedge_is_highest_on_the_outline_and_soft_around_it(photo):
    edges = kinds.extract("softedge", photo)[0]
    distance = distance_to_outline()
    assert edges[distance < 1].min() > 0.5 and edges.max() == 1
    assert edges[distance > 16].max() < 0.1
    assert 0.1 < edges[32, 20] < edges[32, 18] < edges[32, 16]
    torch.testing.assert_close(edges, edges.T)


def test_equally_bright_colours_have_an_edge():
    picture = torch.zeros(3, 64, 64)
    picture[0, :, :32], picture[1, :, 32:] = 0.6, 0.6 * 0.299 / 0.587
    for type in LINE_TYPES:
        assert kinds.extract(type, picture)[0, 20:44, 28:36].amax(-1).mean() > 0.9, type


@pytest.mark.parametrize("type", LINE_TYPES)
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_flat_pictures_have_no_edge(type, noise):
    grain = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert kinds.extract(type, (0.5 + noise * grain).clamp(0, 1)).mean() < 0.01


@pytest.mark.parametrize("type", kinds.EXTRACTABLE)
def test_tiny_and_narrow_pictures(type):
    for size in ((1, 1), (1, 40), (3, 5)):
        assert kinds.extract(type, torch.rand(3, *size)).shape == (3, *size)


@pytest.mark.parametrize("type", kinds.EXTRACTABLE)
def test_batches_equal_singles(type, photo):
    batch = torch.stack([photo, photo.flip(2)])
    maps = kinds.extract(type, batch)
    assert maps.shape == (2, 3, 64, 64)
    assert torch.equal(maps[1], kinds.extract(type, batch[1]))
    bytes = (batch.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    assert torch.equal(maps, kinds.extract(type, bytes))


@pytest.mark.parametrize("type", kinds.EXTRACTABLE)
def test_same_picture_same_map(type):
    noise = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(1))
    assert torch.equal(kinds.extract(type, noise), kinds.extract(type, noise.clone()))


def test_canny_thresholds_act(photo):
    faint = 0.5 + 0.1 * (photo - 0.5)
    assert not kinds.extract("canny", faint).any()
    assert kinds.extract("canny", faint, low=5, high=15).any()


def test_sketch_polarity(photo):
    assert torch.equal(kinds.extract("sketch", photo, polarity="black"), 1 - kinds.extract("sketch", photo))


@pytest.mark.parametrize("method", ["kmeans", "meanshift", "watershed"])
def test_seg_separates_the_square_from_its_ground(photo, method):
    seg = kinds.extract("seg", photo, method=method, regions=4)
    inside, outside = seg[:, 20:44, 20:44].flatten(1), seg[:, :, :12].flatten(1)
    assert (inside == inside[:, :1]).all() and (outside == outside[:, :1]).all()
    assert not torch.equal(inside[:, 0], outside[:, 0])
    assert seg.flatten(1).unique(dim=1).shape[1] <= 4 and seg.any(0).all()


def test_seg_palette_seed_changes_colours_not_regions(photo):
    first, second = (kinds.extract("seg", photo, palette_seed=seed) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first[:, 30, 30, None, None] == first, second[:, 30, 30, None, None] == second)


def test_seg_numbers_regions_by_size(photo):
    ids = extractors.seg((photo.permute(1, 2, 0) * 255).to(torch.uint8).numpy(), regions=2)
    assert ids[0, 0] == 1 and ids[30, 30] == 2 and set(np.unique(ids)) == {1, 2}


def test_thinning_leaves_one_pixel_and_the_topology():
    ring = np.zeros((20, 20), bool)
    ring[3:17, 3:17] = True
    ring[8:12, 8:12] = False
    thinned = extractors.thin(ring)
    assert (thinned <= ring).all() and 20 < thinned.sum() < 60
    # No 2x2 block is left, and the hole still is one.
    assert not (thinned[1:, 1:] & thinned[1:, :-1] & thinned[:-1, 1:] & thinned[:-1, :-1]).any()
    filled = kinds.support("canny", torch.from_numpy(thinned).float().expand(3, 20, 20), fill=True)
    assert filled[0, 8:12, 8:12].all()


@pytest.mark.parametrize("type", ["depth", "pose"])
def test_types_that_need_a_model(type, photo):
    with pytest.raises(ValueError, match=f"^{type} needs a {type} map or a loaded estimator; this package downloads "):
        kinds.extract(type, photo)


def test_the_refusal_names_the_files():
    with pytest.raises(ValueError, match="Depth-Anything-V2-Small-hf .*model.safetensors"):
        kinds.extract("depth", torch.zeros(3, 8, 8))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"predicted_depth": x[None]}, lambda x: x.numpy()])
def test_depth_through_the_users_estimator(photo, wrap):
    nearness = torch.linspace(3, 7, 64).expand(64, 64).contiguous()
    seen = []

    def estimator(picture):
        seen.append(picture.size)
        return wrap(nearness)

    depth = kinds.extract("depth", photo, estimator=estimator)
    assert seen == [(64, 64)] and depth[0, 0, 0] == 0 and depth[0, 0, -1] == 1
    torch.testing.assert_close(depth[1], (nearness - 3) / 4)


def test_depth_estimator_returning_nan(photo):
    with pytest.raises(ValueError, match="finite"):
        kinds.extract("depth", photo, estimator=lambda picture: torch.full((4, 4), float("nan")))


def test_pose_through_the_users_estimator(photo):
    person = np.zeros((1, 18, 3), np.float32)
    person[0, 1], person[0, 8] = (10, 10, 1), (10, 40, 0.9)
    person[0, 11] = (60, 60, 0.1)
    drawn = kinds.extract("pose", photo, estimator=lambda picture: person)
    assert drawn[:, 10:41, 10].any(0).all() and not drawn[:, :, 30:].any()


def test_keypoints_of_another_shape(photo):
    with pytest.raises(ValueError, match=r"\(1, 17, 3\)"):
        kinds.extract("pose", photo, estimator=lambda picture: np.zeros((1, 17, 3)))


def test_unknown_option(photo):
    with pytest.raises(ValueError, match="unknown option 'lo' for canny; known: low, high"):
        kinds.extract("canny", photo, lo=1)


@pytest.mark.parametrize(
    ("type", "options"),
    [
        ("canny", {"low": 300}),
        ("softedge", {"sigmas": ()}),
        ("softedge", {"quantile": 0.0}),
        ("lines", {"min_length": 2}),
        ("sketch", {"polarity": "grey"}),
        ("sketch", {"sigma": 0}),
        ("seg", {"regions": 13}),
        ("seg", {"method": "snakes"}),
    ],
)
def test_option_out_of_range(photo, type, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kinds.extract(type, photo, **options)


def test_photo_outside_0_to_1():
    with pytest.raises(ValueError, match=r"-1 to -1; they must lie in \[0, 1\]"):
        kinds.extract("canny", torch.full((2, 3, 8, 8), -1.0))


def test_batch_with_four_channels():
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        kinds.extract("canny", torch.zeros(2, 4, 8, 8))

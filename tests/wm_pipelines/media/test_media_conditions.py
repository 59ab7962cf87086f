"""Condition kinds: names, polarity, depth and segmentation maps, what a map controls."""

import numpy as np
import pytest
import torch

from wm_pipelines.media import conditions as kinds


@pytest.mark.parametrize(
    ("given", "name"),
    [("canny", "canny"), ("HED", "softedge"), (" mlsd ", "lines"), ("openpose", "pose"), ("midas", "depth")],
)
def test_names_and_aliases(given, name):
    assert kinds.canonical_type(given) == name


def test_slot_order_is_uni_controlnets():
    assert kinds.TYPES == ("canny", "lines", "softedge", "sketch", "pose", "depth", "seg")
    assert set(kinds.ALIASES.values()) < set(kinds.TYPES)


def test_unknown_type():
    with pytest.raises(ValueError, match="unknown condition type 'hedge'; known: canny, lines, .*mean 'hed'"):
        kinds.canonical_type("hedge")


def test_depth_is_inverse_and_spans_0_to_1():
    z = torch.tensor([[1.0, 2.0], [4.0, torch.inf]])
    expected = torch.tensor([[1.0, (0.5 - 0.25) / 0.75], [0.0, 0.0]])
    torch.testing.assert_close(kinds.depth_to_map(z), expected.expand(3, 2, 2))


@pytest.mark.parametrize("hole", [0.0, -1.0, float("nan"), float("inf"), float("-inf")])
def test_depth_without_a_measurement_is_0_and_does_not_scale(hole):
    z = torch.tensor([[1.0, 2.0, 4.0, hole]])
    torch.testing.assert_close(kinds.depth_to_map(z)[0, 0, :3], kinds.depth_to_map(z[:, :3])[0, 0])
    assert kinds.depth_to_map(z)[0, 0, 3] == 0


@pytest.mark.parametrize("z", [torch.full((4, 4), 3.3), torch.full((4, 4), torch.inf), 3 + 1e-7 * torch.rand(4, 4)])
def test_constant_or_unknown_depth_is_0(z):
    assert not kinds.depth_to_map(z).any()


def test_depth_batch_is_per_picture():
    z = 1 + torch.rand(2, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    maps = kinds.depth_to_map(z)
    assert maps.shape == (2, 5, 3, 4, 6)
    assert torch.equal(maps[1, 3], kinds.depth_to_map(z[1, 3]))


def test_depth_of_integers():
    with pytest.raises(ValueError, match="float array"):
        kinds.depth_to_map(torch.ones(4, 4, dtype=torch.int64))


def test_seg_colours_ids_and_keeps_0_black():
    ids = torch.arange(13).reshape(1, 13)
    colours = kinds.seg_from_ids(ids, 3)[:, 0].T
    assert not colours[0].any()
    assert len({tuple(colour.tolist()) for colour in colours}) == 13
    assert {tuple(c) for c in colours[1:].numpy().tolist()} == {tuple(c) for c in kinds.PALETTE.tolist()}


def test_seg_palette_depends_on_the_seed_alone():
    ids = torch.ones(2, 2, dtype=torch.int64)
    first = {tuple(kinds.seg_from_ids(ids, seed)[:, 0, 0].tolist()) for seed in range(60)}
    # Were the palette not permuted, id 1 would have one colour; twelve are to be had.
    assert len(first) >= 8
    assert torch.equal(kinds.seg_from_ids(ids, ("a", 1)), kinds.seg_from_ids(ids, ("a", 1)))


def test_seg_batch_equals_singles():
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 13, (3, 5, 4)))
    maps = kinds.seg_from_ids(ids, [7, 8, 7])
    for row, seed, one in zip(ids, [7, 8, 7], maps, strict=True):
        assert torch.equal(one, kinds.seg_from_ids(row, seed))


def test_seg_with_too_many_ids():
    with pytest.raises(ValueError, match="ids run from 0 to 13"):
        kinds.seg_from_ids(torch.tensor([[0, 13]]))


def test_seg_of_floats():
    with pytest.raises(ValueError, match="integers"):
        kinds.seg_from_ids(torch.zeros(2, 2))


def test_seg_with_a_key_too_few():
    with pytest.raises(ValueError, match="1 keys for 2 pictures"):
        kinds.seg_from_ids(torch.zeros(2, 2, 2, dtype=torch.int64), [0])


def square(value: float, background: float) -> torch.Tensor:
    """(3, 9, 9): the outline of a square from 2 to 6."""
    picture = torch.full((3, 9, 9), background)
    picture[:, 2:7, 2:7] = value
    picture[:, 3:6, 3:6] = background
    return picture


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_support_is_what_differs_from_the_background(background):
    controlled = kinds.support("sketch", square(1 - background, background), background)
    assert controlled.shape == (1, 9, 9) and controlled.dtype == torch.bool and controlled.sum() == 16


def test_support_filled_holds_the_inside_of_outlines():
    controlled = kinds.support("canny", square(1, 0).expand(2, 3, 9, 9), fill=True)
    assert controlled.shape == (2, 1, 9, 9) and controlled.sum() == 50
    assert controlled[0, 0, 2:7, 2:7].all()


def test_support_ignores_compression_noise():
    assert not kinds.support("canny", torch.full((3, 4, 4), 0.06)).any()


def test_support_of_dense_maps():
    assert kinds.support("seg", torch.full((3, 4, 4), 0.5)).all()
    depth = torch.zeros(3, 1, 3)
    depth[..., 1], depth[..., 2] = 0.01, 1.0
    assert kinds.support("depth", depth).flatten().tolist() == [False, True, True]


def test_support_of_another_shape():
    with pytest.raises(ValueError, match=r"\(1, 4, 4\)"):
        kinds.support("canny", torch.zeros(1, 4, 4))


@pytest.mark.parametrize("type", sorted(kinds.SPARSE))
def test_inverted_maps_are_noticed(type):
    assert "looks inverted" in kinds.polarity_warning(type, 1 - square(1, 0))
    assert kinds.polarity_warning(type, square(1, 0)) is None


def test_black_on_white_sketch_is_right_for_uni_controlnet():
    background = kinds.UNI_CONTROLNET_BACKGROUND["sketch"]
    assert kinds.polarity_warning("sketch", square(0, 1), background) is None
    assert "drawn black on white" in kinds.polarity_warning("sketch", square(1, 0), background)


def test_dense_maps_may_be_bright():
    assert kinds.polarity_warning("depth", torch.ones(3, 4, 4)) is None


def test_box_mask_covers_the_box():
    mask = kinds.box_mask((0.25, 0.5, 0.75, 1), 8, 4)
    assert mask.shape == (1, 8, 4) and mask.sum() == 8 and mask[0, 4:, 1:3].all()


def test_box_thinner_than_a_pixel_keeps_one():
    assert kinds.box_mask((0.99, 0.99, 1, 1), 8, 8).sum() == 1


@pytest.mark.parametrize("box", [(0, 0, 0, 1), (0.5, 0, 0.2, 1), (0, 0, 1, 1.5), (0, 0, 1), ("a", 0, 1, 1)])
def test_bad_box(box):
    with pytest.raises(ValueError, match="box"):
        kinds.box_mask(box, 8, 8)

"""Drawings over pictures land where they should."""

import numpy as np
import pytest
import torch

from wm_pipelines.media import drawing as overlays


def test_box_is_outlined_at_its_pixels():
    drawn = np.asarray(overlays.draw_boxes(torch.zeros(3, 8, 8), [(0.25, 0.5, 1, 1)])).max(-1)
    expected = np.zeros((8, 8), bool)
    expected[4:, 2:] = True
    expected[5:7, 3:7] = False
    assert ((drawn > 0) == expected).all()


def test_box_labels_must_match():
    with pytest.raises(ValueError, match="2 entries for 1 boxes"):
        overlays.draw_boxes(torch.zeros(3, 8, 8), [(0, 0, 1, 1)], labels=["a", "b"])


def test_heat_is_red_at_its_maximum_and_blue_at_zero():
    heat = torch.zeros(8, 8)
    heat[0, 0] = 0.01
    drawn = np.asarray(overlays.draw_heat(torch.zeros(3, 8, 8), heat, opacity=1.0)).astype(int)
    assert drawn[0, 0, 0] > drawn[0, 0, 2] and drawn[7, 7, 2] > drawn[7, 7, 0]


def test_heat_with_nan():
    with pytest.raises(ValueError, match="finite"):
        overlays.draw_heat(torch.zeros(3, 8, 8), torch.full((2, 2), float("nan")))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_tint_goes_from_the_picture_to_the_colour(share):
    picture, colour = torch.rand(3, 4, 5), (1.0, 0.5, 0.0)
    cover = torch.zeros(1, 4, 5)
    cover[0, 1, 2] = share
    drawn = overlays.tint(picture, cover, colour)
    there = picture[:, 1, 2] + share * (torch.tensor(colour) - picture[:, 1, 2])
    assert torch.allclose(drawn[:, 1, 2], there, atol=1e-6)
    drawn[:, 1, 2] = picture[:, 1, 2]
    assert torch.equal(drawn, picture)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_map_is_spread_as_shares_of_its_maximum(mode):
    heat = torch.tensor([[0.0, 0.02], [0.01, 0.0]])
    share = overlays.spread(heat, (8, 8), mode)
    assert share.shape == (1, 8, 8) and share.max() == 1 and share.min() == 0
    assert torch.allclose(share[0, 7, 0], torch.tensor(0.5)) and torch.equal(
        share, overlays.spread(heat * 8, (8, 8), mode)
    )
    assert torch.equal(overlays.spread(torch.zeros(2, 2), (8, 8), mode), torch.zeros(1, 8, 8))


@pytest.mark.parametrize("heat", [-torch.ones(2, 2), torch.ones(1, 2, 2), torch.full((2, 2), float("inf"))])
def test_a_map_that_is_none_is_refused(heat):
    with pytest.raises(ValueError, match="finite and not negative"):
        overlays.spread(heat, (8, 8))

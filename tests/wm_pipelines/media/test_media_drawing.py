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

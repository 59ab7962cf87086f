import pytest
import torch

from wm_pipelines.flexecontrol.overlay import COLOUR, attention_overlay, attention_overlays


def test_attended_cells_glow_and_the_rest_is_dimmed_grey():
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    attention = torch.zeros(2, 2)
    attention[0, 0] = 0.03
    overlay = attention_overlay(picture, attention)
    assert overlay.shape == (3, 8, 8) and overlay.dtype == torch.float32
    # Corners lie beyond the outermost cell centres, where bilinear enlargement holds the cell's own value.
    assert torch.allclose(overlay[:, 0, 0], (picture[:, 0, 0] + torch.tensor(COLOUR)) / 2)
    assert torch.allclose(overlay[:, 7, 7], picture[:, 7, 7].mean().expand(3) / 2)
    assert 0 <= overlay.min() and overlay.max() <= 1


def test_scale_of_the_attention_does_not_matter():
    picture, attention = torch.rand(3, 8, 8), torch.rand(4, 4)
    assert torch.allclose(attention_overlay(picture, attention), attention_overlay(picture, attention * 7), atol=1e-6)


def test_overlays_follow_pictures_and_phrases_in_order():
    pictures = torch.rand(2, 3, 8, 8)
    maps = [{"red cube": torch.rand(2, 2), "blue cube": torch.rand(2, 2)}, {"red cube": torch.rand(2, 2)}]
    overlays, labels = attention_overlays(pictures, maps)
    assert labels == ["picture 1: red cube", "picture 1: blue cube", "picture 2: red cube"]
    assert torch.equal(overlays[1], attention_overlay(pictures[0], maps[0]["blue cube"]))
    assert torch.equal(overlays[2], attention_overlay(pictures[1], maps[1]["red cube"]))


@pytest.mark.parametrize("maps", [None, [{}, {}]])
def test_without_phrases_the_pictures_come_back(maps):
    pictures = torch.rand(2, 3, 8, 8)
    overlays, labels = attention_overlays(pictures, maps)
    assert torch.equal(overlays, pictures) and labels == ["no phrase"] * 2


@pytest.mark.parametrize(
    ("picture", "attention"),
    [
        (torch.rand(1, 8, 8), torch.rand(2, 2)),
        (torch.rand(3, 8, 8), torch.rand(1, 2, 2)),
        (torch.rand(3, 8, 8), -torch.ones(2, 2)),
        (torch.rand(3, 8, 8), torch.full((2, 2), float("nan"))),
    ],
)
def test_bad_input_is_refused(picture, attention):
    with pytest.raises(ValueError, match="must be"):
        attention_overlay(picture, attention)

"""A folder of one's own pictures: masks are numbers of objects, however they were saved, or are refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from wm_pipelines.flexecontrol.training.folder import FolderSource

IDS = np.zeros((8, 8), np.uint8)
IDS[2:5, 2:5] = 1
IDS[6, 6:] = 2
CAPTION = "a red cube\u2028and a ball"
COLOURS = [0, 0, 0, 128, 0, 0, 0, 128, 0]


@pytest.fixture
def folder(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "anno.txt").write_bytes(f"\ufeffa\t{CAPTION}\n\n".encode())
    (tmp_path / "spans.json").write_bytes(b'\xef\xbb\xbf{"a": [[0, 10], [15, 21]]}\n')
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.tif")
    return tmp_path


def indexed():
    image = Image.frombytes("P", (8, 8), IDS.tobytes())
    image.putpalette(COLOURS)
    return image


GREY = Image.fromarray(IDS)


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (indexed(), "png"),
        (GREY, "png"),
        (GREY, "TIFF"),
        (Image.fromarray(IDS.astype(np.uint16)), "png"),
        (Image.merge("RGB", [GREY] * 3), "png"),
        (Image.merge("RGBA", [GREY] * 3 + [Image.new("L", (8, 8), 255)]), "png"),
        (GREY, "bmp"),
    ],
)
def test_masks_are_the_numbers_of_objects(folder, image, suffix):
    image.save(folder / "masks" / f"a.{suffix}")
    source = FolderSource(folder, (8, 8), [])
    assert source.captions == (CAPTION,) and source.pictures([0]).shape == (1, 3, 8, 8)
    masks = source.masks([0])
    assert masks.shape == (1, 2, 8, 8) and torch.equal(
        masks[0], torch.from_numpy(np.stack([IDS == 1, IDS == 2])).float()
    )


@pytest.mark.parametrize(
    ("image", "name", "message"),
    [
        (GREY, "a.jpg", "masks/a.jpg.*JPEG does not keep the numbers"),
        (indexed().convert("RGB"), "a.png", "masks/a.png.*which number each stands for can't be known"),
        (indexed().convert("RGBA"), "a.png", "masks/a.png.*which number each stands for can't be known"),
        (GREY.resize((16, 16), 0), "a.png", "masks/a.png' is 16x16; height and width must be 8x8"),
        (GREY.point(lambda v: 255 * (v > 0)), "a.png", r"value 1 of the span \(0, 10\), though some have 255"),
        (GREY.point(lambda v: 3 * (v == 2) + (v == 1)), "a.png", "value 2 of the span .15, 21., though some have 3"),
    ],
)
def test_masks_that_can_not_be_known_are_refused_before_training(folder, image, name, message):
    image.save(folder / "masks" / name)
    with pytest.raises(ValueError, match=message):
        FolderSource(folder, (8, 8), [])


def test_objects_without_a_phrase_and_phrases_without_a_pixel_are_let_be(folder):
    GREY.point(lambda v: v or 255).save(folder / "masks" / "a.png")
    assert FolderSource(folder, (8, 8), []).masks([0]).sum((2, 3)).tolist() == [[9, 2]]
    GREY.point(lambda v: v == 1).save(folder / "masks" / "a.png")  # the ball is hidden
    assert FolderSource(folder, (8, 8), []).masks([0]).sum((2, 3)).tolist() == [[9, 0]]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"a": [[0, 9.5]]}, r"a span of 'a' must be two integers, got \[0, 9.5\]"),
        ({"a": [[0]]}, "must be two integers"),
        ({"a": 5}, "must be two integers, got 5"),
        ([[0, 1]], "spans.json must be an object"),
        ({"a": [[0, 99]]}, "is no span of the caption of 'a'"),
        ('{"a": [[0, 1]], "a": []}', "spans.json: the name 'a' is there twice"),
        ("{", "spans.json: Expecting"),
    ],
)
def test_spans_that_are_none(folder, spans, message):
    GREY.save(folder / "masks" / "a.png")
    (folder / "spans.json").write_text(spans if isinstance(spans, str) else json.dumps(spans))
    with pytest.raises(ValueError, match=message):
        FolderSource(folder, (8, 8), [])


def test_spans_of_an_id_with_two_captions_are_refused(folder):
    GREY.save(folder / "masks" / "a.png")
    (folder / "anno.txt").write_text("a\ta red cube and a ball\na\ttwo things\n")
    with pytest.raises(ValueError, match="spans of 'a', which has several captions"):
        FolderSource(folder, (8, 8), [])


def test_two_pictures_of_one_id_are_refused(folder):
    GREY.save(folder / "masks" / "a.png")
    Image.new("RGB", (8, 8)).save(folder / "images" / "a.png")
    with pytest.raises(ValueError, match="images has a.png and a.tif; keep one"):
        FolderSource(folder, (8, 8), [])

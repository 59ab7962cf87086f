"""Sub-images: the rectangles that Pillow draws, their union on black, and how a picture becomes square."""

import pytest
import torch
from PIL import Image, ImageDraw

from wm_pipelines.comclip.subimages import fit_square, mask_of, subimage


@pytest.mark.parametrize("box", [(3, 4, 9, 11), (3.7, 4.2, 9.9, 11.6), (0, 0, 0, 0), (0, 0, 20, 16)])
def test_rectangles_are_those_that_pillow_draws(box):
    drawn = Image.new("L", (20, 16))
    ImageDraw.Draw(drawn).rectangle([box[:2], box[2:]], fill=255)
    wanted = torch.tensor([pixel > 0 for pixel in drawn.tobytes()]).reshape(16, 20)
    assert torch.equal(mask_of([box], (16, 20)), wanted)


def test_a_sub_image_is_the_union_on_black(picture):
    image = picture(0, 16, 20)
    both = subimage(image, [(1, 1, 4, 4), (10, 2, 12, 15)])
    mask = mask_of([(1, 1, 4, 4)], (16, 20)) | mask_of([(10, 2, 12, 15)], (16, 20))
    assert torch.equal(both[:, mask], image[:, mask]) and not both[:, ~mask].any()
    assert subimage(image, None) is image and not subimage(image, ()).any()


def test_fitting_loses_nothing_unless_asked(picture):
    image = picture(0, 10, 16)
    padded = fit_square(image, "pad")
    assert padded.shape == (3, 16, 16) and torch.equal(padded[:, 3:13], image) and not padded[:, :3].any()
    assert fit_square(image, "stretch") is image
    assert torch.equal(fit_square(image, "crop"), image[:, :, 3:13])
    assert fit_square(image.mT, "pad").shape == (3, 16, 16)

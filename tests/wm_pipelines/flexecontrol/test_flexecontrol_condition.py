"""A condition is checked when it is stated and again at the output's size; each mistake has its own message."""

import warnings

import numpy as np
import pytest
import torch

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.conditions.preparing import prepare
from wm_pipelines.media.conditions import BACKGROUND, UNI_CONTROLNET_BACKGROUND, extract
from wm_pipelines.media.pictures import save_image


@pytest.fixture
def edges() -> torch.Tensor:
    """(3, 64, 64): the outline of the square from 16 to 47."""
    picture = torch.zeros(3, 64, 64)
    picture[:, 16:48, 16:48] = 1
    picture[:, 17:47, 17:47] = 0
    return picture


@pytest.fixture
def photo() -> torch.Tensor:
    """(3, 40, 80): a bright square on grey."""
    picture = torch.full((3, 40, 80), 0.3)
    picture[:, 10:30, 30:50] = 0.9
    return picture


def one(condition: Condition, height: int = 64, width: int = 64, **options):
    (prepared,) = prepare([condition], height, width, 16, **options)
    return prepared


def test_a_map_of_the_right_size_is_taken_as_it_is(edges):
    prepared = one(Condition("CANNY", edges, strength=0.5, phrase="red cube", span=[3, 11], start=0.1, end=0.9))
    assert torch.equal(prepared.image, edges) and prepared.region is None
    assert (prepared.type, prepared.strength, prepared.phrase, prepared.span) == ("canny", 0.5, "red cube", (3, 11))
    assert (prepared.start, prepared.end, prepared.index, prepared.source) == (0.1, 0.9, 0, "map")


@pytest.mark.parametrize("fit", ["error", "crop", "pad", "stretch"])
def test_every_fit_leaves_the_right_size_alone(edges, fit):
    assert torch.equal(one(Condition("canny", edges, fit=fit)).image, edges)


def test_files_in_every_form(edges, tmp_path):
    path = save_image(edges, tmp_path / "edges.png")
    for source in (path, str(path), edges[:1], edges[0].numpy()):
        assert torch.equal(one(Condition("canny", source)).image, edges)


def test_transparency_is_no_control(tmp_path):
    from PIL import Image

    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[20, :] = 255
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    assert one(Condition("canny", tmp_path / "clear.png")).image.sum() == 3 * 64


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(500, 512), (333, 64), (64, 333), (31, 47), (640, 480)])
def test_one_pixel_lines_survive_resizing(fit, size):
    lines = torch.zeros(3, *size)
    lines[:, size[0] // 2], lines[:, :, size[1] // 2] = 1, 1
    image = one(Condition("canny", lines, fit=fit)).image
    assert image.shape == (3, 64, 64)
    # Both lines run through the whole picture; what `pad` adds is the same number of rows or columns on two sides.
    rows, columns = image[0].sum(1).max(), image[0].sum(0).max()
    full = [64, 64]
    if fit == "pad":
        scale = min(64 / size[0], 64 / size[1])
        full = [round(size[1] * scale), round(size[0] * scale)]
    assert [int(rows), int(columns)] == full


def test_black_on_white_lines_survive_resizing():
    paper = torch.ones(3, 300, 300)
    paper[:, 151] = 0
    image = one(Condition("sketch", paper, fit="stretch"), backgrounds=UNI_CONTROLNET_BACKGROUND).image
    assert (image == 0).any(1).all() and image.mean() > 0.9


def test_seg_resizing_makes_no_new_colour():
    ids = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0)).round()
    assert set(one(Condition("seg", ids, fit="stretch")).image.unique().tolist()) == {0.0, 1.0}


def test_crop_takes_the_middle():
    picture = torch.zeros(3, 64, 128)
    picture[:, :, 32:96] = torch.linspace(0, 1, 64)
    assert torch.equal(one(Condition("depth", picture, fit="crop")).image, picture[:, :, 32:96])


def test_pad_fills_with_the_background():
    image = one(Condition("sketch", torch.zeros(3, 64, 32), fit="pad"), backgrounds=UNI_CONTROLNET_BACKGROUND).image
    assert (image[:, :, :16] == 1).all() and (image[:, :, 48:] == 1).all() and (image[:, :, 16:48] == 0).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_region_moves_with_its_map(fit):
    seg = torch.zeros(3, 40, 80)
    seg[:, 10:30, 30:50] = 1
    prepared = one(Condition("seg", seg, region=seg[0], fit=fit))
    assert prepared.region.shape == (1, 64, 64) and prepared.region.dtype == torch.float32
    assert ((prepared.image[:1] > 0) <= (prepared.region > 0)).all()
    # Max-pooling may add a pixel on each side, not more.
    shrunk = -torch.nn.functional.max_pool2d(-prepared.region, 3, 1, 1)
    assert ((shrunk > 0) <= (prepared.image[:1] > 0)).all()


def test_region_of_the_outputs_size_is_taken_as_it_is(photo):
    region = torch.zeros(1, 64, 64)
    region[:, 3:9] = 1
    assert torch.equal(one(Condition.from_photo("canny", photo, fit="crop", region=region)).region, region)


def test_region_as_box(edges):
    region = one(Condition("canny", edges, region=(0, 0.5, 0.25, 1))).region
    assert region.sum() == 32 * 16 and region[0, 32:, :16].all()


def test_region_of_a_third_size(edges):
    with pytest.raises(ValueError, match="condition 'canny' #1: region is 5x7; it must have the size .* 64x64"):
        one(Condition("canny", edges, region=torch.ones(5, 7)))


def test_empty_region(edges):
    with pytest.raises(ValueError, match="condition 'canny' #1: region is empty"):
        one(Condition("canny", edges, region=torch.full((64, 64), 0.4)))


def test_region_emptied_by_cropping():
    region = torch.zeros(64, 200)
    region[:, :20] = 1
    with pytest.raises(ValueError, match="region is empty"):
        one(Condition("canny", torch.ones(3, 64, 200), region=region, fit="crop"))


def test_region_with_nan(edges):
    with pytest.raises(ValueError, match="condition 'canny' #1: region: the picture holds NaN"):
        one(Condition("canny", edges, region=torch.full((64, 64), float("nan"))))


def test_area_is_the_region_or_what_the_outline_encloses(edges):
    assert one(Condition("canny", edges)).area.sum() == 32 * 32
    assert one(Condition("canny", edges, region=(0, 0, 0.5, 0.5))).area.sum() == 32 * 32
    assert not one(Condition("canny", edges, region=(0, 0, 0.5, 0.5))).area[0, 40, 40]


def test_a_photo_is_fitted_before_extraction(photo):
    prepared = one(Condition.from_photo("canny", photo, fit="crop"))
    edges = prepared.image[0] > 0
    # The square of 20 px becomes one of 32 px in the middle; thin edges, not a map of the small photo blown up.
    rows, columns = edges.nonzero().unbind(1)
    assert prepared.source == "photo"
    for places in (rows, columns):
        assert 14 <= places.min() <= 17 and 46 <= places.max() <= 49
    assert edges.sum() < 2 * 4 * 32


def test_a_padded_photo_has_no_edge_at_its_border(photo):
    edges = one(Condition.from_photo("canny", photo, fit="pad")).image
    assert edges.any() and not edges[:, :18].any() and not edges[:, 46:].any()


def test_a_photo_for_uni_controlnet_is_sketched_black_on_white(photo):
    conditions = [Condition.from_photo("sketch", photo, fit="crop")]
    (ours,) = prepare(conditions, 64, 64, 16)
    (theirs,) = prepare(conditions, 64, 64, 16, UNI_CONTROLNET_BACKGROUND)
    assert torch.equal(theirs.image, 1 - ours.image) and torch.equal(theirs.area, ours.area)


def test_extractor_options_pass(photo):
    fitted = Condition.from_photo("canny", photo, fit="crop", options={"low": 600, "high": 1000})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not one(fitted).image.any()


def test_several_conditions_keep_their_order(edges):
    prepared = prepare([Condition("depth", edges), Condition("canny", edges), Condition("canny", edges)], 64, 64, 16)
    assert [(p.type, p.index) for p in prepared] == [("depth", 0), ("canny", 1), ("canny", 2)]


def test_other_size():
    message = (
        "condition 'canny' #2 is 500x512; height and width must be multiples of 64 and equal to the output 512x512"
    )
    good, bad = torch.zeros(3, 512, 512), torch.zeros(3, 500, 512)
    good[:, 9] = bad[:, 9] = 1
    with pytest.raises(ValueError) as error:
        prepare([Condition("depth", good), Condition("canny", bad)], 512, 512, 64)
    assert str(error.value).startswith(message)


def test_output_size_off_the_grid(edges):
    with pytest.raises(ValueError, match="output is 64x72; height and width must be multiples of 16"):
        one(Condition("canny", edges), 64, 72)


def test_inverted_map(edges):
    with pytest.warns(UserWarning, match="condition 'canny' #1: the map looks inverted"):
        one(Condition("canny", 1 - edges))


def test_empty_map(edges):
    with pytest.warns(UserWarning, match="condition 'canny' #1: the map is empty"):
        one(Condition("canny", 0 * edges))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_map_that_is_not_finite(edges, value):
    edges[0, 3, 3] = value
    with pytest.raises(ValueError, match="condition 'canny' #1: the picture holds NaN or infinity at 1 values"):
        one(Condition("canny", edges))


def test_map_in_minus_1_to_1(edges):
    with pytest.raises(ValueError, match=r"condition 'canny' #1: picture values run from -1 to 1; .* \[0, 1\]"):
        one(Condition("canny", 2 * edges - 1))


def test_wrong_channel_count():
    with pytest.raises(ValueError, match=r"condition 'canny' #1: picture tensor has shape \(2, 64, 64\)"):
        one(Condition("canny", torch.zeros(2, 64, 64)))


def test_missing_file():
    with pytest.raises(ValueError, match="image of condition 'canny': there is no file 'none.png'"):
        Condition("canny", "none.png")


def test_missing_region_file(edges):
    with pytest.raises(ValueError, match="region of condition 'canny': there is no file 'none.png'"):
        Condition("canny", edges, region="none.png")


def test_corrupt_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(ValueError, match="condition 'canny' #1: .*a.png"):
        one(Condition("canny", tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "hedge"}, "unknown condition type 'hedge'"),
        ({"strength": -0.1}, r"strength=-0.1; it must lie in \[0, 2\]"),
        ({"strength": 2.1}, r"strength=2.1; it must lie in \[0, 2\]"),
        ({"strength": float("nan")}, "strength must be a finite number"),
        ({"strength": "1"}, "strength must be a finite number, got '1'"),
        ({"start": 0.5, "end": 0.5}, "start=0.5, end=0.5; they must satisfy 0 <= start < end <= 1"),
        ({"end": 1.5}, "start=0.0, end=1.5"),
        ({"start": -0.5}, "start=-0.5, end=1.0"),
        ({"fit": "zoom"}, "fit='zoom'; choose from error, crop, pad, stretch"),
        ({"source": "web"}, "source='web'; choose from map, photo, graph"),
        ({"phrase": "  "}, "phrase must be words"),
        ({"span": (4, 4)}, r"span=\(4, 4\)"),
        ({"span": "all"}, "span must be two character positions"),
        ({"region": (0.5, 0, 0.2, 1)}, "region: box .* 0 <= x0 < x1 <= 1"),
        ({"source": "photo", "options": {"lo": 1}}, "unknown option 'lo' for canny"),
        ({"type": "depth", "source": "photo"}, "^depth needs a depth map or a loaded estimator; this package"),
        ({"type": "openpose", "source": "photo"}, "^pose needs a pose map or a loaded estimator; this package"),
    ],
)
def test_bad_field(edges, fields, message):
    with pytest.raises(ValueError, match=message):
        Condition(**{"type": "canny", "image": edges, **fields})


def test_something_else_than_a_condition(edges):
    with pytest.raises(ValueError, match=r"conditions\[0\] is a dict"):
        prepare([{"type": "canny", "image": edges}], 64, 64, 16)


def test_a_condition_cannot_be_changed(edges):
    with pytest.raises(AttributeError):
        Condition("canny", edges).strength = 2.0


def test_background_of_our_own_maps_is_black(edges):
    assert set(BACKGROUND.values()) == {0.0} and one(Condition("sketch", edges)).background == 0


def test_depth_estimator_through_a_condition(photo):
    ramp = torch.linspace(0, 1, 64).expand(64, 64)
    prepared = one(Condition.from_photo("depth", photo, fit="crop", options={"estimator": lambda picture: ramp}))
    torch.testing.assert_close(prepared.image[0], ramp)


def test_extracting_equals_the_plain_extractor(edges):
    assert torch.equal(one(Condition.from_photo("softedge", edges)).image, extract("softedge", edges))


def test_stand_ins_for_a_model_are_named_to_imported_weights(photo):
    fitted = Condition.from_photo("softedge", photo, fit="pad")
    with pytest.warns(UserWarning, match="condition 'softedge' #1: these weights were trained on HED maps, not ours"):
        one(fitted, backgrounds=UNI_CONTROLNET_BACKGROUND)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one(fitted)
        one(Condition.from_photo("canny", photo, fit="pad"), backgrounds=UNI_CONTROLNET_BACKGROUND)

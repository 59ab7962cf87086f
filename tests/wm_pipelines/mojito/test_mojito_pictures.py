"""A first picture that is animated: the stock pipeline without objects, guidance and the two clocks with them."""

import pytest
import torch
from diffusers.utils import is_ftfy_available
from PIL import Image

from wm_pipelines.mojito.bases.latents import LatentForm
from wm_pipelines.mojito.guidance.dual_clock import dragged, moving_region
from wm_pipelines.mojito.trajectories import MotionObject

WAN = pytest.mark.skipif(not is_ftfy_available(), reason="diffusers' WanImageToVideoPipeline needs ftfy")
FAMILIES = (
    pytest.param("wan, picture", marks=WAN),
    pytest.param("wan, picture seen", marks=WAN),
    pytest.param("wan, picture held", marks=WAN),
    "ltx",
    "cogvideox, picture",
)
PROMPT = "a red cube moving right"
GUIDED = {"guidance_fraction": 0.5, "guidance_iterations": 2, "allow_joint": True}
CUBE = MotionObject("red cube", boxes=[(0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75)], keyframes=(0, 8))


@pytest.fixture(scope="module")
def picture():
    pixels = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(3))
    return Image.fromarray((pixels * 255).byte().numpy())


def run(pipe, size, picture, objects=None, **more):
    given = {"num_inference_steps": 4, "output_type": "latent", **size, **more}
    return pipe(PROMPT, objects, image=picture, generator=torch.Generator().manual_seed(1), **given)


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_moves_what_is_sampled_and_nothing_else(bases, picture, family):
    pipe, size = bases(family)
    stock = pipe.stock(animate=True)(
        image=picture, prompt=PROMPT, num_inference_steps=4, output_type="latent",
        generator=torch.Generator().manual_seed(1), **size,
    ).frames  # fmt: skip
    assert torch.equal(run(pipe, size, picture).frames, stock)
    measured = run(pipe, size, picture, [CUBE], **{**GUIDED, "guidance_iterations": 0})
    assert torch.equal(measured.frames, stock)
    out = run(pipe, size, picture, [CUBE], **GUIDED)
    (report,) = out.report
    assert report.iterations == 4 and not torch.equal(out.frames, stock)
    assert all(later < earlier for row in report.energy for earlier, later in zip(row, row[1:], strict=False))
    if family in ("ltx", "wan, picture held"):  # the picture's own frame
        form = LatentForm(-1 if family == "ltx" else 1, out.plan[0].grid.frames and shape_of(pipe, out))
        assert torch.equal(form.plain(out.frames)[:, :, 0], form.plain(stock)[:, :, 0])


def shape_of(pipe, out):
    """f, h, w of the latents of a clip of 64 x 64."""
    grid, patch = out.plan[0].grid, pipe.transformer.config.patch_size
    side = patch if isinstance(patch, int) else patch[1]
    return grid.frames, grid.rows * side, grid.columns * side


@WAN
def test_a_layer_that_sees_a_picture_gives_what_its_own_processor_gives(bases, picture):
    """With a bias of almost nothing ours stands in for the layer in every step."""
    pipe, size = bases("wan, picture seen")
    plain = run(pipe, size, picture).frames
    settings = {"guidance_iterations": 0, "bias_in": 1e-7, "bias_out": 0.0, "bias_fraction": 1.0}
    torch.testing.assert_close(run(pipe, size, picture, [CUBE], **settings).frames, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", [FAMILIES[0], *FAMILIES[3:]])
def test_two_clocks_put_the_reference_where_the_boxes_are(bases, picture, family):
    pipe, size = bases(family)
    options = {**size, "objects": [CUBE], "guidance_iterations": 0, "allow_joint": True, "picture": picture}
    plain = run(pipe, **{"size": {}, **options}).frames
    off = run(pipe, **{"size": {}, **options}, dual_clock=(0.0, 0.0)).frames
    assert torch.equal(off, plain)
    some = run(pipe, **{"size": {}, **options}, dual_clock=(0.25, 0.5))
    assert not torch.equal(some.frames, plain) and some.frames.isfinite().all()
    # a strong clock to the very end leaves the reference itself inside, a weak one everywhere
    whole = run(pipe, **{"size": {}, **options}, dual_clock=(1.0, 1.0))
    inside = run(pipe, **{"size": {}, **options}, dual_clock=(0.0, 1.0))
    form = LatentForm({"ltx": -1, "cogvideox, picture": 2}.get(family, 1), shape_of(pipe, some))
    mask = moving_region(some.plan[0].latent_boxes, form.shape[1:])[None].expand_as(form.plain(plain)).clone()
    mask[:, :, 0] &= family != "ltx"  # its first frame is the picture's
    assert mask.any() and not mask.all()
    assert torch.equal(form.plain(inside.frames)[mask], form.plain(whole.frames)[mask])
    assert not torch.equal(form.plain(inside.frames)[~mask], form.plain(whole.frames)[~mask])


@WAN
def test_a_reference_of_ones_own_is_taken(bases, picture):
    pipe, size = bases("wan, picture")
    options = {"objects": [CUBE], "guidance_iterations": 0, "dual_clock": (1.0, 1.0)}
    pixels = torch.tensor([list(p) for p in picture.get_flattened_data()] if hasattr(picture, "get_flattened_data")
                          else list(picture.getdata())).view(64, 64, 3).permute(2, 0, 1) / 255  # fmt: skip
    boxes = CUBE.frame_boxes(9)[None]
    own = dragged(pixels, boxes)
    out = run(pipe, size, picture, **options)
    again = run(pipe, size, picture, reference=own, **options)
    torch.testing.assert_close(out.frames, again.frames, rtol=1e-4, atol=1e-4)


def test_a_crude_animation_drags_what_the_first_box_holds():
    picture = torch.zeros(3, 16, 16)
    picture[0, 4:8, 2:6] = 1.0
    boxes = torch.tensor([[[2, 4, 6, 8], [8, 4, 12, 8], [8, 8, 16, 16]]]) / 16.0
    first, second, third = dragged(picture, boxes)
    assert torch.equal(first, picture)
    assert second[0, 4:8, 8:12].eq(1).all() and second[0].sum() == 16  # moved, and its old place is filled
    assert third[0, 8:, 8:].eq(1).all() and third[0].sum() == 64  # scaled by two


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("animatediff", {}, "image given, but AnimateDiffPipeline takes none"),
        pytest.param("wan", {}, "this WanTransformer3DModel takes text alone", marks=WAN),
        ("wan, picture", {"image": None}, "this WanTransformer3DModel animates a picture: pass image"),
        ("ltx", {"dual_clock": (0.5, 0.2), "objects": [CUBE]}, r"dual_clock=\(0.5, 0.2\); two shares of the steps"),
        ("ltx", {"dual_clock": (0.1, 0.2)}, "dual_clock needs objects"),
        ("ltx", {"dual_clock": (0.1, 0.2), "objects": [CUBE], "image": None}, "dual_clock needs image"),
        ("ltx", {"reference": [1], "objects": [CUBE]}, "reference belongs to dual_clock"),
    ],
)
def test_bad_input_is_refused(bases, picture, family, changes, message):
    pipe, size = bases(family)
    with pytest.raises(ValueError, match=message):
        pipe(PROMPT, num_inference_steps=1, **{"image": picture, **size, **changes})

"""Pictures and videos: every kind of input is handled by a stated rule, every write is whole or absent."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from wm_pipelines import media
from wm_pipelines.runtime.files import atomic


@pytest.fixture
def ramp() -> torch.Tensor:
    """(3, 6, 10), values that are exact in 8 bits."""
    return torch.arange(180).reshape(3, 6, 10).float() / 255


def test_8_bit_round_trip_is_exact(ramp, tmp_path):
    path = media.save_image(ramp, tmp_path / "deep" / "a.png")
    assert torch.equal(media.to_tensor(media.load_image(path)), ramp)


@pytest.mark.parametrize("form", ["pil", "uint8", "float array", "tensor", "batch of one", "uint8 tensor"])
def test_one_picture_in_every_form(ramp, form):
    array = (ramp.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    picture = {
        "pil": Image.fromarray(array),
        "uint8": array,
        "float array": ramp.permute(1, 2, 0).numpy().astype(np.float64),
        "tensor": ramp,
        "batch of one": ramp[None],
        "uint8 tensor": torch.from_numpy(array).permute(2, 0, 1),
    }[form]
    tensor = media.to_tensor(picture)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, ramp, atol=1e-6, rtol=0)


def test_grey_is_repeated():
    tensor = media.to_tensor(np.full((4, 5), 51, np.uint8))
    assert tensor.shape == (3, 4, 5) and torch.allclose(tensor, torch.tensor(0.2))


def test_16_bit_is_scaled_not_clipped(tmp_path):
    samples = np.array([[0, 257], [32896, 65535]], np.uint16)
    Image.fromarray(samples).save(tmp_path / "deep.png")
    tensor = media.to_tensor(media.open_image(tmp_path / "deep.png"))
    torch.testing.assert_close(tensor[0], torch.from_numpy(samples.astype(np.float32)) / 65535)
    assert np.asarray(media.load_image(tmp_path / "deep.png"))[..., 0].tolist() == [[0, 1], [128, 255]]


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 9, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert media.load_image(tmp_path / "turned.jpg").size == (4, 9)
    # Once, however often the picture passes through.
    assert media.to_tensor(media.open_image(tmp_path / "turned.jpg")).shape == (3, 9, 4)
    assert media.to_tensor(Image.open(tmp_path / "turned.jpg")).shape == (3, 9, 4)


def test_alpha_is_composited_over_the_matte(tmp_path):
    rgba = np.zeros((1, 2, 4), np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    assert np.asarray(media.load_image(tmp_path / "clear.png")).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert np.asarray(media.load_image(tmp_path / "clear.png", matte=0)).tolist() == [[[255, 0, 0], [0, 0, 0]]]


def test_palette_with_transparency(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "p.png", transparency=1)
    assert np.asarray(media.load_image(tmp_path / "p.png")).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_mask_from_alpha_or_luminance(tmp_path):
    rgba = np.full((1, 2, 4), 255, np.uint8)
    rgba[0, 1, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    assert np.asarray(media.load_mask(tmp_path / "alpha.png")).tolist() == [[255, 0]]
    Image.fromarray(np.array([[0, 200]], np.uint8)).save(tmp_path / "grey.png")
    assert np.asarray(media.load_mask(tmp_path / "grey.png")).tolist() == [[0, 200]]
    opaque = np.dstack([rgba[..., :3] // 2, np.full((1, 2), 255, np.uint8)])
    assert torch.allclose(media.to_mask(opaque), torch.tensor(127 / 255))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="none.png.*missing"):
        media.load_image(tmp_path / "none.png")


def test_folder_instead_of_file(tmp_path):
    with pytest.raises(ValueError, match="it is a folder"):
        media.load_image(tmp_path)


def test_not_a_picture(tmp_path):
    (tmp_path / "note.png").write_text("not a picture")
    with pytest.raises(ValueError, match="not a picture that Pillow can read"):
        media.load_image(tmp_path / "note.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_picture(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = media.save_image(noise, tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="corrupt or unsafe"):
        media.load_image(tmp_path / f"cut.{suffix}")


def test_decompression_bomb(tmp_path, monkeypatch):
    media.save_image(torch.zeros(3, 64, 64), tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="unsafe"):
        media.load_image(tmp_path / "big.png")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.full((3, 2, 2), float("nan")), "NaN or infinity at 12 values"),
        (torch.tensor([[0.5, float("inf")]]), "NaN or infinity at 1 values"),
        (torch.full((3, 2, 2), -1.0), r"-1 to -1; they must lie in \[0, 1\]"),
        (torch.full((3, 2, 2), 255.0), r"255 to 255; they must lie"),
        (torch.zeros(5, 2, 2), r"shape \(5, 2, 2\)"),
        (torch.zeros(2, 3, 2, 2), r"shape \(2, 3, 2, 2\)"),
        (torch.zeros(3, 0, 2), "empty"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "int64"),
        (np.zeros((2, 2, 2), np.uint8), r"shape \(2, 2, 2\)"),
        (np.zeros((2, 2, 3), np.int32), "int32"),
        ("a.png", "not str"),
    ],
)
def test_bad_picture(picture, message):
    with pytest.raises(ValueError, match=message):
        media.to_tensor(picture)


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = media.save_image(torch.zeros(3, 4, 4), tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_unknown_picture_suffix(tmp_path):
    with pytest.raises(ValueError, match="a.xyz"):
        media.save_image(torch.zeros(3, 4, 4), tmp_path / "a.xyz")
    assert os.listdir(tmp_path) == []


def test_grid_places_pictures_row_by_row():
    grid = media.image_grid([torch.full((3, 2, 3), value) for value in (0.0, 0.2, 0.4)], columns=2, gap=1)
    array = np.asarray(grid)[..., 0]
    assert array.shape == (5, 7)
    assert array[0, 0] == 0 and array[0, 4] == 51 and array[3, 0] == 102 and array[3, 4] == 255 and array[2, 0] == 255


def test_grid_of_nothing():
    with pytest.raises(ValueError, match="images is empty"):
        media.image_grid([], 2)


def test_grid_of_two_sizes():
    with pytest.raises(ValueError, match="one size"):
        media.image_grid([torch.zeros(3, 2, 2), torch.zeros(3, 2, 3)], 2)


def test_gif_keeps_frames_and_time(tmp_path):
    path = media.save_gif([torch.full((3, 8, 8), value / 4) for value in range(4)], tmp_path / "a.gif", fps=8)
    with Image.open(path) as gif:
        assert gif.n_frames == 4 and gif.info["duration"] in (120, 130) and gif.info["loop"] == 0


@pytest.mark.parametrize("fps", [0, -1, 51])
def test_gif_fps_out_of_range(tmp_path, fps):
    with pytest.raises(ValueError, match=f"fps={fps}"):
        media.save_gif([torch.zeros(3, 8, 8)], tmp_path / "a.gif", fps=fps)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_video_round_trip(tmp_path, suffix):
    frames = torch.stack([torch.full((3, 32, 47), value / 5) for value in range(5)])
    path = media.write_video(frames, tmp_path / f"a{suffix}", fps=12.5)
    read, fps = media.read_video(path)
    assert read.shape == (5, 3, 32, 48) and read.dtype == torch.uint8
    assert fps == pytest.approx(12.5, rel=0.01)
    assert (read[..., :47].float() / 255 - frames).abs().max() < 0.04
    assert len(media.read_video(path, max_frames=2)[0]) == 2


def test_no_frames(tmp_path):
    with pytest.raises(ValueError, match="frames is empty"):
        media.write_video([], tmp_path / "a.mp4")
    assert os.listdir(tmp_path) == []


def test_frames_of_two_sizes(tmp_path):
    with pytest.raises(ValueError, match="one size"):
        media.save_gif([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], tmp_path / "a.gif")


def test_not_a_video(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(ValueError, match="not a readable video"):
        media.read_video(tmp_path / "a.mp4")


def test_missing_video(tmp_path):
    with pytest.raises(ValueError, match="missing"):
        media.read_video(tmp_path / "a.mp4")

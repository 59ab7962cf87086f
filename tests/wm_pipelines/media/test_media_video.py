"""Videos: upright, by their times, within limits, whole or refused; and rates that come back as they were given."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from wm_pipelines import media
from wm_pipelines.media import video

WHITE_CORNER = np.zeros((32, 48, 3), np.uint8)
WHITE_CORNER[:16, :24] = 255  # top left


def noise(count, height=32, width=48):
    return list(np.random.default_rng(0).integers(0, 255, (count, height, width, 3), np.uint8))


def numbered(path, milliseconds, container="matroska"):
    """A video whose frame k is a plain grey of 5 k, shown from the given times on."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        stream.options = {"crf": "0", "bf": "0"}
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 5 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def numbers(frames):
    return [round(float(frame.float().mean()) / 5) for frame in frames]


def with_matrix(path, *matrix):
    """The mp4 with another display matrix, as phones write it."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4
    at += 4 + (32 if data[at] else 20) + 16
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


ONE = 65536
# matrix (a, b, c, d): where the white corner is then, and whether the picture is upright
TURNS = {
    "none": ((ONE, 0, 0, ONE), "top left", (32, 48)),
    "90 clockwise": ((0, ONE, -ONE, 0), "top right", (48, 32)),
    "90 counter-clockwise": ((0, -ONE, ONE, 0), "bottom left", (48, 32)),
    "180": ((-ONE, 0, 0, -ONE), "bottom right", (32, 48)),
    "mirrored across": ((-ONE, 0, 0, ONE), "top right", (32, 48)),
    "mirrored down": ((ONE, 0, 0, -ONE), "bottom left", (32, 48)),
    "transposed": ((0, ONE, ONE, 0), "top left", (48, 32)),
    "transposed the other way": ((0, -ONE, -ONE, 0), "bottom right", (48, 32)),
    "a cosine that is nearly 0": ((7, ONE, -ONE, 7), "top right", (48, 32)),
    "empty": ((0, 0, 0, 0), "top left", (32, 48)),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_video_is_read_as_players_show_it(tmp_path, turn, suffix):
    (a, b, c, d), corner, size = TURNS[turn]
    path = media.write_video([WHITE_CORNER] * 2, tmp_path / f"a{suffix}")
    with_matrix(path, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    frames, _ = media.read_video(path)
    assert tuple(frames.shape) == (2, 3, *size)
    light = frames[1, 0].float().unflatten(0, (2, -1)).unflatten(2, (2, -1)).mean((1, 3)) > 127
    where = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
    assert light.nonzero().tolist() == [list(where[corner])]
    again, _ = media.read_video(media.write_video(frames, tmp_path / "again.mp4"))
    assert (again.float() - frames.float()).abs().mean() < 4


def test_a_matrix_that_is_no_quarter_turn_is_refused(tmp_path):
    path = media.write_video([WHITE_CORNER], tmp_path / "a.mp4")
    with_matrix(path, 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)
    with pytest.raises(ValueError, match="a.mp4' has a display matrix .* no quarter turn"):
        media.read_video(path)


VARIABLE = [0, 125, 250, 375, 500, *range(533, 1200, 33)]


def test_frames_come_one_by_one_with_their_times(tmp_path):
    path = numbered(tmp_path / "a.mkv", VARIABLE)
    frames = media.iter_video(path)
    assert [round(1000 * next(frames).time) for _ in range(7)] == VARIABLE[:7]
    frames.close()
    found = list(media.iter_video(path))
    assert [round(1000 * frame.time) for frame in found] == VARIABLE
    assert numbers(frame.pixels for frame in found) == list(range(len(VARIABLE)))
    assert found[0].pixels.shape == (3, 16, 16) and found[0].pixels.dtype == torch.uint8


@pytest.mark.parametrize(
    ("times", "fps", "wanted"),
    [
        (VARIABLE, 8, [0, 125, 250, 375, 500, 632, 764, 863, 995, 1127]),
        ([t + 4000 for t in VARIABLE], 8, [4000, 4125, 4250, 4375, 4500, 4632]),  # times begin anywhere
        (list(range(0, 900, 40)), 25, list(range(0, 900, 40))),
        (list(range(0, 900, 40)), 12.5, list(range(0, 900, 80))),
        (list(range(0, 900, 100)), 20, [0, 0, 100, 200, 200, 200, 300, 400, 400]),  # in the middle: the even number
        ([0, 1000, 1010, 1020, 2000], 2, [0, 0, 1000, 1020, 2000]),
        ([0, 1000, 1010, 1020, 2000], 1, [0, 1000, 2000]),
        ([0, 33, 67, 100, 133, 167, 200, 233, 267, 300], 29.97, [0, 33, 67, 100, 133, 167, 200, 233, 267]),
    ],
)
@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_frames_are_picked_by_their_times(tmp_path, times, fps, wanted, container):
    path = numbered(tmp_path / "a", times, container)
    picked = media.pick_frames(path, len(wanted), fps)
    assert [times[number] for number in numbers(picked)] == wanted


@pytest.mark.parametrize(("rate", "fps"), [(30, 8), (24, 16), (12, 8), (25, 24), (8, 8), (60, 7), (8, 12)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_at_an_even_rate_frames_are_picked_as_ever(tmp_path, rate, fps, suffix):
    path = media.write_video([np.full((16, 16, 3), 5 * n, np.uint8) for n in range(40)], tmp_path / f"a{suffix}", rate)
    count = int(39 * fps / rate)
    by_number = (torch.arange(count) * rate / fps).round().long().tolist()
    found = numbers(media.pick_frames(path, count, fps))
    ties = [k * rate * 2 % (fps * 2) == fps for k in range(count)]
    assert [n for n, tie in zip(found, ties, strict=True) if not tie] == [
        n for n, tie in zip(by_number, ties, strict=True) if not tie
    ]
    assert suffix == ".mkv" or found == by_number  # Matroska's clock has milliseconds


def test_a_video_that_is_too_short_says_when_it_ends(tmp_path):
    path = numbered(tmp_path / "a.mkv", [0, 125, 250, 375])
    assert numbers(media.pick_frames(path, 5, 10)) == [0, 1, 2, 2, 3]
    with pytest.raises(ValueError, match=r"a.mkv has 4 frames; 6 at 10 a second need 5: it ends after 0.5 s"):
        media.pick_frames(path, 6, 10)
    for count, fps in ((0, 8), (2, 0), (2, float("nan")), (2, float("inf"))):
        with pytest.raises(ValueError, match=f"count={count}, fps={fps}"):
            media.pick_frames(path, count, fps)


@pytest.mark.parametrize("suffix", media.VIDEO_SUFFIXES)
@pytest.mark.parametrize("left", [0.99, 0.9, 0.5, 0.1])
def test_a_file_that_ends_early_is_refused(tmp_path, suffix, left):
    path = media.write_video(noise(48), tmp_path / f"a{suffix}")
    assert len(media.read_video(path)[0]) == 48
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data))])
    for read in (media.read_video, lambda p: list(media.iter_video(p)), lambda p: media.pick_frames(p, 48, 8)):
        with pytest.raises(ValueError, match=f"a{suffix}"):
            read(path)


def test_so_is_one_that_says_how_long_it_plays_but_not_how_many_bytes_it_has(tmp_path):
    path = media.write_video(noise(48), tmp_path / "a.mkv")
    data = path.read_bytes()
    at = data.find(b"\x18\x53\x80\x67") + 4
    unknown = data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :]
    path.write_bytes(unknown)
    assert len(media.read_video(path)[0]) == 48
    path.write_bytes(unknown[: len(data) // 2])
    with pytest.raises(ValueError, match="a.mkv' is damaged: it lasts 6 s, but ends after 2.875 s"):
        media.read_video(path)
    assert len(media.read_video(path, max_frames=8)[0]) == 8


def test_so_is_one_whose_end_is_empty(tmp_path):
    path = media.write_video(noise(48), tmp_path / "a.mkv")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(ValueError, match="a.mkv' is damaged"):
        media.read_video(path)


def test_sound_that_is_longer_than_the_pictures_is_no_damage(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        pictures, sound = file.add_stream("libx264", rate=8), file.add_stream("aac", rate=8000)
        pictures.width, pictures.height, pictures.pix_fmt = 16, 16, "yuv420p"
        for _ in range(4):
            file.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        file.mux(pictures.encode())
        for number in range(30):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * number
            file.mux(sound.encode(frame))
        file.mux(sound.encode())
    assert len(media.read_video(tmp_path / "a.mkv")[0]) == 4


def test_a_title_in_another_encoding_is_no_damage(tmp_path):
    path = media.write_video(noise(2), tmp_path / "a.mp4")
    with av.open(str(path)) as given, av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as file:
        file.metadata["title"] = "caf\u00e9"
        stream = file.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    data = (tmp_path / "b.mp4").read_bytes()
    assert b"caf\xc3\xa9" in data
    (tmp_path / "b.mp4").write_bytes(data.replace(b"caf\xc3\xa9", b"caf\xe9!"))
    assert len(media.read_video(tmp_path / "b.mp4")[0]) == 2


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_an_avi_whose_packets_have_no_time_of_their_own_is_whole(tmp_path, codec):
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuv420p", {"bf": "2"}
        for picture in noise(12):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    times = [float(frame.time) for frame in media.iter_video(tmp_path / "a.avi")]
    assert [later - times[0] for later in times] == pytest.approx([n / 25 for n in range(12)])


def test_an_avi_that_ends_early_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        stream = file.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj420p"
        for picture in noise(12):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    data = (tmp_path / "a.avi").read_bytes()
    assert len(media.read_video(tmp_path / "a.avi")[0]) == 12
    (tmp_path / "a.avi").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="a.avi' is damaged: it has"):
        media.read_video(tmp_path / "a.avi")


def test_sizes_are_checked_before_a_frame_is_decoded(tmp_path, monkeypatch):
    path = media.write_video(noise(4), tmp_path / "a.mp4")
    monkeypatch.setattr(video.OpenVideo, "__iter__", None)  # not reached
    monkeypatch.setattr(video, "MAX_VIDEO_BYTES", 3 * 32 * 48 * 4 - 1)
    with pytest.raises(ValueError, match="frames of .*a.mp4' have more than 18431 bytes; give max_frames, or"):
        media.read_video(path)
    monkeypatch.setattr(video, "MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(ValueError, match="a.mp4' has frames of 48x32 pixels, more than 1535"):
        media.read_video(path)


def test_bytes_are_counted_where_the_file_says_no_number_of_frames(tmp_path, monkeypatch):
    path = media.write_video(noise(4), tmp_path / "a.mkv")
    monkeypatch.setattr(video, "MAX_VIDEO_BYTES", 3 * 32 * 48 * 2)
    assert len(media.read_video(path, max_frames=2)[0]) == 2 and len(list(media.iter_video(path))) == 4
    with pytest.raises(ValueError, match="give max_frames, or use iter_video"):
        media.read_video(path)


@pytest.mark.parametrize("fps", [0.0004, 0.0009, 0, -1, 1001, 1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", media.VIDEO_SUFFIXES)
def test_rates_that_no_container_keeps_are_refused(tmp_path, fps, suffix):
    with pytest.raises(ValueError, match=rf"fps={fps}, quality=18; fps must lie in \[0.001, 1000\]"):
        media.write_video(noise(2), tmp_path / f"a{suffix}", fps=fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0.001, 0.0123, 0.5, 1, 7.3, 23.976, 24000 / 1001, 29.97, 60, 333.3, 999, 1000])
@pytest.mark.parametrize("suffix", media.VIDEO_SUFFIXES)
def test_rates_that_are_written_come_back(tmp_path, fps, suffix):
    path = media.write_video(noise(3, 16, 16), tmp_path / f"a{suffix}", fps=fps)
    assert media.read_video(path)[1] == pytest.approx(fps, rel=1e-3)
    times = [float(frame.time) for frame in media.iter_video(path)]
    assert times == pytest.approx([0, 1 / fps, 2 / fps], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("fps", [0.001, 0.0015, 50.1, float("nan"), 0, -2])
def test_a_gif_refuses_what_it_can_not_keep(tmp_path, fps):
    with pytest.raises(ValueError, match=f"fps={fps}; a GIF plays 0.0015 to 50 frames a second"):
        media.save_gif(noise(2), tmp_path / "a.gif", fps=fps)
    assert not list(tmp_path.iterdir())


def test_a_gif_of_one_picture_and_of_pictures_that_are_equal(tmp_path):
    for count in (1, 3):
        with Image.open(media.save_gif([WHITE_CORNER] * count, tmp_path / "a.gif", fps=10)) as gif:
            assert gif.n_frames == 1 and gif.info["duration"] == 100 * count


def test_a_gif_refuses_a_picture_that_stays_too_long(tmp_path):
    with pytest.raises(ValueError, match="fps=0.002: 2 frames last 1000 s; a GIF keeps up to 655.35 s"):
        media.save_gif([WHITE_CORNER] * 2, tmp_path / "a.gif", fps=0.002)


@pytest.mark.parametrize("fps", [0.01, 0.3, 1, 7, 8, 12, 15, 24, 29.97, 30, 40, 48, 50])
def test_a_gif_plays_as_fast_as_it_should(tmp_path, fps):
    count = 6 if fps < 1 else 60
    path = media.save_gif(noise(count, 8, 8), tmp_path / "a.gif", fps=fps)
    delays = []
    with Image.open(path) as gif:
        assert gif.n_frames == count
        for number in range(count):
            gif.seek(number)
            delays.append(gif.info["duration"])
    assert sum(delays) == pytest.approx(1000 * count / fps, abs=5) and max(delays) - min(delays) <= 10

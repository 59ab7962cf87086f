"""Clips for training: a person's videos, upright, at the speed that they have."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from wm_pipelines.media.video import write_video
from wm_pipelines.mojito.run import run
from wm_pipelines.mojito.training.folder import ClipFolder

TIMES = [0, 125, 250, 375, 500, *range(533, 1100, 33)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "anno.txt").write_bytes("\ufeffa\ta square\u2028moves\r\n\n".encode())
    return tmp_path


def test_frames_are_taken_by_their_times_not_by_their_numbers(folder):
    with av.open(str(folder / "videos" / "a.MKV"), "w", format="matroska") as file:
        stream = file.add_stream("libx264", rate=1000)
        stream.width = stream.height = 16
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "0"}
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 5 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    clips = ClipFolder(folder)
    assert clips.names == ("a",) and clips.captions == ("a square\u2028moves",)
    clip = clips.clip(0, frames=6, size=16, fps=8)
    numbers = (clip.mean((1, 2, 3)) * 51).round().int().tolist()
    assert [TIMES[number] for number in numbers] == [0, 125, 250, 375, 500, 632]


def test_a_clip_of_a_phone_is_learnt_upright(folder):
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = 255  # the left half; turned clockwise it is the upper one
    path = write_video([picture] * 3, folder / "videos" / "a.mov")
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4
    at += 4 + (32 if data[at] else 20) + 16
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 16 * 65536, 0, 1 << 30)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="a.mov is 32x16; options.size is 16"):
        ClipFolder(folder).clip(0, frames=2, size=16, fps=8)


def test_half_a_clip_is_no_clip(folder):
    path = write_video([np.full((16, 16, 3), 9 * n, np.uint8) for n in range(16)], folder / "videos" / "a.mkv")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="a.mkv' is damaged"):
        ClipFolder(folder).clip(0, frames=2, size=16, fps=8)


@pytest.mark.parametrize(("fps", "frames"), [(0.001, 2), (0.01, 16), (51, 2)])
def test_rates_that_the_files_can_not_keep_are_refused_before_sampling(tmp_path, fps, frames):
    with pytest.raises(ValueError, match=f"fps={fps}"):
        run("a red cube", out=tmp_path / "out", model="no-such-model", fps=fps, num_frames=frames)

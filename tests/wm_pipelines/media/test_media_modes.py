"""Picture files of every mode: every way to be transparent, for pictures, maps and masks; and pictures of labels."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from wm_pipelines import media
from wm_pipelines.media import pictures


def png(size, depth, colour, rows, transparent=b"", palette=b""):
    """A PNG as its specification has it, of any depth: Pillow writes few of them."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    made += chunk(b"PLTE", palette) if palette else b""
    made += chunk(b"tRNS", transparent) if transparent else b""
    return made + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")


def saved(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def grey(*values):
    return Image.fromarray(np.array([values], np.uint8))


def colours(*values):
    return Image.fromarray(np.array([values], np.uint8))


MAGENTA, RED = (255, 0, 255), (255, 0, 0)


def palette(*indices):
    image = Image.new("P", (len(indices), 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 9, 9, 9])
    image.putdata(indices)
    return image


# file -> RGB over white and over black; the first pixel is opaque, the last one not
KEYED = {
    "L": (saved(grey(10, 77), transparency=77), (10, 10, 10)),
    "RGB": (saved(colours(RED, MAGENTA), transparency=MAGENTA), RED),
    "16-bit grey, beside the key": (png((2, 1), 16, 0, [struct.pack(">2H", 256, 257)], b"\x01\x01"), (1, 1, 1)),
    "16-bit colour, a neighbour of the key": (
        png((2, 1), 16, 2, [struct.pack(">6H", 0xFF01, 0, 0, 0xFF02, 0, 0)], struct.pack(">3H", 0xFF02, 0, 0)),
        RED,
    ),
    "16-bit colour, a key of small samples": (
        png((2, 1), 16, 2, [struct.pack(">6H", 256, 0, 0, 1, 2, 3)], struct.pack(">3H", 1, 2, 3)),
        (1, 0, 0),
    ),
    "1 bit, white": (saved(Image.frombytes("1", (2, 1), b"\x40"), transparency=1), (0, 0, 0)),
    "1 bit, black": (png((2, 1), 1, 0, [b"\x80"], b"\0\0"), (255, 255, 255)),
    "2 bits": (png((2, 1), 2, 0, [bytes([0b01110000])], b"\0\x03"), (85, 85, 85)),
    "4 bits": (png((2, 1), 4, 0, [b"\x3a"], b"\0\x0a"), (51, 51, 51)),
    "P, one entry": (saved(palette(0, 1), transparency=1), RED),
    "P, an alpha for each entry": (saved(palette(0, 1), transparency=b"\xff\x00\x80"), RED),
    "P of 4 bits": (png((2, 1), 4, 3, [b"\x01"], b"\xff\x00", b"\xff\0\0\0\0\xff"), RED),
    "LA": (saved(Image.merge("LA", (grey(10, 99), grey(255, 0)))), (10, 10, 10)),
    "RGBA": (saved(colours((*RED, 255), (1, 2, 3, 0))), RED),
    "GIF": (saved(palette(0, 1), "GIF", transparency=1), RED),
    "GIF of greys": (saved(grey(10, 77), "GIF", transparency=77), (10, 10, 10)),
    "WebP": (saved(colours((*RED, 255), (1, 2, 3, 0)), "WEBP", lossless=True), RED),
    "TIFF": (saved(colours((*RED, 255), (1, 2, 3, 0)), "TIFF"), RED),
}


@pytest.mark.parametrize("name", KEYED)
def test_a_transparent_pixel_is_what_lies_behind_it(tmp_path, name):
    data, first = KEYED[name]
    (tmp_path / "a").write_bytes(data)
    for matte in (1, 0):
        wanted = [[list(first), [255 * matte] * 3]]
        assert np.asarray(media.load_image(tmp_path / "a", matte=matte)).tolist() == wanted
        assert np.asarray(media.to_pil(Image.open(io.BytesIO(data)), matte=matte)).tolist() == wanted  # not loaded yet
        assert np.asarray(media.to_pil(media.open_image(tmp_path / "a"), matte=matte)).tolist() == wanted
    assert np.asarray(media.load_mask(tmp_path / "a")).tolist() == [[255, 0]]


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "LA", "RGBA"])
def test_pictures_in_memory_with_half_transparent_pixels(mode):
    """200 of alpha 128 over black is 100; premultiplied it is kept as 100."""
    level = 100 if mode in ("La", "RGBa") else 200
    if mode == "PA":
        image = Image.new("P", (2, 1))
        image.putpalette([200, 200, 200])
        image.putalpha(grey(255, 128))
    else:
        bands = [grey(200, level)] * (1 if mode in ("La", "LA") else 3)
        image = Image.merge(mode, (*bands, grey(255, 128)))
    assert np.asarray(media.to_pil(image, matte=0))[0, :, 0].tolist() == [200, pytest.approx(100, abs=1)]
    assert media.to_mask(image)[0, 0].tolist() == [1.0, pytest.approx(128 / 255)]


def test_a_palette_of_colours_with_alpha():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 255, 0, 0, 255, 0], rawmode="RGBA")
    image.putdata([0, 1])
    assert np.asarray(media.to_pil(image)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_16_bits_keep_their_depth_beside_a_key(tmp_path):
    (tmp_path / "a.png").write_bytes(png((3, 1), 16, 0, [struct.pack(">3H", 1, 32769, 7)], b"\0\x07"))
    tensor = media.to_tensor(media.open_image(tmp_path / "a.png"), matte=0)
    assert tensor[0, 0].tolist() == pytest.approx([1 / 65535, 32769 / 65535, 0])


def test_a_keyed_picture_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = Image.fromarray(np.array([[RED, MAGENTA, MAGENTA]], np.uint8))
    tall.save(tmp_path / "a.png", transparency=MAGENTA, exif=exif)
    assert np.asarray(media.load_image(tmp_path / "a.png"))[:, 0].tolist() == [[255, 0, 0], [255] * 3, [255] * 3]


@pytest.mark.parametrize("exif", [b"Exif\0\0M\xef\0*\0\0\0\x08", b"Exif\0\0", b"MM\0*\0\0\0\x08\0\x05\x01\x12"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_broken_exif_is_no_reason_to_lose_a_picture(tmp_path, exif, suffix):
    Image.new("RGB", (3, 2), RED).save(tmp_path / f"a.{suffix}", exif=exif)
    assert media.load_image(tmp_path / f"a.{suffix}").size == (3, 2)
    assert media.to_tensor(Image.open(tmp_path / f"a.{suffix}")).shape == (3, 2, 3)


def test_a_keyed_map_controls_only_what_is_drawn(tmp_path):
    from wm_pipelines.media.conditions import support

    drawn = np.full((32, 32, 3), (255, 0, 255), np.uint8)
    drawn[16] = 255
    Image.fromarray(drawn).save(tmp_path / "map.png", transparency=(255, 0, 255))
    control = media.to_tensor(media.open_image(tmp_path / "map.png"), matte=0)
    assert support("canny", control).float().mean() == pytest.approx(1 / 32)


def test_a_picture_is_measured_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "MAX_PIXELS", 89_999)
    monkeypatch.setattr(pictures, "decoded", None)  # not reached
    with pytest.raises(ValueError, match="a.png' is a corrupt or unsafe .* 300x300 pixels, more than 89999"):
        media.open_image(tmp_path / "a.png")


@pytest.mark.parametrize("seed", range(20))
def test_a_broken_picture_is_a_value_error(tmp_path, seed):
    rng = np.random.default_rng(seed)
    format, suffix = (("PNG", "png"), ("TIFF", "tif"), ("GIF", "gif"), ("WEBP", "webp"), ("JPEG", "jpg"))[seed % 5]
    data = bytearray(saved(Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)), format))
    for place in rng.integers(0, len(data), 12):
        data[place] = rng.integers(256)
    (tmp_path / f"a.{suffix}").write_bytes(data)
    try:
        media.load_image(tmp_path / f"a.{suffix}")
    except ValueError as error:
        assert f"a.{suffix}" in str(error)


IDS = np.zeros((4, 6), np.uint8)
IDS[1:3, 2:5] = 1
IDS[3, 5] = 3


def indexed(ids):
    image = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    return image


def packed(ids, depth, colour=0):
    """Rows of a PNG with `depth` bits a sample."""
    bits = ["".join(f"{value:0{depth}b}" for value in row) for row in ids.tolist()]
    rows = [int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in bits]
    return png(ids.shape[::-1], depth, colour, rows, palette=bytes(range(12)) if colour == 3 else b"")


PLAIN = Image.fromarray(IDS)
GREYS = Image.merge("RGB", [PLAIN] * 3)
OPAQUE = Image.new("L", PLAIN.size, 255)
LABELS = {
    "grey": saved(PLAIN),
    "palette": saved(indexed(IDS)),
    "palette whose background is transparent": saved(indexed(IDS), transparency=0),
    "palette of 2 bits": packed(IDS, 2, 3),
    "palette of 4 bits": packed(IDS, 4, 3),
    "grey of 2 bits": packed(IDS, 2),
    "grey of 4 bits": packed(IDS, 4),
    "16-bit grey": saved(Image.fromarray(IDS.astype(np.uint16))),
    "32-bit TIFF": saved(Image.fromarray(IDS.astype(np.int32)), "TIFF"),
    "TIFF": saved(PLAIN, "TIFF", compression="tiff_lzw"),
    "BMP": saved(PLAIN, "BMP"),
    "RGB of greys": saved(GREYS),
    "RGBA of greys": saved(Image.merge("RGBA", (*[PLAIN] * 3, OPAQUE))),
    "RGBA, background clear": saved(Image.merge("RGBA", (*[PLAIN] * 3, PLAIN.point(lambda v: 255 * (v > 0))))),
    "LA": saved(Image.merge("LA", (PLAIN, OPAQUE))),
    "lossless WebP": saved(GREYS, "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_the_numbers_in_the_file(tmp_path, name):
    (tmp_path / "ids").write_bytes(LABELS[name])
    labels = media.read_labels(tmp_path / "ids", (4, 6))
    assert labels.dtype == torch.int64 and labels.tolist() == IDS.tolist()


def test_labels_of_1_and_of_16_bits(tmp_path):
    Image.fromarray(IDS == 1).save(tmp_path / "a.png")
    assert media.read_labels(tmp_path / "a.png").tolist() == (IDS == 1).astype(int).tolist()
    Image.fromarray(IDS.astype(np.uint16) * 20_000).save(tmp_path / "b.png")
    assert media.read_labels(tmp_path / "b.png").max() == 60_000


def test_labels_are_turned_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[1, 2, 3]], np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert media.read_labels(tmp_path / "a.png", (3, 1)).tolist() == [[1], [2], [3]]


REFUSED = {
    "JPEG": (saved(PLAIN, "JPEG", quality=95), "JPEG does not keep the numbers; save labels as PNG or TIFF"),
    "lossy WebP": (saved(GREYS, "WEBP"), "lossy WEBP does not keep"),
    "JPEG in TIFF": (saved(PLAIN, "TIFF", compression="jpeg"), "TIFF jpeg does not keep"),
    "GIF": (saved(PLAIN, "GIF"), "GIF does not keep"),
    "colours": (saved(indexed(IDS).convert("RGB")), "it has colours"),
    "colours and alpha": (saved(indexed(IDS).convert("RGBA")), "it has colours"),
    "numbers where it is clear": (
        saved(Image.merge("RGBA", (*[PLAIN] * 3, Image.new("L", PLAIN.size)))),
        "numbers on transparent pixels",
    ),
    "soft edges": (saved(Image.merge("LA", (PLAIN, PLAIN.point(lambda v: 90 * v)))), "numbers on transparent pixels"),
    "16 bits a colour": (
        png((1, 1), 16, 2, [struct.pack(">3H", 1, 1, 1)]),
        "it has 16 bits a colour; save labels as one channel",
    ),
    "another size": (saved(PLAIN.crop((0, 0, 5, 4))), "is 4x5; height and width must be 4x6"),
    "numbers below 0": (saved(Image.fromarray(-IDS.astype(np.int32)), "TIFF"), "begin at -3"),
    "fractions": (saved(Image.fromarray(IDS.astype(np.float32)), "TIFF"), "pixels of mode F"),
    "no picture": (b"1 2 3", "not a picture that Pillow can read"),
    "half a file": (saved(PLAIN)[:60], "is no label picture that can be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_can_not_be_known_are_refused(tmp_path, name):
    data, message = REFUSED[name]
    (tmp_path / "ids").write_bytes(data)
    with pytest.raises(ValueError, match=f"/ids'.*{message}"):
        media.read_labels(tmp_path / "ids", (4, 6))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_large_file_is_read_in_bands_as_a_small_one_is_whole(tmp_path, monkeypatch, mode):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (50, 40, 4), dtype=np.uint8)
    colours = Image.fromarray(values, "RGBA").convert("RGB")
    made = {
        "P": lambda: colours.quantize(16),
        "I;16": lambda: Image.fromarray(rng.integers(0, 65536, (50, 40), dtype=np.uint16)),
    }.get(mode, lambda: Image.fromarray(values, "RGBA").convert(mode))()
    made.save(tmp_path / "a.png", **({"transparency": 3} if mode in ("P", "L") else {}))
    whole = pictures.to_pil(pictures.to_tensor(pictures.open_image(tmp_path / "a.png")))
    monkeypatch.setattr(pictures, "BAND", 130)
    assert np.array_equal(pictures.load_image(tmp_path / "a.png"), whole)

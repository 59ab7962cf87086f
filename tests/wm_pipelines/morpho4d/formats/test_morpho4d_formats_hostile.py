"""Files that lie, are cut short or are altered: one ValueError, no more memory than the file's size allows."""

import gzip
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch

from wm_pipelines.morpho4d.formats import glb, ply, spz
from wm_pipelines.morpho4d.formats.container import read_4dgs, write_4dgs
from wm_pipelines.morpho4d.formats.glb_reader import read_glb
from wm_pipelines.morpho4d.formats.rigid import rigid_scene
from wm_pipelines.morpho4d.formats.splat import read_splat, write_splat
from wm_pipelines.runtime.random import keyed

READERS = {
    "ply": ply.read_ply,
    "spz": spz.read_spz,
    "splat": read_splat,
    "glb": read_glb,
    "4dgs": lambda path: read_4dgs(path).at(0.1),
}
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def valid(make, make_clip, tmp_path_factory):
    """The bytes of a good file of each kind."""
    folder, clip = tmp_path_factory.mktemp("valid"), make_clip(frames=4, count=24)
    ply.write_ply(make(24, 1), folder / "a.ply", object_ids=True)
    spz.write_spz(make(24, 1), folder / "a.spz")
    write_splat(make(24), folder / "a.splat")
    glb.write_glb(rigid_scene(clip), folder / "a.glb")
    kinds = ["ply", "spz", "splat", "glb"]
    try:
        write_4dgs(clip, folder / "a.4dgs")
        kinds.append("4dgs")
    except ImportError:
        pass
    return {kind: (folder / f"a.{kind}").read_bytes() for kind in kinds}


@pytest.fixture
def refused(tmp_path):
    """`refused(kind, data, match)`: reading raises a ValueError that names the file, in at most 2 MiB + 80 times the
    file of memory."""

    def refused(kind, data, match=None):
        path = tmp_path / f"hostile.{kind}"
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=match) as caught:
                READERS[kind](path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert str(path) in str(caught.value)
        assert peak < 2 * MEBIBYTE + 80 * len(data), peak

    return refused


@pytest.fixture(params=["ply", "spz", "splat", "glb", "4dgs"])
def kind(request, valid):
    if request.param not in valid:
        pytest.skip("needs fourdgs, of the extra [4d]")
    return request.param


def test_good_files_are_read(kind, valid, tmp_path):
    path = tmp_path / f"good.{kind}"
    path.write_bytes(valid[kind])
    READERS[kind](path)


def test_missing_and_empty_files_and_folders(kind, tmp_path):
    with pytest.raises(ValueError, match="no file at .*: the file is missing"):
        READERS[kind](tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no file at .*: it is a folder"):
        READERS[kind](tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty: it has 0 bytes"):
        READERS[kind](tmp_path / "empty")


def test_files_cut_short(kind, valid, refused):
    data = valid[kind]
    cuts = {1, 2, 3, 4, 8, 12, 16, 20, len(data) - 1, len(data) - 2, len(data) - 7}
    cuts |= set(keyed("cuts", kind).integers(5, len(data) - 1, 12).tolist())
    for cut in sorted(cuts):
        if kind == "splat" and cut % 32 == 0:
            continue
        refused(kind, data[:cut])


def test_files_with_more_behind_them(kind, valid, refused):
    refused(kind, valid[kind] + b"\0" * 5)


@pytest.mark.parametrize("part", range(4))
def test_altered_bytes_are_refused_or_read_but_nothing_else(kind, valid, tmp_path, part):
    """A few hundred files: bytes changed, taken out, doubled, or set to what counts like to overflow at."""
    data, path = valid[kind], tmp_path / f"mutated.{kind}"
    g = keyed("mutations", kind, part)
    words = (2**32 - 1, 0, 2**31 - 1, 0x7FC00000, 0xFF800000, 10**9)  # counts, NaN and infinity
    extremes = [struct.pack("<I", word) for word in words]
    refusals = 0
    for _ in range(25):
        mutated = bytearray(data)
        for _ in range(int(g.integers(1, 4))):
            head = kind not in ("spz",) and g.random() < 0.5  # half of them where sizes stand
            at = int(g.integers(0, min(len(mutated), 300 if head else len(mutated))))
            match int(g.integers(0, 4)):
                case 0:
                    mutated[at] = int(g.integers(0, 256))
                case 1:
                    mutated[at : at + 4] = extremes[int(g.integers(0, len(extremes)))]
                case 2:
                    del mutated[at : at + int(g.integers(1, 9))]
                case 3:
                    mutated[at:at] = mutated[at : at + int(g.integers(1, 33))]
        if kind == "spz":  # or gzip's checksum would refuse them all
            raw = bytearray(gzip.decompress(data))
            at = int(g.integers(0, len(raw) if g.random() < 0.5 else 16))
            raw[at] = int(g.integers(0, 256))
            mutated = gzip.compress(bytes(raw), mtime=0) if g.random() < 0.7 else mutated
        path.write_bytes(bytes(mutated))
        try:
            READERS[kind](path)
        except ValueError as error:
            refusals += 1
            assert str(path) in str(error) or kind == "4dgs", error  # `at` speaks of a moment, not of a file
    assert refusals


HEADER = "ply\nformat binary_little_endian 1.0\nelement vertex {}\n{}end_header\n"
PROPERTIES = "".join(
    f"property float {name}\n"
    for name in "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
)


@pytest.mark.parametrize(
    ("header", "body", "match"),
    [
        (HEADER.format(10**9, PROPERTIES), b"\0" * 56, "its header promises 56000000000 bytes; 56 follow"),
        (HEADER.format(2, PROPERTIES), b"\0" * 56, "its header promises 112 bytes; 56 follow"),
        (HEADER.format(0, PROPERTIES), b"", "`means` holds no Gaussian"),
        (HEADER.format(-1, PROPERTIES), b"", "an element has a name and a count"),
        (HEADER.format("1e3", PROPERTIES), b"", "an element has a name and a count"),
        (HEADER.format(10**30, PROPERTIES), b"", "an element has a name and a count"),
        (HEADER.format(10**9, ""), b"", "it lacks x, y, z"),
        (HEADER.format(1, "property float x\n"), b"\0" * 4, "it lacks y, z"),
        (HEADER.format(1, PROPERTIES + "property float x\n"), b"\0" * 60, "property 'x' twice"),
        (HEADER.format(1, "property list uchar int x\n"), b"\0" * 4, "and is no list"),
        (HEADER.format(1, PROPERTIES + "property float f_rest_0\n"), b"\0" * 60, "1 properties f_rest_"),
        (HEADER.format(1, PROPERTIES).replace("binary_little_endian", "ascii"), b"", "its format is 'ascii 1.0'"),
        (HEADER.format(1, PROPERTIES).replace("vertex", "chunk"), b"\0" * 56, "first element must be `vertex`"),
        ("ply\n" + "comment x\n" * 9000 + "end_header\n", b"", "no header of at most 65536 bytes"),
        (HEADER.format(1, PROPERTIES), b"\0" * 56, "`quats` has one of length 0"),
        (HEADER.format(1, PROPERTIES), np.full(14, np.nan, "<f4").tobytes(), "its `scale` has nan"),
        (HEADER.format(1, PROPERTIES), np.full(14, 500, "<f4").tobytes(), "its `scale` has 500, which is no"),
        (HEADER.format(1, PROPERTIES), np.r_[np.inf, np.zeros(12), 1].astype("<f4").tobytes(), "`means` is not"),
    ],
)
def test_hostile_ply(refused, header, body, match):
    refused("ply", header.encode() + body, match)


def spz_v2(count, body, version=2, degree=0, bits=12, flags=0):
    return gzip.compress(struct.pack("<IIIBBBB", spz.MAGIC, version, count, degree, bits, flags, 0) + body, mtime=0)


def spz_v4(count, lengths, streams=None, table=32):
    streams = len(lengths) // 2 if streams is None else streams
    return struct.pack(f"<IIIBBBBI12x{len(lengths)}Q", spz.MAGIC, 4, count, 0, 12, 0, streams, table, *lengths)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (spz_v2(10**9, b""), "what its header promises would take 19000000000 bytes, out of all proportion"),
        (spz_v2(10**6, b"\0" * 19 * 10**6), "out of all proportion"),
        (spz_v2(10, b"\0" * 189), "its header promises 190 bytes; it has 189"),
        (spz_v2(10, b"\0" * 10**6), "its header promises 190 bytes; it has 191 or more"),
        (spz_v2(0, b""), "0 Gaussians"),
        (spz_v2(1, b"\0" * 19, version=1), "version 1"),
        (spz_v2(1, b"\0" * 20, version=5), "version 5"),
        (spz_v2(1, b"\0" * 91, degree=4), "degree 4"),
        (spz_v2(1, b"\0" * 19, bits=40), "40 bits"),
        (spz_v2(1, b"\0" * 19, flags=2), "its flags are 0x2; extensions are not read"),
        (spz_v2(1, b"\0" * 19)[:-9] + b"\0" * 9, "it is damaged"),
        (b"PK\3\4" + b"\0" * 40, "it is no SPZ"),
        (spz_v4(10**9, []), "0 streams listed at byte"),
        (spz_v4(1, [], streams=250, table=2**32 - 1), "250 streams listed at byte"),
        (spz_v4(10**9, [0, 9 * 10**9, 0, 10**9, 0, 3 * 10**9, 0, 3 * 10**9, 0, 4 * 10**9]), "out of all proportion"),
        (spz_v4(1, [2**63, 9, 0, 1, 0, 3, 0, 3, 0, 4]), "other lengths"),
    ],
)
def test_hostile_spz(refused, data, match):
    refused("spz", data, match)


def test_hostile_zstd(refused):
    zstandard = pytest.importorskip("zstandard", reason="SPZ 4 needs zstandard, of the extra [4d]")

    def v4(streams, says):
        table = b"".join(struct.pack("<QQ", len(data), size) for data, size in zip(streams, says, strict=True))
        head = struct.pack("<IIIBBBBI12x", spz.MAGIC, 4, 1, 0, 12, 0, len(streams), 32)
        return head + table + b"".join(streams)

    sizes = [9, 1, 3, 3, 4]
    pack = zstandard.ZstdCompressor().compress
    bomb = pack(b"\0" * 2**26)
    refused("spz", v4([bomb, *(pack(b"\0" * n) for n in sizes[1:])], sizes), "a stream unpacks to 67108864 bytes")
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 2**24)
    refused("spz", v4([unsized, *(pack(b"\0" * n) for n in sizes[1:])], sizes), "a stream unpacks to|it is damaged")
    refused("spz", v4([b"nonsense!", *(pack(b"\0" * n) for n in sizes[1:])], sizes), "it is damaged")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("means", np.nan, "`means` is not finite at Gaussian 3"),
        ("scales", np.inf, "`scales` is not finite at Gaussian 3"),
        ("scales", 0, "`scales` has 0.0"),
        ("scales", -1, "`scales` has -1.0"),
        ("quats", 128, "`quats` has one of length 0"),
    ],
)
def test_hostile_splat(valid, refused, name, value, match):
    from wm_pipelines.morpho4d.formats.splat import ROW

    rows = np.frombuffer(valid["splat"], ROW).copy()
    rows[name][3] = value
    refused("splat", rows.tobytes(), match)


def with_document(data, change):
    """A GLB with its JSON changed."""
    length = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + length])
    change(document)
    at = 20 + length + 8
    return glb.binary_of(document, data[at:])


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(document):
        for key in path:
            document = document[key]
        document[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (put("accessors", 0, "count", 10**9), "promises 1000000000 values, which its view"),
        (put("accessors", 0, "count", -1), "it must be a whole number from 1"),
        (put("accessors", 0, "count", 1.5), "it must be a whole number from 1"),
        (put("accessors", 0, "byteOffset", 2**62), "which its view of"),
        (put("accessors", 0, "bufferView", 10**6), "it names bufferViews 1000000"),
        (put("accessors", 0, "bufferView", -1), "it must be a whole number from 0"),
        (put("accessors", 0, "sparse", {"count": 10**9}), "and not be sparse"),
        (put("accessors", 0, "componentType", 5125), "it must have 3 components"),
        (put("accessors", 0, "type", "MAT4"), "it must have 3 components"),
        (put("bufferViews", 0, "byteLength", 10**12), "goes beyond the file's"),
        (put("bufferViews", 0, "byteOffset", 10**12), "goes beyond the file's"),
        (put("bufferViews", 0, "byteStride", 0), "`byteStride` is 0"),
        (put("buffers", 0, "uri", "http://example.org/x"), "its buffer must be the binary chunk"),
        (put("nodes", 0, "children", [0]), "is there twice, or under more than"),
        (put("nodes", 0, "matrix", [1.0] * 16), "a node has a `matrix`"),
        (put("nodes", 0, "scale", [1, 2, 1]), "it must be even, above 0"),
        (put("nodes", 0, "rotation", [0, 0, 0, 0]), "that is no unit quaternion"),
        (put("nodes", 0, "translation", [1e300, 0, 0]), "3 finite numbers"),
        (put("nodes", 0, "mesh", 10**9), "it names meshes 1000000000"),
        (put("nodes", 0, "extras", {"object_id": -4}), "`object_id` is -4"),
        (put("scenes", 0, "nodes", [[0]]), "it must be a whole number from 0"),
        (put("scenes", 0, "nodes", []), "it holds no primitive"),
        (put("meshes", 0, "primitives", 0, "mode", 4), "must be of mode 0"),
        (put("meshes", 0, "primitives", 0, "extensions", glb.EXTENSION, "kernel", "box"), "kernel ellipse"),
        (put("meshes", 0, "primitives", 0, "attributes", {}), "has 0 harmonics"),
        (put("animations", 0, "samplers", 0, "input", 0), "it must have 1 components"),
        (put("animations", 0, "samplers", 0, "interpolation", "CUBICSPLINE"), "only LINEAR is read"),
        (put("animations", 0, "channels", 0, "target", "path", "weights"), "is 'weights'; one translation"),
        (put("extensionsRequired", ["EXT_meshopt_compression"]), "it requires the extensions"),
        (put("meshes", "x"), "its `meshes` must be a list of objects"),
    ],
)
def test_hostile_glb(valid, refused, change, match):
    refused("glb", with_document(valid["glb"], change), match)


def test_a_glb_that_shows_one_mesh_a_million_times(valid, refused):
    def change(document):
        document["nodes"] = [{"mesh": 0}] * 20000
        document["scenes"][0]["nodes"] = list(range(20000))
        del document["animations"]

    refused("glb", with_document(valid["glb"], change), "its mesh 0 belongs to two nodes; instances are not read")


def test_a_glb_that_reads_one_array_over_and_over(make, make_clip, refused, tmp_path):
    """A hundred primitives, each of the same 2,000 Gaussians: a file of 200 KB that would take 11 MB."""
    path = glb.write_glb(rigid_scene(make_clip(frames=1, count=8000)), tmp_path / "big.glb")

    def change(document):
        document["meshes"][0]["primitives"] *= 100

    refused("glb", with_document(path.read_bytes(), change), "out of all proportion to the file")


def test_a_glb_of_nodes_within_nodes(valid, refused):
    def change(document):
        document["nodes"] = [{"children": [n + 1]} for n in range(2000)] + [{"mesh": 0}]
        document["scenes"][0]["nodes"] = [0]
        del document["animations"]

    refused("glb", with_document(valid["glb"], change), "under more than 64 others")


def test_a_glb_of_brackets(refused):
    text = b"[" * 100_000
    refused("glb", struct.pack("<IIIII", glb.MAGIC, 2, 20 + len(text), len(text), glb.JSON_CHUNK) + text)


def test_hostile_4dgs(valid, refused):
    if "4dgs" not in valid:
        pytest.skip("needs fourdgs, of the extra [4d]")
    from fourdgs import opcode, serialization

    data = valid["4dgs"]
    chunk = next(r for r in serialization.iter_records(data, len(serialization.MAGIC)) if r.opcode == opcode.CHUNK)
    count = chunk.offset + 9 + 20
    many = data[:count] + struct.pack("<I", 10**9) + data[count + 4 :]
    refused("4dgs", many, "its Gaussians would take 64000000000 bytes, out of all proportion")
    stream = count + 4 + 4 + 8 + 8 + 5
    many = data[:stream] + struct.pack("<I", 60_000_000) + data[stream + 4 :]
    refused("4dgs", many, "a stream would take 1440000000 bytes, out of all proportion")
    refused("4dgs", b"nonsense" * 20, "it is no .4dgs that can be read")


@pytest.mark.parametrize("write", ["ply", "spz", "splat", "glb", "4dgs", "sequence"])
def test_a_write_that_fails_leaves_nothing(make, make_clip, tmp_path, monkeypatch, write):
    """Whatever fails while a file is written, nothing of it is there, and what was there stays."""
    clip = make_clip(frames=3)
    if write == "4dgs":
        fourdgs = pytest.importorskip("fourdgs", reason="needs the extra [4d]")
        monkeypatch.setattr(fourdgs, "write", lambda path, *_, **__: (open(path, "wb").write(b"half"), 1 / 0))
    (tmp_path / f"a.{write}").write_bytes(b"before")
    writers = {
        "ply": lambda: ply.write_ply(make(3), tmp_path / "a.ply"),
        "spz": lambda: spz.write_spz(make(3), tmp_path / "a.spz"),
        "splat": lambda: write_splat(make(3), tmp_path / "a.splat"),
        "glb": lambda: glb.write_glb(rigid_scene(clip), tmp_path / "a.glb"),
        "4dgs": lambda: write_4dgs(clip, tmp_path / "a.4dgs"),
        "sequence": lambda: ply.write_ply_sequence(clip.frames, tmp_path / "frames"),
    }

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("os.replace", fail)
    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(ZeroDivisionError):
        writers[write]()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(f"a.{write}", b"before")]


def test_gzip_bombs_are_not_unpacked(refused):
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    head = struct.pack("<IIIBBBB", spz.MAGIC, 2, 5, 0, 12, 0, 0)
    data = packer.compress(head) + b"".join(packer.compress(bytes(MEBIBYTE)) for _ in range(64)) + packer.flush()
    refused("spz", data, "its header promises 95 bytes; it has 96 or more")


def test_splats_from_torch_of_other_types_are_taken(make):
    splats = make(3)
    assert splats.turned(torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)).means.dtype == torch.float32

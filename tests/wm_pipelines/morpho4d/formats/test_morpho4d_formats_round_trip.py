"""What is written comes back, within what each format says that it loses."""

import math

import numpy as np
import pytest
import torch

from wm_pipelines.morpho4d.formats import glb, ply, spz
from wm_pipelines.morpho4d.formats.clip import Clip
from wm_pipelines.morpho4d.formats.container import read_4dgs, write_4dgs
from wm_pipelines.morpho4d.formats.glb_reader import read_glb
from wm_pipelines.morpho4d.formats.harmonics import turned
from wm_pipelines.morpho4d.formats.rigid import rigid_part, rigid_scene
from wm_pipelines.morpho4d.formats.splat import order, read_splat, write_splat
from wm_pipelines.morpho4d.formats.splats import UPS, Splats, joined
from wm_pipelines.morpho4d.harmonics import basis
from wm_pipelines.morpho4d.quaternions import matrices, rotate, unit
from wm_pipelines.runtime.random import keyed

DEGREES = range(4)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("up", UPS)
def test_axes_there_and_back(make, same, degree, up):
    splats = make(degree=degree, up=up)
    for other in UPS:
        same(splats.with_up(other).with_up(up), splats, means=1e-6, sh=1e-5)
    means = {"y": splats.with_up("y").means, "-y": splats.with_up("-y").means, "z": splats.with_up("z").means}
    assert torch.allclose(means["y"][:, 1], means["z"][:, 2], atol=1e-6)
    assert torch.allclose(means["-y"][:, 1], -means["z"][:, 2], atol=1e-6)
    assert all(torch.allclose(m[:, 0], means["z"][:, 0], atol=1e-6) for m in means.values())


@pytest.mark.parametrize("degree", DEGREES)
def test_turned_harmonics_have_the_colour_that_the_old_ones_had(degree):
    g = keyed("turned", degree)
    sh = torch.from_numpy(g.normal(size=(6, (degree + 1) ** 2, 3)))
    quats = unit(torch.from_numpy(g.normal(size=(6, 4))))
    direction = torch.nn.functional.normalize(torch.from_numpy(g.normal(size=(6, 3))), dim=-1)
    before = torch.einsum("nk,nkc->nc", basis(direction, degree), sh)
    after = torch.einsum("nk,nkc->nc", basis(rotate(quats, direction), degree), turned(sh, quats))
    assert torch.allclose(before, after, atol=1e-10)
    if degree == 1:  # three of them are a vector, (-c3, -c1, c2)
        vector = torch.stack([-sh[:, 3], -sh[:, 1], sh[:, 2]], dim=1)
        new = turned(sh, quats)
        assert torch.allclose(torch.stack([-new[:, 3], -new[:, 1], new[:, 2]], dim=1), matrices(quats) @ vector)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("count", [1, 37])
def test_ply(make, same, tmp_path, degree, count):
    splats = make(count, degree)
    path = ply.write_ply(splats, tmp_path / "a.ply", object_ids=count > 1)
    back = ply.read_ply(path).with_up("z")
    same(back, splats)
    assert torch.equal(back.object_id, splats.object_id if count > 1 else torch.zeros(1, dtype=torch.int64))
    header, _, body = path.read_bytes().partition(b"end_header\n")
    floats = {0: 17, 1: 26, 2: 41, 3: 62}[degree]
    assert len(body) == count * (4 * floats + 4 * (count > 1)) and header.count(b"property float") == floats


def test_ply_keeps_opacities_of_0_and_1(make, tmp_path):
    splats = make(4)
    splats.opacities[:] = torch.tensor([0.0, 1.0, 0.5, 1e-9])
    back = ply.read_ply(ply.write_ply(splats, tmp_path / "a.ply"))
    assert (back.opacities - splats.opacities).abs().max() <= 1.1e-6


def test_ply_of_another_order_and_type_with_more_beside(make, same, tmp_path):
    """As other programs write it: doubles, other properties, an element behind."""
    splats = make(9, 1)
    rows = np.frombuffer(
        ply.write_ply(splats, tmp_path / "a.ply").read_bytes().partition(b"end_header\n")[2],
        [(f"p{n}", "<f4") for n in range(26)],
    )
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{n}" for n in range(9))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    shuffled = [(name, "<f8") for name in reversed(names)] + [("segment", "u1")]
    new = np.zeros(9, shuffled)
    for n, name in enumerate(names):
        new[name] = rows[f"p{n}"]
    lines = ["ply", "format binary_little_endian 1.0", "comment made by hand", "element vertex 9"]
    lines += [f"property {'uchar' if kind == 'u1' else 'double'} {name}" for name, kind in shuffled]
    lines += ["element extrinsic 4", "property float v", "end_header", ""]
    (tmp_path / "b.ply").write_bytes("\r\n".join(lines).encode() + new.tobytes() + bytes(16))
    same(ply.read_ply(tmp_path / "b.ply").with_up("z"), splats)


def test_ply_sequence(make_clip, same, tmp_path):
    clip = make_clip(frames=11)
    paths = ply.write_ply_sequence(clip.frames, tmp_path / "frames")
    assert [path.name for path in paths[:2]] == ["frame_0001.ply", "frame_0002.ply"]
    back = ply.read_ply_sequence(tmp_path / "frames")
    assert len(back) == 11
    for a, b in zip(back, clip.frames, strict=True):
        same(a.with_up("z"), b)
    with pytest.raises(ValueError, match="holds PLY files already"):
        ply.write_ply_sequence(clip.frames, tmp_path / "frames")
    (tmp_path / "frames" / "frame_5.ply").write_bytes(paths[0].read_bytes())
    with pytest.raises(ValueError, match="two files of frame 5"):
        ply.read_ply_sequence(tmp_path / "frames")


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("seed", range(3))
def test_spz(make, same, tmp_path, degree, seed):
    splats = make(60, degree, seed, up="y")
    back = spz.read_spz(spz.write_spz(splats, tmp_path / "a.spz"))
    steps = {"means": 0.51 / 4096, "shape": 0.12, "opacity": 0.51 / 255}
    same(back, splats, **steps, sh=1 / 16 + 1 / 256 + 1e-6)
    assert (back.sh[:, :1] - splats.sh[:, :1]).abs().max() <= 0.51 / (0.15 * 255)
    logs = (back.scales.log() - splats.scales.log()).abs().max()
    assert logs <= 0.51 / 16


def test_spz_rotations_do_not_get_lost_at_half_turns(make, covariances, tmp_path):
    """A half turn has w = 0, from which three bytes could not bring the rest back."""
    splats = make(300)
    half = splats.quats.clone()
    half[:, 0] = 0
    splats = Splats(splats.means, half, splats.scales, splats.opacities, splats.sh)
    back = spz.read_spz(spz.write_spz(splats, tmp_path / "a.spz")).with_up("z")
    back = Splats(back.means, back.quats, splats.scales, back.opacities, back.sh)
    size = covariances(splats).diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
    assert ((covariances(back) - covariances(splats)) / size).abs().max() < 0.02


def test_spz_has_16_bytes_and_19_a_gaussian(make, tmp_path):
    import gzip

    data = gzip.decompress(spz.write_spz(make(50), tmp_path / "a.spz", antialiased=True).read_bytes())
    assert len(data) == 16 + 19 * 50 and data[14] == 1


def test_spz_says_what_lies_too_far(make, tmp_path):
    splats = make(3)
    splats.means[1, 0] = 2048
    with pytest.raises(ValueError, match="`means` reaches 2048; SPZ stores places below 2048"):
        spz.write_spz(splats, tmp_path / "a.spz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(3))
def test_splat(make, same, tmp_path, seed):
    splats = make(80, 0, seed)
    path = write_splat(splats, tmp_path / "a.splat")
    assert path.stat().st_size == 32 * 80
    shown = splats.with_up("-y").picked(order(splats))
    back = read_splat(path)
    colours = shown.rgb.clamp(0, 1)
    assert (back.rgb - colours).abs().max() <= 0.51 / 255
    same(Splats(back.means, back.quats, back.scales, back.opacities, shown.sh, up="-y"), shown, 1e-6, 0.03, 0.51 / 255)
    seen = back.scales.prod(-1) * back.opacities
    assert (seen.diff() <= 0.004 * seen[0]).all()


def test_splat_holds_no_harmonics(make, tmp_path):
    with pytest.raises(ValueError, match="scene has SH degree 1 but .splat stores none: pass drop_sh=True"):
        write_splat(make(4, 1), tmp_path / "a.splat")
    assert not list(tmp_path.iterdir())
    assert read_splat(write_splat(make(4, 1), tmp_path / "a.splat", drop_sh=True)).degree == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_rigid_objects_are_found_to_be_rigid(make_clip, same, seed, degree):
    clip = make_clip(frames=6, degree=degree, seed=seed)
    scene = rigid_scene(clip)
    assert [part.name for part in scene.parts] == ["background", "red cube", "ball", "cone"]
    assert [part.moves for part in scene.parts] == [False, True, True, False]
    assert max(part.deviation for part in scene.parts) < 1e-5
    by_object = torch.argsort(clip.frames[0].object_id, stable=True)
    for time, frame in zip(clip.times, clip.frames, strict=True):
        same(scene.at(time), frame.picked(by_object), sh=1e-4)


def test_what_bends_is_not_rigid_and_the_message_says_which(make_clip):
    clip = make_clip(frames=4, bend=0.3)
    with pytest.raises(ValueError, match=r"not rigid within 0.1 of their radius: 'ball' \(0\.\d+\); write a PLY seq"):
        rigid_scene(clip)
    assert rigid_part(clip, 1).deviation < 1e-5


@pytest.mark.parametrize("change", ["opacities", "scales", "sh"])
def test_what_changes_its_looks_is_not_rigid(make_clip, change):
    clip = make_clip(frames=3)
    changed = {name: getattr(clip.frames[2], name).clone() for name in ("opacities", "scales", "sh")}
    changed[change] *= 0.5
    last = Splats(clip.frames[2].means, clip.frames[2].quats, object_id=clip.frames[2].object_id, **changed)
    assert rigid_part(Clip((*clip.frames[:2], last), clip.times), 3).deviation == math.inf


def test_one_gaussian_is_rigid_too(make_clip, same):
    clip = make_clip(frames=5, count=4)
    for time, frame in zip(clip.times, clip.frames, strict=True):
        same(rigid_scene(clip).at(time), frame)


@pytest.mark.parametrize("frames", [1, 7])
@pytest.mark.parametrize("degree", DEGREES)
def test_glb(make_clip, same, tmp_path, frames, degree):
    clip = make_clip(frames=frames, degree=degree)
    back = read_glb(glb.write_glb(rigid_scene(clip), tmp_path / "a.glb"))
    assert [part.name for part in back.parts] == ["background", "red cube", "ball", "cone"]
    assert back.times == pytest.approx(clip.times, abs=1e-6)
    frames_back = [back.at(time).with_up("z") for time in clip.times]
    order_back = torch.argsort(clip.frames[0].object_id, stable=True)
    for a, b in zip(frames_back, clip.frames, strict=True):
        same(a, b.picked(order_back), sh=1e-4)
        assert torch.equal(a.object_id, b.object_id[order_back])


def test_glb_between_two_keys_lies_between_them(make_clip, same, tmp_path):
    scene = rigid_scene(make_clip(frames=3))
    back = read_glb(glb.write_glb(scene, tmp_path / "a.glb"))
    for time in (0.03, 0.06, 0.125, 0.2):
        same(back.at(time).with_up("z"), scene.at(time))


def test_a_moving_glb_is_far_smaller_than_its_frames(make_clip, tmp_path):
    clip = make_clip(frames=24, count=200)
    size = glb.write_glb(rigid_scene(clip), tmp_path / "a.glb").stat().st_size
    frames = sum(path.stat().st_size for path in ply.write_ply_sequence(clip.frames, tmp_path / "frames"))
    assert size * 10 < frames


@pytest.mark.parametrize(("degree", "bend"), [(0, 0.0), (0, 0.2), (1, 0.0), (3, 0.0)])
def test_4dgs(make_clip, same, tmp_path, degree, bend):
    pytest.importorskip("fourdgs", reason="needs the extra [4d]")
    clip = make_clip(frames=6, degree=degree, bend=bend)
    back = read_4dgs(write_4dgs(clip, tmp_path / "a.4dgs"))
    assert back.names == {1: "red cube", 2: "ball", 3: "cone"}
    assert back.duration == pytest.approx(6 / 8)
    for time, frame in zip(clip.times, clip.frames, strict=True):
        found = back.at(time + 1e-9)
        # what is written in pieces comes back in another order
        nearest = torch.cdist(frame.means, found.means).argmin(dim=1)
        assert len(nearest.unique()) == frame.count == found.count
        found = found.picked(nearest)
        assert (found.rgb - frame.rgb.clamp(0, 1)).abs().max() < 0.006
        shown = frame.sh.clone()
        shown[:, 0] = found.sh[:, 0]
        shown = Splats(frame.means, frame.quats, frame.scales, frame.opacities, shown, frame.object_id)
        same(found, shown, means=0.01, shape=0.03, opacity=0.003, sh=0.02)
        assert torch.equal(found.object_id, frame.object_id)


def test_parts_that_differ_are_not_joined(make):
    with pytest.raises(ValueError, match="`parts` differ in `degree`"):
        joined([make(3, 0), make(3, 1)])
    with pytest.raises(ValueError, match="`parts` differ in `up`"):
        joined([make(3), make(3, up="y")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(0, 3)}, "`means` holds no Gaussian"),
        ({"quats": torch.zeros(3, 4)}, "`quats` has one of length 0; that is no rotation"),
        ({"scales": torch.tensor([[1.0, 1, 0]] * 3)}, "`scales` has 0.0; they are linear, above 0"),
        ({"opacities": torch.tensor([0.5, 1.2, 0])}, "`opacities` has 0 to 1.2; allowed: 0 to 1"),
        ({"means": torch.full((3, 3), math.nan)}, "`means` is not finite at Gaussian 0"),
        ({"sh": torch.zeros(3, 5, 3)}, r"`sh` is \(3, 5, 3\); it must be \(N, K, 3\)"),
        ({"object_id": torch.tensor([0, 1, -1])}, r"`object_id` must be \(3,\), from 0"),
        ({"up": "x"}, "`up` is 'x'; allowed: y, -y, z"),
        ({"opacities": torch.zeros(2)}, r"`opacities` is \(2,\); it must be \(3,\)"),
    ],
)
def test_splats_say_what_is_wrong_with_them(make, change, message):
    good = make(3)
    names = ("means", "quats", "scales", "opacities", "sh", "object_id", "up")
    with pytest.raises(ValueError, match=message):
        Splats(**{name: getattr(good, name) for name in names} | change)


@pytest.mark.parametrize("times", [(0.0,), (0.0, 0.0, 0.1), (-1.0, 0.0, 1.0), (0.0, 1.0, math.nan), (0, 1, math.inf)])
def test_times_rise(make_clip, times):
    with pytest.raises(ValueError, match="`times`"):
        Clip(make_clip(frames=3).frames, times)

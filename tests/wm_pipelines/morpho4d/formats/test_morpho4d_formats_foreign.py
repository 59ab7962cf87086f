"""Our files in readers that are not ours, and theirs in ours."""

import json
import subprocess

import numpy as np
import pytest
import torch

from wm_pipelines.morpho4d.formats import glb, ply, spz
from wm_pipelines.morpho4d.formats.container import write_4dgs
from wm_pipelines.morpho4d.formats.glb_reader import read_glb
from wm_pipelines.morpho4d.formats.rigid import rigid_scene
from wm_pipelines.morpho4d.formats.splat import order, write_splat
from wm_pipelines.morpho4d.gaussians import SH_DC


@pytest.mark.parametrize("degree", range(4))
def test_plyfile_reads_our_ply(make, tmp_path, degree):
    plyfile = pytest.importorskip("plyfile", reason="needs plyfile, of the extra [dev]")
    splats = make(33, degree)
    data = plyfile.PlyData.read(ply.write_ply(splats, tmp_path / "a.ply", object_ids=True))
    vertex, down = data["vertex"], splats.with_up("-y")
    assert (data.text, data.byte_order, len(vertex)) == (False, "<", 33)
    for n, name in enumerate("xyz"):
        assert np.allclose(vertex[name], down.means[:, n], atol=1e-6)
        assert not vertex[f"n{name}"].any()
    assert np.allclose(1 / (1 + np.exp(-vertex["opacity"])), down.opacities, atol=1e-6)
    assert np.allclose(np.exp(np.stack([vertex[f"scale_{n}"] for n in range(3)], 1)), down.scales, rtol=1e-5)
    assert np.allclose(np.stack([vertex[f"rot_{n}"] for n in range(4)], 1), down.quats, atol=1e-6)
    rest = (degree + 1) ** 2 - 1
    for channel in range(3):  # all red, then all green, then all blue
        assert np.allclose(vertex[f"f_dc_{channel}"], down.sh[:, 0, channel], atol=1e-6)
        for n in range(rest):
            assert np.allclose(vertex[f"f_rest_{channel * rest + n}"], down.sh[:, 1 + n, channel], atol=1e-6)
    assert np.array_equal(vertex["object_id"], splats.object_id)


@pytest.mark.parametrize("degree", [0, 3])
def test_we_read_what_plyfile_writes(make, same, tmp_path, degree):
    plyfile = pytest.importorskip("plyfile", reason="needs plyfile, of the extra [dev]")
    splats = make(12, degree)
    data = plyfile.PlyData.read(ply.write_ply(splats, tmp_path / "a.ply"))
    data.comments.append("written again")
    data.write(tmp_path / "b.ply")
    same(ply.read_ply(tmp_path / "b.ply").with_up("z"), splats)


def pygltf_array(document, index):
    accessor = document.accessors[index]
    view = document.bufferViews[accessor.bufferView]
    kind = {5126: "<f4", 5121: "u1"}[accessor.componentType]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]
    return np.frombuffer(document.binary_blob(), kind, accessor.count * width, view.byteOffset).reshape(-1, width)


def test_pygltflib_reads_our_glb(make_clip, tmp_path):
    pygltflib = pytest.importorskip("pygltflib", reason="needs pygltflib, of the extra [dev]")
    clip = make_clip(frames=5, degree=1)
    scene = rigid_scene(clip)
    document = pygltflib.GLTF2().load(glb.write_glb(scene, tmp_path / "a.glb"))
    assert document.extensionsUsed == ["KHR_gaussian_splatting"]
    assert [node.name for node in document.nodes] == ["background", "red cube", "ball", "cone"]
    assert [node.extras["object_id"] for node in document.nodes] == [0, 1, 2, 3]
    for node, part in zip(document.nodes, scene.parts, strict=True):
        primitive = document.meshes[node.mesh].primitives[0]
        assert primitive.mode == pygltflib.POINTS
        assert primitive.extensions["KHR_gaussian_splatting"] == {
            "kernel": "ellipse",
            "colorSpace": "srgb_rec709_display",
        }
        attributes = vars(primitive.attributes)
        splats = part.splats.with_up("y")
        names = {"ROTATION": splats.quats[:, [1, 2, 3, 0]], "SCALE": splats.scales}
        names |= {"OPACITY": splats.opacities[:, None]}
        names |= {"SH_DEGREE_0_COEF_0": splats.sh[:, 0], "SH_DEGREE_1_COEF_2": splats.sh[:, 3]}
        for name, values in names.items():
            found = pygltf_array(document, attributes[f"KHR_gaussian_splatting:{name}"])
            assert np.allclose(found, values, atol=1e-6), name
        position = document.accessors[attributes["POSITION"]]
        assert np.allclose(pygltf_array(document, attributes["POSITION"]), splats.means, atol=1e-6)
        assert np.allclose(position.min, splats.means.amin(0)) and np.allclose(position.max, splats.means.amax(0))
        colour = pygltf_array(document, attributes["COLOR_0"]) / 255
        assert np.allclose(colour[:, :3], (0.5 + SH_DC * splats.sh[:, 0]).clamp(0, 1), atol=0.51 / 255)
    (animation,) = document.animations
    assert {(c.target.node, c.target.path) for c in animation.channels} == {
        (n, path) for n in (1, 2) for path in ("translation", "rotation")
    }
    for sampler in animation.samplers:
        assert np.allclose(pygltf_array(document, sampler.input)[:, 0], clip.times)
        assert len(pygltf_array(document, sampler.output)) == 5
    # a node's keys carry its first frame to every other: z up there is y up here
    moved = [c for c in animation.channels if (c.target.node, c.target.path) == (1, "translation")][0]
    places = pygltf_array(document, animation.samplers[moved.sampler].output)
    world = scene.parts[1].translations.numpy()
    assert np.allclose(places, np.stack([world[:, 0], world[:, 2], -world[:, 1]], 1), atol=1e-6)


def test_fourdgs_alone_reads_our_container(make_clip, tmp_path):
    fourdgs = pytest.importorskip("fourdgs", reason="needs the extra [4d]")
    from fourdgs.validate import validate

    clip = make_clip(frames=4)
    path = write_4dgs(clip, tmp_path / "a.4dgs")
    report = validate(path.read_bytes())
    assert not [finding for finding in report.findings if finding.severity == "error"], report.findings
    scene = fourdgs.read(path)
    assert scene.header.attributes["coordinate_system"] == "z-up-right-handed"
    assert [entry.label for entry in scene.objects.table.entries] == ["red cube", "ball", "cone"]
    assert [track.object_id for track in scene.objects.tracks] == [1, 2]
    for time, frame in zip(clip.times, clip.frames, strict=True):
        state = scene.state_at(time)
        for number in range(4):
            centres = state["centers"][state["object_id"] == number]
            wanted = frame.means[frame.object_id == number].double().numpy()
            nearest = np.abs(centres[:, None] - wanted[None]).max(-1).min(0)
            assert len(centres) == len(wanted) and nearest.max() < 0.01


def test_fourdgs_makes_a_glb_that_we_read(make_clip, tmp_path):
    fourdgs = pytest.importorskip("fourdgs", reason="needs the extra [4d]")
    clip = make_clip(frames=1)
    scene = fourdgs.read(write_4dgs(clip, tmp_path / "a.4dgs"))
    axes = "z-up-right-handed"
    fourdgs.to_gltf(str(tmp_path / "b.glb"), scene.gaussians, 0.0, cutoff=0.05, coordinate_system=axes)
    back = read_glb(tmp_path / "b.glb").at(0).with_up("z")
    wanted = clip.frames[0]
    nearest = torch.cdist(wanted.means, back.means).argmin(1)
    assert (back.means[nearest] - wanted.means).abs().max() < 0.01
    assert (back.rgb[nearest] - wanted.rgb.clamp(0, 1)).abs().max() < 0.01


@pytest.mark.parametrize("degree", [0, 2])
@pytest.mark.parametrize("kind", ["ply", "spz"])
def test_splat_transform_reads_ours(splat_transform, make, same, tmp_path, kind, degree):
    splats = make(20, degree)
    path = {"ply": ply.write_ply, "spz": spz.write_spz}[kind](splats, tmp_path / f"a.{kind}")
    splat_transform(path, tmp_path / "b.ply")
    losses = {} if kind == "ply" else {"means": 1e-6, "shape": 1e-4, "opacity": 1e-5, "sh": 1e-5}
    ours = splats if kind == "ply" else spz.read_spz(path).with_up("z")
    same(ply.read_ply(tmp_path / "b.ply").with_up("z"), ours, **losses)


@pytest.mark.parametrize("version", [3, 4])
def test_we_read_spz_of_splat_transform(splat_transform, make, same, tmp_path, version):
    """Its packer is Niantic's own."""
    if version == 4:
        pytest.importorskip("zstandard", reason="SPZ 4 needs zstandard, of the extra [4d]")
    splats = make(20, 1)
    splat_transform("--spz-version", version, ply.write_ply(splats, tmp_path / "a.ply"), tmp_path / "b.spz")
    back = spz.read_spz(tmp_path / "b.spz").with_up("z")
    same(back, splats, means=0.51 / 4096, shape=0.12, opacity=0.51 / 255, sh=0.08)


def test_splat_transform_reads_our_splat_and_its_glb_comes_back(splat_transform, make, same, tmp_path):
    splats = make(20)
    splat_transform(write_splat(splats, tmp_path / "a.splat"), tmp_path / "b.ply")
    same(ply.read_ply(tmp_path / "b.ply"), splats.with_up("-y").picked(order(splats)), 1e-5, 0.03, 0.002, 0.6)
    splat_transform(ply.write_ply(make(20, 1), tmp_path / "c.ply"), tmp_path / "c.glb")
    back = read_glb(tmp_path / "c.glb").at(0)  # it stands PLY upright about z, we and SPZ about x
    same(back.turned(torch.tensor([0.0, 0, 1, 0])).with_up("z"), make(20, 1), 1e-5)


VALIDATE = """
const validator = require("gltf-validator"), fs = require("fs");
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1]))).then(r => console.log(JSON.stringify(r)));
"""


@pytest.mark.parametrize(("frames", "degree"), [(1, 0), (6, 0), (6, 1)])
def test_the_validator_of_khronos_finds_nothing_but_the_extension(node_modules, make_clip, tmp_path, frames, degree):
    """It does not know the extension yet, nor names with a colon; those exactly are let pass."""
    if not (node_modules / "gltf-validator").is_dir():
        pytest.skip("needs npm install gltf-validator in WM_NODE_MODULES")
    path = glb.write_glb(rigid_scene(make_clip(frames=frames, degree=degree)), tmp_path / "a.glb")
    done = subprocess.run(["node", "-e", VALIDATE, path], cwd=node_modules.parent, capture_output=True, text=True)
    report = json.loads(done.stdout)
    names = ["ROTATION", "SCALE", "OPACITY", *(glb.harmonic(n).partition(":")[2] for n in range((degree + 1) ** 2))]
    allowed = {("UNSUPPORTED_EXTENSION", "/extensionsUsed/0")} | {
        ("MESH_PRIMITIVE_INVALID_ATTRIBUTE", f"/meshes/{n}/primitives/0/attributes/{glb.attribute(name)}")
        for n in range(4)
        for name in names
    }
    assert {(m["code"], m["pointer"]) for m in report["issues"]["messages"]} == allowed
    assert report["info"]["animationCount"] == (frames > 1)

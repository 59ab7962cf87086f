"""`export`: every suffix, from a scene whose objects turn, slide and rest."""

import math

import pytest
import torch

from wm_pipelines.media.video import read_video
from wm_pipelines.morpho4d.formats import ply, spz
from wm_pipelines.morpho4d.formats.clip import Clip
from wm_pipelines.morpho4d.formats.container import read_4dgs
from wm_pipelines.morpho4d.formats.export import MOMENTS, export
from wm_pipelines.morpho4d.formats.glb_reader import read_glb
from wm_pipelines.morpho4d.formats.splat import read_splat
from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians
from wm_pipelines.morpho4d.harmonics import basis, colours
from wm_pipelines.morpho4d.motion import NodeMotion
from wm_pipelines.morpho4d.scene import Scene4D

FRAMES = 4


@pytest.fixture
def scene(make):
    """`scene(degree)`: object 1 turns a right angle about z while it slides along x; the others rest."""

    def build(degree=0):
        splats = make(40, degree)
        dynamic = splats.object_id == 1
        count = int(dynamic.sum())
        angle = torch.linspace(0, math.pi / 2, FRAMES)
        turn = torch.stack([(angle / 2).cos(), angle * 0, angle * 0, (angle / 2).sin()], dim=-1)
        node = torch.stack([torch.linspace(0, 1, FRAMES), torch.zeros(FRAMES), torch.zeros(FRAMES)], dim=-1)
        motion = NodeMotion(
            node_xyz=node[:, None],
            node_quat=turn[:, None],
            knn_index=torch.zeros(count, 1, dtype=torch.int64),
            skin_weight=torch.ones(count, 1),
            ref_time=torch.zeros(count),
        )
        gaussians = Gaussians(
            means=splats.means,
            quats=splats.quats,
            log_scales=splats.scales.log(),
            logit_opacities=splats.opacities.logit(),
            sh=splats.sh,
            features=torch.zeros(40, 0),
            object_id=splats.object_id,
            is_dynamic=dynamic,
        )
        pose = torch.eye(4).expand(1, FRAMES, 4, 4).clone()
        pose[..., :3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        pose[..., 2, 3] = 6
        cameras = Cameras(torch.tensor([[[40.0, 0, 16], [0, 40, 16], [0, 0, 1]]]), pose, (32, 32))
        return Scene4D(gaussians, motion, cameras, FRAMES, fps=8.0, names={1: "cube"})

    return build


@pytest.mark.parametrize("degree", range(4))
def test_a_clip_has_the_colours_that_the_scene_has_from_anywhere(scene, degree):
    """A scene keeps harmonics in each Gaussian's own frame, files in the world's."""
    scene = scene(degree)
    for time, splats in zip((0, 1.5, 3), Clip.of(scene, [0, 1.5, 3]).frames, strict=True):
        posed = scene.at(time)
        eye = torch.tensor([0.3, -4.0, 1.0])
        direction = torch.nn.functional.normalize(splats.means - eye, dim=-1)
        seen = 0.5 + (basis(direction, degree)[..., None] * splats.sh).sum(1)
        assert torch.allclose(seen.clamp(min=0), colours(posed, eye), atol=1e-5)


def test_files_of_one_moment(scene, same, tmp_path):
    scene = scene()
    wanted = Clip.of(scene, [1.5]).frames[0]
    same(ply.read_ply(export(scene, tmp_path / "a.ply", [1.5])).with_up("z"), wanted)
    back = spz.read_spz(export(scene, tmp_path / "a.spz", [1.5])).with_up("z")
    same(back, wanted, 0.51 / 4096, 0.12, 0.51 / 255, 0.02)
    assert read_splat(export(scene, tmp_path / "a.splat", [1.5])).count == 40
    for suffix in MOMENTS:
        with pytest.raises(ValueError, match=f"a {suffix} holds one moment, `times` has 4: pass times="):
            export(scene, tmp_path / f"b{suffix}")


@pytest.mark.parametrize("degree", [0, 2])
def test_files_of_the_whole(scene, same, tmp_path, degree):
    scene = scene(degree)
    frames = Clip.of(scene).frames
    export(scene, tmp_path / "frames")
    for a, b in zip(ply.read_ply_sequence(tmp_path / "frames"), frames, strict=True):
        same(a.with_up("z"), b)
    by_object = torch.argsort(frames[0].object_id, stable=True)
    moving = read_glb(export(scene, tmp_path / "a.glb"))
    assert [(part.name, part.moves) for part in moving.parts] == [
        ("background", False), ("cube", True), ("object 2", False), ("object 3", False),
    ]  # fmt: skip
    for n, frame in enumerate(frames):
        same(moving.at(n / 8).with_up("z"), frame.picked(by_object), sh=1e-4)
    # between two keys: a quarter of the way round is where the scene itself is then
    same(moving.at(1.5 / 8).with_up("z"), Clip.of(scene, [1.5]).frames[0].picked(by_object), means=0.02, sh=0.01)
    pytest.importorskip("fourdgs", reason="needs the extra [4d]")
    container = read_4dgs(export(scene, tmp_path / "a.4dgs"))
    assert container.at(0.3).count == 40 and container.names[1] == "cube"


def test_a_video_and_a_page(scene, tmp_path):
    scene = scene()
    video, fps = read_video(export(scene, tmp_path / "a.mp4"))
    assert video.shape == (FRAMES, 3, 32, 32) and fps == 8
    assert (video / 255 - scene.render(0).frames).abs().mean() < 0.05
    text = export(scene, tmp_path / "scene.html", title="A cube & more").read_text()
    assert "A cube &amp; more" in text and text.startswith("<!doctype html>")


def test_harmonics_into_splat(scene, tmp_path):
    with pytest.raises(ValueError, match="scene has SH degree 1 but .splat stores none: pass drop_sh=True"):
        export(scene(1), tmp_path / "a.splat", [0])
    export(scene(1), tmp_path / "a.splat", [0], drop_sh=True)


@pytest.mark.parametrize("times", [[], [1, 1], [2, 1], [-1], [3.5], [math.nan]])
def test_times_that_are_not_there(scene, tmp_path, times):
    with pytest.raises(ValueError, match="`times` is .*; frames from 0 to 3 that rise"):
        export(scene(), tmp_path / "a.glb", times)
    assert not list(tmp_path.iterdir())


def test_suffixes_and_cameras_that_are_not_there(scene, tmp_path):
    with pytest.raises(ValueError, match="`path` ends in '.obj'; allowed: .ply, .spz, .splat, .glb, "):
        export(scene(), tmp_path / "a.obj")
    for suffix in (".html", ".mp4"):
        with pytest.raises(ValueError, match="`view` is 1; the scene has cameras 0 to 0"):
            export(scene(), tmp_path / f"a{suffix}", view=1)
    assert not list(tmp_path.iterdir())

from dataclasses import replace

import pytest
import torch

from wm_pipelines.diorama.cameras import ring_cameras
from wm_pipelines.diorama.datasets import DioramaDataset, RenderedImages
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.render import MAPS, render


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


def test_multiview_items_are_still_the_stills_that_they_were():
    data = DioramaDataset("multiview", length=4, views=3, size=16)
    item = data[1]
    assert [c.eye for c in item["cameras"]] == [
        (0.0, -5.6, 3.4),
        (5.115988254547119, 2.2774250507354736, 3.4000000953674316),
        (-4.942657947540283, 2.632514715194702, 3.4000000953674316),
    ]
    assert item["scene"] == DioramaDataset(length=4).scene(1) and not any(o.motion for o in item["scene"].objects)
    assert set(item) == {"index", "scene", "rgb", "ids", "depth", "caption", "spans", "cameras"}
    one_by_one = render([replace(item["scene"], camera=c) for c in item["cameras"]], size=16)
    assert all(same(item[name], getattr(one_by_one, name)[:, 0]) for name in ("rgb", "ids", "depth"))
    assert DioramaDataset("multiview", length=1, size=8)[0]["rgb"].shape == (4, 3, 8, 8)


def test_a_multiview_video_is_the_video_of_its_key_from_several_sides():
    options = {"length": 3, "size": 16, "frames": 5}
    maps = ("albedo", "ids", "flow", "boxes")
    views = DioramaDataset("multiview", views=3, maps=maps, **options)
    for i in range(3):
        item, video = views[i], DioramaDataset("video", maps=maps, **options)[i]
        assert item["scene"] == video["scene"] and item["caption"] == video["caption"]
        n = len(item["scene"].objects)
        assert item["albedo"].shape == (3, 5, 3, 16, 16) and item["ids"].shape == (3, 5, 16, 16)
        assert item["flow"].shape == (3, 5, 2, 16, 16) and item["boxes"].shape == (3, 5, n, 4)
        assert all(same(item[name][0], video[name]) for name in maps)  # the first camera is the scene's own
        assert item["cameras"] == views.cameras(i) and len({c.eye for c in item["cameras"]}) == 3
        assert not torch.equal(item["ids"][1], item["ids"][0])
    again = DioramaDataset("multiview", views=3, maps=maps, **options)[1]
    assert all(same(again[name], views[1][name]) for name in maps)


def test_cameras_may_be_given_and_floors_be_chequered():
    ring = ring_cameras(4, radius=8.0)
    data = DioramaDataset("multiview", length=2, size=12, frames=2, cameras=ring, floor_pattern="chequered", maps=MAPS)
    item = data[1]
    assert item["cameras"] == ring and data.views == 4 and item["scene"].floor_pattern == "chequered"
    out = render(item["scene"], range(2), 12, MAPS, cameras=ring)
    assert all(same(item[name], getattr(out, name)[0]) for name in MAPS)
    plain = DioramaDataset("multiview", length=2, size=12, frames=2, cameras=ring).scene(1)
    assert item["scene"] == replace(plain, floor_pattern="chequered")
    stills = DioramaDataset("multiview", length=2, size=12, cameras=ring, maps=("rgb",))[0]
    assert stills["rgb"].shape == (4, 3, 12, 12) and "ids" not in stills


def test_cameras_of_a_multiview_video_may_move_together():
    data = DioramaDataset("multiview", length=4, size=8, frames=6, views=3, camera_motion=True)
    for i in range(4):
        scene, cameras = data.scene(i), data.cameras(i)
        assert scene.camera.motion and cameras[0] == scene.camera
        assert all(c.motion == scene.camera.motion for c in cameras)
    assert data[2]["cameras"] == data.cameras(2)


def test_maps_of_images_and_videos_are_chosen():
    image = DioramaDataset(length=1, size=8, maps=("albedo", "normals"))[0]
    assert {"albedo", "normals"} < set(image) and "rgb" not in image and image["albedo"].shape == (3, 8, 8)
    assert torch.equal(image["albedo"], render(image["scene"], size=8, maps=("albedo",)).albedo[0, 0])
    video = DioramaDataset("video", length=1, size=8, frames=3, maps=("rgb", "albedo", "occlusion"))[0]
    assert video["albedo"].shape == (3, 3, 8, 8) and video["occlusion"].shape == (3, 8, 8)
    assert not torch.equal(video["albedo"], video["rgb"])


def test_kept_pictures_of_other_floors_are_refused(tmp_path):
    options = {"length": 2, "size": 8}
    RenderedImages(DioramaDataset(**options), tmp_path / "plain", progress=False)
    chequered = RenderedImages(DioramaDataset(floor_pattern="chequered", **options), progress=False)
    assert not torch.equal(chequered.rgb, RenderedImages(DioramaDataset(**options), tmp_path / "plain").rgb)
    with pytest.raises(ValueError, match="`cache`.*delete it"):
        RenderedImages(DioramaDataset(floor_pattern="chequered", **options), tmp_path / "plain")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"views": 0}, "views"),
        ({"views": -2, "frames": 4}, "views"),
        ({"frames": 0}, "frames"),
        ({"cameras": []}, "cameras"),
        ({"cameras": ["front"]}, "cameras"),
        ({"cameras": ring_cameras(3), "views": 4}, "views"),
        ({"cameras": ring_cameras(3), "kind": "video"}, "cameras"),
        (
            {"cameras": [replace(c, motion=(Motion("pan", 0, 4, "left", 0.1),)) for c in ring_cameras(2)],
             "camera_motion": True},
            "camera_motion",
        ),
        ({"maps": ()}, "maps"),
        ({"maps": ("rgb", "colour")}, "maps"),
        ({"maps": "rgb"}, "maps"),
        ({"floor_pattern": "tiled"}, "floor_pattern"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_by_name(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        DioramaDataset(**({"kind": "multiview"} | options))

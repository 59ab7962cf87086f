import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from wm_pipelines.diorama.datasets import DioramaDataset, RenderedImages
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import HELD_OUT, Scene, is_held_out


def digest(index: int, kind: str = "image") -> str:
    """Of everything in an item."""
    item = DioramaDataset(kind, length=9, size=12, frames=3)[index]
    h = hashlib.blake2b(item["scene"].to_json().encode() + item["caption"].encode() + repr(item["spans"]).encode())
    for state, action, phrase in zip(*(item.get(k, ()) for k in ("states", "actions", "phrases")), strict=False):
        h.update((state.to_json() + action.to_json() + phrase).encode())
    for name in ("rgb", "ids", "depth"):
        h.update(item[name].contiguous().numpy().tobytes())
    return h.hexdigest()


def test_an_item_is_the_same_bytes_in_another_process_and_thread_and_in_any_order():
    here = {(i, kind): digest(i, kind) for i in (0, 1) for kind in ("image", "video", "pairs")}
    assert len(set(here.values())) == 6
    with ThreadPoolExecutor(2) as pool:
        order = list(here)[::-1]
        assert dict(zip(order, pool.map(lambda key: digest(*key), order), strict=True)) == here
    program = (
        f"import runpy; digest = runpy.run_path({__file__!r})['digest']; "
        "print(digest(1), digest(0, 'video'), digest(1, 'pairs'))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.split() == [here[1, "image"], here[0, "video"], here[1, "pairs"]]


def test_image_items():
    data = DioramaDataset(length=5, size=16)
    assert len(data) == len(list(data)) == 5
    item = data[2]
    assert set(item) == {"index", "scene", "rgb", "ids", "depth", "caption", "spans"} and item["index"] == 2
    assert item["rgb"].shape == (3, 16, 16) and item["rgb"].dtype == torch.float32
    assert 0 <= item["rgb"].min() and item["rgb"].max() <= 1
    assert item["ids"].shape == item["depth"].shape == (16, 16) and item["ids"].dtype == torch.int64
    out = render(item["scene"], size=16)
    assert torch.equal(item["rgb"], out.rgb[0, 0]) and torch.equal(item["ids"], out.ids[0, 0])
    said = parse_caption(item["caption"])
    assert len(said.objects) == len(item["scene"].objects) == len(item["spans"])


def test_video_items():
    item = DioramaDataset("video", length=3, size=12, frames=4)[1]
    assert item["rgb"].shape == (4, 3, 12, 12) and item["ids"].shape == item["depth"].shape == (4, 12, 12)
    assert torch.equal(item["rgb"], render(item["scene"], range(4), 12).rgb[0])
    moving = [DioramaDataset("video", length=12).scene(i) for i in range(12)]
    assert sum(any(o.motion for o in s.objects) for s in moving) > 6
    assert not any(s.camera.motion for s in moving)
    assert all(s.camera.motion for s in map(DioramaDataset("video", length=3, camera_motion=True).scene, range(3)))


def test_multiview_items_are_one_scene_from_several_sides():
    data = DioramaDataset("multiview", length=4, size=24, views=3)
    item = data[1]
    assert item["rgb"].shape == (3, 3, 24, 24) and item["depth"].shape == (3, 24, 24)
    assert len(item["cameras"]) == 3 and item["cameras"][0] == item["scene"].camera
    assert len({c.eye for c in item["cameras"]}) == 3
    out = render(item["scene"], size=24)
    assert torch.equal(item["rgb"][0], out.rgb[0, 0])
    present = {o.id for o in item["scene"].objects}
    assert all(set(ids.unique().tolist()) - {0} <= present for ids in item["ids"])
    assert not torch.equal(item["ids"][0], item["ids"][1])


def test_no_state_occurs_twice_nor_in_two_splits():
    states = []
    kinds = (("train", "iid"), ("val", "iid"), ("test", "iid"), ("test", "held_out"), ("val", "all"))
    for split, composition in kinds:
        data = DioramaDataset(split=split, composition=composition, length=60)
        states += [data.scene(i).to_json() for i in range(60)]
    assert len(set(states)) == len(states) == 300


def test_what_is_held_out_never_occurs_in_training_and_is_all_there_is_in_its_test():
    for split in ("train", "val", "test"):
        data = DioramaDataset(split=split, length=50)
        assert not any(is_held_out(data.scene(i)) for i in range(50))
    held = DioramaDataset(split="test", composition="held_out", length=50)
    pairs = {(o.colour, o.shape) for i in range(50) for o in held.scene(i).objects}
    assert pairs == HELD_OUT


def test_a_fifth_of_the_scenes_is_crowded():
    data = DioramaDataset(length=400)
    counts = [len(data.scene(i).objects) for i in range(400)]
    assert set(counts) == {1, 2, 3, 4}
    assert 0.15 < sum(c >= 3 for c in counts) / 400 < 0.25
    fixed = DioramaDataset(length=20, num_objects=(2,), same_shape=True, patterns=("plain",))
    for scene in map(fixed.scene, range(20)):
        assert len(scene.objects) == 2 and len({o.shape for o in scene.objects}) == 1
        assert all(o.pattern == "plain" for o in scene.objects)


def test_one_or_two_objects_are_about_twelve_pixels_large_or_more():
    data = DioramaDataset(length=30)
    scenes = [s for s in map(data.scene, range(30)) if len(s.objects) <= 2]
    out = render([Scene((o,)) for s in scenes for o in s.objects], size=64, maps=("ids", "boxes"))
    side = out.boxes[:, 0, 0, 2:] - out.boxes[:, 0, 0, :2]
    assert side.min() * 64 >= 10  # round solids in boxes set for turned prisms, and whole pixels


def test_data_loaders_take_it():
    from torch.utils.data import DataLoader

    data = DioramaDataset(length=4, size=8)
    batches = list(DataLoader(data, batch_size=2, collate_fn=lambda items: torch.stack([i["rgb"] for i in items])))
    assert [b.shape for b in batches] == [(2, 3, 8, 8)] * 2 and torch.equal(batches[1][0], data[2]["rgb"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "sound"}, "`kind` is 'sound'; allowed: image, video, multiview, pairs, questions"),
        ({"families": "count"}, "`families`.*are for questions; `kind` is 'image'"),
        ({"kind": "questions", "floor_pattern": "chequered"}, "`floor_pattern` is 'chequered'"),
        ({"split": "dev"}, "`split`"),
        ({"composition": "ood"}, "`composition`"),
        ({"composition": "held_out"}, "`composition` 'held_out'"),
        ({"length": 0}, "`length`"),
        ({"size": 0}, "`size`"),
        ({"kind": "video", "frames": 0}, "`frames`"),
        ({"kind": "multiview", "views": 0}, "`views`"),
        ({"num_objects": 9}, "`num_objects`"),
        ({"detail": "everything"}, "`detail`"),
        ({"patterns": ("dotted",)}, "`patterns`"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        DioramaDataset(**arguments)


def test_an_index_outside_ends_iteration():
    data = DioramaDataset(length=2, size=4)
    for index in (2, -1):
        with pytest.raises(IndexError, match="data set of 2"):
            data[index]


def test_rendered_images_are_the_items_and_come_back_from_their_file(tmp_path):
    data = DioramaDataset(length=5, size=8, split="val")
    cache = tmp_path / "sub" / "pictures.safetensors"
    made = RenderedImages(data, cache, batch=2, progress=False)
    assert len(made) == 5 and [p.name for p in cache.parent.iterdir()] == [cache.name]
    for i in range(5):
        assert (made.pictures([i])[0] - data[i]["rgb"]).abs().max() <= 0.5 / 255 + 1e-6
        assert torch.equal(made.ids[i].long(), data[i]["ids"])
    again = RenderedImages(data, cache)
    assert again.scenes == made.scenes == [data.scene(i) for i in range(5)]
    assert all(torch.equal(getattr(again, n), getattr(made, n)) for n in ("rgb", "ids", "depth"))


@pytest.mark.parametrize("change", [{"split": "test"}, {"length": 4}, {"size": 4}, {"same_shape": True}])
def test_a_file_of_other_pictures_is_refused(tmp_path, change):
    cache = tmp_path / "pictures"
    arguments = {"length": 2, "size": 8, "split": "val"}
    RenderedImages(DioramaDataset(**arguments), cache, progress=False)
    with pytest.raises(ValueError, match="`cache`.*delete it"):
        RenderedImages(DioramaDataset(**(arguments | change)), cache, progress=False)


def test_a_file_that_holds_no_pictures_is_refused(tmp_path):
    cache = tmp_path / "pictures"
    cache.write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="`cache`"):
        RenderedImages(DioramaDataset(length=2, size=8), cache)


def test_only_images_are_held_as_pictures():
    with pytest.raises(ValueError, match="'video'"):
        RenderedImages(DioramaDataset("video", length=1))

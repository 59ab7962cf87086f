"""Morpho4D's nodes in a real ComfyUI, and their splats in its own nodes.

Runs in each ComfyUI that COMFYUI_PATH names; see `comfy_homes.py`.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def found(comfyui):
    """What `comfy_morpho4d.py` saw in one process."""
    return comfyui.answer(Path(__file__).parent / "comfy_morpho4d.py")


def test_a_scene_is_rendered_along_a_path(found):
    assert found["images"] == [3, 16, 24, 3] and found["alpha"] == [3, 16, 24] and found["fps"] == 4
    assert found["large"] == [3, 16, 48, 3]
    assert found["own"] == 0


def test_files_are_written_into_the_output_folder(found):
    assert found["written"] == {
        "glb": "here/scene_00001_.glb",
        "html": "here/scene_00002_.html",
        "mp4": "here/scene_00003_.mp4",
        "ply sequence": "here/scene_00004_",
        "ply": "here/scene_00005_.ply",
        "spz": "here/scene_00006_.spz",
        "splat": "here/scene_00007_.splat",
    }
    files = {name for name in found["written"].values() if "." in name}
    frames = {f"here/scene_00004_/frame_{n:04d}.ply" for n in (1, 2, 3)}
    assert set(found["there"]) == files | frames
    assert found["refusal"] == "scene has SH degree 1 but .splat stores none: pass drop_sh=True"


def test_words_and_videos_are_fitted_and_scenes_edited(found):
    assert found["report"][0] == "1: red cube" and found["report"][-1].startswith("4 steps, ")
    assert [operation["op"] for operation in found["log"]] == ["remove", "remove"]
    assert found["opacity left"] < 1e-3 and found["kept"] == 0
    assert found["filmed"] == [3, 4.0, "cube"]
    missing, wrong = found["refusals"]
    assert "cameras" in missing and wrong == '`cameras` must be a JSON object of "K" and "T_cw"'


def test_comfyui_takes_the_splats_where_it_knows_them(found):
    assert found["splat"] == found["has splats"]
    if found["splat"]:
        assert found["positions"] == [3, 12, 3] and found["comfy"] in ([1, 12, 4, 3], None)
        assert found["slides"] == pytest.approx([0.4, 0, 0], abs=1e-6)

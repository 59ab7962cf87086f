"""A checkpoint saved over another one: no file of the old stays beside the new."""

import shutil

from wm_pipelines import AutoWMPipeline, hub


def test_a_checkpoint_saved_over_another_is_what_its_record_says(tmp_path):
    shutil.copytree(hub.embedded("diorama-judge"), tmp_path / "out")
    assert hub.recorded_files(tmp_path / "out")
    (tmp_path / "out" / "notes.md").write_text("mine")
    AutoWMPipeline.from_pretrained("kadaptation").save_pretrained(tmp_path / "out")
    hub.verify(tmp_path / "out")
    assert "diffusion_pytorch_model.safetensors" not in {path.name for path in (tmp_path / "out").iterdir()}

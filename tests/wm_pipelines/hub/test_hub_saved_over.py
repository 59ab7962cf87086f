"""A checkpoint saved over another one: no file of the old stays beside the new."""

import shutil

from wm_pipelines import AutoWMPipeline, DiscffusionPipeline, hub


def test_a_checkpoint_saved_over_another_is_what_its_record_says(tmp_path):
    shutil.copytree(hub.embedded("diorama-judge"), tmp_path / "out")
    assert hub.recorded_files(tmp_path / "out")
    (tmp_path / "out" / "notes.md").write_text("mine")
    AutoWMPipeline.from_pretrained("kadaptation").save_pretrained(tmp_path / "out")
    hub.verify(tmp_path / "out")
    assert "diffusion_pytorch_model.safetensors" not in {path.name for path in (tmp_path / "out").iterdir()}


def test_a_pipeline_without_a_record_saved_over_a_checkpoint_leaves_no_record_of_it(tmp_path, tiny_sd):
    shutil.copytree(hub.embedded("cpl"), tmp_path / "out")
    bare = DiscffusionPipeline(**tiny_sd)
    assert bare.wm_config is None
    bare.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / "wm_config.json").exists() and (tmp_path / "out" / "model_index.json").is_file()

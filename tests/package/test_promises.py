"""The promises of SECURITY.md, each tried on a folder that would break it; the controls show that it could."""

import json
import pickle
import re
import shutil

import pytest
from PIL import Image

from wm_pipelines import AutoWMPipeline, CPLPromptLearner, FlexEControlModel, FlexEControlPipeline, hub
from wm_pipelines.config import WMConfig


@pytest.fixture
def mark(tmp_path):
    """A file that comes into being when what is below is executed."""
    return tmp_path / "executed"


@pytest.fixture
def pickled(mark):
    """`pickled(name, folder)`: the embedded checkpoint, its weights pickles that leave the mark when they are read."""

    class Mark:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    data = pickle.dumps(Mark())
    pickle.loads(data).close()
    assert mark.exists()  # the control
    mark.unlink()

    def make(name, folder, record=False):
        shutil.copytree(hub.EMBEDDED_ROOT / name, folder)
        for weights in list(folder.rglob("*.safetensors")):
            transformers = (weights.parent / "config.json").is_file() and "transformers_version" in json.loads(
                (weights.parent / "config.json").read_text()
            )
            weights.with_name("pytorch_model.bin" if transformers else "diffusion_pytorch_model.bin").write_bytes(data)
            weights.unlink()
        if not record:
            (folder / "wm_config.json").unlink()
        return folder

    return make


@pytest.fixture
def pictures(tmp_path):
    for name in ("red", "blue"):
        (tmp_path / "shots" / name).mkdir(parents=True)
        for n in range(2):
            Image.new("RGB", (64, 64), name).save(tmp_path / "shots" / name / f"{n}.png")
    return tmp_path / "shots"


VERBS = {
    "flexecontrol, base": ("diorama-sd", "run flexecontrol --prompt x --base {folder} --out {out}"),
    "flexecontrol, control": (
        "flexecontrol",
        "run flexecontrol --prompt x --base diorama-sd --control {folder} --out {out}",
    ),
    "mojito, base": ("diorama-sd", "run mojito --prompt x --base {folder} --out {out}"),
    "mojito, model": ("diorama-video", "run mojito --prompt x --model {folder} --out {out}"),
    "kadaptation, base": ("diorama-clip", "run kadaptation --train {shots} --base {folder} --out {out}"),
    "kadaptation, model": ("kadaptation", "run kadaptation {shots} --model {folder} --out {out}"),
    "lid": ("diorama-clip", "run lid {shots} --base {folder} --out {out}"),
    "cpl, base": ("diorama-clip", "run cpl --train {shots} --base {folder} --out {out}"),
    "cpl, model": ("cpl", "run cpl {shots} --model {folder} --out {out}"),
    "comclip": ("diorama-clip", "run comclip --image {shots}/red/0.png --text x --base {folder} --out {out}"),
    "train flexecontrol": (
        "diorama-sd",
        "train flexecontrol --out {out} --set options.base={folder} --set options.length=2",
    ),
    "train flexecontrol-global": (
        "diorama-clip",
        "train flexecontrol-global --out {out} --set options.image_encoder={folder} --set options.length=2",
    ),
    "train diorama-video": (
        "diorama-sd",
        "train diorama-video --out {out} --set options.base={folder} --set options.length=1",
    ),
    "train diorama-sd": (
        "diorama-sd",
        "train diorama-sd --out {out} --set options.vae={folder}/vae --set options.length=2",
    ),
    "train from": (
        "flexecontrol",
        "train flexecontrol --out {out} --set init_from={folder} --set options.length=2 --set batch_size=1",
    ),
    "card": ("diorama-sd", "card {folder}"),
    "validate": ("diorama-sd", "validate {folder}"),
    "publish": ("diorama-sd", "publish {folder} org/x"),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_no_command_reads_a_pickle(verb, pickled, pictures, mark, tmp_path, monkeypatch):
    from wm_pipelines import cli

    name, command = VERBS[verb]
    folder = pickled(name, tmp_path / "folder", record=verb in ("card", "validate", "publish"))
    words = command.format(folder=folder, shots=pictures, out=tmp_path / "out").split()
    monkeypatch.setattr("sys.argv", ["wm", *words])
    if verb == "card":
        cli.app(words, standalone_mode=False)
    else:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code not in (0, None)
    assert not mark.exists()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.fixture
def with_code(tmp_path, mark):
    """The embedded base with code beside it that leaves the mark, named by its index as diffusers would run it."""
    folder = tmp_path / "coded"
    shutil.copytree(hub.EMBEDDED_ROOT / "diorama-sd", folder)
    index = json.loads((folder / "model_index.json").read_text())
    code = f"open({str(mark)!r}, 'w').close()\nfrom diffusers import StableDiffusionPipeline as Coded\n"
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": ["pipeline", "Coded"]}))
    (folder / "pipeline.py").write_text(code)
    return folder


OPTIONS = [
    {"trust_remote_code": True},
    {"custom_pipeline": "org/other"},
    {"custom_revision": "main"},
    {"use_safetensors": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_code_of_a_folder_is_refused_everywhere(with_code, mark, options):
    (with_code / "wm_config.json").unlink()
    control = hub.embedded("flexecontrol")
    for load in (
        lambda: AutoWMPipeline.from_pretrained(hub.embedded("diorama-sd"), **options),
        lambda: AutoWMPipeline.from_pretrained("flexecontrol", **options),
        lambda: FlexEControlPipeline.from_pretrained(with_code, **options),
        lambda: FlexEControlPipeline.from_base(with_code, control, **options),
        lambda: FlexEControlModel.from_pretrained(control, **options),
        lambda: CPLPromptLearner.from_pretrained(hub.embedded("cpl"), **options),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.* is not allowed"):
            load()
    assert not mark.exists()


def test_code_is_refused_where_parts_are_handed_on(with_code, mark):
    from diffusers import StableDiffusionPipeline

    from wm_pipelines import ComCLIPPipeline, CPLPipeline, KAdaptationPipeline, MojitoPipeline, WMPipeline

    base = StableDiffusionPipeline.from_pretrained(hub.embedded("diorama-sd"))
    kinds = (WMPipeline, FlexEControlPipeline, MojitoPipeline, KAdaptationPipeline, CPLPipeline, ComCLIPPipeline)
    for kind in kinds:
        for options in ({"trust_remote_code": True}, {"custom_pipeline": str(with_code), "trust_remote_code": True}):
            with pytest.raises(ValueError, match="is not allowed"):
                kind.from_pipe(base, **options)
    for options in OPTIONS[:3]:
        with pytest.raises(ValueError, match="is not allowed"):
            ComCLIPPipeline.from_matcher("diorama-clip", **options)
    assert not mark.exists()


def test_without_being_asked_code_is_not_run_either(with_code, mark):
    with pytest.raises((ValueError, AttributeError, OSError)):
        FlexEControlPipeline.from_pretrained(with_code)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pipeline.py", "unet/extra.bin", "deep/er/weights.PT", "run.sh"])
def test_a_record_vouches_for_no_code_and_no_pickle(tmp_path, name):
    folder = tmp_path / "sd"
    shutil.copytree(hub.EMBEDDED_ROOT / "diorama-sd", folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="is code|is a pickle"):
        hub.verify(folder)
    with pytest.raises(ValueError, match="is code|is a pickle"):
        AutoWMPipeline.from_pretrained(folder)
    assert any(str(folder / name) in problem for problem in hub.validate(folder))


def test_a_folder_of_ones_own_does_not_reach_for_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def ask(*args, **kwargs):
        asked.append(kwargs)
        raise OSError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    folder = tmp_path / "control"
    shutil.copytree(hub.EMBEDDED_ROOT / "flexecontrol", folder)
    config = WMConfig.load(folder)
    hub.seal(folder, config.model_copy(update={"base_model": config.base_model.model_copy(
        update={"repo_id": "org/base", "embedded": None}
    )}))  # fmt: skip
    with pytest.raises(
        hub.HubError, match="nothing is downloaded unless it is asked for by name: pass base='org/base'"
    ):
        AutoWMPipeline.from_pretrained(folder)
    assert [kwargs["local_files_only"] for kwargs in asked] == [True]
    with pytest.raises(hub.HubError):
        AutoWMPipeline.from_pretrained(folder, base="org/base")
    assert asked[-1]["local_files_only"] is False


@pytest.mark.parametrize("name", ["/etc", "../other", "a/b", "diorama-sd/..", "C:\\x", "", ".hidden"])
def test_a_record_names_no_path(name):
    with pytest.raises(ValueError, match="base_model"):
        WMConfig(method="flexecontrol", base_model={"embedded": name})
    if name != "a/b":
        with pytest.raises(ValueError, match="base_model"):
            WMConfig(method="flexecontrol", base_model={"repo_id": name})


def test_the_base_of_a_record_is_never_another_folder(tmp_path, monkeypatch):
    """A folder in the working directory with the name that a record gives is not the base that it means."""
    monkeypatch.chdir(tmp_path)
    for name in ("no-such-base", "org/base"):
        shutil.copytree(hub.EMBEDDED_ROOT / "diorama-sd", tmp_path / name)
    ref = WMConfig(method="flexecontrol", base_model={"embedded": "no-such-base"}).base_model
    with pytest.raises(ValueError, match="no embedded checkpoint 'no-such-base'"):
        hub.resolve_ref(ref)
    with pytest.raises(hub.HubError):
        hub.resolve_ref(ref.model_copy(update={"repo_id": "org/base", "embedded": None}), local_files_only=True)


def test_links_that_lead_out_are_named_and_not_read(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text('{"token": "x"}')
    folder = tmp_path / "judge"
    shutil.copytree(hub.EMBEDDED_ROOT / "diorama-judge", folder)
    (folder / "extra.json").symlink_to(secret)
    (folder / "more").symlink_to(tmp_path)
    problems = hub.validate(folder)
    told = "is a link that leads out of the folder or nowhere"
    assert problems == [f"{folder / name} {told}" for name in ("extra.json", "more")]
    with pytest.raises(ValueError, match="can't be published"):
        hub.publish(folder, "org/judge")
    (folder / "extra.json").unlink()
    (folder / "more").unlink()
    (folder / "loop").symlink_to("loop")
    assert hub.validate(folder) == [f"{folder / 'loop'} {told}"]
    (folder / "loop").unlink()
    (folder / "config2.json").symlink_to("config.json")
    assert not any("is a link" in problem for problem in hub.validate(folder))


def test_a_card_shows_a_records_words_as_words(tmp_path):
    folder = tmp_path / "judge"
    shutil.copytree(hub.EMBEDDED_ROOT / "diorama-judge", folder)
    bad = "<script>x</script>\n\n# Heading | `code` ![p](http://x) **b**"
    config = WMConfig.load(folder).model_copy(update={"licence": bad, "paper": bad})
    row = config.evaluation[0].model_copy(update={"task": bad, "dataset": bad, "metric": bad, "command": bad})
    training = config.training.model_copy(
        update={"data": bad, "hardware": bad, "code_commit": bad, "versions": {bad: bad}}
    )
    (folder / "a](http:x) <img> [b.png").write_bytes(b"")
    hub.seal(folder, config.model_copy(update={"evaluation": [row], "training": training}))
    card = hub.render_card(folder).split("---\n", 2)[2]
    outside = "".join(card.split("```")[::2])  # without the fenced JSON
    outside = re.sub(r"(?<!\\)`[^`\n]*`", "code", outside)  # and without code in a line, which shows as it stands
    assert "\n# Heading" not in outside and "<script>" not in outside.replace("\\<script\\>", "")
    assert not re.search(r"(?<!\\)\]\(http", outside)
    table = [line for line in outside.splitlines() if line.startswith("| \\<script")]
    assert len(table) == 1 and table[0].replace("\\|", "").count("|") == 9

"""Publishing to and fetching from a loopback Hub, with the unmodified huggingface_hub client in its own process."""

import hashlib
import json
import re

import numpy
from safetensors.numpy import save_file

from wm_pipelines import hub
from wm_pipelines.config import WMConfig

PUBLISH = """
    from wm_pipelines import hub
    done = hub.publish(args[0], args[1], dry_run=False, token=args[2], private=len(args) > 3)
    print(json.dumps([done.commit, sorted(done.files)]))
"""
FETCH = """
    from wm_pipelines import hub
    folder = hub.resolve(args[0], revision=args[1] or None, token=args[2] or False)
    hub.verify(folder)
    print(json.dumps([str(folder), hub.resolved_revision(folder), sorted(hub.hash_files(folder))]))
"""
REFUSED = """
    from wm_pipelines import hub
    answers = []
    for repo, revision, token in json.loads(args[0]):
        try:
            hub.resolve(repo, revision=revision, token=token or False)
            answers.append(["loaded", None])
        except hub.HubError as error:
            answers.append([str(error), error.status])
    print(json.dumps(answers))
"""
# The client asks no server whether to upload by Xet, only its own environment.
PLAIN = {"HF_HUB_DISABLE_XET": "1"}


def test_publish_then_resolve_returns_the_same_files_at_the_commit(fake_hub, client, checkpoint):
    commit, sent = client(fake_hub.endpoint, PUBLISH, checkpoint, "org/judge", "writer", **PLAIN)

    assert commit == fake_hub.repos["org/judge"].head
    tree = fake_hub.repos["org/judge"].commits[commit]
    assert set(sent) == set(tree) - {".gitattributes"}
    assert {path: kind for path, (kind, _) in tree.items() if path.endswith(".safetensors")} == {
        "model.safetensors": "lfs",
        "head/model.safetensors": "lfs",
    }
    assert tree["wm_config.json"] == ("regular", (checkpoint / "wm_config.json").read_bytes())
    asked = [item.path for item in fake_hub.requests]
    assert sum("/lfs/part/" in path for path in asked) == 3 and sum("/lfs/put/" in path for path in asked) == 1
    assert sum(path == "/lfs/verify" for path in asked) == 2

    folder, sha, names = client(fake_hub.endpoint, FETCH, "org/judge", "", "")
    assert sha == commit and folder.endswith(commit)
    assert names == ["config.json", "head/model.safetensors", "model.safetensors"]
    uploaded = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((checkpoint / "wm_config.json").read_text())["files"]["model.safetensors"] == uploaded


def test_what_is_planned_is_sent_whatever_it_is_called(fake_hub, client, checkpoint):
    names = ["sample [1].png", "a*b.png", "who?.png", "pictures/\u00fc {x} #1 100%.png"]
    for name in names:
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes(b"picture " + name.encode())
    hub.write_card(checkpoint)
    fake_hub.add_files("org/judge", {"a1.png": b"kept", "model [old].safetensors": b"stale"})
    planned = set(hub.publish(checkpoint, "org/judge").files)
    commit, sent = client(fake_hub.endpoint, PUBLISH, checkpoint, "org/judge", "writer", **PLAIN)
    tree = fake_hub.repos["org/judge"].commits[commit]
    assert set(names) <= planned == set(sent) == set(tree) - {".gitattributes", "a1.png"}
    assert all(fake_hub.objects.get(tree[name][1], tree[name][1]) == b"picture " + name.encode() for name in names)


def test_publish_again_sends_only_what_changed_and_drops_stale_weights(fake_hub, client, checkpoint):
    client(fake_hub.endpoint, PUBLISH, checkpoint, "org/judge", "writer", **PLAIN)
    fake_hub.add_files("org/judge", {"old.safetensors": b"stale", "NOTES.md": b"kept"})
    fake_hub.requests.clear()
    commit, _ = client(fake_hub.endpoint, PUBLISH, checkpoint, "org/judge", "writer", **PLAIN)
    tree = fake_hub.repos["org/judge"].commits[commit]
    assert "old.safetensors" not in tree and "NOTES.md" in tree
    assert not [item for item in fake_hub.requests if item.method == "PUT"]


def test_private_publish_hides_the_repository_from_others(fake_hub, client, checkpoint):
    client(fake_hub.endpoint, PUBLISH, checkpoint, "org/judge", "writer", "private", **PLAIN)
    cases = [["org/judge", None, "writer"], ["org/judge", None, "reader"], ["org/judge", None, ""]]
    mine, others, nobody = client(fake_hub.endpoint, REFUSED, json.dumps(cases[:1])) + client(
        fake_hub.endpoint, REFUSED, json.dumps(cases[1:]), HF_HOME=str(checkpoint.parent / "other")
    )
    assert mine == ["loaded", None]
    assert others[1] == 404 and nobody[1] == 401


def test_publish_without_rights_says_so_and_leaves_nothing(fake_hub, client, checkpoint):
    code = """
        from wm_pipelines import hub
        answers = []
        for token in ("reader", "wrong"):
            try:
                hub.publish(args[0], "org/judge", dry_run=False, token=token)
            except hub.HubError as error:
                answers.append([str(error), error.status])
        print(json.dumps(answers))
    """
    (forbidden, first), (invalid, second) = client(fake_hub.endpoint, code, checkpoint, **PLAIN)
    assert first == 403 and "token lacks the permission" in forbidden
    assert second == 401 and "token is missing or invalid" in invalid
    assert fake_hub.repos == {}


def test_code_and_pickles_in_a_repository_are_never_fetched(fake_hub, client, checkpoint):
    loadable = [*checkpoint.rglob("*.json"), *checkpoint.rglob("*.safetensors")]
    files = {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in loadable}
    evil = {"pipeline.py": b"raise SystemExit", "model.bin": b"pickle", "x/model.pt": b"pickle", "m.ckpt": b"pickle"}
    fake_hub.add_files("org/judge", files | evil)
    _, _, names = client(fake_hub.endpoint, FETCH, "org/judge", "", "")
    assert "model.safetensors" in names
    assert not [name for name in fake_hub.fetched() if re.search(r"\.(py|bin|pt|ckpt)$", name)]
    assert set(fake_hub.fetched()) == set(files)


def test_only_the_weights_that_are_read_are_fetched_and_variants_when_asked(fake_hub, client, checkpoint):
    content = (checkpoint / "model.safetensors").read_bytes()
    names = ["v1-pruned.safetensors", "unet/model.safetensors", "unet/model.fp16.safetensors", "unet/config.json"]
    fake_hub.add_files("org/real", dict.fromkeys(names, content))
    code = """
        from wm_pipelines import hub
        folders = [hub.download("org/real"), hub.download("org/real", variant="fp16")]
        again = hub.download("org/real", variant="fp16", local_files_only=True)
        print(json.dumps([again == folders[1], sorted(path.name for path in again.rglob("*.*"))]))
    """
    client(fake_hub.endpoint, "from wm_pipelines import hub; hub.download('org/real'); print(1)")
    assert fake_hub.fetched() == ["unet/config.json", "unet/model.safetensors"]
    assert client(fake_hub.endpoint, code) == [True, ["config.json", "model.fp16.safetensors", "model.safetensors"]]


def test_repository_with_pickles_only_is_refused(fake_hub, client):
    fake_hub.add_files("org/old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    code = """
        from wm_pipelines import hub
        try:
            hub.resolve(args[0])
        except ValueError as error:
            print(json.dumps(str(error)))
    """
    assert "org/old holds no safetensors weights" in client(fake_hub.endpoint, code, "org/old")


def test_a_record_without_weights_is_a_checkpoint_of_its_own(fake_hub, client):
    """ComCLIP has none: its record is published, fetched and checked, and opens the door to nothing else."""
    client(fake_hub.endpoint, PUBLISH, hub.EMBEDDED_ROOT / "comclip", "org/comclip", "writer", **PLAIN)
    tree = fake_hub.repos["org/comclip"].commits[fake_hub.repos["org/comclip"].head]
    assert "wm_config.json" in tree and not [name for name in tree if name.endswith(".safetensors")]
    fake_hub.add_files("org/comclip", {"pytorch_model.bin": b"pickle", "pipeline.py": b"raise SystemExit"})
    fake_hub.requests.clear()
    folder, sha, names = client(fake_hub.endpoint, FETCH, "org/comclip", "", "")
    assert names == [] and fake_hub.fetched() == ["wm_config.json"]
    assert WMConfig.load(folder) == WMConfig.load(hub.EMBEDDED_ROOT / "comclip")


def test_a_record_that_lists_weights_or_names_no_base_does_not_excuse_their_absence(fake_hub, client):
    record = json.loads((hub.EMBEDDED_ROOT / "comclip" / "wm_config.json").read_text())
    cases = {
        "org/lost": {**record, "files": {"model.safetensors": "0" * 64}},
        "org/baseless": {**record, "base_model": None},
        "org/broken": {**record, "schema_version": "9.0"},
    }
    for name, changed in cases.items():
        fake_hub.add_files(name, {"wm_config.json": json.dumps(changed).encode(), "pytorch_model.bin": b"pickle"})
    code = """
        from wm_pipelines import hub
        answers = []
        for repo in args:
            try:
                answers.append(str(hub.resolve(repo)))
            except ValueError as error:
                answers.append(str(error))
        print(json.dumps(answers))
    """
    lost, baseless, broken = client(fake_hub.endpoint, code, *cases)
    assert "org/lost holds no safetensors weights" in lost and "org/baseless holds no safetensors weights" in baseless
    assert "9.0" in broken and set(fake_hub.fetched()) == {"wm_config.json"}


def test_revision_pins_the_commit(fake_hub, client, checkpoint):
    first, _ = client(fake_hub.endpoint, PUBLISH, checkpoint, "org/judge", "writer", **PLAIN)
    second = fake_hub.add_files("org/judge", {"config.json": b'{"width": 5}'})
    assert client(fake_hub.endpoint, FETCH, "org/judge", first, "")[1] == first
    code = """
        from wm_pipelines import hub
        folder = hub.resolve("org/judge")
        try:
            hub.verify(folder)
        except ValueError as error:
            print(json.dumps([hub.resolved_revision(folder), str(error)]))
    """
    sha, error = client(fake_hub.endpoint, code)
    assert sha == second and "config.json differs from its record" in error


def test_interrupted_download_resumes_by_range_and_keeps_the_token_home(fake_hub, client, checkpoint):
    # The client writes in chunks of 10 MiB, so that only a larger file has something to resume from.
    chunk = 10 * 2**20
    save_file({"weight": numpy.zeros(3 * 2**20, dtype="float32")}, checkpoint / "model.safetensors")
    hub.seal(checkpoint, WMConfig.load(checkpoint))
    paths = [*checkpoint.rglob("*.json"), *checkpoint.rglob("*.safetensors")]
    fake_hub.add_files("org/judge", {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in paths})
    fake_hub.drop_once.add(WMConfig.load(checkpoint).files["model.safetensors"])
    client(fake_hub.endpoint, FETCH, "org/judge", "", "writer")
    resumed = [item for item in fake_hub.requests if item.range]
    assert [(item.range, item.status) for item in resumed] == [(f"bytes={chunk}-", 206)]
    elsewhere = [item for item in fake_hub.requests if item.origin.startswith("localhost")]
    assert elsewhere and all(item.token is None for item in elsewhere)
    assert any(item.token == "writer" for item in fake_hub.requests)


def test_401_403_404_and_unknown_revision_have_their_own_messages(fake_hub, client, checkpoint):
    fake_hub.add_files("org/gated", {"config.json": b"{}"}, gated=True)
    fake_hub.add_files("org/open", {"config.json": b"{}"})
    cases = [
        ["org/none", None, ""],
        ["org/none", None, "reader"],
        ["org/gated", None, "reader"],
        ["org/open", "v9", ""],
        ["org/open", None, "wrong"],
    ]
    answers = client(fake_hub.endpoint, REFUSED, json.dumps(cases))
    assert [status for _, status in answers] == [401, 404, 403, 404, 401]
    texts = [text for text, _ in answers]
    assert "token is missing or invalid" in texts[0] and "hf auth login" in texts[0]
    assert "there is no repository org/none" in texts[1]
    assert "gated" in texts[2]
    assert "org/open has no revision 'v9'" in texts[3]
    assert len(set(texts[:4])) == 4


def test_offline_uses_the_cache_and_says_when_it_is_empty(fake_hub, client, checkpoint):
    client(fake_hub.endpoint, PUBLISH, checkpoint, "org/judge", "writer", **PLAIN)
    online = client(fake_hub.endpoint, FETCH, "org/judge", "", "")
    fake_hub.requests.clear()
    assert client(fake_hub.endpoint, FETCH, "org/judge", "", "", HF_HUB_OFFLINE="1") == online
    nowhere = "http://127.0.0.1:9"
    assert client(nowhere, FETCH, "org/judge", "", "") == online
    (text, status), *_ = client(nowhere, REFUSED, json.dumps([["org/other", None, ""]]))
    assert status is None and "the Hub was not reached for org/other" in text
    assert fake_hub.requests == []

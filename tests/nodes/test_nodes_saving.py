"""Where nodes may save: inside the output folder, and over nothing that is not ours."""

from importlib import import_module

import pytest


@pytest.fixture
def saving(wm_nodes):
    return import_module(f"{wm_nodes.__name__}._shared.saving")


@pytest.fixture
def root(tmp_path):
    """An output folder with one saved pipeline, one folder of somebody else's, and a file."""
    root = tmp_path / "output" / "wm_pipelines"
    for name, file in (("mine", "wm_config.json"), ("theirs", "notes.txt")):
        (root / name).mkdir(parents=True)
        (root / name / file).write_text("{}")
    (root / "file").write_text("")
    (root / "empty").mkdir()
    return root


@pytest.mark.parametrize("name", ["new", "owner/new", " new", "with space"])
def test_a_new_name_is_taken_as_it_is_and_nothing_is_made(saving, root, name):
    for existing in saving.EXISTING:
        folder = saving.saved_folder(root, name, existing)
        assert folder == root / name.strip() and not folder.exists()


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".", "..", "../x", "a/../../x", "/tmp/x", "~/x", "C:x", "C:\\x", "a\\b", "a/b/c", ".hidden", "a/.b",
        "a\nb", "a\0b",
    ],
)  # fmt: skip
def test_a_name_that_would_lead_elsewhere_is_refused(saving, root, name):
    for existing in saving.EXISTING:
        with pytest.raises(ValueError, match="is not a folder's name"):
            saving.saved_folder(root, name, existing)


def test_a_link_out_of_the_folder_is_not_followed(saving, root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for name in ("link", "link/new"):
        with pytest.raises(ValueError, match="through a link"):
            saving.saved_folder(root, name, "replace")


def test_a_taken_name_gets_the_first_free_number(saving, root):
    assert saving.saved_folder(root, "mine", "add a number") == root / "mine_2"
    (root / "mine_2").mkdir()
    (root / "mine_3").write_text("")
    assert saving.saved_folder(root, "mine", "add a number") == root / "mine_4"
    assert saving.saved_folder(root, "theirs", "add a number") == root / "theirs_2"


def test_only_our_own_folder_is_replaced(saving, root):
    assert saving.saved_folder(root, "mine", "replace") == root / "mine"
    assert saving.saved_folder(root, "empty", "replace") == root / "empty"
    for name in ("theirs", "file"):
        with pytest.raises(ValueError, match=f"'{name}' in .* was not saved by WM Save Pipeline"):
            saving.saved_folder(root, name, "replace")
    with pytest.raises(ValueError, match="'mine' is there already"):
        saving.saved_folder(root, "mine", "refuse")
    with pytest.raises(ValueError, match="existing 'overwrite' is unknown"):
        saving.saved_folder(root, "mine", "overwrite")

"""Files and folders are there whole or not at all."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from wm_pipelines.runtime.files import atomic, atomic_folder, create, sha256


def test_a_file_replaces_the_old_one_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic(path) as partial:
        partial.write_text("one")
        assert partial.suffix == ".txt" and not path.exists()
    with pytest.raises(OSError, match="disk full"), atomic(path) as partial:
        partial.write_text("two")
        raise OSError("disk full")
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def test_a_new_folder_appears_at_once_and_not_at_all_after_an_error(tmp_path):
    with pytest.raises(OSError, match="disk full"), atomic_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "sub" / "a").read_text() == "1" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_there_keeps_its_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_folder(tmp_path) as partial:
        (partial / "a").write_text("new")
        raise OSError("disk full")
    assert (tmp_path / "a").read_text() == "old"
    with atomic_folder(tmp_path) as partial:
        (partial / "a").write_text("new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "new", "mine.txt": "kept"}


def test_the_file_that_speaks_about_the_others_moves_last(tmp_path):
    (tmp_path / "b").mkdir()  # in the way of a file of that name
    with pytest.raises(OSError), atomic_folder(tmp_path, last="a") as partial:
        (partial / "a").write_text("a report of b")
        (partial / "b").write_text("1")
    assert not (tmp_path / "a").exists()


def test_the_working_folder_and_a_file_as_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_folder(".") as partial:
        (partial / "a").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ValueError, match="'a' is a file; name a folder"), atomic_folder("a"):
        pass


def test_one_of_many_creates_a_file_and_it_is_whole_at_once(tmp_path):
    path, data = tmp_path / "new" / "a.json", [f"{i}".encode() * 10_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda mine: create(path, mine, durable=mine[0] % 2 == 0), data))
    assert made.count(True) == 1 and path.read_bytes() == data[made.index(True)]
    assert list(path.parent.iterdir()) == [path]
    assert sha256(path) == hashlib.sha256(data[made.index(True)]).hexdigest()

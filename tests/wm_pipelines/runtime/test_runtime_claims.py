"""One run holds a folder; results are replaced by one rename; what the dead leave is removed."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wm_pipelines.runtime import claims, swapping
from wm_pipelines.runtime.claims import claimed, holding
from wm_pipelines.runtime.files import atomic, atomic_folder

CODE = """
import sys, time
from pathlib import Path
from wm_pipelines.runtime.files import atomic, atomic_folder
with {how}(Path({target!r})) as partial:
    (partial / "half" if partial.is_dir() else partial).write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def writer():
    """`writer(how, target)`: a process in the middle of writing."""
    started = []

    def start(how, target):
        code = CODE.format(how=how, target=str(target))
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout.readline() == "writing\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_second_run_is_refused_while_the_first_lives_and_not_after_its_death(tmp_path, writer):
    target = tmp_path / "out"
    child = writer("atomic_folder", target)
    for inside in (claimed, atomic_folder):
        with pytest.raises(ValueError, match="out' is in use by another run"), inside(target):
            pass
    with claimed(tmp_path / "other"):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert any(claims.WORK in path.name for path in tmp_path.iterdir())
    with atomic_folder(target) as partial:
        (partial / "a").write_text("1")
    assert tree(tmp_path) == {"out/a": "1"} and len(list(tmp_path.iterdir())) == 1


def test_what_a_dead_writer_of_a_file_left_is_removed_and_what_a_living_one_has_stays(tmp_path, writer):
    dead, living = writer("atomic", tmp_path / "a.txt"), writer("atomic", tmp_path / "b.txt")
    dead.kill()
    dead.wait()
    with claimed(tmp_path / "out"):
        assert len([p for p in tmp_path.iterdir() if p.name.endswith(claims.WORK)]) == 1
    living.kill()
    living.wait()
    (tmp_path / ".mine.wm-partly").mkdir()
    with claimed(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".mine.wm-partly"]


def refused_elsewhere(folder):
    """Whether another thread of work is told that the folder is in use."""
    seen = []

    def other():
        with pytest.raises(ValueError, match="in use"), claimed(folder):
            pass
        seen.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    return seen == [True]


def test_one_run_may_hold_a_folder_twice_and_another_thread_may_not(tmp_path):
    out = tmp_path / "out"
    with claimed(out), claimed(tmp_path / "new" / ".." / "out"), atomic_folder(out) as partial:
        (partial / "a").write_text("1")
        assert refused_elsewhere(out)
    assert tree(tmp_path) == {"out/a": "1"}


def test_a_refused_run_leaves_no_folder_and_no_lock(tmp_path):
    with pytest.raises(ValueError, match="bad"), claimed(tmp_path / "a" / "b" / "out"):
        raise ValueError("bad")
    assert list(tmp_path.iterdir()) == []


def test_a_function_holds_what_its_argument_names(tmp_path):
    @holding("out")
    def run(x, out="here"):
        """Says."""
        assert refused_elsewhere(out)
        return x

    assert run(3, out=tmp_path / "o") == 3 and run.__doc__ == "Says."
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", "", None, 3, "a\0b"):
        with pytest.raises(ValueError, match="`out`"):
            run(3, bad)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written_is_found_at_once(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o555)
    with pytest.raises(ValueError, match="can't write into .*out"), claimed(tmp_path / "out"):
        raise AssertionError("work began")
    (tmp_path / "out").chmod(0o755)


def test_a_parent_that_is_no_folder_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out", Path("/proc/nowhere/out")):
        with pytest.raises(ValueError, match="can't (make|write)"), claimed(target):
            raise AssertionError("work began")


def replaced(target, monkeypatch, exchange):
    """Replace files beside others, and say which states of the folder were ever there."""
    (target / "sub").mkdir(parents=True)
    for name, text in (("a", "old"), ("sub/b", "old"), ("mine", "kept"), ("sub/mine", "kept")):
        (target / name).write_text(text)
    (target / "link").symlink_to("mine")
    states = []
    for name in ("rename", "replace"):
        real = getattr(os, name)

        def spy(*args, real=real, **kwargs):
            states.append(tree(target))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, spy)
    if not exchange:
        monkeypatch.setattr(swapping, "exchange", lambda one, other: False)
    with atomic_folder(target, last="a") as partial:
        (partial / "sub").mkdir()
        (partial / "a").write_text("new")
        (partial / "sub" / "b").write_text("new")
    return [state for state in states if state["a"] != state["sub/b"]]


@pytest.mark.skipif(sys.platform != "linux", reason="exchanges are Linux's")
def test_files_are_replaced_all_at_once_and_others_stay(tmp_path, monkeypatch):
    target = tmp_path / "out"
    assert replaced(target, monkeypatch, exchange=True) == []
    assert tree(target) == {"a": "new", "sub/b": "new", "mine": "kept", "sub/mine": "kept", "link": "kept"}
    assert (target / "link").is_symlink() and len(list(tmp_path.iterdir())) == 1


def test_elsewhere_files_come_singly_and_the_one_about_the_others_last(tmp_path, monkeypatch):
    target = tmp_path / "out"
    mixed = replaced(target, monkeypatch, exchange=False)
    assert mixed and all(state["a"] == "old" for state in mixed)
    assert tree(target) == {"a": "new", "sub/b": "new", "mine": "kept", "sub/mine": "kept", "link": "kept"}


@pytest.mark.parametrize("exchange", [True, False])
def test_a_whole_folder_replaces_another_and_is_put_back_after_a_kill_between_two_renames(
    tmp_path, monkeypatch, exchange
):
    target = tmp_path / "out"
    with atomic_folder(target, whole=True) as partial:
        (partial / "old").write_text("1")
    if not exchange:
        monkeypatch.setattr(swapping, "exchange", lambda one, other: False)
        child = os.fork()
        if not child:
            real = os.rename

            def once(*args):
                real(*args)
                os.kill(os.getpid(), signal.SIGKILL)

            os.rename = once
            with atomic_folder(target, whole=True) as partial:
                (partial / "new").write_text("2")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert not target.exists()
        with claimed(target):
            assert tree(target) == {"old": "1"}
    with atomic_folder(target, whole=True) as partial:
        (partial / "new").write_text("2")
    assert tree(tmp_path) == {"out/new": "2"} and len(list(tmp_path.iterdir())) == 1


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "out").symlink_to("real")
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("new")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "real" / "a").read_text() == "new"


def test_names_of_any_length_can_be_written(tmp_path):
    path = tmp_path / ("x" * 250)
    with atomic(path) as partial:
        partial.write_text("1")
    with atomic_folder(tmp_path / ("y" * 250)) as partial:
        (partial / "a").write_text("1")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("exchange", [True, False])
def test_files_of_the_old_result_that_the_new_one_lacks_go_and_no_others(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(swapping, "exchange", lambda one, other: False)
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (target / "sub", elsewhere):
        folder.mkdir(parents=True)
    for path in ("a", "old", "mine", "sub/old"):
        (target / path).write_text("before")
    (elsewhere / "far").write_text("another's")
    (target / "link").symlink_to(elsewhere)
    listed = ("a", "old", "sub/old", "link/far", "absent")
    with atomic_folder(target, last="a", listed=lambda folder: listed) as partial:
        (partial / "a").write_text("after")
    assert {p.name: p.read_text() for p in target.iterdir() if p.is_file()} == {"a": "after", "mine": "before"}
    assert not (target / "sub").exists() and (elsewhere / "far").read_text() == "another's"

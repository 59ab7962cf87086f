"""The harness finds every kind of fault, and a short seeded run of it finds none in the readers."""

import os

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def fuzz(script):
    return script("fuzz")


def test_every_kind_of_fault_is_found_and_named(fuzz, tmp_path, monkeypatch):
    def bad(path):
        first = path.read_bytes()[:1]
        if first == b"t":
            raise TypeError("no")
        if first == b"u":
            raise ValueError("")
        if first == b"m":
            return bytearray(2**40)
        if first == b"c":
            os._exit(7)
        if first == b"r":
            os.system("true")
        if first == b"l":
            while True:
                pass
        raise ValueError("one clear error")

    monkeypatch.setattr(fuzz, "SECONDS", 0.3)
    monkeypatch.setattr(fuzz, "mutated", lambda data, rng: data)
    kinds = ("fault", "unclear", "memory", "crash", "ran", "time", "refused")
    for letter, kind in zip(b"tumcrlx", kinds, strict=True):
        row = fuzz.attack(fuzz.Reader("bad", bad, (bytes([letter]),)), seed=0, count=2, work=tmp_path)
        assert row["outcomes"] == {kind: 2}, kind
        assert len(row["sites"]) == (kind != "refused")


def test_inputs_repeat_themselves_and_differ_from_one_another(fuzz):
    reader = fuzz.Reader("r", None, (b'{"a": [1, 2, {"b": null}]}', b"\x00" * 40))
    made = [data for *_, data in fuzz.inputs(reader, seed=3, count=200)]
    assert made == [data for *_, data in fuzz.inputs(reader, seed=3, count=200)]
    assert made[150:] == [data for *_, data in fuzz.inputs(reader, seed=3, count=200, first=150)]
    assert len(set(made)) > 150


def test_a_short_run_finds_no_fault(fuzz, script, tmp_path):
    readers = script("fuzz_readers")
    work = tmp_path / "work"
    work.mkdir()
    families = [*readers.texts(), *readers.tables(work), *readers.tracks(), *readers.weights(work)]
    for more in (readers.fuzz_questions, readers.fuzz_scenes):
        (work / more.__name__).mkdir()
        families += more.readers(work / more.__name__)
    assert len(families) > 75
    for number, reader in enumerate(families):
        folder = tmp_path / f"r{number}"
        folder.mkdir()
        assert set(fuzz.whole_files(reader, folder)) == {"read"}, reader.name
        row = fuzz.attack(reader, seed=1, count=12, work=folder)
        assert not row["sites"], row

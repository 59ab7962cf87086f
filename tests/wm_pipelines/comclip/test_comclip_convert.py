"""The offline converter reads a pickled table without pandas and runs nothing that a pickle holds."""

import json
import pickle
import sys
import types

import numpy as np
import pytest

from wm_pipelines.comclip import convert as convert_module
from wm_pipelines.comclip.convert import convert, read_pickled_table
from wm_pipelines.runtime.pickles import Made


class _Named:
    """Pickles as an object of another module's class."""

    def __init__(self, module, name, args, state=None):
        self.target, self.args, self.state = (module, name), args, state

    def __reduce__(self):
        module = sys.modules[self.target[0]]
        made = (getattr(module, self.target[1]), self.args)
        return made if self.state is None else (*made, self.state)


@pytest.fixture
def frame(tmp_path, monkeypatch):
    """A file in the layout that pandas 2 pickles, made without pandas: three columns, two rows."""
    for module, names in {
        "pandas.core.frame": ["DataFrame"],
        "pandas.core.internals.managers": ["BlockManager"],
        "pandas._libs.internals": ["_unpickle_block"],
        "pandas.core.indexes.base": ["_new_Index", "Index"],
        "pandas.core.indexes.range": ["RangeIndex"],
    }.items():
        parts = module.split(".")
        for n in range(1, len(parts) + 1):
            name = ".".join(parts[:n])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        for name in names:
            made = type(name, (), {"__init__": lambda self, *a: None, "__setstate__": lambda self, s: None})
            made.__module__, made.__qualname__ = module, name
            monkeypatch.setattr(sys.modules[module], name, made, raising=False)

    def index(data):
        base = sys.modules["pandas.core.indexes.base"]
        return _Named("pandas.core.indexes.base", "_new_Index", (base.Index, {"data": data, "name": None}))

    def block(values, placement):
        return _Named("pandas._libs.internals", "_unpickle_block", (values, placement, 2))

    texts = np.empty((2, 2), dtype=object)
    texts[0], texts[1] = ["1.jpg", "2.jpg"], ["a dog", "a cat"]
    blocks = (block(np.array([[3, 4]]), slice(1, 2, 1)), block(texts, np.array([0, 2])))
    axes = [index(np.array(["image", "id", "sentence"], dtype=object)), index(np.array([0, 1]))]
    manager = _Named("pandas.core.internals.managers", "BlockManager", (blocks, axes))
    state = {"_mgr": manager, "_typ": "dataframe", "attrs": {}}
    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps(_Named("pandas.core.frame", "DataFrame", (), state)))
    return path


def test_a_table_becomes_rows_of_json(frame, wm, tmp_path):
    wanted = [{"image": "1.jpg", "id": 3, "sentence": "a dog"}, {"image": "2.jpg", "id": 4, "sentence": "a cat"}]
    assert read_pickled_table(frame) == wanted
    assert wm("convert", "flickr30k", frame, tmp_path / "new" / "out.json").startswith("2 rows in ")
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == wanted
    with pytest.raises(ValueError, match="out.json' exists; choose another"):
        convert(frame, tmp_path / "new" / "out.json")


class _Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: pickle.dumps(_Evil()), "asks for posix.mkdir: only the parts of a pandas table are read"),
        (lambda: pickle.dumps(eval), "asks for builtins.eval"),
        (lambda: pickle.dumps(np.load), "asks for numpy.load"),
        (lambda: pickle.dumps([1, 2]), "holds no pandas table of the known layout, but list"),
        (lambda: b"no pickle", "can't be read as a pickled table"),
        (lambda: b"", "can't be read as a pickled table"),
    ],
)
def test_anything_else_is_refused_and_nothing_runs(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pkl"
    path.write_bytes(content())
    with pytest.raises(ValueError) as error:
        read_pickled_table(path)
    assert words in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda manager: (manager.args[0][:1], manager.args[1]), "KeyError: 'image'"),
        (lambda manager: (manager.args[0], []), "IndexError"),
        (lambda manager: (manager.args[0], [manager.args[1][1], manager.args[1][0]]), ""),
        (lambda manager: (5, manager.args[1]), "TypeError"),
        (lambda manager: ((Made("x", (1,)),), manager.args[1]), "IndexError"),
    ],
)
def test_half_a_table_is_refused(frame, monkeypatch, damage, words):
    whole = convert_module.blocks_and_axes
    monkeypatch.setattr(convert_module, "blocks_and_axes", lambda manager: whole(manager) and damage(manager))
    with pytest.raises(ValueError, match=f"holds no whole pandas table: .*{words}"):
        read_pickled_table(frame)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent.pkl can't be read"):
        read_pickled_table(tmp_path / "absent.pkl")


def test_a_small_table_that_names_one_list_without_end_is_refused(frame, monkeypatch):
    bomb = ["x"] * 1000
    for _ in range(8):
        bomb = [bomb] * 1000
    monkeypatch.setattr(convert_module, "columns_of", lambda values, count: [[bomb]] * count)
    with pytest.raises(ValueError, match="more than 5000000 values"):
        read_pickled_table(frame)

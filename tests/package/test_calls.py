"""How our own functions are called where people read first, and where stock parts are loaded."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READ_FIRST = ("cli/*.py", "**/command.py", "**/run.py", "**/pipeline.py")
STOCK = ROOT / "wm_pipelines" / "hub" / "stock.py"


def calls(source: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def long_calls(source: str) -> list[str]:
    """Calls with more than four positional arguments."""
    return [f"{c.lineno}: {ast.unparse(c.func)}" for c in calls(source) if len(c.args) > 4]


def own_classes() -> set[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "wm_pipelines").rglob("*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def loads_of_stock_parts(source: str, own: set[str]) -> list[str]:
    """`X.from_pretrained(..)` of a class that is not ours; `cls` and `super()` stand for ours."""
    found = []
    for call in calls(source):
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("from_pretrained", "from_single_file"):
            of = ast.unparse(call.func.value)
            if of not in own | {"cls", "super()"}:
                found.append(f"{call.lineno}: {of}")
    return found


@pytest.mark.parametrize("pattern", READ_FIRST)
def test_long_calls_name_their_arguments(pattern):
    for path in (ROOT / "wm_pipelines").glob(pattern):
        assert long_calls(path.read_text(encoding="utf-8")) == [], path


def test_nodes_name_their_arguments_too():
    for path in (ROOT / "nodes").rglob("*.py"):
        assert long_calls(path.read_text(encoding="utf-8")) == [], path


def test_stock_parts_are_loaded_in_one_module():
    own = own_classes()
    for path in (ROOT / "wm_pipelines").rglob("*.py"):
        found = loads_of_stock_parts(path.read_text(encoding="utf-8"), own)
        if path == STOCK:
            assert len(found) == 1
        elif path == ROOT / "wm_pipelines" / "pipeline.py":
            assert [line.partition(": ")[2] for line in found] == ["pipeline_class"]  # may be a stock pipeline
        else:
            assert found == [], path


def test_that_module_requires_safetensors():
    tree = ast.parse(STOCK.read_text(encoding="utf-8"))
    functions = {f.name: ast.unparse(f) for f in tree.body if isinstance(f, ast.FunctionDef)}
    users = {name: text for name, text in functions.items() if name != "_load" and "_load(" in text}
    assert list(users) == ["load_model", "load_pipeline", "load_part"]  # weights, and what has none
    assert all("safetensors_only(kwargs)" in users[name] for name in ("load_model", "load_pipeline"))


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        ("f(1, 2, 3, 4, 5)", True),
        ("f(1, 2, 3, 4, e=5)", False),
        ("self.f(1, 2, 3, 4, 5)", True),
    ],
)
def test_the_check_of_calls_checks(source, broken):
    assert bool(long_calls(source)) == broken


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        ("AutoencoderKL.from_pretrained(x)", True),
        ("diffusers.AutoencoderKL.from_pretrained(x)", True),
        ("getattr(transformers, name).from_pretrained(x)", True),
        ("Ours.from_pretrained(x)", False),
        ("cls.from_pretrained(x)", False),
        ("load_model(AutoencoderKL, x)", False),
    ],
)
def test_the_check_of_loads_checks(source, broken):
    assert bool(loads_of_stock_parts(source, {"Ours"})) == broken


def test_a_pickle_in_a_base_is_never_read(tmp_path):
    """`wm train` on a base whose only weights are a pickle that leaves a mark when it is read."""
    import pickle
    import shutil

    from wm_pipelines.hub import embedded
    from wm_pipelines.training import Recipe, build

    class Mark:
        def __reduce__(self):
            return (open, (str(tmp_path / "mark"), "w"))

    base = tmp_path / "base"
    shutil.copytree(embedded("diorama-sd"), base)
    for weights in base.rglob("*.safetensors"):
        name = "pytorch_model.bin" if weights.parent.name == "text_encoder" else "diffusion_pytorch_model.bin"
        weights.with_name(name).write_bytes(pickle.dumps(Mark()))
        weights.unlink()
    pickle.loads(pickle.dumps(Mark())).close()
    assert (tmp_path / "mark").exists()  # the control: reading it does leave a mark
    (tmp_path / "mark").unlink()
    for task, options in (
        ("flexecontrol", {"length": 2}),
        ("diorama-video", {"length": 1}),
        ("diorama-sd", {"length": 2, "vae": str(base / "vae")}),
    ):
        options |= {} if task == "diorama-sd" else {"base": str(base)}
        with pytest.raises((OSError, ValueError)):
            build(Recipe(task=task, steps=1, batch_size=1, options=options))
        assert not (tmp_path / "mark").exists(), task

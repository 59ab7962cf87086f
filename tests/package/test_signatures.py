"""Every public name says what it takes and gives: no parameter and no result without a type."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("wm_pipelines", "custom_kernels")
SPOKEN = ("__init__", "__post_init__", "__call__")


def untyped(source: str) -> list[str]:
    """Public functions and methods of a file, each with what lacks a type; kernels are typed by Triton."""
    return [f"{name}: {', '.join(lacking)}" for name, node in public(ast.parse(source)) if (lacking := lacks(*node))]


def public(tree: ast.AST, within: str = "") -> Iterator[tuple[str, tuple[ast.FunctionDef, bool]]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node, f"{within}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name in SPOKEN):
            static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
            yield within + node.name, (node, bool(within) and not static)


def lacks(node: ast.FunctionDef, method: bool) -> list[str]:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs][method:]
    given += [rest for rest in (node.args.vararg, node.args.kwarg) if rest is not None]
    found = [argument.arg for argument in given if argument.annotation is None]
    return found + ["the result"] * (node.returns is None and node.name != "__init__")


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_signatures_are_typed(folder):
    paths = [path for path in sorted((ROOT / folder).rglob("*.py")) if "_triton" not in path.parts]
    found = {str(path.relative_to(ROOT)): untyped(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(a, b: int) -> None: ...", ["f: a"]),
        ("def f(*a, k: int = 1, **b) -> None: ...", ["f: a, b"]),
        ("def f(a: int): ...", ["f: the result"]),
        ("def _f(a): ...", []),
        (
            "class A:\n    def __init__(self, a): ...\n    def f(self) -> int: ...\n    def _g(self, x): ...",
            ["A.__init__: a"],
        ),
        ("class A:\n    @staticmethod\n    def f(a) -> int: ...", ["A.f: a"]),
        ("class _A:\n    def f(self, a): ...", []),
        ("def f(a: int) -> int:\n    def g(b): ...\n    return a", []),
    ],
)
def test_what_lacks_a_type_is_seen(source, names):
    assert untyped(source) == names

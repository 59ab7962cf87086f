"""Nobody reaches for a name that begins with an underscore and is another file's; the rule is tried on made-up ones.

What a test or a second file needs has a public name, or is seen through what is public.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ("wm_pipelines", "custom_kernels", "nodes")
USERS = (*LIBRARY, "benchmarks", "tests")
# names that other libraries give, or document for callers, and that ours have from them
FOREIGN = {
    "_asdict", "_exclude_from_cpu_offload", "_fields", "_forward_hooks", "_forward_pre_hooks", "_guidance_scale",
    "_interrupt", "_modules", "_no_split_modules", "_parameters", "_replace",
}  # fmt: skip
STRINGS = ("setattr", "delattr", "getattr", "hasattr", "attrgetter", "patch")


parsed = functools.cache(ast.parse)  # most files both give names and take them


def is_private(name: str) -> bool:
    return bool(re.fullmatch(r"_[A-Za-z]\w*", name)) and name not in FOREIGN


def defined(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Private names that a file gives: all of them, and those among them of its own classes and their objects."""
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            own |= _names(node.body)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                own.add(node.attr)
    own = set(filter(is_private, own))
    return own | set(filter(is_private, _names(getattr(tree, "body", [])))), own


def _names(body: list[ast.stmt]) -> set[str]:
    """What the statements of a body define or assign."""
    made = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assigned = [node for statement in body if not isinstance(statement, made) for node in ast.walk(statement)]
    names = {node.id for node in assigned if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {statement.name for statement in body if isinstance(statement, made)}


def reached(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each name that is imported, or taken from what is not `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls", "super")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in STRINGS:
                texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                yield from ((node.lineno, text.rpartition(".")[2]) for text in texts)


def reaches(library: dict[str, str], users: dict[str, str]) -> set[str]:
    """`file:line name` of each reach of a file of `users` for a name that one of `library` gives, its own apart."""
    ours = set().union(*(defined(parsed(text))[0] for text in library.values()))
    found = set()
    for file, text in users.items():
        tree = parsed(text)
        theirs = ours - defined(tree)[1]
        found |= {f"{file}:{line} {name}" for line, name in reached(tree) if name in theirs}
    return found


def sources(folders: tuple[str, ...]) -> dict[str, str]:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


def test_no_file_reaches_for_what_is_another_files_own():
    assert reaches(sources((*LIBRARY, "benchmarks")), sources(USERS)) == set()


@pytest.mark.parametrize(
    "code",
    [
        "from wm_pipelines.a import _held",
        "def f():\n    from .a import _held",
        "a._held",
        "a.b()._held",
        "monkeypatch.setattr(a, '_held', 3)",
        "mock.patch('wm_pipelines.a._held')",
        "getattr(a, '_held', None)",
        "a._at()",
        "a.b._kept",
    ],
)
def test_a_made_up_reach_is_found(code):
    library = {"a.py": "_held = 1\nclass A:\n    def _at(self):\n        self._kept = 2"}
    name = re.search(r"_held|_at|_kept", code)[0]
    assert {found.partition(" ")[2] for found in reaches(library, {"b.py": code})} == {name}
    assert reaches(library, {"a.py": library["a.py"] + "\nA()._at(), A._kept, _held"}) == set()


@pytest.mark.parametrize("code", ["self._held", "super()._held()", "pipe._interrupt = True", "x.__held__", "'_held'"])
def test_what_is_no_reach_is_let_be(code):
    assert reaches({"a.py": "_held = _interrupt = 1"}, {"b.py": code}) == set()

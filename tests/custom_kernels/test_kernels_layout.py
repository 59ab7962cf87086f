"""A folder for each operation: kernels in `_triton`, torch around them, and no file that sees one above it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "custom_kernels"
SHARED = f"{PACKAGE}/shared/"

Tree = dict[str, str]  # path from the repository -> text


def real_tree() -> Tree:
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


def is_kernel(path: str) -> bool:
    return "_triton" in PurePosixPath(path).parts


def names_in(path: str, text: str) -> Iterator[tuple[str, str]]:
    """(module, name taken from it or "") of every import of a file, also in functions, relative, or by a string."""
    package = PurePosixPath(path).parts[:-1]

    def absolute(level: int, name: str | None) -> str:
        start = package[: len(package) - level + 1] if level else ()
        return ".".join((*start, *([name] if name else [])))

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((absolute(node.level, node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            for name in node.args[:1]:
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    bare = name.value.lstrip(".")
                    yield absolute(len(name.value) - len(bare), bare), ""


def file_of(module: str, tree: Tree) -> str | None:
    stem = module.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in tree), None)


def files_imported(path: str, tree: Tree) -> set[str]:
    """Files of the tree whose code an import in this file runs; packages that hold the file itself run before it."""
    found = set()
    for module, name in names_in(path, tree[path]):
        inner = file_of(f"{module}.{name}", tree) if name else None
        found.add(inner or file_of(module, tree))
        parents = module.split(".") if inner else module.split(".")[:-1]
        for n in range(1, len(parents) + 1):
            package = "/".join(parents[:n])
            if not path.startswith(f"{package}/"):
                found.add(file_of(package.replace("/", "."), tree))
    return found - {None, path}


def reached(path: str, graph: dict[str, set[str]]) -> set[str]:
    """Every file that this one imports, or that they import."""
    seen, waiting = set(), [path]
    while waiting:
        for target in graph[waiting.pop()] - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def violations(tree: Tree) -> list[str]:
    """What breaks the layout, a line each."""
    found = []
    graph = {path: files_imported(path, tree) for path in tree}
    launchers = {path for path in tree if not is_kernel(path) and any(is_kernel(t) for t in graph[path])}
    for path, text in tree.items():
        roots = {module.split(".")[0] for module, _ in names_in(path, text)} - sys.stdlib_module_names
        if "triton" in roots and not is_kernel(path):
            found.append(f"{path} imports triton")
        found += [f"{path} imports {root}" for root in sorted(roots - {"torch", "triton", PACKAGE})]
        below = reached(path, graph)
        if is_kernel(path):
            found += [f"{path} reaches the launcher {other}" for other in sorted(below & launchers)]
        if path in below:
            found.append(f"{path} is in a circle")
        own = "/".join(path.split("/")[:2]) + "/"
        found += [
            f"{path} imports {other}, of another operation"
            for other in sorted(graph[path])
            if not other.startswith((own, SHARED)) and path != f"{PACKAGE}/__init__.py"
        ]
        folder = path.rsplit("/", 1)[0]
        if f"{folder}/__init__.py" not in tree:
            found.append(f"{folder} has no __init__.py")
    return found


def test_the_kernels_keep_to_their_layout():
    tree = real_tree()
    assert violations(tree) == []
    seen = {path: files_imported(path, tree) for path in tree}
    assert sum(map(len, seen.values())) > 60 and sum(map(is_kernel, tree)) > 10  # the reader reads
    assert f"{PACKAGE}/kronecker_linear/_triton/linear.py" in seen[f"{PACKAGE}/kronecker_linear/registered.py"]


SOUND = {
    f"{PACKAGE}/__init__.py": "",
    f"{PACKAGE}/shared/__init__.py": "",
    f"{PACKAGE}/shared/backend.py": "import os\nimport torch",
    f"{PACKAGE}/op/__init__.py": "",
    f"{PACKAGE}/op/ground.py": "import torch\nfrom custom_kernels.shared import backend",
    f"{PACKAGE}/op/op.py": "from .ground import X\ndef run():\n    from ._triton.kernels import forward",
    f"{PACKAGE}/op/_triton/__init__.py": "",
    f"{PACKAGE}/op/_triton/kernels.py": "import triton.language as tl\nfrom ..ground import X",
    f"{PACKAGE}/second/__init__.py": "",
    f"{PACKAGE}/second/op.py": "from ..shared.backend import use_triton",
}


def test_a_sound_tree_breaks_nothing():
    assert violations(SOUND) == []


@pytest.mark.parametrize(
    "file, text, complaint",
    [
        ("op/ground.py", "import triton", "op/ground.py imports triton"),
        ("op/ground.py", "def f():\n    from triton.language import dot", "op/ground.py imports triton"),
        ("shared/backend.py", "import importlib\nimportlib.import_module('triton')", "backend.py imports triton"),
        ("op/ground.py", "def f():\n    import numpy", "op/ground.py imports numpy"),
        ("op/ground.py", "from wm_pipelines.kernels import box_masks", "op/ground.py imports wm_pipelines"),
        ("op/_triton/kernels.py", "from diffusers import UNet2DConditionModel", "kernels.py imports diffusers"),
        ("op/_triton/kernels.py", "from ..op import X", "kernels.py reaches the launcher custom_kernels/op/op.py"),
        ("op/_triton/kernels.py", "from .. import op", "kernels.py reaches the launcher custom_kernels/op/op.py"),
        ("op/_triton/kernels.py", "def f():\n    import custom_kernels.op.op", "kernels.py reaches the launcher"),
        ("op/_triton/other.py", "from ..op import X", "other.py reaches the launcher custom_kernels/op/op.py"),
        ("op/ground.py", "from .op import run", "kernels.py reaches the launcher custom_kernels/op/op.py"),
        ("op/ground.py", "def f():\n    from .op import run", "op/ground.py is in a circle"),
        ("op/ground.py", "from . import op", "op/op.py is in a circle"),
        ("op/ground.py", "from importlib import import_module\nimport_module('.op', __package__)", "in a circle"),
        ("op/__init__.py", "from .op import run\nfrom .ground import X", None),
        ("shared/backend.py", "from custom_kernels.op import ground", "op/ground.py is in a circle"),
        ("shared/backend.py", "from ..second import op", "backend.py imports custom_kernels/second/op.py, of another"),
        ("second/op.py", "from ..op.ground import X", "second/op.py imports custom_kernels/op/ground.py, of another"),
        ("third/op.py", "import torch", "custom_kernels/third has no __init__.py"),
    ],
)
def test_a_made_up_violation_is_seen(file, text, complaint):
    found = violations(SOUND | {f"{PACKAGE}/{file}": text})
    assert any(complaint in line for line in found) if complaint else not found, found


def test_a_package_that_runs_its_operation_is_part_of_a_circle():
    """Importing a folder's file from elsewhere runs its `__init__.py` too."""
    changed = {"op/__init__.py": "from .op import run", "shared/backend.py": "def f():\n    import custom_kernels.op"}
    found = violations(SOUND | {f"{PACKAGE}/{file}": text for file, text in changed.items()})
    assert "custom_kernels/op/__init__.py is in a circle" in found

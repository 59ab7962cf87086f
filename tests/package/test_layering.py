"""Arrows point one way: nodes -> method -> what methods share -> kernels -> custom_kernels; no method sees another."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
METHODS = {"comclip", "cpl", "flexecontrol", "kadaptation", "mojito"}
# Doors to the methods, above them like the nodes.
DOORS = {"cli", "checkpoints"}


def imports(path: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def method_of(path: Path) -> str:
    return path.relative_to(ROOT / "wm_pipelines").parts[0].removesuffix(".py")


def test_every_folder_with_a_pipeline_is_a_known_method():
    assert {p.parent.name for p in (ROOT / "wm_pipelines").glob("*/pipeline.py")} == METHODS


def test_methods_see_neither_one_another_nor_are_they_seen_from_below():
    for path in files("wm_pipelines"):
        own = method_of(path)
        if own in DOORS:
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "wm_pipelines" and len(parts) > 1 and parts[1] in METHODS | DOORS:
                assert own == parts[1], f"{path} imports {name}"


def test_only_the_public_face_imports_the_kernels_and_these_import_torch_only():
    for path in files("wm_pipelines") + files("nodes"):
        if any(name.split(".")[0] == "custom_kernels" for name in imports(path)):
            assert method_of(path) == "kernels", path
    for path in files("custom_kernels"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"wm_pipelines", "diffusers", "transformers", "peft"}, path
        assert "triton" not in roots or path.parent.name == "_triton", path


def test_the_library_never_imports_the_nodes_or_comfyui():
    for path in files("wm_pipelines") + files("custom_kernels"):
        assert not {name.split(".")[0] for name in imports(path)} & {"nodes", "comfy", "comfy_api"}, path

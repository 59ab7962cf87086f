"""What must never be, read from the syntax trees of the whole house; each rule is tried on a made-up violation too.

An arrow runs from a file to each that it names: by an import, absolute or relative, at its top or inside a function,
or by a dotted string.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# a command that a message tells the reader to run is no arrow
DOTTED = re.compile(r"(?<!python -m )\b(?:wm_pipelines|custom_kernels)(?:\.\w+)+")
SCRIPTS = {"benchmarks"}  # folders whose files import one another by their bare names
MAY_USE = {("world_model", "dynamics"), ("morpho4d", "mojito")}
GENERIC = {"config", "methods", "record", "pipeline", "kernels"}
ROOMS = {"runtime", "text", "media", "clip", "data", "hub", "evaluation", "tokens", "training", "adapters"} | GENERIC


class House:
    """Files of a tree as dotted modules, and the arrows between them.

    Args:
        sources: module name -> source text; a package's `__init__` goes by the package's name and is in `packages`.
    """

    def __init__(self, sources: dict[str, str], packages: Iterable[str] = ()):
        self.packages = set(packages)
        self.trees = {name: ast.parse(text) for name, text in sources.items()}
        # every module that a file names, of this tree or of another library
        self.named = {name: set(self._named(name, tree)) - {name} for name, tree in self.trees.items()}
        self.arrows = {name: {n for n in named if n in self.trees} for name, named in self.named.items()}

    @classmethod
    def read(cls, *folders: str, root: Path = ROOT) -> "House":
        sources, packages = {}, []
        for folder in folders:
            for path in sorted((root / folder).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                if parts[-1] == "__init__":
                    parts = parts[:-1]
                    packages.append(".".join(parts))
                sources[".".join(parts)] = path.read_text(encoding="utf-8")
        return cls(sources, packages)

    def _named(self, name: str, tree: ast.Module) -> Iterator[str]:
        package = name if name in self.packages else name.rpartition(".")[0]
        documentation = {id(d) for d in map(_docstring, ast.walk(tree)) if d is not None}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (self._known(alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                source = ".".join([*parts, *([node.module] if node.module else [])])
                if f"{package}.{source}" in self.trees and package in SCRIPTS:
                    source = f"{package}.{source}"
                for alias in node.names:  # `from package import module` names the module, not the package
                    whole = f"{source}.{alias.name}"
                    yield whole if whole in self.trees else self._known(source)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                yield from (self._known(found) for found in DOTTED.findall(node.value))

    def _known(self, dotted: str) -> str:
        """The longest module of this tree that a dotted name begins with; the name itself if there is none."""
        parts = dotted.split(".")
        prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((prefix for prefix in prefixes if prefix in self.trees), dotted)

    def reached(self, start: str) -> set[str]:
        """Every module that `start` names, or one of those names, and so on; `start` itself included."""
        found, open_ends = {start}, [start]
        while open_ends:
            new = self.arrows[open_ends.pop()] - found
            found |= new
            open_ends += new
        return found

    def circles(self) -> list[set[str]]:
        """Sets of files that reach each other."""
        reach = {name: self.reached(name) for name in self.trees}
        found: list[set[str]] = []
        for name in sorted(self.trees):
            circle = {other for other in reach[name] if name in reach[other]}
            if len(circle) > 1 and circle not in found:
                found.append(circle)
        return found


def _docstring(node: ast.AST) -> ast.Constant | None:
    body = getattr(node, "body", None)
    if not isinstance(body, list):  # a lambda, or an expression
        return None
    first = body[0] if body else None
    text = first.value if isinstance(first, ast.Expr) else None
    return text if isinstance(text, ast.Constant) and isinstance(text.value, str) else None


def method_folders(root: Path = ROOT) -> set[str]:
    """Names of the folders that have a door; the miniature world has one for its bases and is no method."""
    return {path.parent.name for path in (root / "wm_pipelines").glob("*/method.py")} - {"diorama"}


def room(module: str) -> str:
    """The folder, or the file, right under `wm_pipelines` that a module lies in."""
    parts = module.split(".")
    return parts[1] if parts[0] == "wm_pipelines" and len(parts) > 1 else ""


def rooms_that_name_methods(house: House, methods: set[str]) -> set[str]:
    return {
        f"{a} -> {b}"
        for a, targets in house.arrows.items()
        for b in targets
        if room(a) in ROOMS and room(b) in methods
    }


def rooms_that_name_the_miniature_world(house: House, methods: set[str]) -> set[str]:
    return {
        f"{a} -> {b}"
        for a, targets in house.arrows.items()
        for b in targets
        if room(a) in ROOMS and room(b) == "diorama"
    }


def pipelines_that_reach_the_miniature_world(house: House, methods: set[str]) -> set[str]:
    return {
        f"{start} ... {module}"
        for start in house.trees
        if room(start) in methods and start.endswith(".pipeline")
        for module in house.reached(start)
        if room(module) == "diorama"
    }


def methods_that_name_methods(house: House, methods: set[str]) -> set[str]:
    return {
        f"{a} -> {b}"
        for a, targets in house.arrows.items()
        for b in targets
        if {room(a), room(b)} <= methods and room(a) != room(b) and (room(a), room(b)) not in MAY_USE
    }


def statistics_that_reach_torch(house: House, methods: set[str]) -> set[str]:
    package = "wm_pipelines.evaluation.statistics"
    starts = [name for name in house.trees if name == package or name.startswith(f"{package}.")]
    reached = set().union(*map(house.reached, starts))
    for name in list(reached):  # importing a module runs the `__init__` of its packages
        parts = name.split(".")
        reached |= {".".join(parts[:n]) for n in range(1, len(parts))} & set(house.trees)
    return {f"{m} -> torch" for m in reached if any(n.split(".")[0] == "torch" for n in house.named[m])}


def the_library_names_its_own_front(house: House, methods: set[str]) -> set[str]:
    """The root hands public names on, so behind one may be anything."""
    return {
        f"{a} -> wm_pipelines"
        for a, targets in house.arrows.items()
        if a.split(".")[0] == "wm_pipelines" and "wm_pipelines" in targets
    }


def kernels_that_name_their_launchers(house: House, methods: set[str]) -> set[str]:
    return {
        f"{a} -> {b}"
        for a, targets in house.arrows.items()
        for b in targets
        if "_triton" in a.split(".") and "_triton" not in b.split(".") and a in house.reached(b)
    }


def triton_outside_its_folders(house: House, methods: set[str]) -> set[str]:
    return {
        a
        for a, named in house.named.items()
        if a.split(".")[0] not in SCRIPTS and "_triton" not in a.split(".")
        if any(n.split(".")[0] == "triton" for n in named)
    }


def kernels_that_name_more_than_torch(house: House, methods: set[str]) -> set[str]:
    others = {"wm_pipelines", "diffusers", "transformers", "peft"}
    return {
        f"{a} -> {n}"
        for a, named in house.named.items()
        for n in named
        if a.split(".")[0] == "custom_kernels" and n.split(".")[0] in others
    }


def kernels_named_past_their_face(house: House, methods: set[str]) -> set[str]:
    return {
        f"{a} -> {b}"
        for a, targets in house.arrows.items()
        for b in targets
        if a.split(".")[0] in ("wm_pipelines", "nodes") and b.split(".")[0] == "custom_kernels"
        if room(a) != "kernels"
    }


def the_library_names_nodes_or_comfyui(house: House, methods: set[str]) -> set[str]:
    return {
        f"{a} -> {n}"
        for a, named in house.named.items()
        for n in named
        if a.split(".")[0] != "nodes" and n.split(".")[0] in ("nodes", "comfy", "comfy_api")
    }


def circles(house: House, methods: set[str]) -> set[str]:
    return {" - ".join(sorted(circle)) for circle in house.circles()}


RULES = {
    rooms_that_name_methods: "wm_pipelines.training.engine imports wm_pipelines.mojito.energy",
    rooms_that_name_the_miniature_world: "wm_pipelines.media.pictures imports wm_pipelines.diorama.scene",
    pipelines_that_reach_the_miniature_world: "wm_pipelines.mojito.pipeline imports wm_pipelines.diorama.scene",
    methods_that_name_methods: "wm_pipelines.cpl.data imports wm_pipelines.mojito.energy",
    the_library_names_its_own_front: "wm_pipelines.media.pictures imports wm_pipelines",
    statistics_that_reach_torch: "wm_pipelines.evaluation.statistics imports torch",
    kernels_that_name_their_launchers: "custom_kernels.op._triton.kernel imports custom_kernels.op.launch",
    triton_outside_its_folders: "custom_kernels.op.launch imports triton",
    kernels_that_name_more_than_torch: "custom_kernels.op.launch imports diffusers",
    kernels_named_past_their_face: "wm_pipelines.mojito.pipeline imports custom_kernels.op.launch",
    the_library_names_nodes_or_comfyui: "wm_pipelines.media.pictures imports comfy",
    circles: "wm_pipelines.diorama.scene imports wm_pipelines.mojito.pipeline imports wm_pipelines.diorama.scene",
}


@pytest.fixture(scope="module")
def house():
    return House.read("wm_pipelines", "custom_kernels", "nodes", "benchmarks")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(house, rule):
    assert rule(house, method_folders()) == set()


@pytest.mark.parametrize("how", ["import {0}", "def f():\n    import {0}", "x = ('{0}.Name',)", "{relative}"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_fails_on_a_made_up_violation(rule, how):
    names = RULES[rule].split(" imports ")
    if how == "{relative}" and names[0].split(".")[0] != names[1].split(".")[0]:
        how = "from {0} import something"
    foreign = names[1].split(".")[0] not in ("wm_pipelines", "custom_kernels")
    if "Name" in how and foreign:
        how = "import {0}"
    sources = {name: "" for name in names if name.split(".")[0] not in ("torch", "triton", "diffusers", "comfy")}
    for a, b in zip(names, names[1:], strict=False):
        level = "." * len(a.split("."))
        relative = f"from {level[:-1]}{b.partition('.')[2]} import something"
        sources[a] = how.format(b, relative=relative)
    if rule is kernels_that_name_their_launchers:
        sources[names[1]] = f"import {names[0]}"
    assert rule(House(sources), {"mojito", "cpl"})
    harmless = {name: "'''Names wm_pipelines.diorama.scene and wm_pipelines.mojito.energy.'''" for name in sources}
    assert not rule(House(harmless), {"mojito", "cpl"})

"""The table of docs/comfyui/nodes.md: what each node offers its user, read from the schemas and the nodes' own text.

python tests/nodes/comfy_table.py --write   makes it anew
"""

import ast
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "comfyui" / "nodes.md"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
HEAD = """# The nodes

Made by `tests/nodes/comfy_table.py` from the schemas and the nodes' own text; a test holds it against them.

- **tooltips**: inputs and outputs with one, of all. **help**: lines of its page in the front end.
- **alias**: other words under which newer cores find it. **example**: the templates that use it.
- **bypass**: what goes on to the nodes behind it when it is bypassed: outputs whose type an input has.
- **mute**: whether the nodes behind it here run without it: `yes` where all they take of it is optional, `no` where
  something is required, `end` where nothing takes it.
- **cancel**: `within` where a long run stops between its steps, `between` where ComfyUI stops before and after it.
- **preview**: `steps` for pictures while it runs, `drawn` for an editor on the node, `result` for what it shows.

| node | tooltips | help | alias | example | bypass | mute | cancel | preview |
|---|---|---|---|---|---|---|---|---|
"""


def specs_of(info: dict) -> dict[str, list]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def classes() -> dict[str, tuple[ast.ClassDef, Path]]:
    """Node id -> its class and the file that it is in."""
    found = {}
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        for item in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(item, ast.ClassDef) and item.name.startswith("WM_"):
                found[item.name] = (item, path)
    return found


def called(tree: ast.AST) -> set[str]:
    """Names of what is called in a piece of code."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {func.id if isinstance(func, ast.Name) else getattr(func, "attr", "") for func in calls}


def aliases_of(defined: ast.ClassDef) -> list[str]:
    for node in ast.walk(defined):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "aliases":
            return ast.literal_eval(node.args[0]).split(", ")
    return []


def mute_of(node_id: str, nodes: dict) -> str:
    """Whether the nodes of this pack that take its own kinds of output need them."""
    own = {kind for kind in nodes[node_id]["output"] if kind.startswith("WM_")}
    takers = [
        name in info["input"].get("required", {})
        for info in nodes.values()
        for name, (kind, _) in specs_of(info).items()
        if kind in own
    ]
    return "end" if not takers else "no" if any(takers) else "yes"


def row(node_id: str, nodes: dict, examples: dict[str, set[str]], drawn: set[str]) -> str:
    info, (defined, _) = nodes[node_id], classes()[node_id]
    specs, does = specs_of(info), called(defined)
    said = [options.get("tooltip") for _, options in specs.values()] + info["output_tooltips"]
    sockets = {kind for kind, _ in specs.values() if kind not in WIDGETS}
    passed = dict.fromkeys(kind.removeprefix("WM_").lower() for kind in info["output"] if kind in sockets)
    long = does & {"StepReporter", "FitReporter", "throw_exception_if_processing_interrupted"}
    preview = ["steps"] if "StepReporter" in does else []
    preview += ["drawn"] if node_id in drawn else []
    preview += ["result"] if info["output_node"] or "PreviewText" in does else []
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    cells = [
        f"[{info['display_name']}](../../web/docs/{node_id}.md)",
        f"{sum(map(bool, said))} of {len(said)}",
        str(len(page.splitlines())),
        ", ".join(aliases_of(defined)),
        ", ".join(name for name, used in examples.items() if node_id in used) or "none",
        ", ".join(passed) or "nothing",
        mute_of(node_id, nodes),
        "within" if long else "between",
        ", ".join(preview) or "none",
    ]
    return f"| {' | '.join(cells)} |\n"


def table() -> str:
    """The page."""
    nodes = json.loads((Path(__file__).parent / "schema_snapshot.json").read_text(encoding="utf-8"))
    examples = {}
    for path in sorted((ROOT / "example_workflows").glob("*.json")):
        saved = json.loads(path.read_text(encoding="utf-8"))
        examples[path.stem] = {node["type"] for node in saved["nodes"]}
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "web" / "js").glob("wm_*.js"))
    drawn = {node_id for node_id in nodes if f'comfyClass !== "{node_id}"' in scripts}
    return HEAD + "".join(row(node_id, nodes, examples, drawn) for node_id in nodes)


if __name__ == "__main__":
    if "--write" in sys.argv:
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(table(), encoding="utf-8")
    else:
        print(table(), end="")

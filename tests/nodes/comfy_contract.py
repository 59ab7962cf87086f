"""Describe our nodes as a real ComfyUI sees them. Run by its Python, with COMFYUI_PATH set:

python tests/nodes/comfy_contract.py           prints the description as JSON
python tests/nodes/comfy_contract.py --write   updates the files made from it; refuses to break saved workflows
"""

import asyncio
import json
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).parent / "schema_snapshot.json"
LISTED_AT_RUN_TIME = "<listed at run time>"


def describe() -> dict:
    """Node schemas in ComfyUI's own form, the processor seconds that it took to list them, and what was imported."""
    import comfy_api.latest  # noqa: F401  ComfyUI has it long before it loads a custom node

    before = set(sys.modules)
    started = time.process_time()  # whatever else the machine does
    spec = spec_from_file_location("custom_nodes_x_wm", ROOT / "__init__.py")
    package = module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)

    async def listed() -> list:
        return await (await package.comfy_entrypoint()).get_node_list()

    nodes = asyncio.run(listed())
    infos = [node.GET_NODE_INFO_V1() for node in nodes]
    seconds = time.process_time() - started
    imported = sorted({name.split(".")[0] for name in set(sys.modules) - before})
    # Once more with one name in place of every list of folders: where it appears, choices depend on the machine.
    folders = sys.modules[spec.name + ".nodes._shared.folders"]
    lists = {name: lambda roots: [LISTED_AT_RUN_TIME] for name in vars(folders) if name.startswith("list_")}
    with mock.patch.multiple(folders, **lists):
        marked = [node.GET_NODE_INFO_V1() for node in nodes]
    for info, other in zip(infos, marked, strict=True):
        del info["python_module"]
        for name, options in choices(info).items():
            if LISTED_AT_RUN_TIME in choices(other)[name]["options"]:
                hide_choices(options)
    return {
        "nodes": json.loads(json.dumps({info["name"]: info for info in infos})),
        "seconds": seconds,
        "imported": imported,
        "failed": dict(sys.modules[spec.name + ".nodes._shared.loading"].FAILED),
        "is_ours": Path(sys.modules[spec.name + ".nodes"].__file__).parent == ROOT / "nodes",
        "on_path": [entry for entry in sys.path if entry and Path(entry).resolve() == ROOT],
    }


def specs_of(info: dict) -> dict[str, list]:
    """Name -> `[type, options]` of each input."""
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def choices(info: dict) -> dict[str, dict]:
    """Name -> options of each input that offers a choice."""
    return {name: options for name, (_, options) in specs_of(info).items() if "options" in options}


def hide_choices(options: dict) -> None:
    """Leave nothing of what depends on the folders of this machine."""
    options["options"], options["default"] = [LISTED_AT_RUN_TIME], LISTED_AT_RUN_TIME


def inputs_of(info: dict) -> list[str]:
    """Names of the inputs, in the order that saved workflows rely on."""
    return [*info["input_order"].get("required", []), *info["input_order"].get("optional", [])]


def breaking_changes(old: dict, new: dict) -> list[str]:
    """What would break a saved workflow: a lost node, input, output or choice, or another order of them."""
    problems = []
    for node_id, before in old.items():
        if node_id not in new:
            problems.append(f"{node_id} is gone")
            continue
        after = new[node_id]
        if inputs_of(after)[: len(inputs_of(before))] != inputs_of(before):
            problems.append(f"{node_id}: inputs were {inputs_of(before)}, now {inputs_of(after)}")
        made_needed = set(after["input_order"].get("required", [])) - set(before["input_order"].get("required", []))
        problems += [f"{node_id}.{name} is required now" for name in sorted(made_needed)]
        if after["output"][: len(before["output"])] != before["output"]:
            problems.append(f"{node_id}: outputs were {before['output']}, now {after['output']}")
        there = specs_of(after)
        for name, (kind, options) in specs_of(before).items():
            now = there.get(name)
            if now is None or now[0] != kind:
                problems.append(f"{node_id}.{name} was a {kind}")
            elif not set(options.get("options", [])) <= set(now[1].get("options", [])):
                problems.append(f"{node_id}.{name} lost a choice")
    return problems


def differences(frozen: Any, live: Any, where: str = "") -> list[str]:
    """Where a live description differs from the frozen one, in what the frozen one says; more may be said."""
    if isinstance(frozen, dict) and isinstance(live, dict):
        lost = [f"{where}.{key} is gone" for key in frozen if key not in live]
        shared = [key for key in frozen if key in live]
        return lost + [line for key in shared for line in differences(frozen[key], live[key], f"{where}.{key}")]
    if isinstance(frozen, list) and isinstance(live, list) and len(frozen) == len(live):
        pairs = zip(frozen, live, strict=True)
        return [line for n, (a, b) in enumerate(pairs) for line in differences(a, b, f"{where}[{n}]")]
    return [] if frozen == live else [f"{where} was {frozen!r}, is {live!r}"]


def locale_of(nodes: dict) -> dict:
    """The English texts in the form that the front end reads, `locales/en/nodeDefs.json`."""
    texts = {}
    for node_id, info in nodes.items():
        inputs = {
            name: {"name": name.replace("_", " "), "tooltip": options["tooltip"]}
            for name, (_, options) in specs_of(info).items()
        }
        outputs = {
            str(index): {"name": name, "tooltip": tooltip}
            for index, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
        }
        texts[node_id] = {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": inputs,
            "outputs": outputs,
        }
    return texts


def write(nodes: dict) -> None:
    """Update the snapshot, `node_list.json` (read by ComfyUI-Manager without running code) and the English texts."""
    for path, value in (
        (SNAPSHOT, nodes),
        (ROOT / "node_list.json", {node_id: info["description"] for node_id, info in nodes.items()}),
        (ROOT / "locales" / "en" / "nodeDefs.json", locale_of(nodes)),
    ):
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from comfy_start import start

    writing = "--write" in sys.argv
    with start() as answer:
        found = describe()
        if writing:
            old = json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else {}
            problems = breaking_changes(old, found["nodes"])
            if problems or found["failed"]:
                sys.exit("\n".join([*problems, *map(str, found["failed"].items())]))
            write(found["nodes"])
        else:
            answer.write(json.dumps(found))

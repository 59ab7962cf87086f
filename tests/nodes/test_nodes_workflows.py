"""Example workflows: known nodes, sound links, values in range, and the same run as their API twins."""

import json
from pathlib import Path

import pytest
from PIL import Image

HERE = Path(__file__).parent
# Widgets of the core nodes in use, in order; the live test compares them with ComfyUI's own description.
CORE_WIDGETS = {
    "SolidMask": ["value", "width", "height"],
    "MaskComposite": ["x", "y", "operation"],
    "MaskToImage": [],
    "EmptyImage": ["width", "height", "batch_size", "color"],
    "BatchImagesNode": [],
    "SaveImage": ["filename_prefix"],
    "PreviewImage": [],
    "PreviewAny": [],
    "SaveVideo": ["filename_prefix", "format", "codec"],
    "CLIPTextEncode": ["text"],
    "EmptyLatentImage": ["width", "height", "batch_size"],
    "KSampler": ["seed", None, "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "VAEDecode": [],
    "GenerateTracks": [
        "width", "height", "start_x", "start_y", "end_x", "end_y", "num_frames", "num_tracks", "track_spread",
        "bezier", "mid_x", "mid_y", "interpolation",
    ],
}  # fmt: skip
NAMES = sorted(path.stem for path in (HERE / "workflows").glob("*.json"))
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def schema_inputs(info):
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def widget_names(kind, snapshot):
    """Names by position in `widgets_values`; None for the "fixed/randomize" box that follows a seed."""
    if kind in CORE_WIDGETS:
        return CORE_WIDGETS[kind]
    names = []
    for name, (io_type, options) in schema_inputs(snapshot[kind]).items():
        if io_type in WIDGETS:
            names += [name, None] if options.get("control_after_generate") else [name]
    return names


def as_api(workflow, snapshot):
    """What the front end would send for a saved workflow."""
    links = {link[0]: link for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        names = widget_names(node["type"], snapshot)
        assert len(names) == len(node["widgets_values"]), node["type"]
        inputs = {name: value for name, value in zip(names, node["widgets_values"], strict=True) if name}
        for socket in node["inputs"]:
            if socket["link"] is not None:
                inputs[socket["name"]] = [str(links[socket["link"]][1]), links[socket["link"]][2]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def test_every_example_has_its_twin_and_every_twin_its_example(workflows):
    assert list(workflows) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_example_has_a_small_picture(repo, name):
    picture = repo / "example_workflows" / f"{name}.jpg"
    with Image.open(picture) as opened:
        assert opened.format == "JPEG" and min(opened.size) >= 256
    assert picture.stat().st_size < 60_000


@pytest.mark.parametrize("name", NAMES)
def test_saved_form_and_api_form_are_the_same_run(workflows, snapshot, name):
    saved, api = workflows[name]
    assert as_api(saved, snapshot) == {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in api.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_links_join_sockets_of_one_type(workflows, name):
    saved, _ = workflows[name]
    nodes = {node["id"]: node for node in saved["nodes"]}
    assert len({link[0] for link in saved["links"]}) == len(saved["links"])
    for link_id, source, out, target, into, kind in saved["links"]:
        output, socket = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
        assert link_id in output["links"] and socket["link"] == link_id
        assert output["type"] == kind and socket["type"] in (kind, "*")


@pytest.mark.parametrize("name", NAMES)
def test_values_are_within_the_schemas(workflows, snapshot, name):
    _, api = workflows[name]
    for node in api.values():
        if node["class_type"] in CORE_WIDGETS:
            continue
        info = snapshot[node["class_type"]]
        assert set(info["input"].get("required", {})) <= set(node["inputs"])
        for key, value in node["inputs"].items():
            io_type, options = schema_inputs(info)[key]
            if isinstance(value, list):  # a text box may be linked too
                assert io_type not in WIDGETS - {"STRING"}
                source = api[value[0]]["class_type"]
                assert source in CORE_WIDGETS or snapshot[source]["output"][value[1]] == io_type
            elif io_type == "COMBO" and options["options"] != ["<listed at run time>"]:
                assert value in options["options"]
            elif io_type in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"]


@pytest.mark.parametrize("path", sorted((HERE.parents[1] / "subgraphs").glob("*.json")), ids=lambda path: path.stem)
def test_ready_subgraphs_hold_our_nodes_with_their_widgets(snapshot, path):
    saved = json.loads(path.read_text(encoding="utf-8"))
    (outer,), (inner,) = saved["nodes"], saved["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"] and outer["title"] == inner["name"] == path.stem and not saved["links"]
    nodes = {str(node["id"]): node for node in inner["nodes"]}
    for node in nodes.values():
        assert node["type"] in snapshot
        names = widget_names(node["type"], snapshot)
        assert len(node.get("widgets_values", [])) == len(names), node["type"]
    for node_id, name in outer["properties"]["proxyWidgets"]:
        assert name in schema_inputs(snapshot[nodes[node_id]["type"]])
    for link in inner["links"]:
        ends = {str(link["origin_id"]), str(link["target_id"])} - {"-10", "-20"}
        assert ends <= set(nodes)


def test_examples_together_use_every_node(workflows, snapshot):
    used = {node["class_type"] for _, api in workflows.values() for node in api.values()}
    assert set(snapshot) <= used

"""The trajectory editor in ComfyUI's own front end: drawn by hand in a headless Chromium, read by Python.

Runs for each ComfyUI and front end that `comfy_homes.py` finds, where Playwright and a Chromium are.
"""

import copy
import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def browser(stage, browsing, server_module, tmp_path_factory):
    home, frontend = stage
    options = ["--front-end-root", str(frontend)] if frontend else []
    base = tmp_path_factory.mktemp("browsed")
    (base / "user" / "default").mkdir(parents=True)
    # Who comes for the first time is shown a page of templates instead of a graph.
    (base / "user" / "default" / "comfy.settings.json").write_text('{"Comfy.TutorialCompleted": true}')
    server = server_module.Comfy(base, home, *options)
    try:
        opened = browsing.Browser(server)
        yield opened
        opened.close()
    finally:
        server.close()


@pytest.fixture
def drawn(browser):
    """A graph with one trajectory whose JSON is shown, and its editor."""
    node, shown = browser.graph("WM_Trajectory", "PreviewAny")
    browser.connect(node, 1, shown, "source")
    ready(browser, "red cube")
    return node, browser.editor()


def ready(browser, phrase, index=0):
    """Wait until an editor shows an object."""
    browser.wait(
        "([n, p]) => document.querySelectorAll('.wm-trajectory')[n]?.querySelector('.wm-phrase').value === p",
        [index, phrase],
    )


def tool(editor, name):
    editor.get_by_role("button", name=name, exact=True).click()


def keys(editor):
    """Let the keyboard go to the editor."""
    editor.get_by_label("Keys of the trajectory editor").focus()


def saw(entry):
    """The objects that Python read in a run, from what it wrote."""
    from wm_pipelines.mojito.trajectories.reading import read_trajectory

    assert entry["status"]["status_str"] == "success", entry["status"]
    texts = [out["text"][0] for out in entry["outputs"].values() if "text" in out]
    return [read_trajectory(text) for text in texts]


def middles(item, frames=16):
    boxes = item.frame_boxes(frames)
    return ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()


def test_a_path_drawn_with_the_mouse_is_where_python_sees_the_boxes(browser, drawn):
    node, editor = drawn
    tool(editor, "Path")
    browser.drag(editor, (0.2, 0.25), (0.8, 0.25), (0.8, 0.75))
    ((cube,),) = saw(browser.queue())
    assert cube.phrase == "red cube"
    way = middles(cube)
    assert way[0] == pytest.approx([0.2, 0.25], abs=0.01) and way[-1] == pytest.approx([0.8, 0.75], abs=0.01)
    assert way[8] == pytest.approx([0.8, 0.25], abs=0.05)  # a little over half of the way: the corner
    x0, _, x1, _ = cube.frame_boxes(16)[3].tolist()
    assert x1 - x0 == pytest.approx(24 / 64, abs=0.01)  # as wide as it was
    assert not browser.errors


def test_boxes_are_dragged_and_resized_at_a_frame_by_mouse_keys_and_touch(browser, drawn):
    node, editor = drawn
    keys(editor)
    browser.page.keyboard.press("End")
    tool(editor, "Move")
    browser.drag(editor, (0.75, 0.6), (0.75, 0.4))  # the body of the box, at the last frame
    browser.drag(editor, (36 / 64, 11.2 / 64), (0.4, 0.1))  # its upper left corner
    keys(editor)
    browser.page.keyboard.press("Shift+ArrowUp")
    ((cube,),) = saw(browser.queue())
    boxes = cube.frame_boxes(16)
    assert boxes[0].tolist() == pytest.approx([4 / 64, 24 / 64, 28 / 64, 48 / 64], abs=1e-3)
    assert boxes[-1].tolist() == pytest.approx([0.4, 0.05, 60 / 64, 35.2 / 64 - 0.05], abs=0.012)
    browser.page.keyboard.press("Home")
    x, y = browser.at(editor, 0.25, 0.5)
    touch = browser.page.context.new_cdp_session(browser.page)
    for kind, place in (("touchStart", [(x, y)]), ("touchMove", [(x + 20, y)]), ("touchEnd", [])):
        points = [{"x": a, "y": b} for a, b in place]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    ((touched,),) = saw(browser.queue())
    width = editor.locator(".wm-stage").bounding_box()["width"]
    assert touched.frame_boxes(16)[0].tolist()[0] == pytest.approx(4 / 64 + 20 / width, abs=0.01)


def test_undo_takes_back_what_was_drawn_and_nothing_else(browser, drawn):
    node, editor = drawn
    before = json.loads(browser.widget(node, "text"))
    tool(editor, "Path")
    browser.drag(editor, (0.3, 0.3), (0.6, 0.8))
    drawn_text = browser.widget(node, "text")
    browser.page.keyboard.press("Control+z")
    assert browser.ask("() => app.graph._nodes.length") == 2  # the front end's own undo did not act too
    assert json.loads(browser.widget(node, "text"))["objects"] == before["objects"]
    browser.page.keyboard.press("Control+y")
    assert browser.widget(node, "text") == drawn_text
    browser.page.keyboard.press("Delete")  # a keyframe, and not the node
    assert browser.ask("() => app.graph._nodes.length") == 2


def test_two_nodes_are_drawn_in_one_after_the_other(browser):
    first, second, one, two = browser.graph("WM_Trajectory", "WM_Trajectory", "PreviewAny", "PreviewAny")
    browser.connect(first, 1, one, "source")
    browser.connect(second, 1, two, "source")
    ready(browser, "red cube", 1)
    text = browser.widget(first, "text")
    tool(browser.editor(1), "Path")
    browser.drag(browser.editor(1), (0.5, 0.2), (0.5, 0.8))
    assert browser.widget(first, "text") == text
    a, b = sorted((way for (item,) in saw(browser.queue()) for way in [middles(item)]), key=lambda way: way[0][0])
    assert a[0] == pytest.approx([0.25, 36 / 64], abs=1e-3)
    assert b[0] == pytest.approx([0.5, 0.2], abs=0.01) and b[-1] == pytest.approx([0.5, 0.8], abs=0.01)


def test_it_is_found_again_after_a_reload_and_in_a_copy(browser, drawn):
    node, editor = drawn
    tool(editor, "Box")
    browser.drag(editor, (0.1, 0.1), (0.4, 0.3))
    browser.page.keyboard.type("blue ball")
    browser.page.keyboard.press("Enter")
    ready(browser, "blue ball")
    saved = browser.ask("() => app.graph.serialize()")
    text = browser.widget(node, "text")
    assert [item["phrase"] for item in json.loads(text)["objects"]] == ["red cube", "blue ball"]
    assert "wm_editor" not in json.dumps(browser.prompt())
    browser.open()
    browser.load(saved)
    ready(browser, "red cube")
    assert browser.widget(node, "text") == text
    ((cube, ball),) = saw(browser.queue())
    assert ball.frame_boxes(16)[7].tolist() == pytest.approx([0.1, 0.1, 0.4, 0.3], abs=0.01)
    copy = browser.ask(
        "(id) => { const made = app.graph.getNodeById(id).clone(); app.graph.add(made); return made.id; }", node
    )
    ready(browser, "red cube", 1)
    assert browser.widget(copy, "text") == text


def test_a_workflow_saved_before_there_was_an_editor_is_the_same_run(browser, workflows):
    saved, api = copy.deepcopy(workflows["wm_mojito"])
    for node in saved["nodes"]:
        node["size"] = [210, 60]
        if node["type"] == "WM_Trajectory":  # what lies behind its editor came with it
            node["inputs"] = [socket for socket in node["inputs"] if socket["name"] not in ("images", "video")]
    browser.load(saved)
    ready(browser, "red cube")
    now = browser.prompt()
    ours = [key for key, node in api.items() if node["class_type"].startswith("WM_")]
    assert {key: now[key]["inputs"] for key in ours} == {key: api[key]["inputs"] for key in ours}
    assert set(now) == set(api)


def test_text_of_another_tool_is_read_by_python_and_what_can_not_be_is_said(browser, drawn):
    node, editor = drawn
    browser.set_widget(node, "format", "kjnodes")
    browser.set_widget(node, "phrases", "green cone")
    browser.set_widget(node, "text", "[{'x': 64, 'y': 256}, {'x': 448, 'y': 256}]")
    browser.wait("() => document.querySelector('.wm-status').textContent.includes('needs canvas')")
    for name in ("canvas_width", "canvas_height"):
        browser.set_widget(node, name, 512)
    browser.wait("() => document.querySelector('.wm-status').textContent.includes('set outside to')")
    browser.set_widget(node, "outside", "clip")
    ready(browser, "green cone")
    keys(editor)
    browser.page.keyboard.press("ArrowDown")
    assert browser.widget(node, "format") == "json" and browser.widget(node, "phrases") == ""
    ((cone,),) = saw(browser.queue())
    assert middles(cone)[8][1] == pytest.approx(0.5, abs=0.02)


def test_buttons_and_a_pasted_text_change_the_selected_object(browser, drawn):
    node, editor = drawn
    tool(editor, "Reverse")
    ((back,),) = saw(browser.queue())
    assert middles(back)[0][0] > 0.7 and middles(back)[-1][0] < 0.3
    tool(editor, "Duplicate")
    editor.get_by_label("Speed along the path").select_option("in")
    (both,) = saw(browser.queue())
    assert [item.phrase for item in both] == ["red cube", "red cube"]
    steps = [abs(b[0] - a[0]) for a, b in zip(middles(both[1]), middles(both[1])[1:], strict=False)]
    assert steps[0] < 0.3 * steps[-1]  # slow, then fast
    keys(editor)
    for key in ("]", "Shift+Delete"):
        browser.page.keyboard.press(key)
    assert len(json.loads(browser.widget(node, "text"))["objects"]) == 1
    text = browser.widget(node, "text").replace("red cube", "grey cone")
    browser.ask(
        """(text) => {
          const data = new DataTransfer();
          data.setData("text/plain", text);
          const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
          document.activeElement.dispatchEvent(event);
        }""",
        text,
    )
    ready(browser, "grey cone")
    assert browser.widget(node, "text") == text and browser.ask("() => app.graph._nodes.length") == 2


GARBAGE = [
    "{",
    "not a path \u0000 <b>at all</b>",
    "[" * 3000,
    '{"version": 1, "canvas": [1, 1], "objects": [{"phrase": 3}]}',
]


@pytest.mark.parametrize(
    ("kind", "widget", "css"),
    [
        ("WM_Trajectory", "text", "wm-trajectory"),
        ("WM_Condition", "shapes", "wm-region"),
        ("WM_SceneGraph", "graph", "wm-graph"),
    ],
)
def test_pasted_garbage_is_said_and_taken_back_by_undo(browser, kind, widget, css):
    (node,) = browser.graph(kind)
    editor = browser.editor(kind=css)
    if kind == "WM_Condition":
        tool(editor, "Box")
        browser.drag(editor, (0.1, 0.2), (0.4, 0.5))
    error = "(css) => document.querySelector(`.${css} .wm-status`)?.classList.contains('wm-error')"
    browser.wait(f"(css) => document.querySelector(`.${{css}} .wm-status`) && !({error})(css)", css)
    browser.page.wait_for_timeout(600)  # the first answer of the server
    before = json.loads(browser.widget(node, widget))
    for text in GARBAGE:
        browser.set_widget(node, widget, text)
        browser.wait(error, css)
    editor.locator(".wm-keys").focus()
    browser.page.keyboard.press("Control+z")
    after = json.loads(browser.widget(node, widget))
    shown = {"WM_Trajectory": "objects", "WM_Condition": "shapes", "WM_SceneGraph": "nodes"}[kind]
    assert len(after[shown]) == len(before[shown]) == (2 if kind == "WM_SceneGraph" else 1)
    browser.wait(f"(css) => !({error})(css)", css)
    assert not browser.errors and browser.ask("() => app.graph._nodes.length") == 1


def test_editors_of_all_kinds_are_drawn_in_side_by_side(browser):
    path, region, graph = browser.graph("WM_Trajectory", "WM_Condition", "WM_SceneGraph")
    ready(browser, "red cube")
    texts = [browser.widget(path, "text"), browser.widget(graph, "graph")]
    painter = browser.editor(kind="wm-region")
    tool(painter, "Box")
    browser.drag(painter, (0.2, 0.2), (0.6, 0.6))
    drawn = browser.widget(region, "shapes")
    assert drawn and [browser.widget(path, "text"), browser.widget(graph, "graph")] == texts
    tool(browser.editor(), "Reverse")
    browser.page.keyboard.press("Control+z")
    assert json.loads(browser.widget(path, "text"))["objects"] == json.loads(texts[0])["objects"]
    assert browser.widget(region, "shapes") == drawn and browser.widget(graph, "graph") == texts[1]


def test_each_node_of_the_examples_is_bypassed_and_muted_as_the_table_says(browser, workflows):
    """Bypassed, what comes in goes out where it is of the kind; else, and muted, the link is gone and nothing else."""
    kinds = {name: info["output"] for name, info in browser.server.get("/object_info").items()}
    wrong = []
    for name, (saved, _) in workflows.items():
        browser.load(saved)
        whole = browser.prompt()
        for one in (key for key, node in whole.items() if node["class_type"].startswith("WM_")):
            links = [link for link in whole[one]["inputs"].values() if isinstance(link, list)]
            came = {kinds[whole[source]["class_type"]][slot] for source, slot in links}
            for mode in (4, 2):  # bypassed, muted
                turn = "([id, mode]) => { app.graph._nodes.find((one) => String(one.id) === id).mode = mode; }"
                browser.ask(turn, [one, mode])
                now = browser.prompt()
                browser.ask(turn, [one, 0])
                expected = copy.deepcopy({key: node["inputs"] for key, node in whole.items() if key != one})
                for key, inputs in expected.items():
                    for socket, link in list(inputs.items()):
                        if not isinstance(link, list) or link[0] != one:
                            continue
                        kind, found = kinds[whole[one]["class_type"]][link[1]], now[key]["inputs"].get(socket)
                        linked = isinstance(found, list)  # a text box shows its own text again
                        given = kinds[whole[found[0]]["class_type"]][found[1]] if linked else None
                        whatever = whole[key]["class_type"] == "PreviewAny"  # it takes what is in the first socket
                        if not (whatever and mode == 4) and given != (kind if mode == 4 and kind in came else None):
                            wrong.append((name, whole[one]["class_type"], mode, socket, given))
                        inputs.pop(socket)
                        now[key]["inputs"].pop(socket, None)
                if {key: node["inputs"] for key, node in now.items()} != expected:
                    wrong.append((name, whole[one]["class_type"], mode))
    assert not wrong


def test_a_video_lies_behind_the_paths_frame_for_frame(browser, drawn):
    node, editor = drawn
    picture, video = browser.ask(
        """() => ["SolidMask", "MaskToImage", "CreateVideo"].map((kind) => {
          const made = LiteGraph.createNode(kind); app.graph.add(made); made.pos = [900, 500]; return made.id; })"""
    )[1:]
    mask = browser.ask("() => app.graph._nodes.find((one) => one.type === 'SolidMask').id")
    browser.connect(mask, 0, picture, "mask")
    browser.connect(picture, 0, video, "images")
    browser.connect(video, 0, node, "video")
    saw(browser.queue())
    browser.wait("""() => { const stage = document.querySelector('.wm-stage');
      return stage.getContext('2d').getImageData(stage.width - 3, 3, 1, 1).data[0] > 240; }""")


def test_a_picture_lies_behind_the_paths(browser, drawn):
    node, editor = drawn
    (picture,) = browser.ask(
        """() => { const made = LiteGraph.createNode("EmptyImage"); app.graph.add(made); made.pos = [900, 500];
          made.widgets.find((one) => one.name === "color").value = 0x2060a0; return [made.id]; }"""
    )
    browser.connect(picture, 0, node, "images")
    saw(browser.queue())
    pixel = """() => { const stage = document.querySelector('.wm-stage');
      return Array.from(stage.getContext('2d').getImageData(stage.width - 3, 3, 1, 1).data); }"""
    browser.wait(f"() => ({pixel})()[2] === 0xa0")
    assert browser.ask(pixel) == [0x20, 0x60, 0xA0, 255]


def test_a_bypassed_node_passes_on_what_came_in(browser):
    """WM_MojitoApply between conditionings and sampler, WM_Condition in a chain: bypassed, the graph still runs."""
    apply, trajectory, words, no_words, sampler, model = browser.graph(
        "WM_MojitoApply", "WM_Trajectory", "CLIPTextEncode", "CLIPTextEncode", "KSampler", "CheckpointLoaderSimple"
    )
    links = [
        (model, 0, apply, "model"), (model, 1, apply, "clip"), (trajectory, 0, apply, "trajectory"),
        (words, 0, apply, "positive"), (no_words, 0, apply, "negative"), (apply, 0, sampler, "model"),
        (apply, 1, sampler, "positive"), (apply, 4, sampler, "negative"),
    ]  # fmt: skip
    for link in links:
        browser.connect(*link)
    browser.ask("(id) => { app.graph.getNodeById(id).mode = 4; }", apply)
    given = browser.prompt()[str(sampler)]["inputs"]
    assert given["model"] == [str(model), 0]
    assert given["positive"] == [str(words), 0] and given["negative"] == [str(no_words), 0]
    first, second, third, sample = browser.graph(
        "WM_Condition", "WM_Condition", "WM_Condition", "WM_FlexEControlSample"
    )
    browser.connect(first, 0, second, "conditions")
    browser.connect(second, 0, third, "conditions")
    browser.connect(third, 0, sample, "conditions")
    browser.ask("(id) => { app.graph.getNodeById(id).mode = 4; }", second)
    now = browser.prompt()
    assert now[str(third)]["inputs"]["conditions"] == [str(first), 0] and str(second) not in now


def test_a_region_is_painted_on_a_condition_and_cut_out_by_python(browser):
    """A box and a free shape, each where it was drawn; what Python made of them comes back as a mask."""
    (node,) = browser.graph("WM_Condition")
    editor = browser.editor(kind="wm-region")
    tool(editor, "Box")
    browser.drag(editor, (0.125, 0.25), (0.375, 0.5))
    tool(editor, "Free")
    browser.drag(editor, (0.6, 0.6), (0.9, 0.6), (0.9, 0.9), (0.6, 0.9))
    text = browser.widget(node, "shapes")
    from wm_pipelines.media.regions import read_regions, region_mask

    mask = region_mask(read_regions(text), 64, 64)[0]
    assert float(mask[16:32, 8:24].mean()) > 0.97 and float(mask[40:56, 40:56].mean()) > 0.97
    assert float(mask.mean()) == pytest.approx(0.25 * 0.25 + 0.3 * 0.3, abs=0.012)
    browser.page.keyboard.press("Control+z")
    assert len(read_regions(browser.widget(node, "shapes"))) == 1
    tool(editor, "Move")
    browser.drag(editor, (0.25, 0.375), (0.45, 0.375))
    (box,) = read_regions(browser.widget(node, "shapes"))
    assert [*box.points[0], *box.points[2]] == pytest.approx([0.325, 0.25, 0.575, 0.5], abs=0.012)
    browser.page.keyboard.press("Delete")
    assert browser.widget(node, "shapes") == "" and browser.ask("() => app.graph._nodes.length") == 1
    browser.set_widget(node, "shapes", "{")
    browser.wait("() => document.querySelector('.wm-region .wm-status').textContent.includes('a region is JSON')")


def test_a_graph_is_made_by_hand_and_laid_out_at_once(browser):
    node, shown = browser.graph("WM_SceneGraph", "PreviewAny")
    browser.connect(node, 1, shown, "source")
    browser.wait("() => document.querySelector('.wm-graph .wm-status').textContent.includes('left of')")
    editor = browser.editor(kind="wm-graph")
    tool(editor, "+ Thing")
    field = editor.get_by_label("Thing 3", exact=True)
    field.fill("large green cone")
    field.press("Enter")
    tool(editor, "+ Relation")
    editor.get_by_label("Subject of relation 2", exact=True).select_option("large green cone")
    editor.get_by_label("Predicate of relation 2", exact=True).select_option("above")
    browser.wait("() => document.querySelector('.wm-graph .wm-status').textContent.includes('cone above')")
    (entry,) = browser.queue()["outputs"].values()
    assert "a red cube" in entry["text"][0] and "a large green cone above" in entry["text"][0]
    graph = json.loads(browser.widget(node, "graph"))
    assert graph["nodes"][2]["name"] == "cone" and graph["nodes"][2]["attributes"] == ["large", "green"]
    tool(editor, "Turn relation 1")
    browser.wait("() => document.querySelector('.wm-graph .wm-status').textContent.includes('sphere left of')")
    editor.get_by_label("Keys of the graph editor").focus()
    browser.page.keyboard.press("Control+z")
    assert json.loads(browser.widget(node, "graph")) == graph
    browser.wait("() => document.querySelector('.wm-graph .wm-status').textContent.includes('a red cube left of')")
    tool(editor, "Remove thing 3")
    left = json.loads(browser.widget(node, "graph"))
    assert len(left["nodes"]) == 2 and len(left["edges"]) == 1
    browser.wait("() => !document.querySelector('.wm-graph .wm-status').textContent.includes('cone')")
    stage = editor.locator(".wm-stage")
    stage.scroll_into_view_if_needed()
    place = browser.ask("() => fetch('/wm_pipelines/scene_graph', { method: 'POST', body: JSON.stringify({ graph: "
                        "app.graph._nodes.find((n) => n.type === 'WM_SceneGraph').widgets[0].value }) })"
                        ".then((found) => found.json()).then((found) => found.boxes[0])")  # fmt: skip
    x, y = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
    browser.drag(editor, (x, y), (x, y + 0.1))
    moved = json.loads(browser.widget(node, "graph"))["nodes"][0]["box"]
    assert moved == pytest.approx([place[0], place[1] + 0.1, place[2], place[3] + 0.1], abs=0.02)


def test_ready_subgraphs_open_and_unfold_into_their_nodes(browser, repo):
    for path in sorted((repo / "subgraphs").glob("*.json")):
        saved = json.loads(path.read_text(encoding="utf-8"))
        browser.load(saved)
        now = browser.prompt()
        (inner,) = saved["definitions"]["subgraphs"]
        assert sorted(node["class_type"] for node in now.values()) == sorted(node["type"] for node in inner["nodes"])
        (sampler,) = (node for node in now.values() if node["class_type"].endswith("Sample"))
        pipeline, slot = sampler["inputs"]["pipeline"]
        assert now[pipeline]["class_type"] == "WM_LoadPipeline" and slot == 0


def test_in_the_templates_no_node_hides_another(browser, workflows):
    """With the sizes that nodes have here, whatever sizes were saved."""
    hidden = {}
    for name, (saved, _) in workflows.items():
        browser.load(saved)
        hidden[name] = browser.ask(
            """() => {
              const title = 30;
              const places = app.graph._nodes.map((node) => {
                const least = node.computeSize();
                return [node.pos[0], node.pos[1] - title, node.pos[0] + Math.max(node.size[0], least[0]),
                        node.pos[1] + Math.max(node.size[1], least[1]), node.type];
              });
              return places.flatMap((a, n) => places.slice(n + 1).filter(
                (b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]).map((b) => [a[4], b[4]]));
            }"""
        )
    assert not {name: pairs for name, pairs in hidden.items() if pairs}


def test_a_warning_is_on_the_node(browser):
    (node,) = browser.graph("WM_FlexEControlSample")
    browser.ask("(id) => app.graph.getNodeById(id).onExecuted({ wm_notes: ['the map is empty'] })", node)
    browser.wait("() => document.querySelector('.wm-notes')?.textContent === 'the map is empty'")
    browser.ask("(id) => app.graph.getNodeById(id).onExecuted({})", node)
    browser.wait("() => !document.querySelector('.wm-notes')")


def test_nodes_drawn_by_the_page_itself_are_drawn_in_alike(browser):
    """The front end's newer way to show nodes, where it has one: as elements of the page."""
    known = "() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled') !== undefined"
    if not browser.ask(known):
        pytest.skip("this front end shows nodes in one way only")
    turn = "async (on) => { await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on); }"
    browser.ask(turn, True)
    try:
        node, shown = browser.graph("WM_Trajectory", "PreviewAny")
        browser.connect(node, 1, shown, "source")
        ready(browser, "red cube")
        editor = browser.editor()
        text = browser.widget(node, "text")
        tool(editor, "Path")
        browser.drag(editor, (0.2, 0.25), (0.8, 0.75))
        ((cube,),) = saw(browser.queue())
        assert middles(cube)[0] == pytest.approx([0.2, 0.25], abs=0.01)
        assert middles(cube)[-1] == pytest.approx([0.8, 0.75], abs=0.01)
        browser.page.keyboard.press("Control+z")
        assert browser.ask("() => app.graph._nodes.length") == 2
        assert json.loads(browser.widget(node, "text")) == json.loads(text)
    finally:
        browser.ask(turn, False)


def keep(browser, editor, stage, name, tmp_path):
    """A picture of an editor; in docs/ where WM_SCREENSHOTS says so."""
    kept = os.environ.get("WM_SCREENSHOTS") and not stage[1]
    path = (HERE.parents[1] / "docs" / "comfyui" if kept else tmp_path) / f"{name}.png"
    browser.shoot(editor, path)
    assert 4_000 < path.stat().st_size < 150_000
    assert not browser.errors


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_pictures_of_the_editors_in_both_themes(browser, stage, theme, tmp_path):
    browser.ask("async (theme) => { await app.extensionManager.setting.set('Comfy.ColorPalette', theme); }", theme)
    browser.graph("WM_Trajectory")
    ready(browser, "red cube")
    editor = browser.editor()
    tool(editor, "Path")
    browser.drag(editor, (0.2, 0.6), (0.35, 0.3), (0.6, 0.3), (0.8, 0.7))
    tool(editor, "Box")
    browser.drag(editor, (0.7, 0.1), (0.78, 0.3))
    browser.page.keyboard.type("blue ball")
    browser.page.keyboard.press("Enter")
    tool(editor, "Path")
    browser.drag(editor, (0.74, 0.2), (0.2, 0.2))
    keys(editor)
    for _ in range(6):
        browser.page.keyboard.press(".")
    keep(browser, editor, stage, f"trajectory_{theme}", tmp_path)

    browser.graph("WM_Condition")
    editor = browser.editor(kind="wm-region")
    browser.drag(editor, (0.1, 0.2), (0.4, 0.5))
    tool(editor, "Free")
    browser.drag(editor, (0.5, 0.8), (0.65, 0.35), (0.9, 0.5), (0.8, 0.85))
    keep(browser, editor, stage, f"region_{theme}", tmp_path)

    browser.graph("WM_SceneGraph")
    browser.wait("() => document.querySelector('.wm-graph .wm-status').textContent.includes('left of')")
    keep(browser, browser.editor(kind="wm-graph"), stage, f"graph_{theme}", tmp_path)

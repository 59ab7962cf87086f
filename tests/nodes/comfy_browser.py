"""ComfyUI's front end in a headless Chromium, driven by Playwright: what a hand does, and what a graph then holds."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NO_PLAYWRIGHT = "Playwright is not installed (the extra `browser`): nothing to drive a browser with"
NO_CHROMIUM = "no Chromium: none is on the PATH, and CHROMIUM names none"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-gpu-rasterization", "--disable-software-rasterizer"]
"""Without them a processor draws every frame as a graphics card would."""
READY = "() => !!(window.app?.graph && window.LiteGraph?.registered_node_types?.['WM_Trajectory'])"

SETTLED = """async () => {
  let last = -1;
  for (let quiet = 0; quiet < 6; ) {
    await new Promise((done) => setTimeout(done, 300));
    const now = app.graph._nodes.length;
    const opened = app.extensionManager?.workflow?.activeWorkflow;
    quiet = now === last && opened ? quiet + 1 : 0;
    last = now;
  }
}"""


def missing() -> str | None:
    """Why no browser can be driven here, or None."""
    if find_spec("playwright") is None:
        return NO_PLAYWRIGHT
    return None if chromium() else NO_CHROMIUM


def chromium() -> str | None:
    """The browser's file."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One page with ComfyUI in it. Places on a stage are fractions of it."""

    def __init__(self, server: Any):
        from playwright.sync_api import sync_playwright

        self.server = server
        self.playwright = sync_playwright().start()
        self.chromium = self.playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = self.chromium.new_context(viewport={"width": 1280, "height": 960}, has_touch=True)
        self.page = context.new_page()
        self.page.set_default_timeout(240_000)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.open()

    def open(self) -> None:
        """Load the front end, or load it again."""
        self.page.goto(f"http://127.0.0.1:{self.server.port}/")
        self.page.wait_for_function(READY)
        self.ask(SETTLED)  # a front end that was here before opens what was open
        self.page.keyboard.press("Escape")  # a first visit is shown templates

    def close(self) -> None:
        self.chromium.close()
        self.playwright.stop()

    def ask(self, script: str, value: Any = None) -> Any:
        return self.page.evaluate(script, value)

    def graph(self, *kinds: str) -> list[int]:
        """A new graph with nodes of these kinds in a row; returns their ids."""
        return self.ask(
            """async (kinds) => {
              await app.loadGraphData({ last_node_id: 0, last_link_id: 0, nodes: [], links: [], groups: [],
                                        config: {}, extra: {}, version: 0.4 });
              app.canvas.ds.scale = 1;
              app.canvas.ds.offset = [0, 0];
              let x = 110;
              return kinds.map((kind) => {
                const node = LiteGraph.createNode(kind);
                node.pos = [x, 90];
                app.graph.add(node);
                x += node.size[0] + 30;
                return node.id;
              });
            }""",
            list(kinds),
        )

    def load(self, workflow: dict) -> None:
        """A saved workflow, at full scale with its first trajectory in view."""
        self.ask(
            """async (saved) => {
              await app.loadGraphData(saved);
              const node = app.graph._nodes.find((one) => one.comfyClass === "WM_Trajectory") ?? app.graph._nodes[0];
              app.canvas.ds.scale = 1;
              app.canvas.ds.offset = [110 - node.pos[0], 90 - node.pos[1]];
              app.canvas.setDirty(true, true);
            }""",
            workflow,
        )

    def connect(self, source: int, out: int, target: int, into: str) -> None:
        self.ask(
            """([source, out, target, into]) => {
              const to = app.graph.getNodeById(target);
              app.graph.getNodeById(source).connect(out, to, to.inputs.findIndex((input) => input.name === into));
            }""",
            [source, out, target, into],
        )

    def widget(self, node: int, name: str) -> Any:
        return self.ask(
            "([id, name]) => app.graph.getNodeById(id).widgets.find((one) => one.name === name).value", [node, name]
        )

    def set_widget(self, node: int, name: str, value: Any) -> None:
        self.ask(
            """([id, name, value]) => {
              app.graph.getNodeById(id).widgets.find((one) => one.name === name).value = value;
            }""",
            [node, name, value],
        )

    def prompt(self) -> dict:
        """What would be queued."""
        return self.ask("async () => (await app.graphToPrompt()).output")

    def queue(self) -> dict:
        """Queue as the button does; returns the run's history entry."""
        before = set(self.server.get("/history"))
        self.ask("async () => { await app.queuePrompt(0); }")
        return self.server.wait_for(
            lambda: next((v for k, v in self.server.get("/history").items() if k not in before), None), 600, "the run"
        )

    def editor(self, index: int = 0, kind: str = "wm-trajectory") -> Any:
        """The editor of the nth node that has one."""
        return self.page.locator(f".{kind}").nth(index)

    def at(self, editor: Any, x: float, y: float) -> tuple[float, float]:
        """Pixels of the page for a place on the editor's stage."""
        box = editor.locator(".wm-stage").bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def drag(self, editor: Any, *places: tuple[float, float]) -> None:
        """Press at the first place, go through the others, let go."""
        mouse = self.page.mouse
        mouse.move(*self.at(editor, *places[0]))
        mouse.down()
        for place in places[1:]:
            mouse.move(*self.at(editor, *place), steps=4)
        mouse.up()

    def wait(self, script: str, value: Any = None) -> None:
        self.page.wait_for_function(script, arg=value)

    def shoot(self, editor: Any, path: Path) -> None:
        """A picture of an editor."""
        path.parent.mkdir(parents=True, exist_ok=True)
        editor.screenshot(path=path)

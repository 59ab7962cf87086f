"""Gaussians and clips to write: seeded, of every degree, with objects that move."""

import json
import os
import select
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_pipelines.morpho4d.formats.clip import Clip
from wm_pipelines.morpho4d.formats.splats import Splats
from wm_pipelines.morpho4d.quaternions import matrices, multiply, rotate, unit
from wm_pipelines.runtime.random import keyed


def tensor(array):
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


@pytest.fixture(scope="session")
def make():
    """`make(count, degree, seed, up)`: splats of three objects and a background."""

    def make(count=40, degree=0, seed=0, up="z"):
        g = keyed("splats", count, degree, seed)
        return Splats(
            means=tensor(g.normal(size=(count, 3))),
            quats=tensor(g.normal(size=(count, 4))),
            scales=tensor(g.uniform(0.02, 0.3, (count, 3))),
            opacities=tensor(g.uniform(0.02, 0.98, count)),
            sh=tensor(g.uniform(-0.8, 0.8, (count, (degree + 1) ** 2, 3))),
            object_id=torch.from_numpy(np.arange(count) % 4),
            up=up,
        )

    return make


@pytest.fixture(scope="session")
def make_clip(make):
    """`make_clip(frames, degree, seed, bend)`: objects 1 and 2 turn and slide, 3 and the background rest; `bend` moves
    every Gaussian of object 2 by that much on its own."""

    def make_clip(frames=5, degree=0, seed=0, bend=0.0, count=40):
        first, g = make(count, degree, seed), keyed("clip", seed)
        found = []
        spins = {n: unit(tensor(g.normal(size=4)) * torch.tensor([3.0, 1, 1, 1])) for n in (1, 2)}
        steps = {n: tensor(g.uniform(-0.3, 0.3, 3)) for n in (1, 2)}
        shake = tensor(g.normal(size=(count, 3)))
        for n in range(frames):
            means, quats, sh = first.means.clone(), first.quats.clone(), first.sh.clone()
            for number in (1, 2):
                which = first.object_id == number
                turn = torch.tensor([1.0, 0, 0, 0])
                for _ in range(n):
                    turn = unit(multiply(spins[number], turn))
                part = first.picked(which).turned(turn)
                centre = first.means[which].mean(0)
                means[which] = rotate(turn, first.means[which] - centre) + centre + n * steps[number]
                quats[which], sh[which] = part.quats, part.sh
            means[first.object_id == 2] += n * bend * shake[first.object_id == 2]
            found.append(Splats(means, quats, first.scales, first.opacities, sh, first.object_id))
        return Clip(tuple(found), tuple(n / 8 for n in range(frames)), {1: "red cube", 2: "ball", 3: "cone"})

    return make_clip


@pytest.fixture(scope="session")
def covariances():
    """`covariances(splats)`: (N, 3, 3), which do not know which of an ellipsoid's rotations was taken."""

    def covariances(splats):
        axes = matrices(splats.quats.double()) * splats.scales.double()[:, None]
        return axes @ axes.mT

    return covariances


@pytest.fixture(scope="session")
def same(covariances):
    """`same(a, b, means, shape, opacity, sh)`: asserts that two sets are equal up to these; `shape` is relative."""

    def same(a, b, means=1e-5, shape=1e-4, opacity=2e-6, sh=1e-5):
        assert (a.count, a.degree, a.up) == (b.count, b.degree, b.up)
        assert (a.means - b.means).abs().max() <= means
        size = covariances(a).diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
        assert ((covariances(a) - covariances(b)) / size).abs().max() <= shape
        assert (a.opacities - b.opacities).abs().max() <= opacity
        assert (a.sh - b.sh).abs().max() <= sh

    return same


@pytest.fixture(scope="session")
def node_modules():
    """The folder of npm packages that WM_NODE_MODULES names, with node beside it; else the test is skipped."""
    folder = Path(os.environ.get("WM_NODE_MODULES", "node_modules"))
    if shutil.which("node") is None or not folder.is_dir():
        pytest.skip("needs node, and WM_NODE_MODULES to name a folder of npm packages")
    return folder.resolve()


@pytest.fixture(scope="session")
def splat_transform(node_modules):
    """`splat_transform(*arguments)`: runs PlayCanvas's converter."""
    program = node_modules / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
    if not program.is_file():
        pytest.skip("needs npm install @playcanvas/splat-transform in WM_NODE_MODULES")

    def run(*arguments):
        command = ["node", str(program), "-q", "-w", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


class Browser:
    """Headless Chromium by its debugging pipe: pages that are opened, asked and clicked on."""

    def __init__(self, program):
        (self.read, theirs_out), (theirs_in, self.write) = os.pipe(), os.pipe()
        self.profile = tempfile.mkdtemp()

        def pipes():  # 3 is what it reads, 4 what it writes
            low, high = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(low, 3)
            os.dup2(high, 4)

        flags = "--headless --no-sandbox --remote-debugging-pipe --enable-unsafe-swiftshader --use-angle=swiftshader"
        flags += " --disable-dev-shm-usage --no-first-run --force-device-scale-factor=1 --window-size=1000,800"
        self.process = subprocess.Popen(
            [program, *flags.split(), f"--user-data-dir={self.profile}"],
            close_fds=False,
            preexec_fn=pipes,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.buffer, self.events = 0, b"", []
        page = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], 120)
            assert ready, "the browser does not answer"
            found = os.read(self.read, 2**20)
            assert found, "the browser has ended"
            self.buffer += found
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path):
        """Opens a page and waits for it; afterwards `events` has what happened meanwhile."""
        self.events.clear()
        self.send("Page.navigate", url=path.absolute().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def ask(self, expression):
        """The value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def mouse(self, kind, x, y):
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium: what CHROMIUM names, or one on the path; else the test is skipped."""
    names = (os.environ.get("CHROMIUM"), "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if name and (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs a Chromium: on the path, or named by CHROMIUM")
    browser = Browser(program)
    yield browser
    browser.close()

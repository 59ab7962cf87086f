"""Gaussians and clips to write: seeded, of every degree, with objects that move."""

import os
import shutil
import subprocess
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

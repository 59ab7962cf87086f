"""What each file format loses of a scene in time: size, errors after a round trip, and the picture that is left.

    python benchmarks/morpho4d_formats.py [--scene FOLDER]     # a table, and results/morpho4d_formats.jsonl anew

Without --scene: a floor, a box that slides and turns, a ball that flies; 1,000 Gaussians, 12 frames, degrees 0 and 1.
Files of one moment are written for every frame. Errors are the largest over Gaussians and frames: places in metres,
shapes as |difference of covariances| over the trace, opacities, colours (the part that is the same from everywhere).
PSNR is of the renderer's pictures of what came back against those of the scene, the lowest over frames: at the frames,
and half-way between them for the two formats that hold motion.
"""

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import RESULTS, environment, write

from wm_pipelines.morpho4d.formats.clip import Clip
from wm_pipelines.morpho4d.formats.container import read_4dgs
from wm_pipelines.morpho4d.formats.export import export
from wm_pipelines.morpho4d.formats.glb_reader import read_glb
from wm_pipelines.morpho4d.formats.harmonics import turned
from wm_pipelines.morpho4d.formats.ply import read_ply_sequence
from wm_pipelines.morpho4d.formats.splat import order, read_splat
from wm_pipelines.morpho4d.formats.splats import Splats
from wm_pipelines.morpho4d.formats.spz import read_spz
from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians, PosedGaussians
from wm_pipelines.morpho4d.motion import NodeMotion
from wm_pipelines.morpho4d.quaternions import conjugate, matrices
from wm_pipelines.morpho4d.rendering import render_posed
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.runtime.random import keyed

FRAMES, SIZE = 12, 128
FORMATS = ("ply sequence", "spz", "splat", "glb", "4dgs")


def made_scene(degree: int, count: int = 1000, frames: int = FRAMES) -> Scene4D:
    """Floor (0), a box that slides and turns by 92 degrees (1), a ball on a parabola (2); a camera that looks down."""
    g = keyed("morpho4d_formats", degree, count)
    ids = torch.from_numpy(np.sort(g.choice(3, count, p=[0.6, 0.2, 0.2])))
    means = torch.from_numpy(g.uniform(-1, 1, (count, 3))).float()
    ball = torch.nn.functional.normalize(torch.from_numpy(g.normal(size=(count, 3))).float(), dim=-1)
    floor = means * torch.tensor([2.0, 2.0, 0.0])
    means = torch.where(ids[:, None] == 0, floor, torch.where(ids[:, None] == 1, means * 0.4, ball * 0.35))
    means += torch.tensor([[0.0, 0, 0], [-0.7, 0, 0.4], [0.8, 0.3, 0.35]])[ids]
    time = torch.linspace(0, 1, frames)
    zero = torch.zeros_like(time)
    box = torch.stack([1.4 * time - 0.7, zero, zero + 0.4], dim=1)
    flight = torch.stack([zero + 0.8, zero + 0.3, 0.35 + 3 * time * (1 - time)], dim=1)
    half = math.radians(46) * time
    spin = torch.stack([half.cos(), zero, zero, half.sin()], dim=-1)
    rest = torch.tensor([1.0, 0, 0, 0]).expand(frames, 4)
    dynamic = ids > 0
    motion = NodeMotion(
        node_xyz=torch.stack([box, flight], dim=1),
        node_quat=torch.stack([spin, rest], dim=1),
        knn_index=(ids[dynamic] - 1)[:, None],
        skin_weight=torch.ones(int(dynamic.sum()), 1),
        ref_time=torch.zeros(int(dynamic.sum())),
    )
    sh = torch.from_numpy(g.uniform(-1, 1, (count, (degree + 1) ** 2, 3))).float()
    sh *= torch.tensor([1.7, *[0.3] * (sh.shape[1] - 1)])[:, None]
    gaussians = Gaussians(
        means=means,
        quats=torch.from_numpy(g.normal(size=(count, 4))).float(),
        log_scales=torch.from_numpy(g.uniform(-3.6, -2.2, (count, 3))).float(),
        logit_opacities=torch.from_numpy(g.normal(1.5, 1.0, count)).float(),
        sh=sh,
        features=torch.zeros(count, 0),
        object_id=ids,
        is_dynamic=dynamic,
    )
    down = math.radians(30)
    pose = torch.eye(4)
    pose[1, 1:3] = torch.tensor([-math.sin(down), -math.cos(down)])
    pose[2, 1:4] = torch.tensor([math.cos(down), -math.sin(down), 5.0])
    k = torch.tensor([[1.2 * SIZE, 0, SIZE / 2], [0, 1.2 * SIZE, SIZE / 2], [0, 0, 1]])
    cameras = Cameras(k[None], pose.expand(1, frames, 4, 4).clone(), (SIZE, SIZE))
    return Scene4D(gaussians, motion, cameras, frames, names={1: "box", 2: "ball"})


def round_trip(scene: Scene4D, kind: str, folder: Path) -> tuple[int, Callable[[float], Splats]]:
    """Bytes of all files, and what comes back at a frame, z up and in the scene's own order."""
    clip = Clip.of(scene)
    if kind == "ply sequence":
        export(scene, folder / "frames")
        frames = read_ply_sequence(folder / "frames")
        return _bytes(folder), lambda frame: frames[int(frame)].with_up("z")
    if kind in ("spz", "splat"):
        for n in range(scene.frames):
            export(scene, folder / f"{n}.{kind}", [n], drop_sh=True)
        if kind == "spz":
            return _bytes(folder), lambda frame: read_spz(folder / f"{int(frame)}.spz").with_up("z")
        back = [torch.argsort(order(frame.with_up("-y"))) for frame in clip.frames]
        return _bytes(folder), lambda n: read_splat(folder / f"{int(n)}.splat").with_up("z").picked(back[int(n)])
    path = export(scene, folder / f"scene.{kind}")
    read = read_glb(path) if kind == "glb" else read_4dgs(path)

    def found(frame: float) -> Splats:  # both come back in an order of their own
        splats = read.at(frame / scene.fps).with_up("z")
        wanted = _looks(Clip.of(scene, [frame]).frames[0])
        return splats.picked(torch.cdist(wanted, _looks(splats)).argmin(dim=1))

    return _bytes(folder), found


def _looks(splats: Splats) -> torch.Tensor:
    """(N, 10): enough to know a Gaussian by."""
    parts = [splats.means, splats.scales, splats.opacities[:, None], splats.rgb.clamp(0, 1)]
    return torch.cat(parts, dim=1)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def losses(found: Splats, wanted: Splats) -> dict[str, float]:
    """The largest errors over all Gaussians."""
    covariances = []
    for splats in (found, wanted):
        axes = matrices(splats.quats.double()) * splats.scales.double()[:, None]
        covariances.append(axes @ axes.mT)
    trace = covariances[1].diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
    return {
        "metres": float((found.means - wanted.means).abs().max()),
        "shape": float(((covariances[0] - covariances[1]) / trace).abs().max()),
        "opacity": float((found.opacities - wanted.opacities).abs().max()),
        "colour": float((found.rgb - wanted.rgb).abs().max()),
    }


def psnr(found: Splats, scene: Scene4D, frame: float) -> float:
    """Of what came back against the scene, at a frame."""
    local = turned(found.sh, conjugate(found.quats))
    features = torch.zeros(found.count, 0)
    posed = PosedGaussians(found.means, found.quats, found.scales, found.opacities, local, features, found.object_id)
    k, pose = scene.cameras.at(0, frame)
    shown = render_posed(posed, k, pose, scene.cameras.size, scene.background, scene.dilation, "torch").frames[0]
    error = float(((shown - scene.render((k, pose), [frame], backend="torch").frames[0]) ** 2).mean())
    return -10 * math.log10(error) if error else math.inf


def measure(scene: Scene4D, kind: str) -> dict[str, Any]:
    """A row: bytes, losses and PSNR of one format."""
    with tempfile.TemporaryDirectory() as folder:
        size, at = round_trip(scene, kind, Path(folder))
        clip = Clip.of(scene)
        frames = [losses(at(n), wanted) for n, wanted in enumerate(clip.frames)]
        pictures = [psnr(at(n), scene, n) for n in range(scene.frames)]
        row: dict[str, Any] = {
            "format": kind,
            "degree": scene.gaussians.sh_degree,
            "gaussians": len(scene),
            "frames": scene.frames,
            "bytes": size,
            **{name: max(frame[name] for frame in frames) for name in frames[0]},
            "psnr": min(pictures),
        }
        if kind in ("glb", "4dgs"):
            row["psnr_between"] = min(psnr(at(n + 0.5), scene, n + 0.5) for n in range(scene.frames - 1))
    # JSON knows no infinity: None is a picture in which no bit differs
    return {name: None if value == math.inf else value for name, value in row.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="folder of a scene to measure instead")
    parser.add_argument("--count", type=int, default=1000, help="Gaussians of the made scene")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames of the made scene")
    parser.add_argument("--out", type=Path, default=RESULTS / "morpho4d_formats.jsonl")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.scene:
        scenes = [Scene4D.from_pretrained(arguments.scene)]
    else:
        scenes = [made_scene(degree, arguments.count, arguments.frames) for degree in (0, 1)]
    where = environment()
    names = ("bytes", "metres", "shape", "opacity", "colour", "psnr", "psnr_between")
    print(f"{'':16}" + "".join(f"{name:>13}" for name in names))
    rows = []
    for scene in scenes:
        for kind in FORMATS:
            row = measure(scene, kind)
            rows.append({**row, **where})
            values = [row.get(name, "") for name in names]
            shown = [f"{v:13.4g}" if isinstance(v, float) else f"{'equal' if v is None else v:>13}" for v in values]
            print(f"{kind}, {row['degree']:<{14 - len(kind)}}" + "".join(shown), flush=True)
    write(arguments.out, rows)


if __name__ == "__main__":
    main()

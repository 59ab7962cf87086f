"""A page that shows a scene in time: one HTML file with its own viewer, which asks nothing of any network."""

import base64
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from wm_pipelines.morpho4d.formats.clip import Clip
from wm_pipelines.morpho4d.formats.harmonics import turned
from wm_pipelines.morpho4d.formats.splats import Splats
from wm_pipelines.morpho4d.quaternions import conjugate
from wm_pipelines.runtime.files import write_atomic

UP_VECTORS = {"y": (0, 1, 0), "-y": (0, -1, 0), "z": (0, 0, 1)}
STILL = 1e-6
"""How much a number of a Gaussian's pose must change for it to be kept frame by frame."""


def write_page(
    clip: Clip,
    path: str | os.PathLike,
    camera: tuple[torch.Tensor, torch.Tensor],
    size: tuple[int, int],
    background: Sequence[float] = (0.0, 0.0, 0.0),
    dilation: float = 0.3,
    title: str = "Scene",
) -> Path:
    """Writes the page: orbit by dragging, a time slider, objects to click on, hide and recolour, in WebGL 2.

    Gaussians are projected as `project_gaussians` does it, sorted at every draw and blended in floats. Between frames
    places go on a line and rotations near the shorter arc. Larger pictures than `size` have a dilation that grows with
    them, so that they look alike.

    Args:
        camera: the first one: K (3, 3), pixels, and T_cw (4, 4), world to camera, x right, y down, z forward.
        size: (height, width) of its picture, pixels.
        background: red, green, blue in [0, 1] where nothing is.
        dilation: added to the 2-D covariances, square pixels of `size`.
        title: of the page.

    Raises:
        ValueError: an argument that is not as above, or Gaussians whose opacity, size or colour change with time.
    """
    k, pose = (torch.as_tensor(part, dtype=torch.float64) for part in camera)
    _check(k, pose, size, background, dilation)
    first = clip.frames[0]
    local = _constant(clip)
    means, quats = (torch.stack([getattr(f, name) for f in clip.frames]) for name in ("means", "quats"))
    change = torch.cat([(means - means[0]).abs(), (quats - quats[0]).abs()], dim=-1).amax(dim=(0, 2))
    moving = (change > STILL).nonzero()[:, 0]
    blocks = [first.means, first.quats, first.scales, first.opacities, local]
    blocks += [first.object_id.int(), moving.int(), means[:, moving], quats[:, moving]]
    numbers = b"".join(_little_endian(block) for block in blocks)
    ids = first.object_id.unique().tolist()
    colours = {n: first.rgb[first.object_id == n].clamp(0, 1).mean(0) for n in ids}
    scene = {
        "title": title,
        "size": list(size),
        "focal": [float(k[0, 0]), float(k[1, 1])],
        "middle": [float(k[0, 2]), float(k[1, 2])],
        "turn": pose[:3, :3].flatten().tolist(),
        "shift": pose[:3, 3].tolist(),
        "up": list(UP_VECTORS[first.up]),
        "times": list(clip.times),
        "count": first.count,
        "moving": len(moving),
        "coefficients": first.sh.shape[1],
        "names": {str(n): clip.name(n) for n in ids},
        "colours": {str(n): "#" + "".join(f"{round(255 * float(c)):02x}" for c in colours[n]) for n in ids},
        "background": [float(c) for c in background],
        "dilation": float(dilation),
    }
    return write_atomic(Path(path), _rendered(scene, base64.b64encode(numbers).decode()))


def _little_endian(block: torch.Tensor) -> bytes:
    array = block.contiguous().numpy()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _check(
    k: torch.Tensor, pose: torch.Tensor, size: tuple[int, int], background: Sequence[float], dilation: float
) -> None:
    if k.shape != (3, 3) or pose.shape != (4, 4) or not (k.isfinite().all() and pose.isfinite().all()):
        raise ValueError(f"`camera` is of {tuple(k.shape)} and {tuple(pose.shape)}; finite (3, 3) and (4, 4)")
    if not (k[0, 0] > 0 and k[1, 1] > 0):
        raise ValueError("`camera` has a focal length that is not above 0")
    if len(size) != 2 or not all(isinstance(side, int) and 1 <= side <= 8192 for side in size):
        raise ValueError(f"`size` is {size!r}; (height, width) in whole pixels, 1 to 8192")
    if len(background) != 3 or not all(0 <= float(c) <= 1 for c in background):
        raise ValueError(f"`background` is {background!r}; three numbers in [0, 1]")
    if not 0 <= dilation < float("inf"):
        raise ValueError(f"`dilation` is {dilation!r}; square pixels, 0 or more")


def _constant(clip: Clip) -> torch.Tensor:
    """Harmonics (N, K, 3) in the Gaussians' own frames, which the page turns with them.

    Raises:
        ValueError: something but the poses changes.
    """
    first = clip.frames[0]
    local = _local(first)
    for n, frame in enumerate(clip.frames):
        pairs = {
            "opacities": (first.opacities, frame.opacities),
            "scales": (first.scales, frame.scales),
            "sh": (local, _local(frame)),
        }
        for name, (a, b) in pairs.items():
            if (a - b).abs().max() > 1e-3:
                raise ValueError(f"`clip` has other {name} at frame {n} than at first; the page moves Gaussians only")
    return local


def _local(splats: Splats) -> torch.Tensor:
    return turned(splats.sh, conjugate(splats.quats))


def _rendered(scene: dict, numbers: str) -> str:
    from jinja2 import Environment

    folder = files("wm_pipelines.morpho4d") / "templates"
    template, viewer = ((folder / name).read_text(encoding="utf-8") for name in ("scene.html", "viewer.js"))
    return Environment(autoescape=True).from_string(template).render(scene=scene, numbers=numbers, viewer=viewer)

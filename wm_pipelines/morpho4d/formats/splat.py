""".splat (antimatter15/splat): 32 bytes a Gaussian, sorted, without harmonics.

Three floats of place, three of linear scale, four bytes of colour and opacity, four of rotation, w first. Axes as PLY.
"""

import os
from pathlib import Path

import numpy as np
import torch

from wm_pipelines.morpho4d.formats.data import opened, tensor
from wm_pipelines.morpho4d.formats.splats import Splats, check_degree, dc_of
from wm_pipelines.runtime.files import atomic

UP = "-y"

ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


def order(splats: Splats) -> torch.Tensor:
    """Indices (N,) by falling volume times opacity, as the file has them: what is seen most is loaded first."""
    seen = splats.scales.double().prod(dim=1) * splats.opacities
    return torch.sort(seen, descending=True, stable=True).indices


def write_splat(splats: Splats, path: str | os.PathLike, drop_sh: bool = False) -> Path:
    """Writes a .splat. Colours are cut to 0..1; colour and opacity have steps of 1/255, quaternions of 1/128.

    Args:
        drop_sh: leaves out what depends on the direction.

    Raises:
        ValueError: harmonics of degree 1 or more, and `drop_sh` is False.
    """
    splats = check_degree(splats, 0, ".splat", drop_sh).with_up(UP)
    splats = splats.picked(order(splats))
    rows = np.zeros(splats.count, ROW)
    rows["means"], rows["scales"] = splats.means.numpy(), splats.scales.numpy()
    rgba = torch.cat([splats.rgb, splats.opacities[:, None]], dim=1).clamp(0, 1)
    rows["rgba"] = (rgba * 255).round().numpy().astype(np.uint8)
    rows["quats"] = (splats.quats * 128 + 128).round().clamp(0, 255).numpy().astype(np.uint8)
    path = Path(path)
    with atomic(path) as partial:
        partial.write_bytes(rows.tobytes())
    return path


def read_splat(path: str | os.PathLike) -> Splats:
    """Reads a .splat; y points down in what comes back.

    Raises:
        ValueError: a length that is no multiple of 32 bytes, or values that `Splats` refuses; names the file.
    """
    with opened(path) as data:
        if len(data) % ROW.itemsize:
            raise ValueError(f"it has {len(data)} bytes; a .splat has {ROW.itemsize} for each Gaussian")
        rows = np.frombuffer(data, ROW)
        rgba = tensor(rows["rgba"]) / 255
        return Splats(
            means=tensor(rows["means"]),
            quats=(tensor(rows["quats"]) - 128) / 128,
            scales=tensor(rows["scales"]),
            opacities=rgba[:, 3],
            sh=dc_of(rgba[:, :3]),
            up=UP,
        )

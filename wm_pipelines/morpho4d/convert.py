"""Offline: scenes of the authors' release (Morph4D, which stands on MoSca) as ours.

    wm convert morpho4d FOLDER OUT --size 480 854

Of FOLDER are read, with `weights_only`: `finetune_s_model.pth` (static Gaussians), `finetune_d_model.pth` (moving
ones and the scaffold of nodes), `finetune_s_model_cam.pth` and, where it is, `finetune_semantic_heads.pth`.

Their scales are s_min + (s_max - s_min) sigmoid(raw), harmonics lie coefficient by coefficient, cameras go from
camera to world, and a moving Gaussian rests in the frame of its own node. Their blending mixes in a share of 1e-4 of
standing still, which is left out.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from wm_pipelines.hub.weights import read_torch_file
from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians
from wm_pipelines.morpho4d.heads import FeatureHead
from wm_pipelines.morpho4d.motion import NodeMotion
from wm_pipelines.morpho4d.quaternions import conjugate, matrices, multiply, rotate, unit
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.runtime.claims import claimed_new_folder

STATIC, MOVING, CAMERAS, HEADS = (
    f"finetune_{name}.pth" for name in ("s_model", "d_model", "s_model_cam", "semantic_heads")
)
LEAF = {"_xyz": 3, "_rotation": 4, "_scaling": 3, "_opacity": 1, "_features_dc": 3, "_features_rest": None}
"""Numbers of each Gaussian; the harmonics above degree 0 are 3 (K - 1)."""
STATIC_LEAF = LEAF | {"_semantic_feature": None}
MOVING_LEAF = LEAF | {"_skinning_weight": None, "_dynamic_logit": 1}
NODE = ("_node_xyz", "_node_rotation", "_node_semantic_feature", "_node_sigma_logit", "topo_knn_ind", "topo_knn_mask")
REFUSED = {"scf.dyn_o_flag": "standing still mixed in by place", "nn_fusion": "Gaussians that fade by frame"}
TINY = 1e-6
"""Sum of weights below which a Gaussian follows its own node alone."""


def read_scene(
    folder: str | os.PathLike, size: tuple[int, int], fps: float = 8.0, background: Sequence[float] = (0.0, 0.0, 0.0)
) -> Scene4D:
    """The scene that a run of the authors' code has left.

    Args:
        size: (height, width) of the pictures, which the files don't say.
        fps: frames a second. background: colour where nothing is.

    Returns:
        Static Gaussians as object 0, moving ones as object 1, "moving"; lengths in unknown units, y down.

    Raises:
        ValueError: a file or a tensor is missing, damaged or of another shape, or the scene was made with a setting
            that has no place here; names it.
    """
    folder = Path(folder)
    if len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        raise ValueError(f"`size` is {size!r}; (height, width) in whole pixels")
    still = _leaves(folder / STATIC, STATIC_LEAF)
    moving = _leaves(folder / MOVING, MOVING_LEAF)
    motion, features, own = _scaffold(folder / MOVING, moving)
    frames = motion.frames
    count = len(still["_xyz"]), len(moving["_xyz"])
    if features.shape[1] != still["_semantic_feature"].shape[1]:
        raise ValueError(f"{folder}: features are {still['_semantic_feature'].shape[1]} and {features.shape[1]} wide")
    sh = [_harmonics(part) for part in (still, moving)]
    if sh[0].shape != (count[0], *sh[1].shape[1:]):
        raise ValueError(f"{folder}: harmonics are {sh[0].shape[1]} and {sh[1].shape[1]} coefficients")
    gaussians = Gaussians(
        torch.cat([still["_xyz"], own[0]]),
        unit(torch.cat([still["_rotation"], own[1]])),
        torch.cat([_log_scales(part) for part in (still, moving)]),
        torch.cat([part["_opacity"].squeeze(1) for part in (still, moving)]),
        torch.cat(sh),
        torch.cat([still["_semantic_feature"], features]),
        torch.arange(2).repeat_interleave(torch.tensor(count)),
        torch.arange(sum(count)) >= count[0],
    )
    scene = Scene4D(
        *(gaussians, motion, _cameras(folder / CAMERAS, size, frames), frames, fps, {1: "moving"}, tuple(background)),
        up="-y",
        unit="unknown",
        heads=read_heads(folder / HEADS) if (folder / HEADS).exists() else {},
    )
    try:
        scene.check()
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return scene


def convert(source: str | os.PathLike, folder: str | os.PathLike, size: tuple[int, int], fps: float = 8.0) -> Scene4D:
    """Writes the scene that a run of the authors' code has left as ours, whole or not at all.

    Args: as for `read_scene`.

    Raises:
        ValueError: as `read_scene`, or a folder that is not empty.
    """
    with claimed_new_folder(folder) as target:
        scene = read_scene(source, size, fps)
        scene.save_pretrained(target)
    return scene


def read_heads(path: str | os.PathLike) -> dict[str, FeatureHead]:
    """The feature heads of a file by their teachers, "sam2", "langseg" and "internvideo".

    Raises:
        ValueError: no such file, or something in it that is no head.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in read_torch_file(path).items():
        parts = name.removeprefix("semantic_heads.").split(".")
        if len(parts) != 4 or parts[1] != "model" or not parts[2].isdecimal() or int(parts[2]) % 2:
            raise ValueError(f"{path} has {name!r}, which is no layer of a head")
        value = value.flatten(1) if value.dim() == 4 and value.shape[2:] == (1, 1) else value
        layer = f"{int(parts[2]) // 2}.{parts[3]}"
        found.setdefault(parts[0].removesuffix("_decoder"), {})[layer] = value.float()
    return {name: FeatureHead.from_tensors(tensors, f"{path}: {name}") for name, tensors in found.items()}


def _read(path: Path, name: str, found: Mapping[str, torch.Tensor], shape: tuple[int | None, ...]) -> torch.Tensor:
    if name not in found:
        raise ValueError(f"{path} lacks {name!r}; it is not of the authors' release")
    value = found[name]
    if value.dim() != len(shape) or any(w not in (None, g) for w, g in zip(shape, value.shape, strict=True)):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{path}: {name!r} is {tuple(value.shape)}; it must be {wanted}")
    return value if value.dtype in (torch.int32, torch.int64, torch.bool) else value.float()


def _scalar(path: Path, name: str, found: Mapping[str, torch.Tensor], default: float | None = None) -> torch.Tensor:
    if name not in found and default is not None:
        return torch.tensor(default)
    value = found.get(name, torch.zeros(0))
    if value.numel() != 1:
        raise ValueError(f"{path}: {name!r} has {value.numel()} numbers; it must be one")
    return value.reshape(()).float()


def _leaves(path: Path, widths: Mapping[str, int | None]) -> dict[str, torch.Tensor]:
    state = read_torch_file(path)
    count = len(_read(path, "_xyz", state, (None, 3)))
    leaves = {name: _read(path, name, state, (count, width)) for name, width in widths.items()}
    for name in ("max_scale", "min_scale"):
        leaves[name] = _scalar(path, name, state)
    if not 0 <= float(leaves["min_scale"]) < float(leaves["max_scale"]):
        raise ValueError(f"{path}: scales are from {leaves['min_scale']:g} to {leaves['max_scale']:g}")
    return leaves


def _log_scales(leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    low, high = leaves["min_scale"], leaves["max_scale"]
    return (low + (high - low) * leaves["_scaling"].sigmoid()).clamp(min=1e-12).log()


def _harmonics(leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(N, K, 3)."""
    rest = leaves["_features_rest"]
    if rest.shape[1] not in (0, 9, 24, 45):
        raise ValueError(f"`_features_rest` has {rest.shape[1]} numbers a Gaussian; allowed: 0, 9, 24, 45")
    return torch.cat([leaves["_features_dc"][:, None], rest.unflatten(1, (-1, 3))], dim=1)


def _scaffold(
    path: Path, leaves: Mapping[str, torch.Tensor]
) -> tuple[NodeMotion, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """The motion, the features (D, F), and where the Gaussians rest in the world: means and quaternions."""
    state = read_torch_file(path)
    for name, what in REFUSED.items():
        if float(_scalar(path, name, state, 0.0)) > 0:
            raise ValueError(f"{path}: `{name}` is set, which means {what}; this package has no place for it")
    xyz, quat, h, sigma_logit, knn, mask = (
        _read(path, f"scf.{name}", state, shape)
        for name, shape in zip(
            NODE, ((None, None, 3), (None, None, 4), (1, None, None), *3 * ((None, None),)), strict=True
        )
    )
    frames, nodes = xyz.shape[:2]
    neighbours, count = knn.shape[1], len(leaves["_xyz"])
    for name, value, shape in (
        *(("_node_rotation", quat, (frames, nodes, 4)), ("_node_semantic_feature", h[0], (nodes, h.shape[2]))),
        *(("topo_knn_ind", knn, (nodes, neighbours)), ("topo_knn_mask", mask, (nodes, neighbours))),
        ("_node_sigma_logit", sigma_logit, (nodes, 3 if sigma_logit.shape[1] == 3 else 1)),
    ):
        _read(path, f"scf.{name}", {f"scf.{name}": value}, shape)
    attached, rest = (_read(path, name, state, (count,)).long() for name in ("attach_ind", "ref_time"))
    numbered = (("attach_ind", attached, nodes), ("topo_knn_ind", knn, nodes), ("ref_time", rest, frames))
    for name, index, most in numbered:
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < most:
            raise ValueError(f"{path}: `{name}` has numbers outside 0 to {most - 1}")
    quat, at = unit(quat), (rest, attached)
    local = bool(_scalar(path, "leaf_local_flag", state, 1.0))
    means, quats = leaves["_xyz"], unit(leaves["_rotation"])
    if local:
        means, quats = rotate(quat[at], means) + xyz[at], multiply(quat[at], quats)
    index = knn.long()[attached]
    weight = torch.exp(-_distance(path, state, means, xyz, sigma_logit, rest, index))
    if bool(_scalar(path, "scf.use_topo_mask_in_skinning", state, 1.0)):
        weight = weight * mask[attached]
    if bool(_scalar(path, "w_correction_flag", state, 0.0)):
        correction = leaves["_skinning_weight"]
        if correction.shape != weight.shape:
            raise ValueError(f"{path}: `_skinning_weight` is {tuple(correction.shape)}; nodes have {neighbours} each")
        weight = (weight + correction).abs()
    total = weight.sum(1, keepdim=True)
    alone = torch.nn.functional.one_hot(torch.zeros(count, dtype=torch.long), neighbours).float()
    weight = torch.where(total > TINY, weight / total.clamp(min=TINY), alone)
    features = (weight[..., None] * h[0][index]).sum(1)
    return NodeMotion(xyz, quat, index, weight, rest.float()), features, (means, quats)


def _distance(path, state, means, xyz, sigma_logit, rest, index) -> torch.Tensor:
    """(D, K), half the squared distance to each neighbour in its own radii."""
    sigma = (_scalar(path, "scf.max_sigma", state) * sigma_logit.sigmoid()).clamp(min=1e-6)[index]
    apart = means[:, None] - xyz[rest[:, None], index]
    if "scf._sk_rotation" in state:
        turn = unit(_read(path, "scf._sk_rotation", state, (*xyz.shape[:2], 4)))
        apart = rotate(conjugate(turn[rest[:, None], index]), apart)
    return 0.5 * (apart / sigma).square().sum(-1)


def _cameras(path: Path, size: tuple[int, int], frames: int) -> Cameras:
    state = read_torch_file(path)
    quat, place = _read(path, "q_wc", state, (frames, 4)), _read(path, "t_wc", state, (frames, 3))
    focal = _read(path, "rel_focal", {k: v.reshape(-1)[:1] for k, v in state.items() if k == "rel_focal"}, (1,))
    middle = _read(path, "cxcy_ratio", {k: v.reshape(-1) for k, v in state.items() if k == "cxcy_ratio"}, (2,))
    k = torch.eye(3)
    k[0, 0] = k[1, 1] = focal[0] / 2 * min(size)
    k[0, 2], k[1, 2] = middle[0] * size[1], middle[1] * size[0]
    turn = matrices(unit(quat)).mT
    poses = torch.eye(4).repeat(frames, 1, 1)
    poses[:, :3, :3] = turn
    poses[:, :3, 3] = -(turn @ place[..., None]).squeeze(-1)
    return Cameras(k[None], poses[None], tuple(size))

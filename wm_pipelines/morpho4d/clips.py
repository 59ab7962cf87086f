"""A clip of one fixed camera over a floor as a capture: masks by colour, depth from the floor (our design).

Nothing is estimated that one picture does not show: the floor is the plane z = 0, and an object is an upright plane
that stands on the floor under the lowest pixel of its mask and faces the camera. What hops is therefore taken for
something farther away, and the far side of nothing is known.
"""

from collections.abc import Sequence
from typing import Any

import torch

from wm_pipelines.diorama.cameras import camera_matrices
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import COLOURS, Scene
from wm_pipelines.hub import embedded
from wm_pipelines.hub.stock import load_model
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.run import load
from wm_pipelines.morpho4d.capture import Capture
from wm_pipelines.morpho4d.gaussians import Cameras
from wm_pipelines.morpho4d.prompts import world_words

FPS = 8.0
NEAREST = 0.1
"""Metres; a plane that a ray meets nearer than this is taken there."""


def mojito_capture(
    prompt: str,
    frames: int = 16,
    steps: int = 16,
    seed: int = 0,
    pipe: MojitoPipeline | None = None,
    judge: DioramaJudge | None = None,
    **options: Any,
) -> Capture:
    """What a prompt's clip shows: sampled by Mojito, seen by the fixed camera of the clips that its base learnt from.

    Args:
        prompt: names each object by a colour of its own, such as "a red cube moving right".
        frames, steps: of the clip, and of its sampling.
        pipe, judge: None: `diorama-video` and `diorama-judge`.
        options: of the pipeline's call, such as `objects` and `motion_intensity`.

    Raises:
        ValueError: a word that the world does not have, an object without a colour, or a colour twice; or in none of
            the frames the judge sees an object.
    """
    text = world_words(prompt)
    names = coloured_names(text)
    pipe = load() if pipe is None else pipe
    judge = load_model(DioramaJudge, embedded("diorama-judge")).eval() if judge is None else judge
    made = pipe(
        text,
        num_frames=frames,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        **options,
    )
    video = made.frames[0].float().clamp(0, 1)
    masks = colour_masks(judge, video, [name.split()[0] for name in names.values()])
    if not masks.any():
        raise ValueError(f"`prompt`: in none of {frames} frames the judge sees {' or '.join(names.values())}")
    return clip_capture(video, masks, *scene_camera(len(video), tuple(video.shape[-2:])), names)


def scene_camera(frames: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """K (3, 3) and T_cw (T, 4, 4) of the camera that the miniature world has where none is given."""
    k, poses = camera_matrices(Scene(()), [0.0] * frames, size)
    return k.float(), poses.float()


def coloured_names(text: str) -> dict[int, str]:
    """Object id -> colour and shape, of a text in the world's words."""
    said = parse_caption(text).objects
    if not said:
        raise ValueError(f"`prompt` names no object: {text!r}")
    colours = [o.get("colour") for o in said]
    if None in colours or len(set(colours)) < len(colours):
        raise ValueError(f"`prompt` must give each object a colour of its own, by which it is found: {text!r}")
    return {n: f"{o['colour']} {o['shape']}" for n, o in enumerate(said, 1)}


@torch.no_grad()
def colour_masks(judge: DioramaJudge, video: torch.Tensor, colours: Sequence[str]) -> torch.Tensor:
    """(T, H, W) int64: 1 where the judge sees the first of `colours`, and so on; 0 elsewhere. Nothing is filtered."""
    seen = judge(video).colour.argmax(1)
    masks = torch.zeros_like(seen)
    for n, colour in enumerate(colours, 1):
        masks[seen == 1 + list(COLOURS).index(colour)] = n
    return masks


def clip_capture(
    video: torch.Tensor, masks: torch.Tensor, k: torch.Tensor, t_cw: torch.Tensor, names: dict[int, str] | None = None
) -> Capture:
    """A capture of a clip over a floor.

    Args:
        video: (T, 3, H, W) in [0, 1]. masks: (T, H, W) int64. k: (3, 3). t_cw: (T, 4, 4), of a camera above z = 0.
        names: object id -> what it is called.
    """
    cameras = Cameras(k[None], t_cw[None], tuple(video.shape[-2:]))
    depth = torch.stack([floor_depth(mask, k, pose) for mask, pose in zip(masks, t_cw, strict=True)])
    return Capture(video[None], cameras, depth[None], masks[None], names or {}, FPS)


def floor_depth(mask: torch.Tensor, k: torch.Tensor, t_cw: torch.Tensor) -> torch.Tensor:
    """Depth (H, W), metres along the optical axis, of a picture whose objects `mask` (H, W) tells apart; inf where a
    ray of the background meets no floor.

    Raises:
        ValueError: the camera is not above the floor.
    """
    height, width = mask.shape
    eye = -t_cw[:3, :3].T @ t_cw[:3, 3]
    if not float(eye[2]) > 0:
        raise ValueError(f"`t_cw` stands at height {float(eye[2]):g}; above 0")
    x, y = (torch.arange(width) + 0.5 - k[0, 2]) / k[0, 0], (torch.arange(height) + 0.5 - k[1, 2]) / k[1, 1]
    rays = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.ones(height, width)], dim=-1)
    rays = rays @ t_cw[:3, :3]  # of the world; their length along the optical axis is 1
    floor = torch.where(rays[..., 2] < 0, -eye[2] / rays[..., 2].clamp(max=-1e-6), torch.inf)
    depth = floor.clone()
    for i in mask.unique().tolist():
        mine = mask == i
        lowest = int(mine.any(1).nonzero().max()) if i else 0
        if not i or not floor[lowest, mine[lowest]].isfinite().all():
            continue
        foot = eye[:2] + (rays[lowest, mine[lowest], :2] * floor[lowest, mine[lowest], None]).mean(0)
        facing = torch.nn.functional.normalize(foot - eye[:2], dim=0)
        depth[mine] = ((foot - eye[:2]) @ facing / (rays[mine][:, :2] @ facing).clamp(min=1e-3)).clamp(min=NEAREST)
    return depth

"""Trajectories and reports for people to look at: boxes over the cells that attention can tell apart, and in words."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw

from wm_pipelines.kernels import box_masks
from wm_pipelines.media.drawing import colour_of, draw_boxes, tint
from wm_pipelines.media.pictures import Picture, to_pil, to_tensor
from wm_pipelines.mojito.outputs import MotionReport
from wm_pipelines.mojito.trajectories.formats.points import write_tracks
from wm_pipelines.mojito.trajectories.objects import MotionObject, object_boxes
from wm_pipelines.mojito.trajectories.resampling import to_clip
from wm_pipelines.mojito.trajectories.values import frame_count

SMALLEST = 256
"""Pictures whose shorter side is below this are enlarged, so that labels can be read."""


def draw_on_grid(
    frames: Sequence[Picture], boxes: torch.Tensor, labels: Sequence[str], grid: tuple[int, int]
) -> list[Image.Image]:
    """Boxes over an attention grid; a cell is tinted by the share of it that a box covers, as guidance sees it.

    Args:
        frames: F pictures of one size.
        boxes (`torch.Tensor` of shape `(O, F, 4)`, fractions).
        labels: of the O objects.
        grid: rows and columns of the grid.

    Raises:
        ValueError: another number of frames or labels, or a grid without cells.
    """
    if boxes.ndim != 3 or boxes.shape[1:] != (len(frames), 4) or len(labels) != len(boxes):
        raise ValueError(
            f"boxes has shape {tuple(boxes.shape)} for {len(labels)} labels and {len(frames)} frames; it must be "
            "(labels, frames, 4)"
        )
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ValueError(f"grid={grid}; rows and columns must be at least 1")
    drawn = []
    shares = box_masks(boxes.cpu().float(), grid).unflatten(-1, grid)  # (O, F, rows, columns)
    for t, frame in enumerate(frames):
        picture = to_tensor(_enlarged(frame))
        for n, share in enumerate(shares[:, t]):
            cover = torch.nn.functional.interpolate(share[None, None], picture.shape[1:], mode="nearest")[0] * 0.5
            colour = torch.tensor(colour_of(n)).view(3, 1, 1) / 255
            picture = tint(picture, cover, colour)
        ruled = to_pil(picture)
        pen = ImageDraw.Draw(ruled)
        for i in range(1, columns):
            pen.line([(i * ruled.width / columns, 0), (i * ruled.width / columns, ruled.height)], fill=(96, 96, 96))
        for i in range(1, rows):
            pen.line([(0, i * ruled.height / rows), (ruled.width, i * ruled.height / rows)], fill=(96, 96, 96))
        drawn.append(draw_boxes(ruled, boxes[:, t].tolist(), labels, width=2))
    return drawn


def trajectory_preview(
    objects: Sequence[MotionObject],
    num_frames: int,
    grid: tuple[int, int],
    size: tuple[int, int],
    frames: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A trajectory on a grid, and its TRACKS; of another length it is resampled, as a call does.

    Args:
        size: height and width in pixels of the tracks, and of the preview where there are no frames.
        frames (`torch.Tensor` of shape `(F, 3, H, W)` in [0, 1]): what to draw on, or one picture for all frames.

    Returns:
        Pictures `(F, 3, H, W)` in [0, 1], and the dict that `write_tracks` gives.

    Raises:
        ValueError: as `object_boxes` and `draw_on_grid`, or another number of pictures.
    """
    num_frames = frame_count(num_frames)
    boxes = object_boxes(to_clip(list(objects), num_frames)[0], num_frames)
    frames = torch.full((1, 3, *size), 0.15) if frames is None else frames
    if len(frames) not in (1, num_frames):
        raise ValueError(f"frames holds {len(frames)} pictures for a clip of {num_frames}; one, or one for each frame")
    shown = list(frames.expand(num_frames, -1, -1, -1) if len(frames) == 1 else frames)
    drawn = draw_on_grid(shown, boxes, [item.phrase for item in objects], grid)
    return torch.stack([to_tensor(picture) for picture in drawn]), write_tracks(boxes, size[1], size[0])


def draw_report(frames: Sequence[Picture], report: MotionReport, phrases: Sequence[str]) -> list[Image.Image]:
    """The frames of a video with the boxes of its objects, each with the share of attention that lay inside.

    A latent frame may stand for several frames of the video; they show the same box. Without objects, the frames.
    """
    if report.boxes is None:
        return [to_pil(_enlarged(frame)) for frame in frames]
    latent = report.boxes.shape[1]
    drawn = []
    for t, frame in enumerate(frames):
        f = round(t * (latent - 1) / max(len(frames) - 1, 1))
        shares = [""] * len(phrases) if report.in_box is None else [f" {share:.0%}" for share in report.in_box[:, f]]
        labels = [phrase + share for phrase, share in zip(phrases, shares, strict=True)]
        drawn.append(draw_boxes(_enlarged(frame), report.boxes[:, f].tolist(), labels, width=2))
    return drawn


def report_pictures(frames: torch.Tensor, report: MotionReport, phrases: Sequence[str]) -> torch.Tensor:
    """`draw_report` from and to `(F, 3, H, W)` in [0, 1]."""
    return torch.stack([to_tensor(picture) for picture in draw_report(list(frames), report, phrases)])


def describe(report: MotionReport, phrases: Sequence[str]) -> list[str]:
    """A report in lines of text: conflicts, warnings, attention in the boxes, energy, flow."""
    lines = [f"conflict: {line}" for line in report.conflicts] or (["no conflict"] if phrases else [])
    lines += [f"warning: {line}" for line in report.warnings]
    if report.in_box is not None:
        for phrase, shares in zip(phrases, report.in_box, strict=True):
            worst = int(shares.argmin())
            lines.append(
                f"{phrase}: {float(shares.mean()):.0%} of its attention in its box, least in latent frame {worst} "
                f"({float(shares[worst]):.0%})"
            )
    if report.iou is not None:
        met = zip(phrases, report.iou, strict=True)
        lines += [f"{phrase}: box met with IoU {float(iou.mean()):.2f}" for phrase, iou in met]
    steps = [values for values in report.energy if values]
    if steps:
        first, last = steps[0][0], steps[-1][-1]
        lines.append(f"energy a frame {first:.2f} to {last:.2f}; {report.iterations} updates in {len(steps)} steps")
    if report.flow is not None:
        lines.append(f"motion {float(report.flow.mean()):.2f} px a frame, at most {float(report.flow.max()):.2f}")
    return lines


def _enlarged(frame: Picture) -> Image.Image:
    picture = to_pil(frame)
    times = -(-SMALLEST // min(picture.size))
    return picture.resize((picture.width * times, picture.height * times), Image.NEAREST) if times > 1 else picture

"""A graph and its bias as a picture: the matrix, the text with its edges as arcs, the regions over the picture."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from wm_pipelines.graph_transformer.graph import AttentionGraph
from wm_pipelines.media.drawing import colour_of
from wm_pipelines.media.pictures import Picture, to_pil

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELS = 64  # tokens that are named beside the matrix
MOST_LINES = 400  # connections of regions that are drawn
KINDS = {"relation": "#c60", "attribute": "#783", "header": "#777"}


class Compiled(Protocol):
    """What is read of a `bias.GraphBias`."""

    allowed: torch.Tensor
    valid: torch.Tensor
    text_length: int
    graphs: tuple[AttentionGraph, ...]
    texts: tuple[str, ...]
    boxes: torch.Tensor | None
    pieces: tuple[tuple[str, ...], ...]


def draw(bias: Compiled, index: int = 0, picture: Picture | None = None) -> Image.Image:
    """One example of a compiled batch.

    Args:
        index: which one.
        picture: what the regions lie on; grey without one.

    Raises:
        ValueError: `index` is out of range.
    """
    if type(index) is not int or not 0 <= index < len(bias.texts):
        raise ValueError(f"`index` is {index!r}; 0 to {len(bias.texts) - 1}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1), height_ratios=(2, 1))
    _matrix(figure.add_subplot(grid[:, 0]), bias, index)
    graph = bias.graphs[index]
    if bias.boxes is None and picture is None:
        _arcs(figure.add_subplot(grid[:, 1]), graph.part("text"), bias.texts[index])
    else:
        _over_picture(figure.add_subplot(grid[0, 1]), bias, index, picture)
        _arcs(figure.add_subplot(grid[1, 1]), graph.part("text"), bias.texts[index])
    return _rendered(figure)


def draw_graph(graph: AttentionGraph, text: str) -> Image.Image:
    """The text nodes of a graph in their order, its edges as arcs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    _arcs(figure.add_subplot(), graph.part("text"), text)
    return _rendered(figure)


def _rendered(figure: "Figure") -> Image.Image:
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())


def _matrix(axis: "Axes", bias: Compiled, index: int) -> None:
    keys = bias.valid[index].nonzero().flatten()
    shown = bias.allowed[index].cpu()[keys[:, None], keys[None]]
    axis.imshow(~shown.numpy(), cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
    text = int((keys < bias.text_length).sum())
    for draw_line in (axis.axhline, axis.axvline):
        draw_line(text - 0.5, color="tab:red", linewidth=0.8)
    names = list(bias.pieces[index]) if bias.pieces else []
    names = names[:text] if len(names) >= text else [str(n) for n in range(text)]
    if text <= MOST_LABELS:
        axis.set_yticks(range(text), names, fontsize=6)
        axis.set_xticks(range(text), names, fontsize=6, rotation=90)
    axis.set_title(f"{text} words, {len(keys) - text} regions; open is white, cut is blue", fontsize=9)


def _arcs(axis: "Axes", graph: AttentionGraph, text: str) -> None:
    order = sorted(range(len(graph.nodes)), key=lambda n: graph.nodes[n].span)
    place = {n: k for k, n in enumerate(order)}
    for i, j, what in graph.edges:
        a, b = place[i], place[j]
        turn = np.linspace(0, np.pi, 40)
        height = 0.35 * abs(b - a) + 0.3
        colour = "tab:red" if what == "same" else "#999" if not what else "tab:blue"
        axis.plot((a + b) / 2 - (b - a) / 2 * np.cos(turn), height * np.sin(turn), color=colour, linewidth=0.9)
        if what:
            axis.text((a + b) / 2, height, what, fontsize=6.5, color=colour, ha="center", va="bottom")
    for n, k in place.items():
        node = graph.nodes[n]
        said = " ".join(text[slice(*node.span)].split())
        axis.plot(k, 0, "o", color=KINDS.get(node.kind, "#222"), markersize=3)
        axis.text(k, -0.12, said, fontsize=7, rotation=30, ha="right", va="top", color=KINDS.get(node.kind, "#222"))
    axis.set_axis_off()
    axis.margins(0.08, 0.25)
    axis.set_title(f"{len(graph.nodes)} phrases, {len(graph.edges)} edges" if order else "no graph", fontsize=9)


def _over_picture(axis: "Axes", bias: Compiled, index: int, picture: Picture | None) -> None:
    shown: Any = np.full((8, 8, 3), 200, np.uint8) if picture is None else np.asarray(to_pil(picture))
    axis.imshow(shown, extent=(0, 1, 1, 0), aspect=shown.shape[0] / shown.shape[1])
    axis.set_axis_off()
    graph, boxes = bias.graphs[index].part("image"), _boxes(bias, index)
    centre = {}
    for n, node in enumerate(graph.nodes):
        box = node.box or tuple(boxes[node.region].tolist())
        colour = tuple(value / 255 for value in colour_of(n))
        x0, y0, x1, y1 = box
        for paint, width in (("white", 3.0), (colour, 1.5)):
            axis.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=paint, linewidth=width)
        centre[n] = ((x0 + x1) / 2, (y0 + y1) / 2)
    for i, j, what in graph.edges:
        (x0, y0), (x1, y1) = centre[i], centre[j]
        _line(axis, [x0, x1], [y0, y1])
        axis.text((x0 + x1) / 2, (y0 + y1) / 2, what, fontsize=7, color="white", backgroundcolor="tab:blue")
    title = f"{len(graph.nodes)} boxes, {len(graph.edges)} edges"
    if not graph.nodes:
        title = _region_lines(axis, bias, index, boxes)
    axis.set_title(title, fontsize=9)


def _line(axis: "Axes", x: Any, y: Any) -> None:
    for paint, width, dot in (("white", 2.4, 4), ("tab:blue", 1.1, 2.5)):
        axis.plot(x, y, "o-", color=paint, linewidth=width, markersize=dot)


def _boxes(bias: Compiled, index: int) -> torch.Tensor:
    """The boxes of the valid regions."""
    if bias.boxes is None:
        return torch.zeros(0, 4)
    return bias.boxes[index].cpu()[_region_tokens(bias, index)]


def _region_tokens(bias: Compiled, index: int) -> torch.Tensor:
    """Places of the valid regions among the picture's tokens, those without a box left out."""
    there = bias.valid[index, bias.text_length :].cpu()
    return (there & (bias.boxes[index].cpu()[:, 2] > 0)).nonzero().flatten()


def _region_lines(axis: "Axes", bias: Compiled, index: int, boxes: torch.Tensor) -> str:
    if not len(boxes):
        return "no regions"
    tokens = _region_tokens(bias, index) + bias.text_length
    cells = bias.allowed[index].cpu()[tokens[:, None], tokens[None]].triu(1)
    pairs = cells.nonzero().tolist()
    if len(pairs) == len(boxes) * (len(boxes) - 1) // 2:
        return f"{len(boxes)} regions, all connected"
    if len(pairs) <= MOST_LINES:
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        for i, j in pairs:
            _line(axis, centre[[i, j], 0], centre[[i, j], 1])
    return f"{len(boxes)} regions, {len(pairs)} connections"

"""A graph and its bias as a picture: the matrix, the text with its edges as arcs, the regions over the picture."""

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image, ImageDraw, ImageFont

from wm_pipelines.graph_transformer.graph import AttentionGraph
from wm_pipelines.media.drawing import colour_of
from wm_pipelines.media.pictures import Picture, to_pil

FINE = 2  # pixels that are drawn for one that is shown
MOST_LABELS = 64  # tokens that are named beside the matrix
MOST_LINES = 400  # connections of regions that are drawn
INK, BLUE, RED, GREY, CUT = "#222222", "#1f77b4", "#d62728", "#999999", "#2f6fad"
NODE_COLOURS = {"relation": "#bb6600", "attribute": "#558822", "header": "#777777"}


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
    """One example of a compiled batch: the matrix on the left, the picture above the text on the right.

    Args:
        index: which one.
        picture: what the regions lie on; grey without one.

    Raises:
        ValueError: `index` is out of range.
    """
    if type(index) is not int or not 0 <= index < len(bias.texts):
        raise ValueError(f"`index` is {index!r}; 0 to {len(bias.texts) - 1}")
    sheet = _Sheet(1400, 700)
    _matrix(sheet, bias, index, (10, 30, 690, 690))
    graph, text = bias.graphs[index].part("text"), bias.texts[index]
    if bias.boxes is None and picture is None:
        _arcs(sheet, graph, text, (710, 30, 1390, 690))
    else:
        _over_picture(sheet, bias, index, picture, (710, 30, 1390, 420))
        _arcs(sheet, graph, text, (710, 450, 1390, 690))
    return sheet.shown()


def draw_graph(graph: AttentionGraph, text: str) -> Image.Image:
    """The text nodes of a graph in their order, its edges as arcs."""
    sheet = _Sheet(900, 320)
    _arcs(sheet, graph.part("text"), text, (10, 30, 890, 310))
    return sheet.shown()


class _Sheet:
    """A white sheet that is drawn finer than it is shown."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width * FINE, height * FINE), "white")
        self.pen = ImageDraw.Draw(self.image)

    def shown(self) -> Image.Image:
        return self.image.resize((self.image.width // FINE, self.image.height // FINE), Image.Resampling.BOX)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1.0) -> None:
        fine = [(x * FINE, y * FINE) for x, y in points]
        self.pen.line(fine, fill=colour, width=max(1, round(width * FINE)))

    def dot(self, x: float, y: float, colour: str, radius: float = 3) -> None:
        box = [(v + d * radius) * FINE for d in (-1, 1) for v in (x, y)]
        self.pen.ellipse(box, fill=colour)

    def arch(self, box: tuple[float, float, float, float], colour: str) -> None:
        """The upper half of an ellipse."""
        self.pen.arc([v * FINE for v in box], 180, 360, fill=colour, width=FINE)

    def paste(self, picture: Image.Image, box: tuple[float, float, float, float]) -> None:
        corners = [round(v * FINE) for v in box]
        size = (corners[2] - corners[0], corners[3] - corners[1])
        self.image.paste(picture.resize(size, Image.Resampling.NEAREST), corners[:2])

    def write(
        self,
        x: float,
        y: float,
        text: str,
        colour: str = INK,
        size: float = 11,
        anchor: str = "lm",
        turn: int = 0,
        halo: int = 0,
    ) -> None:
        """Text that begins, ends or is centred at a point; turned anticlockwise by degrees, below it."""
        font = ImageFont.load_default(size * FINE)
        if not turn:
            around = {"stroke_width": halo * FINE, "stroke_fill": "white"}
            self.pen.text((x * FINE, y * FINE), text, fill=colour, font=font, anchor=anchor, **around)
            return
        left, top, right, bottom = font.getbbox(text)
        strip = Image.new("L", (int(right) + 2, int(bottom) + 2))
        ImageDraw.Draw(strip).text((0, 0), text, fill=255, font=font)
        strip = strip.rotate(turn, expand=True, resample=Image.Resampling.BICUBIC)
        at = (round(x * FINE - strip.width), round(y * FINE)) if turn < 90 else (
            round(x * FINE - strip.width / 2), round(y * FINE)
        )  # fmt: skip
        self.image.paste(colour, at, strip)


Area = tuple[float, float, float, float]


def _matrix(sheet: _Sheet, bias: Compiled, index: int, area: Area) -> None:
    keys = bias.valid[index].cpu().nonzero().flatten()
    shown = bias.allowed[index].cpu()[keys[:, None], keys[None]]
    text = int((keys < bias.text_length).sum())
    names = list(bias.pieces[index][:text]) if bias.pieces else []
    named = len(names) == text <= MOST_LABELS
    edge = 80 if named else 0
    x0, y0, side = area[0] + edge, area[1], min(area[2] - area[0], area[3] - area[1]) - edge
    cells = Image.new("RGB", (len(keys), len(keys)), "white")
    cells.paste(CUT, (0, 0), Image.fromarray((~shown).numpy()))
    sheet.paste(cells, (x0, y0, x0 + side, y0 + side))
    step = side / len(keys)
    corners = [(x0, y0), (x0 + side, y0), (x0 + side, y0 + side), (x0, y0 + side), (x0, y0)]
    sheet.line(corners, INK)
    if text < len(keys):
        sheet.line([(x0 + text * step, y0), (x0 + text * step, y0 + side)], RED)
        sheet.line([(x0, y0 + text * step), (x0 + side, y0 + text * step)], RED)
    size = max(5.0, min(10.0, step))
    for n, name in enumerate(names if named else []):
        sheet.write(x0 - 4, y0 + (n + 0.5) * step, name, size=size, anchor="rm")
        sheet.write(x0 + (n + 0.5) * step, y0 + side + 4, name, size=size, turn=90)
    told = f"{text} words, {len(keys) - text} tokens of the picture; open is white, cut is blue"
    sheet.write(x0, area[1] - 14, told, size=12)


def _arcs(sheet: _Sheet, graph: AttentionGraph, text: str, area: Area) -> None:
    order = sorted(range(len(graph.nodes)), key=lambda n: graph.nodes[n].span)
    told = f"phrases: {len(order)}, edges: {len(graph.edges)}" if order else "no graph"
    sheet.write(area[0], area[1] - 14, told, size=12)
    if not order:
        return
    ground = area[3] - 70
    step = (area[2] - area[0]) / (len(order) + 0.5)
    place = {n: area[0] + (k + 0.75) * step for k, n in enumerate(order)}
    most = max([abs(place[i] - place[j]) for i, j, _ in graph.edges], default=1) or 1
    for i, j, what in sorted(graph.edges, key=lambda edge: bool(edge[2])):
        a, b = sorted((place[i], place[j]))
        height = (ground - area[1] - 12) * (0.25 + 0.75 * (b - a) / most)
        colour = RED if what == "same" else BLUE if what else GREY
        sheet.arch((a, ground - height, b, ground + height), colour)
        if what:
            sheet.write((a + b) / 2, ground - height - 6, what, colour, size=9, anchor="mm")
    for n, x in place.items():
        colour = NODE_COLOURS.get(graph.nodes[n].kind, INK)
        sheet.dot(x, ground, colour)
        sheet.write(x + 4, ground + 6, " ".join(text[slice(*graph.nodes[n].span)].split()), colour, 10, turn=30)


def _over_picture(sheet: _Sheet, bias: Compiled, index: int, picture: Picture | None, area: Area) -> None:
    shown = Image.new("RGB", (8, 8), "#c8c8c8") if picture is None else to_pil(picture)
    scale = min((area[2] - area[0]) / shown.width, (area[3] - area[1]) / shown.height)
    width, height = shown.width * scale, shown.height * scale
    left, top = area[0] + (area[2] - area[0] - width) / 2, area[1]
    sheet.paste(shown, (left, top, left + width, top + height))

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * width, top + y * height

    def join(a: tuple[float, float], b: tuple[float, float], wide: float = 1.4) -> None:
        sheet.line([at(*a), at(*b)], "white", wide + 1.6)
        sheet.line([at(*a), at(*b)], BLUE, wide)

    graph, boxes = bias.graphs[index].part("image"), _boxes(bias, index)
    centres = {}
    for n, node in enumerate(graph.nodes):
        x0, y0, x1, y1 = node.box or tuple(boxes[node.region].tolist())
        frame = [at(x, y) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))]
        sheet.line(frame, "white", 4)
        sheet.line(frame, "#{:02x}{:02x}{:02x}".format(*colour_of(n)), 2)
        centres[n] = ((x0 + x1) / 2, (y0 + y1) / 2)
    for i, j, what in graph.edges:
        join(centres[i], centres[j])
        x, y = at(*((a + b) / 2 for a, b in zip(centres[i], centres[j], strict=True)))
        sheet.write(x, y - 7, what, BLUE, size=12, anchor="mb", halo=2)
    told = f"boxes: {len(graph.nodes)}, edges: {len(graph.edges)}"
    if not graph.nodes:
        pairs = _pairs(bias, index)
        every = len(pairs) == len(boxes) * (len(boxes) - 1) // 2
        told = f"regions: {len(boxes)}, {'all connected' if every else f'connections: {len(pairs)}'}"
        for i, j in pairs if not every and len(pairs) <= MOST_LINES else []:
            join(*(((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in (boxes[i].tolist(), boxes[j].tolist())), 1.0)
    sheet.write(area[0], area[1] - 14, told, size=12)


def _region_tokens(bias: Compiled, index: int) -> torch.Tensor:
    """Places of the valid regions among the picture's tokens, those without a box left out."""
    there = bias.valid[index, bias.text_length :].cpu()
    return (there & (bias.boxes[index].cpu()[:, 2] > 0)).nonzero().flatten()


def _boxes(bias: Compiled, index: int) -> torch.Tensor:
    return torch.zeros(0, 4) if bias.boxes is None else bias.boxes[index].cpu()[_region_tokens(bias, index)]


def _pairs(bias: Compiled, index: int) -> list[list[int]]:
    """Regions that connect, by position among those with a box."""
    if bias.boxes is None:
        return []
    tokens = _region_tokens(bias, index) + bias.text_length
    return bias.allowed[index].cpu()[tokens[:, None], tokens[None]].triu(1).nonzero().tolist()

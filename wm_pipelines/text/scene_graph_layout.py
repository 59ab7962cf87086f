"""Boxes and depths for the nodes of a scene graph: a small predicate solver (our design).

Each predicate is an order on an axis: x (first is left), y (first is above), z (first is nearer), or a contact: on,
in. The layout is defined by exchange. First every order is taken along the order of the nodes, where all can hold at
once: a column for each node (one column for a chain of things above each other, and for what is on or in something), a
row and a depth. Then the two nodes of each edge that does not hold exchange their slots, box and depth together, until
all hold. So reversing an edge exchanges two slots and moves nothing else (`SceneGraph.compile` says when exactly);
where exchanges lead nowhere, the graph is laid out directly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

MARGIN = 0.15  # of the frame between centres, the least clear separation in Diorama
DEPTH_STEP = 1.0  # metres from one level to the next
NEAREST = 2.0  # metres
LARGEST = 0.4  # of the frame
# predicate -> (axis, whether the subject comes first on it)
AXES = {
    "left of": ("x", True),
    "right of": ("x", False),
    "above": ("y", True),
    "below": ("y", False),
    "in front of": ("z", True),
    "behind": ("z", False),
    "on": ("on", True),
    "in": ("in", True),
}
# a contact is also an order: what is on something is above it, what is in something hides part of it
_ALSO = {"on": "y", "in": "z"}


@dataclass(frozen=True)
class Slot:
    """A place: box (x0, y0, x1, y1) in [0, 1] and depth in metres."""

    box: tuple[float, float, float, float]
    depth: float

    @property
    def x(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        return (self.box[1] + self.box[3]) / 2


Relation = tuple[str, int, int]  # axis, first, second: indices of nodes


def relations_of(edges: Sequence[Any], index: dict[Any, int]) -> list[Relation]:
    """One (axis, first, second) per edge; `index` maps node id to position."""
    relations = []
    for edge in edges:
        axis, forward = AXES[edge.predicate]
        a, b = index[edge.subject], index[edge.object]
        relations.append((axis, a, b) if forward else (axis, b, a))
    return relations


def find_cycle(relations: list[Relation]) -> list[int] | None:
    """Positions in `relations` that together order a node before itself on one axis, or None."""
    for axis in ("x", "y", "z"):
        out: dict[int, list[tuple[int, int]]] = {}
        for position, (kind, a, b) in enumerate(relations):
            if axis in (kind, _ALSO.get(kind)):
                out.setdefault(a, []).append((b, position))
        done: set[int] = set()
        for start in out:
            cycle = _walk(start, out, done)
            if cycle:
                return cycle
    return None


def _walk(start: int, out: dict[int, list[tuple[int, int]]], done: set[int]) -> list[int] | None:
    """Depth-first search from `start` without recursion; the positions of the edges of a cycle, or None."""
    path, came, pending = [start], [], [iter(out.get(start, ()))]
    while path:
        step = next(pending[-1], None)
        if step is None:
            done.add(path.pop())
            pending.pop()
            if came:
                came.pop()
        elif step[0] in path:
            return [*came[path.index(step[0]) :], step[1]]
        elif step[0] not in done:
            path.append(step[0])
            came.append(step[1])
            pending.append(iter(out.get(step[0], ())))
    return None


def solve(
    count: int, relations: list[Relation], boxes: dict[int, tuple], depths: dict[int, float]
) -> tuple[list[Slot], list[int]]:
    """Slots for `count` nodes, and the positions of the relations that could not be made to hold.

    Args:
        relations: without a cycle.
        boxes, depths: what is given for some nodes, by index; given values never move.
    """
    forward = [(axis, min(a, b), max(a, b)) for axis, a, b in relations]
    slots = _exchange(_place(count, forward), relations)
    if slots is None:
        slots = _place(count, relations)
    if boxes or depths:
        slots = _fit(slots, relations, boxes, depths)
    both = {i for i, (axis, a, b) in enumerate(relations) if axis in ("on", "in") and a in boxes and b in boxes}
    broken = [i for i, r in enumerate(relations) if not _holds(slots, r, loose=i in both)]
    return slots, broken


def _exchange(slots: list[Slot], relations: list[Relation]) -> list[Slot] | None:
    slots = list(slots)
    for _ in range(len(slots) ** 2 + 1):  # an exchange may break what held, in circles too
        broken = next((r for r in relations if not _holds(slots, r)), None)
        if broken is None:
            return slots
        _, a, b = broken
        slots[a], slots[b] = slots[b], slots[a]
    return None


def _holds(slots: list[Slot], relation: Relation, loose: bool = False) -> bool:
    axis, a, b = relation
    first, second = slots[a], slots[b]
    if axis == "x":
        return first.x < second.x
    if axis == "y":
        return first.y < second.y
    if axis == "z":
        return first.depth < second.depth
    (x0, y0, x1, y1), (u0, v0, u1, v1) = first.box, second.box
    if axis == "on":
        touches = abs(y1 - v0) < 1e-6 or (loose and first.y < second.y)
        return touches and u0 <= first.x <= u1
    inside = u0 <= first.x <= u1 and v0 <= first.y <= v1
    return inside if loose else (u0 <= x0 and v0 <= y0 and x1 <= u1 and y1 <= v1 and first.depth < second.depth)


def _levels(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Length of the longest chain before each node."""
    level = [0] * count
    for _ in range(count):
        for a, b in pairs:
            level[b] = max(level[b], level[a] + 1)
    return level


def _pairs(relations: list[Relation], axis: str) -> list[tuple[int, int]]:
    return [(a, b) for kind, a, b in relations if axis in (kind, _ALSO.get(kind))]


def _columns(count: int, relations: list[Relation], rows: list[int]) -> list[int]:
    """A column for each node; x orders hold between columns."""
    root = list(range(count))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    def join(pairs: list[tuple[int, int]]) -> None:
        for a, b in pairs:
            low, high = sorted((find(a), find(b)))
            root[high] = low

    # what touches shares a column; so does what is above one another, if an order of the columns is left then
    join([(a, b) for axis, a, b in relations if axis in ("on", "in")])
    apart, lefts = list(root), [(a, b) for axis, a, b in relations if axis == "x"]
    join([(a, b) for axis, a, b in relations if axis == "y"])
    groups: dict[int, list[int]] = {}
    for i in range(count):
        groups.setdefault(find(i), []).append(rows[i])
    chains = all(len(set(g)) == len(g) for g in groups.values())
    across = [(find(a), find(b)) for a, b in lefts]
    # two of a column in one row, or a column left of itself: only what touches shares one, or else nothing does
    if not chains or any(a == b for a, b in across) or find_cycle([("x", a, b) for a, b in across]):
        root[:] = apart
        across = [(find(a), find(b)) for a, b in lefts if find(a) != find(b)]
        if find_cycle([("x", a, b) for a, b in across]):
            root[:], across = list(range(count)), lefts
    left, order = sorted({find(i) for i in range(count)}), []
    while left:
        # the first in the order of nodes that waits for none, so that the same graph is always laid out alike
        ready = next(r for r in left if not any(b == r and a in left for a, b in across))
        left.remove(ready)
        order.append(ready)
    return [order.index(find(i)) for i in range(count)]


def _place(count: int, relations: list[Relation]) -> list[Slot]:
    """Slots from scratch: columns, rows and depths of equal spacing, then contacts."""
    holder = {a: b for axis, a, b in relations if axis == "in"}

    def outermost(i: int) -> int:
        while i in holder:
            i = holder[i]
        return i

    # what is in something goes where that goes, so its vertical orders are those of its outermost holder
    vertical = [(outermost(a), outermost(b)) for a, b in _pairs(relations, "y")]
    rows = _levels(count, [(a, b) for a, b in vertical if a != b])
    depths = _levels(count, _pairs(relations, "z"))
    columns = _columns(count, relations, rows)
    across, down, deep = (max(v, default=0) + 1 for v in (columns, rows, depths))
    side = min(LARGEST, 0.8 / across, 0.8 / down)
    # the farther, the higher in the picture, yet never as much as a row
    rise = min(0.12, 0.4 / down) / deep
    slots = []
    for column, row, depth in zip(columns, rows, depths, strict=True):
        x, y = (column + 0.5) / across, (row + 0.5) / down
        y = max(y - rise * depth, side / 2)
        box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
        slots.append(Slot(box, NEAREST + DEPTH_STEP * depth))
    return _attach(slots, relations, set())


def _attach(slots: list[Slot], relations: list[Relation], given: set[int]) -> list[Slot]:
    """Moves what is on or in something there, holders before what they hold; `given` nodes stay."""
    slots = list(slots)
    order = _levels(len(slots), _pairs(relations, "x"))
    contacts = [(b, a, axis) for axis, a, b in relations if axis in ("on", "in")]
    depth = _levels(len(slots), [(b, a) for b, a, _ in contacts])
    for holder, contact in sorted({(b, axis) for b, _, axis in contacts}, key=lambda h: (depth[h[0]], *h)):
        held = [a for b, a, axis in contacts if (b, axis) == (holder, contact) and a not in given]
        x0, y0, x1, y1 = slots[holder].box
        width = (x1 - x0) / max(len(held), 1)
        for i, a in enumerate(sorted(held, key=lambda a: (order[a], a))):
            left = x0 + i * width
            if contact == "in":
                dx, dy = 0.2 * width, 0.2 * (y1 - y0)
                box = (left + dx, y0 + dy, left + width - dx, y1 - dy)
            else:
                b = slots[a].box
                half, tall = min(width, b[2] - b[0]) / 2, min(b[3] - b[1], y0)
                centre = left + width / 2
                box = (centre - half, y0 - tall, centre + half, y0)
            slots[a] = replace(slots[a], box=box)
    return slots


def _fit(
    slots: list[Slot], relations: list[Relation], boxes: dict[int, tuple], depths: dict[int, float]
) -> list[Slot]:
    """Puts the given boxes and depths in and moves the other nodes as little as the orders ask."""
    slots = [Slot(tuple(boxes.get(i, s.box)), depths[i] if i in depths else s.depth) for i, s in enumerate(slots)]
    gap = min(MARGIN, 0.9 / (len(slots) + 1))
    x = _between([s.x for s in slots], _pairs(relations, "x"), set(boxes), gap, 0.0, 1.0)
    y = _between([s.y for s in slots], _pairs(relations, "y"), set(boxes), gap, 0.0, 1.0)
    z = _between([s.depth for s in slots], _pairs(relations, "z"), set(depths), 0.3, 0.0, float("inf"))
    fitted = []
    for i, s in enumerate(slots):
        box = s.box
        if i not in boxes:
            # a box near the border gets smaller, so that its centre can stay
            w = min((box[2] - box[0]) / 2, x[i], 1 - x[i])
            h = min((box[3] - box[1]) / 2, y[i], 1 - y[i])
            box = (x[i] - w, y[i] - h, x[i] + w, y[i] + h)
        fitted.append(Slot(box, z[i]))
    return _attach(fitted, relations, set(boxes))


def _between(
    values: list[float], pairs: list[tuple[int, int]], given: set[int], gap: float, low: float, high: float
) -> list[float]:
    """Moves the values that are not `given` by the least that puts first before second by `gap`, or else half-way."""
    count = len(values)
    level = _levels(count, pairs)
    top = [high] * count  # the greatest value that the given values after a node allow
    for i in sorted(range(count), key=lambda i: -level[i]):
        limits = [(values[b] if b in given else top[b]) - gap for a, b in pairs if a == i]
        top[i] = min([high - gap / 2, *limits])
    placed = list(values)
    for i in sorted(range(count), key=lambda i: level[i]):
        if i in given:
            continue
        bottom = max([low + gap / 2, *(placed[a] + gap for a, b in pairs if b == i)])
        placed[i] = min(max(values[i], bottom), top[i]) if bottom <= top[i] else (bottom + top[i]) / 2
    return placed

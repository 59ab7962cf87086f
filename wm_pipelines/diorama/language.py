"""The closed language of the miniature world: its words, captions with exact spans, scene graphs (our design).

A caption is a list of clauses. A predicate ties the noun phrase before it to the one after it ("a red cube left of a
blue sphere left of a green cone" is a chain); "and" before a predicate returns to the subject of the clause ("a red
cube left of a blue sphere and behind a green cone"). A motion belongs to the noun phrase right before it, or after a
comma to the subject of the clause ("a red cube left of a blue sphere turning clockwise, moving right, then stopping");
"then" and "while" go on with the same mover. Otherwise a comma, "and", or both begin the next clause; the last may be
about the camera. `wm_pipelines.diorama.parser` reads it all back.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from wm_pipelines.diorama.scene import (
    Scene,
    SceneObject,
    clear_relations,
    project,
)
from wm_pipelines.diorama.words import CAMERA_PARTICIPLES, FORMS, PARTICIPLES, words_of
from wm_pipelines.runtime.random import keyed
from wm_pipelines.text.phrasing import EMPTY, Piece, join_clauses

if TYPE_CHECKING:
    from wm_pipelines.diorama.primitives import Motion
    from wm_pipelines.text.scene_graph import SceneGraph

DETAILS = ("objects", "attributes", "full")
MAX_TOKENS = 75
SAID = 0.5  # metres that a sampled motion must lead in one direction to be called after it


@dataclass(frozen=True)
class Caption:
    """`text`, and `spans`: object id to the (start, end) characters of its first noun phrase, article included."""

    text: str
    spans: dict[int, tuple[int, int]]


def caption(scene: Scene, detail: str = "full", seed: int = 0, relations: bool | None = None) -> Caption:
    """A caption of `scene`, true by construction; `parse_caption` reads it back. Nothing is rendered.

    Args:
        detail: "objects" (colour and shape, and more only where two objects would be called the same), "attributes"
            (size too, pattern if striped, material if shiny, and now and then "plain" or "matte"), "full" (attributes,
            relations, and the motions of the whole clip, of objects and camera). Attributes and relations are those
            of t = 0; for another time, caption `scene_at(scene, t)`.
        seed: chooses the order of the objects, the relations said and their wording.
        relations: whether relations are said, of those with a clear margin only; default: only at "full". Without
            them the order of the objects is random, so a list says nothing about the layout.

    Returns:
        A caption of at most 75 words and punctuation marks; what would make it longer is left out: later parts of
        motions first, then relations, then motion, then attributes.

    Raises:
        ValueError: an unknown `detail`.
    """
    if detail not in DETAILS:
        raise ValueError(f"`detail` is {detail!r}; allowed: {', '.join(DETAILS)}")
    related = detail == "full" if relations is None else relations
    clear = clear_relations(scene) if related else set()
    moving = detail == "full" and (scene.camera.motion or any(o.motion for o in scene.objects))
    shorter = ((99, clear), (2, clear), (1, clear), (1, set()), (0, set()))
    for parts, said, words in (*((*s, detail) for s in shorter), (0, set(), "objects")):
        text, spans = _compose(scene, words, keyed("caption", int(seed)), said, parts if moving else 0)
        if len(re.findall(r"[^\s,]+|,", text)) <= MAX_TOKENS:
            break
    return Caption(text, spans)


def _compose(scene: Scene, detail: str, rng: np.random.Generator, clear: set[tuple[str, int, int]], parts: int):
    """Text and spans, with the relations `clear` and the first `parts` primitives of each motion."""
    things = _things(scene, detail, rng)
    ids = [scene.objects[i].id for i in rng.permutation(len(scene.objects))]
    clauses: list[list[Piece]] = [] if ids else [[EMPTY]]
    for chain in _chains(ids, clear, rng):
        clause: list[Piece] = []
        for joint, id in chain:
            clause += [joint, (id,)] if joint else [(id,)]
            if id != chain[0][1]:
                clause += _motion_pieces(said_motion(scene, id)[:parts], PARTICIPLES, " ")
        subject = said_motion(scene, chain[0][1])
        clause += _motion_pieces(subject[:parts], PARTICIPLES, ", " if len(chain) > 1 else " ")
        clauses.append(clause)
    if scene.camera.motion[:parts]:
        clauses.append(["the camera", *_motion_pieces(scene.camera.motion[:parts], CAMERA_PARTICIPLES, " ")])
    return join_clauses(clauses, things)


def _things(scene: Scene, detail: str, rng: np.random.Generator) -> dict[int, tuple[str, ...]]:
    """The words of each object, at the detail asked for and more where the phrases of different objects are equal."""
    said: dict[int, dict[str, str]] = {}
    for o in scene.objects:
        said[o.id] = {"colour": o.colour, "shape": o.shape}
        if detail != "objects":
            said[o.id]["size"] = o.size
            # the unmarked values are said now and then, so that a model knows these words too
            if o.pattern != "plain" or rng.random() < 0.15:
                said[o.id]["pattern"] = o.pattern
            if o.material != "matte" or rng.random() < 0.15:
                said[o.id]["material"] = o.material
    for kind in ("size", "pattern", "material"):
        looks = {o.id: (o.colour, o.shape) for o in scene.objects}
        words = {id: words_of(said[id]) for id in said}
        for o in scene.objects:
            if list(words.values()).count(words[o.id]) > 1:
                rivals = [r for r in scene.objects if looks[r.id] == looks[o.id]]
                if len({getattr(r, kind) for r in rivals}) > 1:
                    said[o.id][kind] = getattr(o, kind)
    return {id: words_of(attributes) for id, attributes in said.items()}


def _chains(ids: list[int], clear: set[tuple[str, int, int]], rng: np.random.Generator) -> list[list[tuple[str, int]]]:
    """Splits objects into clauses; each clause is a list of (joint, id), the joint "" for the subject."""
    between: dict[tuple[int, int], list[str]] = {}
    for predicate, a, b in sorted(clear):
        between.setdefault((a, b), []).append(predicate)
    left = list(ids)
    chains = []
    while left:
        subject = last = left.pop(0)
        chain = [("", subject)]
        while left:
            if len(chain) > 1 and rng.random() < 0.4:
                break
            shared = len(chain) > 1 and rng.random() < 0.5
            source = subject if shared else last
            partners = [i for i in left if (source, i) in between]
            if not partners:
                break
            last = partners[rng.integers(len(partners))]
            left.remove(last)
            choices = between[source, last]
            forms = FORMS.get(predicate := choices[rng.integers(len(choices))], (predicate,))
            form = forms[rng.integers(len(forms))]
            chain.append((f" and {form} " if shared else f" {form} ", last))
        chains.append(chain)
    return chains


def said_motion(scene: Scene, id: int) -> "tuple[Motion, ...]":
    """The primitives that words can name of an object's motion.

    Of a sampled motion: the direction in which the middle of the solid ends, as seen at t = 0, where it lies at least
    `SAID` metres that way, four times as far as sideways, and was never a quarter of `SAID` behind its start; else
    nothing.
    """
    from wm_pipelines.diorama.motion import centre_at, towards
    from wm_pipelines.diorama.primitives import Motion

    motion = scene.object(id).motion
    if not motion or motion[0].kind != "sampled":
        return motion
    m = motion[0]
    path = centre_at(scene.object(id), scene, torch.tensor(m.times, dtype=torch.float64))
    axes = torch.stack([towards(scene.camera, word) for word in ("right", "away", "up")])
    steps = ((path - path[0])[:, None] * axes).sum(-1)  # (T, 3)
    far, axis = steps[-1].abs().max(0)
    sign = steps[-1, axis].sign()
    others = steps[-1].abs().sum() - far
    if far < SAID or others > far / 4 or (sign * steps[:, axis]).min() < -SAID / 4:
        return ()
    word = (("left", "right"), ("towards", "away"), ("down", "up"))[axis][int(sign > 0)]
    speed = far.item() * scene.fps / (m.end - m.start)
    return (Motion("translate", m.start, m.end, word, speed),)


def motion_words(motions: "tuple[Motion, ...]") -> str:
    """ " moving right, then stopping": what stands behind an object's phrase; not for an orbit, which names another.

    Raises:
        ValueError: an orbit, or a sampled motion.
    """
    if any(m.kind == "sampled" for m in motions):
        raise ValueError("`motions` has a sampled motion, whose words depend on the camera; caption the scene instead")
    pieces = _motion_pieces(motions, PARTICIPLES, " ")
    if not all(isinstance(piece, str) for piece in pieces):
        raise ValueError("`motions` has an orbit, whose words name another object; caption the scene instead")
    return "".join(pieces)


def _motion_pieces(motions: "tuple[Motion, ...]", participles: dict[str, str], joint: str) -> list[Piece]:
    """ " moving right, then turning clockwise": the primitives in order of their start, after `joint`."""
    pieces: list[Piece] = []
    until = 0.0
    for n, m in enumerate(sorted(motions, key=lambda m: m.start)):
        if n:
            joint = " while " if m.start < until else ", then "
        until = max(until, m.end)
        pieces.append(joint + participles[m.kind])
        if m.about is not None:
            pieces += [" ", (m.about,)]
        if isinstance(m.direction, str):
            pieces.append(f" {m.direction}" + (" the camera" if m.direction == "towards" else ""))
    return pieces


def scene_graph(scene: Scene, t: float = 0.0, size: int | tuple[int, int] = 64) -> "SceneGraph":
    """The objects seen at time `t`, with what is true of them in the picture.

    Nodes: id, shape as name, size, "striped", "shiny" and colour as attributes, box and mask of the visible pixels,
    depth of the centre in metres. An object with no visible pixel has no node. Edges, only where the margin is clear
    (0.15 of the frame, 0.3 m of depth) for the whole solids and not contradicted by the visible parts: left of, right
    of, in front of, behind with the object listed first as subject, and above.

    Args:
        t: frames.
        size: H = W, or (H, W), pixels of the masks.
    """
    from wm_pipelines.diorama.motion import scene_at
    from wm_pipelines.diorama.render import render
    from wm_pipelines.text.scene_graph import Edge, Mask, Node, SceneGraph

    scene = scene_at(scene, t)
    if not scene.objects:
        return SceneGraph()
    out = render(scene, (0.0,), size, maps=("ids", "boxes"))
    ids, boxes = out.ids[0, 0], out.boxes[0, 0].clamp(0, 1).tolist()
    depths = project([o.centre for o in scene.objects], scene.camera)[1].tolist()
    nodes, middles = [], {}
    for o, box, depth in zip(scene.objects, boxes, depths, strict=False):
        mask = ids == o.id
        if mask.any():
            words = words_of({"size": o.size, "colour": o.colour} | _marked(o))
            nodes.append(Node(o.id, o.shape, words, tuple(box), Mask.from_tensor(mask), depth))
            middles[o.id] = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    edges = []
    for i, a in enumerate(nodes):
        for b in nodes[i + 1 :]:
            (xa, ya), (xb, yb) = middles[a.id], middles[b.id]
            agree = {
                "left of": xa < xb,
                "right of": xa > xb,
                "in front of": a.depth < b.depth,
                "behind": a.depth > b.depth,
                "above": ya < yb,
                "below": ya > yb,
            }
            for predicate, subject, other in sorted(clear_relations(scene)):
                if (subject, other) == (a.id, b.id) and agree[predicate]:
                    below = predicate == "below"
                    edges.append(Edge(b.id, "above", a.id) if below else Edge(a.id, predicate, b.id))
    return SceneGraph(tuple(nodes), tuple(edges))


def _marked(obj: SceneObject) -> dict[str, str]:
    """Pattern and material where they are not the usual ones."""
    marked = {"pattern": obj.pattern, "material": obj.material}
    return {kind: value for kind, value in marked.items() if value not in ("plain", "matte")}

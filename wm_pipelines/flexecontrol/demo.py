"""`make demo`: scenes of the miniature world under one, two and three conditions, with what each picture obeyed."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, Scene
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.metrics import edge_f1, objects_obeyed
from wm_pipelines.flexecontrol.overlay import attention_overlays
from wm_pipelines.flexecontrol.run import load, plain
from wm_pipelines.flexecontrol.training.augmentation import widen
from wm_pipelines.hub import embedded
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.boxes import mask_iou
from wm_pipelines.media.conditions import depth_to_map, extract, seg_from_ids
from wm_pipelines.media.pages import Shown, write_page
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import Tile, sheet
from wm_pipelines.runtime.devices import machine
from wm_pipelines.runtime.reports import REPORT, write_json
from wm_pipelines.text.scene_graph import Edge, Node, SceneGraph

STEPS = 25
GUIDANCE = 4.0
SEEDS = (0, 1)
PURE = 0.7  # share of a thing's mask from which it has one colour
IN_PLACE = 0.5  # IoU from which a thing is where it was asked for
UNITS = {
    "edge_f1": "edge F1",
    "solid_iou": "IoU of all things",
    "miou": "mean IoU of things",
    "binding": "things with their colour",
    "binding_chance": "by chance",
}


@dataclass(frozen=True)
class Case:
    """One row of the page: a scene whose truth is known, and what the pipeline is told of it."""

    title: str
    note: str
    scene: Scene
    prompt: str
    conditions: tuple[Condition, ...] = ()
    phrases: tuple[tuple[str, tuple[int, int]], ...] = ()  # whose attention is shown
    graph: SceneGraph | None = None
    ids: torch.Tensor | None = None  # (H, W) where each object belongs
    truth: torch.Tensor | None = None  # (3, H, W) render, None where there is only a layout


def cases() -> list[Case]:
    """Ten cases: one, two and three conditions, two of one type on two phrases (and exchanged), graphs."""
    single, mixed, alike = _scenes("demo-one", 1), _scenes("demo", 2), _scenes("demo-alike", 2, same_shape=True)
    rows = []
    for kind in ("canny", "depth"):
        truth = _Truth(next(single))
        rows.append(truth.case(f"one condition: {kind}", "", (truth.condition(kind),)))
    truth = _Truth(next(mixed))
    pair = tuple(truth.condition(kind) for kind in ("canny", "depth"))
    rows.append(truth.case("two conditions: canny, depth", "Nothing says which object is which.", pair))
    truth = _Truth(next(mixed))
    rows.append(truth.case("two conditions: seg on each phrase", "", truth.bound("seg")))
    truth = _Truth(next(mixed))
    three = (truth.condition("sketch"), *truth.bound("seg"))
    rows.append(truth.case("three conditions: sketch, seg on each phrase", "", three))
    truth = _Truth(next(alike))
    first, second = truth.scene.objects
    rows.append(
        truth.case(
            "one condition: edges of two equal shapes",
            "The edges don't say which is which.",
            (truth.condition("canny"),),
        )
    )
    bound = truth.bound("canny")
    rows.append(truth.case("two conditions of one type, two phrases", "Each edge map is bound to its phrase.", bound))
    exchanged = replace(
        truth.scene, objects=(replace(first, colour=second.colour), replace(second, colour=first.colour))
    )
    rows.append(
        replace(
            truth.case(
                "the same two maps, phrases exchanged",
                "Only the binding changed: the colours change places.",
                truth.bound("canny", {first.id: second.id, second.id: first.id}),
            ),
            scene=exchanged,
            truth=render(exchanged, maps=("rgb",)).rgb[0, 0],
        )
    )
    a, b = Node(1, "cube", ("red",)), Node(2, "sphere", ("blue",))
    graph = SceneGraph((a, b), (Edge(1, "left of", 2),))
    rows += [_graph_case("scene graph", graph), _graph_case("the same graph, edge turned round", graph.swap(0))]
    return rows


def _scenes(name: str, count: int, same_shape: bool = False) -> Iterator[Scene]:
    """Test scenes of plain objects of different colours, so that a colour in the wrong place shows."""
    data = DioramaDataset(
        split="test", length=1000, num_objects=count, same_shape=same_shape, patterns=("plain",), name=name
    )
    for index in range(len(data)):
        scene = data.scene(index)
        if len({o.colour for o in scene.objects}) == len(scene.objects):
            yield scene


class _Truth:
    """A scene, its render and its caption."""

    def __init__(self, scene: Scene):
        out = render(scene, maps=("rgb", "ids", "depth"))
        self.scene, self.rgb, self.ids, self.depth = scene, out.rgb[0, 0], out.ids[0, 0], out.depth[0, 0]
        self.words = caption(scene, "objects", relations=False)

    def condition(self, kind: str, **fields: Any) -> Condition:
        if kind == "depth":
            return Condition(kind, depth_to_map(self.depth), **fields)
        if kind == "seg":
            return Condition(kind, seg_from_ids(self.ids), **fields)
        return Condition(kind, extract(kind, self.rgb), **fields)

    def bound(self, kind: str, phrase_of: dict[int, int] | None = None) -> tuple[Condition, ...]:
        """One map per object, cut out by its mask; each bound to its phrase, or to that of object `phrase_of[id]`."""
        found = []
        for own, said in (phrase_of or {o.id: o.id for o in self.scene.objects}).items():
            span = self.words.spans[said]
            region = widen((self.ids == own)[None].float())
            found.append(self.condition(kind, region=region, phrase=self.words.text[slice(*span)], span=span))
        return tuple(found)

    def case(self, title: str, note: str, conditions: tuple[Condition, ...]) -> Case:
        phrases = tuple((self.words.text[slice(*span)], span) for span in self.words.spans.values())
        return Case(title, note, self.scene, self.words.text, conditions, phrases, ids=self.ids, truth=self.rgb)


def _graph_case(title: str, graph: SceneGraph) -> Case:
    from wm_pipelines.diorama.scene import SceneObject

    compiled = graph.compile(64, 64)
    ids = torch.zeros(64, 64, dtype=torch.long)
    for id, mask in compiled.masks.items():
        ids[mask] = id
    # only what the layout says: the objects' words; their places in the world don't matter here
    scene = Scene(tuple(SceneObject(n.id, n.name, n.attributes[0]) for n in graph.nodes))
    return Case(title, f"{graph.edges[0]}; no map was drawn by hand.", scene, compiled.caption, graph=graph, ids=ids)


def demo(out: str | os.PathLike = "outputs/demo/flexecontrol", seed: int = 0) -> Shown:
    """Makes the pictures, `overview.png`, `index.html` (self-contained) and `report.json`.

    Args:
        out: folder for them.
        seed: added to the seeds of all pictures.
    """
    started = time.perf_counter()
    pipeline = load()
    pipeline.set_progress_bar_config(leave=False, desc="steps")
    judge = load_model(DioramaJudge, embedded("diorama-judge"))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    loaded = time.perf_counter() - started
    entries = []
    for number, case in enumerate(tqdm(cases(), desc="scenes")):
        entries.append(_entry(pipeline, judge, case, number, seed, folder))
    report = {
        "steps": STEPS,
        "guidance_scale": GUIDANCE,
        "seeds": [seed + s for s in SEEDS],
        "seconds": {"load": round(loaded, 2), "all": round(time.perf_counter() - started, 2)},
        "machine": machine(),
        "mean": _mean([e["obedience"] for e in entries]),
        "units": UNITS,
        "cases": [{k: v for k, v in e.items() if k != "pictures"} for e in entries],
    }
    write_json(folder / REPORT, plain(report))
    write_page(__package__, "demo.html", folder, report)
    _save_overview(folder, entries)
    right = sum(not fault for entry in entries for fault in entry["faults"])
    return Shown(
        title="FlexEControl: any number of conditions",
        said=f"{right} of {len(entries) * len(SEEDS)} pictures are as asked, in {len(entries)} cases.",
        place=1,
        row=_best(entries),
        files=[("overview.png", "wanted, given, made, and where each phrase looked; the best cases first")],
        page="index.html",
    )


def _best(entries: list[dict[str, Any]]) -> list[Tile]:
    """Wanted, given and made of the case with the least faults, of those the one with most conditions."""
    entry = min(entries, key=lambda e: (e["wrong"], -len(e["pictures"]["conditions"])))
    shown = entry["pictures"]
    given = [Tile(c, n) for c, n in zip(shown["conditions"], entry["conditions"], strict=False)]
    fault = entry["faults"][0]
    return [Tile(shown["truth"][0], "wanted"), *given, Tile(shown["pictures"][0], fault or "made", _tone(fault))]


def _tone(fault: str) -> str:
    return "bad" if fault else "good"


def _entry(pipeline, judge, case: Case, number: int, seed: int, folder: Path) -> dict[str, Any]:
    begun = time.perf_counter()
    result = pipeline(
        None if case.graph else case.prompt,
        conditions=list(case.conditions) or None,
        scene_graph=case.graph,
        phrases=list(case.phrases) or None,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        num_images_per_prompt=len(SEEDS),
        generator=[torch.Generator().manual_seed(seed + s) for s in SEEDS],
        on_conflict="ignore" if not case.conditions else "warn",
        output_type="pt",
    )
    seconds = time.perf_counter() - begun
    pictures = result.images.float().cpu()
    overlays, labels = attention_overlays(pictures[:1], result.attention_maps and result.attention_maps[:1])
    shown = {"truth": [case.truth] if case.truth is not None else [seg_from_ids(case.ids)]}
    shown["conditions"] = [_shown(c) for c in case.conditions]
    shown |= {"pictures": list(pictures), "attention": list(overlays) if result.attention_maps else []}
    names = {}
    for kind, images in shown.items():
        names[kind] = [f"{number:02d}_{kind}_{i}.png" for i in range(len(images))]
        for image, name in zip(images, names[kind], strict=True):
            save_image(image, folder / name)
    return {
        "title": case.title,
        "note": case.note,
        "prompt": case.prompt,
        "conditions": [c.type + (f" on “{c.phrase}”" if c.phrase else "") for c in case.conditions] or ["scene graph"],
        "obedience": measure(judge, pictures, case),
        "ceiling": measure(judge, case.truth[None], case) if case.truth is not None else None,
        "phrases": labels if result.attention_maps else [],
        "conflicts": plain(result.conflicts or []),
        "seconds": round(seconds, 2),
        "files": names,
        "faults": (wrong := faults(judge, pictures, case)),
        "wrong": sum(map(bool, wrong)),
        "pictures": shown,
    }


def _shown(condition: Condition) -> torch.Tensor:
    image = condition.image
    return image if condition.region is None else image * condition.region


def measure(judge: DioramaJudge, pictures: torch.Tensor, case: Case) -> dict[str, float]:
    """Edge F1 against the canny edges of the true render, IoU of all that isn't floor, per-object mIoU and binding.

    The last two are left out where nothing says which object is which.
    """
    count = len(pictures)
    with torch.no_grad():
        solid = judge(pictures.to(judge.device, judge.dtype)).colour.argmax(1).cpu() > 0
    wanted = (case.ids > 0).expand_as(solid)
    scores = {"solid_iou": float(mask_iou(solid, wanted).mean())}
    if _identified(case):
        objects = objects_obeyed(judge, pictures, case.ids.expand(count, -1, -1), [case.scene] * count)
        flat = [o for row in objects for o in row]
        scores |= {
            "miou": float(np.mean([o["iou"] for o in flat])),
            "binding": float(np.mean([o["bound"] for o in flat])),
            "binding_chance": float(np.mean([o["chance"] for o in flat])),
        }
    if case.truth is not None:
        edges = extract("canny", case.truth)[None].expand(count, -1, -1, -1)
        scores["edge_f1"] = float(edge_f1(pictures, edges).mean())
    return {k: round(v, 4) for k, v in scores.items()}


def _identified(case: Case) -> bool:
    """Whether something says which object is which."""
    bound = {c.span for c in case.conditions if c.span is not None}
    return case.graph is not None or len(bound) == len(case.scene.objects) or len(case.scene.objects) == 1


def faults(judge: DioramaJudge, pictures: torch.Tensor, case: Case) -> list[str]:
    """For each picture, what is not as it was asked for, in words; empty where nothing is amiss."""
    count, words = len(pictures), {o.id: f"{o.colour} {o.shape}" for o in case.scene.objects}
    if _identified(case):
        found = objects_obeyed(judge, pictures, case.ids.expand(count, -1, -1), [case.scene] * count)
        return [
            ", ".join(
                f"{words[o['id']]}: {'another colour' if not o['bound'] else 'out of place'}"
                for o in row
                if not o["bound"] or o["iou"] < IN_PLACE
            )
            for row in found
        ]
    with torch.no_grad():
        colours = judge(pictures.to(judge.device, judge.dtype)).colour.argmax(1).cpu()
    return [_unnamed_fault(colour, case) for colour in colours]


def _unnamed_fault(colours: torch.Tensor, case: Case) -> str:
    """What is amiss with one picture (H, W of colour numbers) where nothing says which object is which."""
    solid, wanted = colours > 0, case.ids > 0
    if (solid & wanted).sum() / (solid | wanted).sum().clamp_min(1) < IN_PLACE:
        return "shapes out of place"
    inside = [torch.bincount(colours[case.ids == o.id]).float() for o in case.scene.objects]
    if any(counts.max() < PURE * counts.sum() for counts in inside):
        return "a thing of several colours"
    found = sorted(int(counts.argmax()) for counts in inside)
    asked = sorted(1 + list(COLOURS).index(o.colour) for o in case.scene.objects)
    return "" if found == asked else "other colours"


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    keys = sorted({k for row in rows for k in row})
    return {k: round(float(np.mean([row[k] for row in rows if k in row])), 4) for k in keys}


def _save_overview(folder: Path, entries: list[dict[str, Any]]) -> None:
    rows = []
    for entry in entries:
        shown = entry["pictures"]
        made = [
            Tile(picture, fault or "as asked", _tone(fault))
            for picture, fault in zip(shown["pictures"], entry["faults"], strict=True)
        ]
        rows.append(
            (
                f"{entry['title']}\n\n“{entry['prompt']}”",
                [
                    [Tile(shown["truth"][0])],
                    [Tile(c, n) for c, n in zip(shown["conditions"], entry["conditions"], strict=False)],
                    made,
                    [Tile(a, n) for a, n in zip(shown["attention"], entry["phrases"], strict=False)],
                ],
            )
        )
    rows.sort(key=lambda row: sum(tile.tone == "bad" for tile in row[1][2]))
    columns = ("wanted", "given", "made, two seeds", "attention of each phrase")
    save_image(sheet(columns, rows), folder / "overview.png")

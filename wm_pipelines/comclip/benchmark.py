"""The benchmarks that ComCLIP is measured on, each from one folder of the user's: what lies where, and its figures."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wm_pipelines.comclip.components import Linker
from wm_pipelines.comclip.data import Query, match_file, read_dense_captions, read_flickr, read_matches, read_parsed
from wm_pipelines.comclip.evaluate import rerank, score_examples, summarise
from wm_pipelines.comclip.fusion import Rule
from wm_pipelines.comclip.pipeline import ComCLIPPipeline
from wm_pipelines.data.caption_pairs import (
    Example,
    read_comvg,
    read_svo_probes,
    read_vl_checklist,
    read_winoground,
)
from wm_pipelines.data.flickr import find_flickr30k
from wm_pipelines.media.boxes import Boxes
from wm_pipelines.runtime.files import visible

AUTHORS_FLICKR = "flickr30k_test.json"
BOXES, MATCHES, PARSED = "boxes", "matches", "parsed"
"""Folders that may lie beside a benchmark's own files: GRiT's dense captions of each image, `IMAGE.json`; the authors'
matches of entities with them, as `data.match_file` names them; captions as a language model parsed them, `ID.json`, or
`ID_caption0.json` and `ID_caption1.json` where an example has two."""

Queries = tuple[list[Query], list[Path]]


def _vl_checklist(folder: Path) -> list[Example]:
    lists = [path for path in visible(folder) if path.suffix == ".json"]
    return [example for path in lists for example in read_vl_checklist(path, folder / "images")]


READERS: dict[str, Callable[[Path], list[Example]]] = {
    "comvg": lambda folder: read_comvg(folder / "compositional_visual_genome.csv", folder / "images"),
    "svo-probes": lambda folder: read_svo_probes(folder / "svo_probes.csv", folder / "images"),
    "winoground": read_winoground,
    "vl-checklist": _vl_checklist,
}
NAMES = (*READERS, "flickr30k")


def read_benchmark(name: str, folder: Path, limit: int | None = None) -> list[Example] | Queries:
    """The examples of a benchmark, or of flickr30k its queries and all images; the first `limit` of them.

    Args:
        name: one of `NAMES`.
        folder: `images/` with `compositional_visual_genome.csv` (comvg), `svo_probes.csv` (svo-probes),
            `examples.jsonl` (winoground) or lists `*.json` (vl-checklist); for flickr30k the authors' table, made
            `flickr30k_test.json` by `wm convert flickr30k`, or what `data.flickr.find_flickr30k` finds.

    Raises:
        ValueError: an unknown name, a `limit` below 1, no such folder, no example, or as the reader.
    """
    if name not in NAMES:
        raise ValueError(f"`benchmark` is {name!r}; it must be one of {', '.join(NAMES)}")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"`limit` is {limit!r}; it must be an integer of at least 1")
    if not folder.is_dir():
        raise ValueError(f"`data` {str(folder)!r} is no folder; name the one that holds {name}")
    if name == "flickr30k":
        authors = folder / AUTHORS_FLICKR
        table, images = (authors, folder / "images") if authors.is_file() else find_flickr30k(folder)
        queries, files = read_flickr(table, images)
        return queries[:limit], files
    found = READERS[name](folder)[:limit]
    if not found:
        raise ValueError(f"`data` {str(folder)!r} has no example of {name}")
    return [_with_parses(example, folder / PARSED) for example in found]


def measure(
    pipeline: ComCLIPPipeline,
    name: str,
    folder: Path,
    read: list[Example] | Queries,
    rule: Rule,
    fit: str = "pad",
    top_k: int = 10,
) -> dict[str, Any]:
    """The figures of a benchmark by the rule (`score`), by plain similarity and by boxes alone.

    An image or text choice gives accuracies by kind, Winoground its text, image and group scores, flickr30k recall of
    an image by its caption among candidates (without boxes alone, whose ranking would be mostly ties).

    Args:
        read: as `read_benchmark(name, folder)` gives it. top_k: candidates of a query that brings none.

    Raises:
        ValueError: not one picture is where the files say.
    """

    def boxes_of(image: str) -> Boxes | None:
        path = folder / BOXES / f"{image}.json"
        return read_dense_captions(path) if path.is_file() else None

    if name == "flickr30k":
        queries, files = read
        told = rerank(pipeline, queries, files, rule, boxes=lambda path: boxes_of(path.stem), fit=fit, top_k=top_k)
        return {**told, "failed": [f"{query}: {why}" for query, why in told["failed"].items()]}
    scores = score_examples(
        pipeline, read, rule, grounding=lambda e, i: boxes_of(e.names[i]), linking=_linking(name, folder), fit=fit
    )
    return {**summarise(read, scores), "failed": list(scores["failed"].values())}


def headlines(name: str, report: Mapping[str, Any]) -> list[str]:
    """The figures over all examples, a line for each way of scoring."""
    lines = []
    for way in ("score", "baseline", "detector"):
        found = report.get(way)
        if found is None:
            continue
        if name == "flickr30k":
            told = found.items()
        elif name == "winoground":
            told = [(kind, figures["all"]["accuracy"]) for kind, figures in found.items()]
        else:
            told = [("accuracy", found["all"]["accuracy"])]
        lines.append(f"{way}: " + ", ".join(f"{what} {100 * value:.1f} %" for what, value in told))
    return lines


def _with_parses(example: Example, folder: Path) -> Example:
    count = len(example.captions)
    files = [folder / (f"{example.id}.json" if count == 1 else f"{example.id}_caption{c}.json") for c in range(count)]
    known = zip(files, example.parsed[:count], strict=True)
    return replace(example, parsed=tuple(read_parsed(file) if file.is_file() else parsed for file, parsed in known))


def _linking(name: str, folder: Path) -> Callable[[Example, int, int], Linker | None]:
    def linker(example: Example, image: int, caption: int) -> Linker | None:
        if name == "comvg":
            file = match_file(folder / MATCHES, example.names[image], sentence_id=example.sentence)
        elif name == "winoground":
            file = match_file(folder / MATCHES, str(image), row=example.id, caption=str(caption))
        else:
            file = match_file(folder / MATCHES, example.names[image], row=example.id)
        return read_matches(file) if file.is_file() else None

    return linker

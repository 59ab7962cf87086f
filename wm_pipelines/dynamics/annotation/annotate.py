"""The three steps of annotation: plan what is to be done, run it on any executor, reduce it to the best."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from wm_pipelines.dynamics.annotation import frames, labels
from wm_pipelines.dynamics.annotation.best import Best, Candidate
from wm_pipelines.dynamics.annotation.labels import CHANGED, Labeller, load_labeller, prompt_hash, weights_hash
from wm_pipelines.dynamics.annotation.triplets import FORMAT, MANIFEST, TRIPLETS
from wm_pipelines.dynamics.coded import encode_pairs, fingerprint
from wm_pipelines.dynamics.labelling import LEAST_ACCURACY, check_samples, held_out_accuracy
from wm_pipelines.dynamics.pictures import RESIZES
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.media.video import VIDEO_SUFFIXES
from wm_pipelines.record import explain
from wm_pipelines.runtime.files import atomic_folder, create, sha256
from wm_pipelines.runtime.readers import read_json
from wm_pipelines.runtime.reports import write_json
from wm_pipelines.runtime.shards import Plan, Report, divide, make_plan, outputs, read_plan, run_stage
from wm_pipelines.runtime.shards.results import check

NAME = "annotation.json"
SUFFIXES = (*VIDEO_SUFFIXES, ".avi")
FRAMES: dict[str, Any] = {
    "frames": 6, "spacing": 20, "flow_side": 256, "max_ssim": 0.95, "max_border": 0.1, "max_gap_s": 6.0,
    "min_hash_distance": 1, "cut_ssim": 0.35, "resize": "pad",
}  # fmt: skip
"""Settings of the first stage. frames, spacing: K_f and I_f of arXiv 2506.06006v3, in frames. A pair is dropped whose
structural similarity is `max_ssim` or more, of which a picture has more than `max_border` of its area in black edges,
that lies more than `max_gap_s` seconds apart, whose hashes differ in fewer than `min_hash_distance` bits, or between
which there is a cut: two frames in a row that are less alike than `cut_ssim` (0 looks for none)."""


def plan_annotation(
    videos: str | os.PathLike,
    out: str | os.PathLike,
    model: str,
    licence: str,
    base: str | None = None,
    shard_size: int = 100,
    max_new_tokens: int = 48,
    batch: int = labels.BATCH,
    held_out: Any = None,
    least_accuracy: float = LEAST_ACCURACY,
    num_action_samples: int = 0,
    seed: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """Write down what is to be annotated, by whom and how; nothing is decoded yet.

    Args:
        videos: folder; all videos in it and below are taken, and the first folder on the way is a video's class.
        out: folder for everything; a new one, or one with this same plan.
        model, base: the dynamics model, and where its base is if not as its record says.
        licence: tag that every triplet carries, such as "CC-BY-4.0".
        shard_size: videos of a shard, which is done whole or not at all.
        max_new_tokens: of a sentence; a pair whose sentence is longer is dropped. batch: pairs read at once.
        held_out: labelled pairs (`Pair`s) that the model has not seen; below `least_accuracy` there it labels nothing.
        num_action_samples: 0 takes the likeliest words for each pair; N draws N sentences at temperature 1 (equation 1
            of arXiv 2506.06006), each a triplet with its own score; `seed` decides which.
        settings: of the first stage, see `FRAMES`.

    Returns:
        {"videos", "shards", "accuracy"}; the last is None without `held_out`.

    Raises:
        ValueError: an argument, no video, a model that says too little right, or a folder of another plan.
    """
    videos, out = Path(videos), Path(out)
    _check(licence, max_new_tokens, batch, settings)
    check_samples(num_action_samples)
    if not videos.is_dir():
        raise ValueError(f"`videos` is no folder: {videos}")
    found = [path for path in sorted(videos.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise ValueError(f"`videos` {videos} holds no video; endings are {', '.join(SUFFIXES)}")
    labeller = load_labeller(model, base)
    accuracy = _accuracy(labeller, held_out, least_accuracy, max_new_tokens)
    look = {
        "code": frames.CODE, "size": list(labeller.layout.size), "pad_colour": list(labeller.layout.pad_colour),
        **FRAMES, **settings,
    }  # fmt: skip
    say = {
        "code": labels.CODE, "model": model, "base": base, "revision": labeller.source_revisions.get("pipeline", ""),
        "weights": weights_hash(labeller), "prompt": prompt_hash(labeller.layout),
        "tokens": fingerprint(labeller.backend.pictures), "licence": licence, "max_new_tokens": max_new_tokens,
        "batch": batch, "accuracy": accuracy,
        **({"num_action_samples": num_action_samples, "seed": seed} if num_action_samples else {}),
    }  # fmt: skip
    whole = {"format": FORMAT, "videos": str(videos.absolute()), "frames": look, "labels": say}
    out.mkdir(parents=True, exist_ok=True)
    data = (json.dumps(whole, indent=2) + "\n").encode()
    if not create(out / NAME, data):
        _check_same(read_json(out / NAME), json.loads(data))
    plan = make_plan(out / "frames", divide(found, shard_size), root=videos, config=look, columns=frames.COLUMNS)
    return {"videos": len(found), "shards": len(plan.shards), "accuracy": accuracy}


def run_annotation(
    out: str | os.PathLike,
    executor: str = "here",
    workers: int = 1,
    videos: str | os.PathLike | None = None,
    skip_failed: bool = False,
    num_gpus: float = 0.0,
    on_shard: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> dict[str, Report]:
    """Do what is planned and not done yet; killed at any moment, it goes on when it is called again.

    Args:
        executor, workers, options: as of `run_stage`. num_gpus: of each actor that labels.
        videos: where the videos are on this machine, if elsewhere than when it was planned.
        skip_failed: go on without shards of which nothing could be made; else they are tried again each time.
        on_shard: called with the step's name, and the number of shards that are settled and of all.

    Returns:
        What became of "frames" and of "labels".

    Raises:
        ValueError: no plan, another configuration, or a failed shard; others as `run_stage`.
    """
    out = Path(out)
    settings = read_settings(out)
    found: dict[str, Report] = {}

    def teller(step: str) -> Callable[[int, int], None] | None:
        return None if on_shard is None else lambda done, of: on_shard(step, done, of)

    first = planned(out / "frames", videos or settings["videos"], settings["frames"])
    found["frames"] = run_stage(first, frames.key_frames, executor, workers, on_shard=teller("frames"), **options)
    second = make_plan(
        out / "labels", divide(outputs(first, skip_failed), 1), root=out / "frames", config=settings["labels"],
        columns=labels.COLUMNS,
    )  # fmt: skip
    try:
        found["labels"] = run_stage(
            second, Labeller, executor, workers, num_gpus=num_gpus, on_shard=teller("labels"), **options
        )
    except RuntimeError as error:
        if CHANGED in str(error):  # a worker found another model than the planned one
            raise ValueError(f"{CHANGED} ({settings['labels']['model']!r} is another model by now)") from None
        raise
    return found


def reduce_annotation(
    out: str | os.PathLike, keep: int, least_margin: float | None = None, skip_failed: bool = False
) -> dict[str, Any]:
    """Keep the `keep` surest labels, classes in turn, and write `triplets/` with what training reads.

    Args:
        keep: K of algorithm 1 of arXiv 2506.06006v3. Pairs without a class are classed by the verb of their label.
        least_margin: labels whose copy margin is not above it are left out; None keeps them.
        skip_failed: reduce what is there where a shard failed.

    Returns:
        The manifest: rows, counts for each class, and why how many were dropped.

    Raises:
        ValueError: labels that are not done, were altered or belong to other settings; nothing is left to keep.
    """
    out = Path(out)
    settings = read_settings(out)
    plan = planned(out / "labels", out / "frames", settings["labels"])
    dropped: Counter[str] = Counter()
    shards = [path.parent.name for path in outputs(plan, skip_failed)]
    parts = (Best.of(_candidates(plan, name, least_margin, dropped), keep) for name in shards)
    chosen = reduce(Best.merged, parts, Best(keep)).chosen()
    if not chosen:
        raise ValueError(f"no label of {out} is left to keep: {dict(dropped) or 'there is no pair'}")
    manifest = {
        "format": FORMAT, "rows": len(chosen), "keep": keep, "least_margin": least_margin,
        "classes": dict(sorted(Counter(c.kind for c in chosen).items())), "dropped": dict(sorted(dropped.items())),
        "plan": plan.identity, **{name: settings["labels"][name] for name in ("model", "revision", "weights", "prompt",
        "tokens", "licence", "accuracy")}, "num_action_samples": settings["labels"].get("num_action_samples", 0),
    }  # fmt: skip
    with atomic_folder(out / "triplets", last=MANIFEST) as folder:
        _write(plan, chosen, folder / TRIPLETS)
        manifest["sha256"] = sha256(folder / TRIPLETS)
        write_json(folder / MANIFEST, manifest)
    return manifest


def _candidates(plan: Plan, name: str, least_margin: float | None, dropped: Counter) -> Iterator[Candidate]:
    table = _table(plan, name, ["id", "class", "twin", "score", "copy_margin", "action", "dropped"])
    for n, row in enumerate(table.to_pylist()):
        why = row["dropped"]
        if not why and least_margin is not None and not row["copy_margin"] > least_margin:
            why = "low copy margin"
        if why:
            dropped[why] += 1
            continue
        kind = row["class"] or row["action"].split(" ", 1)[0]
        yield Candidate(kind, row["twin"], row["score"], row["id"], (name, n))


def _write(plan: Plan, chosen: list[Candidate], path: Path) -> None:
    """The chosen rows in the order of the plan; `class` is what they were classed by."""
    import pyarrow
    import pyarrow.parquet as parquet

    kinds = {c.place: c.kind for c in chosen}
    writer = None
    try:
        for name in plan.shards:
            rows = sorted(n for shard, n in kinds if shard == name)
            if not rows:
                continue
            table = _table(plan, name).take(rows)
            classes = pyarrow.array([kinds[name, n] for n in rows])
            table = table.set_column(table.column_names.index("class"), "class", classes)
            writer = writer or parquet.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _table(plan: Plan, name: str, columns: list[str] | None = None) -> Any:
    import pyarrow.parquet as parquet

    problem = check(plan, name)
    if problem:
        raise ValueError(f"shard {name} of {plan.folder}: {problem}; run `wm annotate run` again")
    return parquet.read_table(plan.folder / "shards" / name / "rows.parquet", columns=columns)


def read_settings(out: Path) -> dict[str, Any]:
    """What `plan_annotation` wrote into `out`.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if not (out / NAME).is_file():
        raise ValueError(f"{out} has no {NAME}; `wm annotate plan` makes one")
    found = read_json(out / NAME)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{out / NAME} is no plan of annotation of format {FORMAT}")
    try:
        _Noted.model_validate(found)
    except ValidationError as error:
        raise ValueError(f"{out / NAME}: {explain(error)}") from None
    return found


class _Labels(BaseModel):
    """Of what labels are made of, what is read again."""

    model: str
    base: str | None
    revision: str
    weights: str
    prompt: str
    tokens: str
    licence: str
    max_new_tokens: int = Field(ge=1)
    batch: int = Field(ge=1)
    accuracy: float | None
    num_action_samples: int = Field(0, ge=0)
    seed: int = 0


class _Noted(BaseModel):
    """What `annotation.json` says."""

    format: int
    videos: str
    frames: dict[str, Any]
    labels: _Labels


def planned(folder: Path, root: Any, config: dict[str, Any]) -> Plan:
    """The plan of shards in `folder`, over files under `root`.

    Raises:
        ValueError: it was made with another configuration than `config`.
    """
    plan = read_plan(folder, root)
    _check_same({folder.name: plan.config}, {folder.name: config})
    return plan


def _check_same(planned: dict[str, Any], now: dict[str, Any]) -> None:
    """ValueError if two configurations differ; it names what does."""
    parts = [part for part in now if isinstance(now[part], dict)]
    changed = [
        f"{part}.{key}"
        for part in parts
        for key in sorted(now[part].keys() | planned.get(part, {}).keys())
        if now[part].get(key) != planned.get(part, {}).get(key)
    ]
    if changed:
        raise ValueError(f"{CHANGED} (changed: {', '.join(changed)})")


def _check(licence: Any, max_new_tokens: Any, batch: Any, settings: dict[str, Any]) -> None:
    if not isinstance(licence, str) or not licence.strip():
        raise ValueError(f"`licence` is {licence!r}; give the tag of the videos' licence, such as 'CC-BY-4.0'")
    unknown = sorted(settings.keys() - FRAMES.keys())
    if unknown:
        raise ValueError(f"unknown setting `{unknown[0]}`; allowed: {', '.join(FRAMES)}")
    given = {**FRAMES, **settings}
    cut = given["cut_ssim"]
    if isinstance(cut, bool) or not isinstance(cut, int | float) or not 0 <= cut < 1:
        raise ValueError(f"`cut_ssim` is {cut!r}; it must be a number from 0 to below 1")
    least = {"frames": 2, "spacing": 1, "flow_side": 16, "min_hash_distance": 0}
    for name, value, low in (
        *((name, given[name], low) for name, low in least.items()),
        ("max_new_tokens", max_new_tokens, 1),
        ("batch", batch, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"`{name}` is {value!r}; it must be an integer, {low} or more")
    for name, high in (("max_ssim", 1.01), ("max_border", 1.0), ("max_gap_s", float("inf"))):
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high:
            raise ValueError(f"`{name}` is {value!r}; it must be a number above 0, at most {high}")
    if given["resize"] not in (*RESIZES, None):
        raise ValueError(f"`resize` is {given['resize']!r}; allowed: {', '.join(RESIZES)} or None")


def _accuracy(model: DynamicsModelPipeline, held_out: Any, least_accuracy: float, max_new_tokens: int) -> float | None:
    if held_out is None:
        return None
    layout = model.layout
    pairs = encode_pairs(held_out, model.backend.pictures, layout.size, colour=layout.pad_colour)
    found = held_out_accuracy(model, pairs, max_new_tokens)
    if found < least_accuracy:
        raise ValueError(
            f"the dynamics model says {found:.1%} of {len(pairs)} held-out actions right, below `least_accuracy` "
            f"{least_accuracy:.1%}; train it further before it labels anything"
        )
    return found

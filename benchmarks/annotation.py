"""What annotation costs on one core: decoding, flow and the rest of the first stage; labels with and without buckets.

    python benchmarks/annotation.py --model CHECKPOINT [--videos FOLDER] [--pairs 96]

Processor time of this process, on clips of the miniature world and on those of a folder. Buckets are alternated. The
last row is the budget on paper for 7-billion-parameter models, beside what the first stage measured.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from annotation_loop import CLIPS, make_clips
from records import append, environment

from wm_pipelines.dynamics.annotation.annotate import FRAMES, SUFFIXES
from wm_pipelines.dynamics.annotation.frames import frames_of, watch
from wm_pipelines.dynamics.annotation.labels import label_codes, load_labeller
from wm_pipelines.dynamics.coded import encode_pairs
from wm_pipelines.dynamics.scenes import DioramaPairs
from wm_pipelines.media.video import iter_video

RESULTS = Path(__file__).parent / "results" / "annotation.jsonl"
REPEATS = 3
TOKENS, FLOP, PEAK, USED = 2100, 14e9, 989e12, 0.35  # a pair; a token of 7B; an H100 in bf16; share of it in use


def cpu(work) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def first_stage(name: str, paths: list[Path], settings: dict[str, Any]) -> dict[str, Any]:
    """Costs of the first stage for one frame, by parts; a clip that is decoded twice pays for it in `rest`."""
    config = {**FRAMES, **settings, "pad_colour": [122, 116, 104]}
    frames = sum(1 for path in paths for _ in iter_video(path))
    decode = cpu(lambda: [0 for path in paths for _ in iter_video(path)])
    looked = cpu(lambda: [watch(path, config["flow_side"], config["cut_ssim"]) for path in paths])
    no_cuts = cpu(lambda: [watch(path, config["flow_side"], 0.0) for path in paths])
    rows: list[dict[str, Any]] = []
    whole = cpu(lambda: rows.extend(row for path in paths for row in frames_of(path.name, path, config)))
    pairs = sum(not row["dropped"] for row in rows) - len(paths)
    parts = {"decode": decode, "flow": no_cuts - decode, "rest": whole - no_cuts}
    return {
        "kind": "first stage", "clips": name, "count": len(paths), "frames": frames, "pairs": pairs,
        "dropped": sum(bool(row["dropped"]) for row in rows), "ms_a_frame": 1000 * whole / frames,
        "frames_a_core_second": frames / whole, "core_seconds_a_pair": whole / max(pairs, 1),
        "shares": {part: value / whole for part, value in parts.items()}, "second_look": looked - no_cuts,
    }  # fmt: skip


def labelling(model: str, count: int, batch: int) -> dict[str, Any]:
    """Pairs a core and second, and by how much buckets are faster: the middle of the repeats, alternated."""
    labeller = load_labeller(model, None)
    pairs = DioramaPairs("test", length=count)
    encode = cpu(lambda: encode_pairs(pairs, labeller.backend.pictures, labeller.layout.size))
    coded = encode_pairs(pairs, labeller.backend.pictures, labeller.layout.size)
    spent: dict[bool, list[float]] = {True: [], False: []}
    lengths: list[int] = []
    for _ in range(REPEATS):
        for buckets in spent:
            found: list[Any] = []
            work = lambda b=buckets, f=found: f.extend(  # noqa: E731
                label_codes(labeller, coded.source, coded.target, 32, batch, b)
            )
            spent[buckets].append(cpu(work))
            lengths = [len(label.logprobs) for label in found]
    with_buckets, without = (float(np.median(spent[b])) for b in (True, False))
    return {
        "kind": "labels", "model": Path(model).name, "pairs": count, "batch": batch,
        "prompt_tokens": 2 * coded.source[0].numel(), "sentence_tokens": [min(lengths), float(np.mean(lengths)),
        max(lengths)], "pairs_a_core_second": {"buckets": count / with_buckets, "none": count / without},
        "speed_up": without / with_buckets, "render_and_encode_seconds": encode,
    }  # fmt: skip


def budget(seconds_a_pair: float, clips: str) -> list[dict[str, Any]]:
    """Hours on paper: 7B models read a pair of 1,026-token pictures; the first stage as it was measured."""
    gpu = TOKENS * FLOP / (PEAK * USED)
    return [
        {
            "kind": "budget on paper", "pairs": pairs, "gpu_hours": pairs * gpu / 3600, "gpu_seconds_a_pair": gpu,
            "core_hours_first_stage": pairs * seconds_a_pair / 3600, "first_stage_of": clips,
            "cores_that_feed_one_gpu": seconds_a_pair / gpu, "codes_gb": pairs * 2 * 1024 * 2 / 1e9,
        }
        for pairs in (10**6, 10**8)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="dynamics model: folder, embedded name or Hub id")
    parser.add_argument("--videos", type=Path, help="folder of real clips")
    parser.add_argument("--size", type=int, default=256, help="side of the key frames of real clips")
    parser.add_argument("--clips", type=int, default=20, help="of the miniature world")
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder), args.clips, 0)
        rows = [first_stage("miniature world, 64x64", sorted(Path(folder).iterdir()), {**CLIPS, "size": [64, 64]})]
    if args.videos:
        found = [path for path in sorted(args.videos.rglob("*")) if path.suffix.lower() in SUFFIXES]
        rows += [first_stage(path.name, [path], {"size": [args.size] * 2}) for path in found]
    rows.append(labelling(args.model, args.pairs, args.batch))
    dearest = max((row for row in rows if row["kind"] == "first stage"), key=lambda row: row["core_seconds_a_pair"])
    rows += budget(dearest["core_seconds_a_pair"], dearest["clips"])
    for row in rows:
        append(args.out, {**row, **environment()})
        print({key: value for key, value in row.items()})


if __name__ == "__main__":
    main()

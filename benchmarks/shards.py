"""What shards cost beside their stage, with 1 and 2 workers, and a simulation of where cost stops growing linearly.

    python benchmarks/shards.py            # prints, rewrites results/shards.jsonl; three minutes on a free core
    python benchmarks/shards.py --ray      # Ray Data too; --workers 1 2 4 8 where there are cores

Rows of kind "measured" are runs here: of a stage that waits, as for a disk or a server, and of one that computes, each
with the number of cores that it had. Rows of kind "simulated" come from a discrete-event model and from nothing else:
workers that start one after another and read the plan, a folder that serves one claim or commit at a time, and shards
whose work is log-normal around a mean. Its costs are those measured here, or assumed where the row says so.

Claims: the machinery takes at most 10 ms of processor time a shard; two workers whose stage waits take at most 0.6 of
the time of one; the simulation of those runs is within 15 % of them. Exit status 1 if one does not hold.
"""

import argparse
import contextlib
import heapq
import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wm_pipelines.runtime.random import keyed
from wm_pipelines.runtime.shards import Plan, Shard, divide, make_plan, plan_rows, read_plan, run_stage
from wm_pipelines.runtime.shards.leases import take
from wm_pipelines.runtime.shards.results import check, commit, is_settled
from wm_pipelines.runtime.shards.stages import make

PARTS, ROWS = 200, 100  # shards, and rows of a shard, over which parts of the machinery are averaged
COLUMNS = {"id": "string", "score": "float32", "codes": "list<uint16>"}
WORKERS = (1, 2, 8, 32, 128, 512, 2048)
WORK = (1.0, 10.0, 100.0)  # mean seconds of a simulated shard
PLANS = (1_000, 10_000, 100_000)  # shards
SPREAD = 0.25  # standard deviation of a simulated shard's work, of its mean
NETWORK = {"claim": 0.01, "commit": 0.04, "look": 0.0005}  # seconds on a busy network file system: assumed
LINEAR = 1.1  # worker-seconds over work, up to which cost counts as linear


def waits(shard: Shard) -> Iterator[dict[str, Any]]:
    time.sleep(shard.config["work_s"])
    yield {"id": shard.name}


def computes(shard: Shard) -> Iterator[dict[str, Any]]:
    end = time.process_time() + shard.config["work_s"] / 2
    while time.process_time() < end:
        pass
    yield {"id": shard.name}


def passes(shard: Shard) -> Iterator[dict[str, Any]]:
    yield {"id": shard.name}


def writes(shard: Shard) -> Iterator[dict[str, Any]]:
    for i in range(ROWS):
        yield {"id": f"{shard.name}/{i}", "score": i / 7, "codes": list(range(256))}


def tells_the_time(shard: Shard) -> Iterator[dict[str, Any]]:
    yield {"time": time.time()}


def new_plan(folder: Path, shards: int, columns: dict[str, str] | None = None, work_s: float = 0.0) -> Plan:
    """A plan in a folder of its own, over small files, one for each shard."""
    root = folder / f"in-{shards}"
    if not root.exists():
        root.mkdir()
        for i in range(shards):
            (root / f"{i:06}").write_text(f"{i}")
    out = Path(tempfile.mkdtemp(dir=folder))
    return make_plan(out, divide(sorted(root.iterdir()), 1), root=root, config={"work_s": work_s}, columns=columns)


def used() -> float:
    """Processor seconds of this process and of the children that it has waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    before = time.perf_counter(), used()
    work()
    return time.perf_counter() - before[0], used() - before[1]


def runs(
    folder: Path, executors: dict[str, list[int]], shards: int, work_s: float, repeats: int
) -> list[dict[str, Any]]:
    """The two stages under each executor and number of workers, by turns; the best of the repeats."""
    cases = [(stage, e, count) for stage in (waits, computes) for e, counts in executors.items() for count in counts]
    times: dict[tuple, list[tuple[float, float]]] = {case: [] for case in cases}
    left = set()
    for _ in range(repeats):
        for case in cases:
            plan = new_plan(folder, shards, work_s=work_s)
            times[case].append(timed(lambda plan=plan, case=case: run_stage(plan, *case)))
            left.add(b"".join(path.read_bytes() for path in sorted((plan.folder / "shards").glob("*/*"))))
    if len(left) != 1:
        raise RuntimeError(f"the executors left {len(left)} different results")
    rows = []
    for (stage, executor, workers), found in times.items():
        wall, processor = (min(values) for values in zip(*found, strict=True))
        row = {"stage": stage.__name__, "executor": executor, "workers": workers, "shards": shards, "work_s": work_s}
        # Ray's own processes are no children that we wait for
        rows.append(row | {"seconds": wall, "processor_seconds": None if executor == "ray" else processor})
    return rows


def costs(folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of the parts of the machinery, the best of the repeats: by the wall clock, or by the processor's."""
    found: dict[str, float] = {}

    def note(name: str, seconds: float) -> None:
        found[name] = min(seconds, found.get(name, math.inf))

    for _ in range(repeats):
        for name, seconds in parts(new_plan(folder, PARTS)).items():
            note(name, seconds)
        plan = new_plan(folder, PARTS)
        note("shard_processor", timed(lambda plan=plan: run_stage(plan, passes))[1] / PARTS)
        for kind, columns in (("jsonl", None), ("parquet", COLUMNS)):
            plan = new_plan(folder, 10, columns)
            note(f"row_{kind}_processor", timed(lambda plan=plan: run_stage(plan, writes))[1] / 10 / ROWS)
        plan, began = new_plan(folder, 1), time.time()
        run_stage(plan, tells_the_time, "processes")
        note("start", next(plan_rows(plan))["time"] - began)
        (folder / "large").write_bytes(bytes(64 * 2**20))
        out = Path(tempfile.mkdtemp(dir=folder))
        hashing = timed(lambda out=out: make_plan(out, [["large"]], root=folder, config={}))
        note("hash_gigabyte_processor", hashing[1] * 16)
    return found


def parts(plan: Plan) -> dict[str, float]:
    """Wall seconds of what a shard goes through, the median of a plan's; their stage does nothing."""
    for part in ("shards", "failed", "leases", "tmp"):
        (plan.folder / part).mkdir()
    times: dict[str, list[float]] = {name: [] for name in ("claim", "make", "commit", "look", "check")}
    for name in plan.shards:
        began = time.perf_counter()

        def note(part: str) -> None:
            nonlocal began
            times[part].append(time.perf_counter() - began)
            began = time.perf_counter()

        lease = take(plan.folder / "leases", name, "run", 60)
        note("claim")
        made = make(plan, name, passes)
        note("make")
        with lease:
            commit(plan, name, made, lease)
        note("commit")
        is_settled(plan, name)
        note("look")
        check(plan, name)
        note("check")
    found = {part: statistics.median(seconds) for part, seconds in times.items()}
    return found | {"read_plan": timed(lambda: read_plan(plan.folder, plan.root))[0] / len(plan.shards)}


def simulate(workers: int, shards: int, work_s: float, cost: dict[str, float], spread: float = SPREAD) -> float:
    """Seconds until all workers have ended, by the model that the head of this file describes.

    Args:
        cost: seconds: `start` of a worker and, for each shard, what it takes to read the plan (`read_plan`); `claim`
            and `commit`, in which the folder serves no one else; `make`, beside the work; `look`, for each shard that
            another did.
    """
    sigma = math.sqrt(math.log1p(spread**2))
    work = work_s * keyed("shards", shards).lognormal(-(sigma**2) / 2, sigma, shards)
    events = [(cost["start"] + shards * cost["read_plan"], worker, False) for worker in range(workers)]
    done, left, folder_free, ends = [0] * workers, shards, 0.0, []
    while events:
        now, worker, has_made = heapq.heappop(events)
        if has_made:
            folder_free = max(now, folder_free) + cost["commit"]
            heapq.heappush(events, (folder_free, worker, False))
        elif left:
            left -= 1
            done[worker] += 1
            folder_free = max(now, folder_free) + cost["claim"]
            heapq.heappush(events, (folder_free + cost["make"] + work[left], worker, True))
        else:
            ends.append(now + (shards - done[worker]) * cost["look"])
    return float(max(ends))


def simulated(cost: dict[str, float], folder: str) -> list[dict[str, Any]]:
    """Cost over work for plans, workers and work, and up to how many workers it is linear."""
    rows = []
    for shards in PLANS:
        for work_s in WORK:
            over = {
                workers: workers * simulate(workers, shards, work_s, cost) / (shards * work_s)
                for workers in WORKERS
                if workers <= shards
            }
            linear = [workers for workers, factor in over.items() if factor <= LINEAR]
            rows.append(
                {
                    "folder": folder,
                    "shards": shards,
                    "work_s": work_s,
                    "worker_seconds_over_work": {str(workers): round(factor, 3) for workers, factor in over.items()},
                    "linear_to_workers": max(linear, default=None),
                }
            )
    return rows


def claims(measured: list[dict[str, Any]], cost: dict[str, float]) -> list[dict[str, Any]]:
    """The claims with their figures and whether they hold."""
    waiting = {r["workers"]: r for r in measured if (r["stage"], r["executor"]) == ("waits", "processes")}
    seconds = {workers: row["seconds"] for workers, row in waiting.items()}
    model = {w: simulate(w, waiting[w]["shards"], waiting[w]["work_s"], cost, spread=0.0) for w in (1, 2)}
    ratios = {w: model[w] / seconds[w] for w in (1, 2)}
    return [
        {
            "claim": "the machinery takes at most 10 ms of processor time a shard",
            "milliseconds": 1000 * cost["shard_processor"],
            "holds": cost["shard_processor"] <= 0.01,
        },
        {
            "claim": "two workers whose stage waits take at most 0.6 of the time of one",
            "ratio": seconds[2] / seconds[1],
            "holds": seconds[2] <= 0.6 * seconds[1],
        },
        {
            "claim": "the simulation of 1 and 2 workers that wait is within 15 % of the measured time",
            "ratios": ratios,
            "holds": all(abs(ratio - 1) <= 0.15 for ratio in ratios.values()),
        },
    ]


def main(argv: list[str] | None = None) -> int:
    from records import RESULTS, environment, write  # here, for they import torch, which the workers don't need

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="1 and 2 are among them")
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--work-s", type=float, default=0.5, help="seconds that a shard waits; it computes half of it")
    parser.add_argument("--ray", action="store_true", help="measure Ray Data too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "shards.jsonl")
    args = parser.parse_args(argv)
    executors = {"here": [1], "processes": args.workers} | ({"ray": args.workers} if args.ray else {})
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        cost = costs(Path(folder), args.repeats)
        if args.ray:
            import ray

            from wm_pipelines.runtime.ray import cluster

            cost["start_of_ray"] = timed(lambda: stack.enter_context(cluster(ray, max(args.workers), (0.5, 0))))[0]
        measured = runs(Path(folder), executors, args.shards, args.work_s, args.repeats)
    common = {"cores": cores, "load": round(os.getloadavg()[0], 1), "repeats": args.repeats, **environment()}
    if cores < max(args.workers):
        common["note"] = f"{max(args.workers)} workers on {cores} core(s): a stage that computes can't gain"
    rows = [{"kind": "measured", **row, **common} for row in measured]
    rows.append({"kind": "measured", "seconds_of_parts": cost, **common})
    rows += [{"kind": "simulated", "spread": SPREAD, **row} for row in simulated(cost, "as measured, one disk")]
    network = simulated(cost | NETWORK, f"network, assumed {json.dumps(NETWORK)}")
    rows += [{"kind": "simulated", "spread": SPREAD, **row} for row in network]
    found = claims(measured, cost)
    rows += [{"kind": "claim", **row, **common} for row in found]
    write(args.out, rows)
    for row in rows:
        print({key: value for key, value in row.items() if key not in common})
    return int(not all(row["holds"] for row in found))


if __name__ == "__main__":
    sys.exit(main())

"""Shards under Ray Data: an actor for each worker, on the cluster that is connected or on one started for the call.

Rows never travel through Ray: an actor gets names of shards and leaves results in the plan's folder, which all
machines must see under one path, and the inputs too.
"""

import json
import logging
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wm_pipelines.runtime.shards.plan import Plan, read_plan
from wm_pipelines.runtime.shards.work import Terms, Worker, told, untold

STORE_BYTES = 100 * 2**20  # Ray takes no less than 75 MB; names of shards need little
BLOCKS = 20  # parts of the work for each actor: few enough for a million shards, enough to even out


class Actor:
    """A worker that Ray Data hands names of shards."""

    def __init__(self, folder: Path, root: Path, stage: Any, terms: Terms):
        self.worker = Worker(read_plan(folder, root), stage, terms)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        try:
            self.worker.settle([str(name) for name in batch["shard"]])
        except Exception as error:  # the driver raises it, without the frames of Ray around it
            return {"error": [json.dumps(told(error))]}
        return {"error": [""]}


def run_with_ray(
    plan: Plan,
    stage: Any,
    terms: Terms,
    names: list[str],
    workers: int,
    needs: tuple[float, float],
    on_settled: Callable[[], None],
) -> None:
    """Settle shards with an actor pool.

    Args:
        needs: CPUs and GPUs of each actor.

    Raises:
        ValueError: the cluster has too little for the actors.
        RuntimeError: Ray fails, for example to import the stage. Others as `Worker.settle`.
    """
    ray = imported()
    if not names:
        return
    workers = min(workers, len(names))
    with cluster(ray, workers, needs), _quiet(ray):
        blocks = min(len(names), BLOCKS * workers)
        items = ray.data.from_items([{"shard": name} for name in names], override_num_blocks=blocks)
        answers = items.map_batches(
            Actor,
            fn_constructor_args=(plan.folder.absolute(), plan.root.absolute(), stage, terms),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=needs[0],
            num_gpus=needs[1],
        )
        try:
            for answer in answers.iter_rows():
                if answer["error"]:
                    raise untold(json.loads(answer["error"]))
                on_settled()
        except ray.exceptions.RayError as error:
            last = (str(error).strip() or repr(error)).splitlines()[-1]
            raise RuntimeError(f"Ray could not run the actors: {last}") from error


def imported() -> Any:
    """Ray, with its data sets; an ImportError that says what to install where it is missing."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f'executor "ray" needs Ray Data: pip install "wm-pipelines[scale]" ({error})') from None
    return ray


@contextmanager
def cluster(ray: Any, workers: int, needs: tuple[float, float]) -> Iterator[None]:
    """The cluster that is connected, that which RAY_ADDRESS names, or one of this machine that ends with the block.

    Ray's ports are open to the network, so what is started here asks for a secret, which stays in RAY_AUTH_TOKEN.
    """
    if ray.is_initialized():
        _check_resources(ray, 1, needs)
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        with ray.init(**quiet):
            _check_resources(ray, 1, needs)
            yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray would write one into the home folder
    try:
        with _path_handed_on():
            # one CPU more than the actors take, or what feeds them would wait for ever
            cpus = max(os.cpu_count() or 1, math.ceil(workers * needs[0]) + 1)
            ray.init("local", num_cpus=cpus, object_store_memory=STORE_BYTES, include_dashboard=False, **quiet)
        _check_resources(ray, workers, needs)
        yield
    finally:
        ray.shutdown()


@contextmanager
def _path_handed_on() -> Iterator[None]:
    """Processes that start in the block can import what this one can."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _check_resources(ray: Any, workers: int, needs: tuple[float, float]) -> None:
    for kind, need in zip(("CPU", "GPU"), needs, strict=True):
        there = ray.cluster_resources().get(kind, 0)
        if workers * need > there:
            raise ValueError(f"`workers`: {workers} need {workers * need:g} {kind}s, Ray has {there:g}")


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Without Ray Data's own bars and lines."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, level = before
        logger.setLevel(level)

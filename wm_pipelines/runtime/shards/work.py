"""What a worker does, in whichever process: it takes shards by their leases and settles them until all are settled."""

import copy
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from wm_pipelines.runtime.shards.leases import Lease, take
from wm_pipelines.runtime.shards.plan import Plan
from wm_pipelines.runtime.shards.results import clear, commit, dead_letters, is_settled
from wm_pipelines.runtime.shards.stages import Made, Stage, is_class, is_full, letter, make

DEATHS = 3
"""A shard that this many workers of a run died of has failed."""


@dataclass(frozen=True)
class Terms:
    """What the workers of one run have in common.

    Args:
        run: their name. lease_s: seconds of silence after which a worker counts as dead.
        max_failures: dead letters that a plan may have.
    """

    run: str
    lease_s: float
    max_failures: int


class TooManyFailures(RuntimeError):
    """More rows, files or shards failed than a run allows."""


class Worker:
    """A worker with its stage, which is made when the first shard is there to be done."""

    def __init__(self, plan: Plan, stage: Stage | type, terms: Terms):
        self.plan, self.terms = plan, terms
        self._stage, self._made = stage, not is_class(stage)

    def settle(self, names: Iterable[str], on_settled: Callable[[], None] | None = None) -> None:
        """Settle shards in this order; waits for those that other workers have, and does them where these die.

        Args:
            on_settled: called for each shard, whoever settled it.

        Raises:
            ValueError: an input changed. TooManyFailures: as it says. OSError: a disk is full.
            RuntimeError: the stage's class could not be made.
        """
        waiting, pause = list(names), 0.01
        while waiting:
            left = []
            for name in waiting:
                if not self._try(name):
                    left.append(name)
                elif on_settled:
                    on_settled()
            if len(left) == len(waiting):
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
            else:
                pause = 0.01
            waiting = left

    def _try(self, name: str) -> bool:
        """Whether a shard is settled, which this worker does if nobody else has it."""
        if is_settled(self.plan, name):
            return True
        try:
            lease = take(self.plan.folder / "leases", name, self.terms.run, self.terms.lease_s)
            if lease is None:
                return False
            with lease:
                if not is_settled(self.plan, name):  # by the one that had the lease before
                    self._settle(name, lease)
        except OSError as error:
            raise _explained(error, self.plan) from None
        return is_settled(self.plan, name)

    def _settle(self, name: str, lease: Lease) -> None:
        clear(self.plan, name)
        deaths = lease.deaths(self.terms.run)
        if deaths < DEATHS:
            made = make(self.plan, name, self._ready())
        else:
            made = Made(None, 0, [letter(name, None, f"{deaths} workers died in the middle of it")])
        commit(self.plan, name, made, lease)
        if made.letters:
            check_failures(self.plan, self.terms.max_failures)

    def _ready(self) -> Stage:
        if not self._made:
            try:
                self._stage = self._stage(copy.deepcopy(self.plan.config))
            except Exception as error:
                raise RuntimeError(f"`stage` {self._stage.__name__} could not be made: {error!r}") from error
            self._made = True
        return self._stage


def check_failures(plan: Plan, most: int) -> None:
    """Raise TooManyFailures where a plan has more than `most` dead letters."""
    found = dead_letters(plan)
    if len(found) > most:
        last = found[-1]
        raise TooManyFailures(
            f"{len(found)} rows, files or shards failed, `max_failures` allows {most}; one is {last['key'] or 'all'} "
            f"of shard {last['shard']}: {last['reason']}. All are in {plan.folder / 'failed'}"
        )


ERRORS = {"ValueError": ValueError, "TooManyFailures": TooManyFailures, "RuntimeError": RuntimeError}


def told(error: BaseException) -> dict[str, Any]:
    """An error that ended a worker, as plain values that can be sent to where it is raised again."""
    if is_full(error):
        return {"kind": "OSError", "errno": error.errno, "text": error.strerror}
    if isinstance(error, ValueError | TooManyFailures):
        kind = "ValueError" if isinstance(error, ValueError) else "TooManyFailures"
        return {"kind": kind, "text": str(error)}
    return {"kind": "RuntimeError", "text": "".join(traceback.format_exception(error)).strip()}


def untold(error: dict[str, Any]) -> Exception:
    """The error that `told` told of."""
    if error["kind"] == "OSError":
        return OSError(error["errno"], error["text"])
    return ERRORS[error["kind"]](error["text"])


def _explained(error: OSError, plan: Plan) -> OSError:
    if not is_full(error):
        return error
    where = error.filename or plan.folder
    return OSError(
        error.errno,
        f"{error.strerror} at {where}: the run ended, what was done stays. Make room and run the stage again",
    )

"""Leases: which worker works on which shard, on one machine or on many that share a folder.

`<plan>/leases/<shard>.<n>` is the n-th claim to a shard, made by exactly one worker and never changed. The newest one
counts. While its worker lives, it renews the file's time; where a worker is gone, or has been silent for longer than
its lease, another may make the next claim.
"""

import json
import os
import secrets
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from wm_pipelines.runtime.files import create
from wm_pipelines.runtime.readers import decode_text, parse_json


class Lease:
    """A claim that is renewed in the background while the block runs, and given up after it."""

    def __init__(self, folder: Path, name: str, number: int, token: str, lease_s: float):
        self.folder, self.name, self.number, self.token, self.lease_s = folder, name, number, token, lease_s
        self._ended = threading.Event()

    def __enter__(self) -> "Lease":
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        if self.ours():
            # ours last: as long as it is there, nobody takes an older one for the newest
            for number in sorted(_claims(self.folder, self.name)):
                _path(self.folder, self.name, number).unlink(missing_ok=True)

    def ours(self) -> bool:
        """Whether this is still the newest claim to the shard."""
        claims = _claims(self.folder, self.name)
        if not claims or max(claims) != self.number:
            return False
        claim = _read(_path(self.folder, self.name, self.number))
        return claim is not None and claim.get("token") == self.token

    def deaths(self, run: str) -> int:
        """How many workers of a run died with this shard in their hands."""
        earlier = [n for n in _claims(self.folder, self.name) if n < self.number]
        claims = [_read(_path(self.folder, self.name, n)) for n in earlier]
        return sum(claim is not None and claim.get("run") == run for claim in claims)

    def _renew(self) -> None:
        while not self._ended.wait(self.lease_s / 4):
            try:
                os.utime(_path(self.folder, self.name, self.number))
            except OSError:
                return


def take(folder: Path, name: str, run: str, lease_s: float) -> Lease | None:
    """The lease of a shard, or None while another worker has it.

    Args:
        folder: where leases lie. run: what the workers of one run have in common.
        lease_s: seconds of silence after which others may take the worker for dead.
    """
    number = max(_claims(folder, name), default=0)
    if number and not _dead(_path(folder, name, number)):
        return None
    token = secrets.token_hex(8)
    claim = {"run": run, "token": token, "lease_s": lease_s, **_me()}
    try:
        # a name that is there already is refused: of several who take the shard at once, one makes the next claim
        made = create(_path(folder, name, number + 1), json.dumps(claim).encode(), durable=False)
    except FileNotFoundError:  # the folder was cleared away: all is done
        return None
    return Lease(folder, name, number + 1, token, lease_s) if made else None


def has_lease(folder: Path, pid: int) -> bool:
    """Whether a process of this machine has a claim."""
    claims = [_read(path) for path in folder.glob("[0-9]*")]
    return any(claim and (claim["pid"], claim["place"]) == (pid, _place()) for claim in claims)


def _path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}.{number}"


def _claims(folder: Path, name: str) -> list[int]:
    return [int(path.suffix[1:]) for path in folder.glob(f"{name}.*")]


def _read(path: Path) -> dict[str, Any] | None:
    """A claim; None where it was given up, and nothing in it where a machine lost its power over it."""
    try:
        found = parse_json(decode_text(path.read_bytes()))
        return _Claim.model_validate(found).model_dump()
    except FileNotFoundError:
        return None
    except ValueError:  # of which pydantic's is one
        return {}


class _Claim(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    run: str
    token: str
    lease_s: float
    place: str
    pid: int
    started: str | None


def _dead(path: Path) -> bool:
    """Whether the worker that made a claim is gone, or was silent for longer than its lease."""
    claim = _read(path)
    if not claim:
        return claim is not None
    if claim["place"] and claim["place"] == _place() and _started(claim["pid"]) != claim["started"]:
        return True
    try:
        changed = path.stat().st_mtime
        # by our own clock first, for the folder's takes a file to ask
        return time.time() - changed > claim["lease_s"] and _now(path.parent) - changed > claim["lease_s"]
    except FileNotFoundError:
        return False


def _now(folder: Path) -> float:
    """The time by the clock of a folder, for those of machines differ."""
    probe = folder / f".{secrets.token_hex(8)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _me() -> dict[str, Any]:
    return {"place": _place(), "pid": os.getpid(), "started": _started(os.getpid())}


@cache
def _place() -> str:
    """Where a number of a process means the same: a start of the system, and what it counts processes in."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # only the time tells there
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine began, for numbers are used again; None where there is none that lives."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]

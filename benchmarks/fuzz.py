"""Does any file make a reader answer with anything but success or one clear error? Mutated inputs for every reader.

    python benchmarks/fuzz.py --inputs 10000          # prints the table, adds rows to results/fuzz.jsonl; 1 if a fault
    python benchmarks/fuzz.py --only json --inputs 300 --show

The readers and their whole files are in `fuzz_readers.py`, one line each. Input i of a reader is a function of (seed,
reader, i): a whole file, changed by one to four of the ways below. A child process reads it under limits of time and
memory; it is started anew when it dies. Faults are counted by where they were raised.
"""

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_inside
import numpy as np
import records
import torch

from wm_pipelines.runtime.random import keyed

SECONDS, MEMORY = 20, 2 * 2**30
"""Processor time of one input, and bytes that a child may take beyond what it started with."""

LONGEST_MESSAGE = 4000
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect", "pty.spawn")
WEIRD = (None, True, -1, 0, 1, 2**31, 2**63, 10**40, 1.5, 1e308, "", "4", "../x", "/etc/passwd", "\0", "x" * 5000,
         [], {}, [[]], [None], {"": None}, "NaN", "日本", [[[[[[]]]]]])  # fmt: skip
PIECES = tuple(
    piece.encode()
    for piece in ("\0", "\ufeff", "[" * 500, "{" * 500, "1e999", "NaN", "-Infinity", "9" * 400, '"', "'", "\n", "\r",
                  ",", "\t", ": ", "- ", "&a *a", "!!python/object/apply:os.system [true]", "../../x", "\\ud800",
                  "null", "<script>", "%s%n", "-1", "0", "\x1b", "é", "true", "[]", "{}")
) + (b"\xff\xfe", b"\xff\xff\xff\xff", b"\x00" * 64, b"\x80")  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Args:
        name: of the row. read: takes the path of a file, or of the folder that it lies in if `folder` is given.
        seeds: whole files. suffix: of the file's name.
        folder: a whole folder; then `seeds` are made of its small files, and one of them is changed in place.
        share: of the inputs asked for; less for folders of whole models, which take a hundred times as long.
    """

    name: str
    read: Callable[[Path], Any]
    seeds: tuple[bytes, ...] = ()
    suffix: str = ""
    folder: Path | None = None
    share: float = 1.0


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The file changed in one to four ways; half of them keep its form."""
    ways = FITTING if rng.random() < 0.5 else WAYS
    for _ in range(int(rng.integers(1, 5))):
        way = ways[int(rng.integers(len(ways)))]
        data = way(data, rng)[: 2**21]
    return data


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(len(data), size=int(rng.integers(1, 9))) if data else ():
        changed[at] = int(rng.integers(256))
    return bytes(changed)


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _drop(data: bytes, rng: np.random.Generator) -> bytes:
    begin, end = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:begin] + data[min(end, begin + 64) :]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    begin, end = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:end] + data[begin:end] * int(rng.integers(1, 20)) + data[end:]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + PIECES[int(rng.integers(len(PIECES)))] + data[at:]


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    """Another number in the place of one that is written in digits, or of four bytes."""
    places = [at for at in range(len(data)) if data[at : at + 1].isdigit()][:4000]
    if not places or rng.random() < 0.3:
        at = int(rng.integers(len(data) + 1))
        value = (0, 1, 2**31 - 1, 2**32 - 1, 2**16)[int(rng.integers(5))]
        order = "little" if rng.random() < 0.5 else "big"
        return data[:at] + value.to_bytes(4, order) + data[at + 4 :]
    at = places[int(rng.integers(len(places)))]
    new = (b"0", b"-1", b"1e999", b"9" * 30, b"9" * 5000, b"0.5", b"NaN", b"null", b'"4"')[int(rng.integers(9))]
    return data[:at] + new + data[at + 1 :]


def _value(data: bytes, rng: np.random.Generator) -> bytes:
    """A value of another kind somewhere in a JSON text, on one of its lines, or in the YAML that it is."""
    start, end = fuzz_inside.json_part(data, rng)
    text, dump = data[start:end], json.dumps
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        tree, dump = fuzz_inside.yaml_tree(text), fuzz_inside.yaml_text
        if tree is None:
            return _insert(data, rng)
    places = list(_places(tree))
    new = WEIRD[int(rng.integers(len(WEIRD)))]
    if places:
        holder, key = places[int(rng.integers(len(places)))]
        chance = rng.random()
        if chance < 0.2 and isinstance(holder, dict):
            holder.pop(key)
        elif chance < 0.35 and isinstance(holder, dict):
            holder[str(new)[:50]] = holder.pop(key)
        elif chance < 0.45:
            other, name = places[int(rng.integers(len(places)))]
            new = json.loads(json.dumps(other.get(name) if isinstance(other, dict) else other[name % len(other)]))
            holder[key] = new
        elif chance < 0.55 and isinstance(holder, list):
            holder[:] = holder[:key] + [holder[key]] * int(rng.integers(3)) + holder[key + 1 :]
        else:
            holder[key] = new
    return data[:start] + dump(tree if places else new).encode() + data[end:]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    left = [tree] if isinstance(tree, dict | list) else []
    while left:
        here = left.pop()
        for key, value in list(here.items() if isinstance(here, dict) else enumerate(here)):
            yield here, key
            if isinstance(value, dict | list):
                left.append(value)


def _within(data: bytes, rng: np.random.Generator) -> bytes:
    """What a container holds (gzip, ZIP, PNG, GLB, safetensors), changed and packed again with sums that fit."""
    return fuzz_inside.changed(data, lambda part: ANY[int(rng.integers(len(ANY)))](part, rng), rng)


ANY = (_flip, _cut, _drop, _repeat, _insert, _number)
WAYS = (*ANY, _value, _within)
FITTING = (_value, _value, _value, _within)
"""Ways that leave the form of a file as it was, so that its meaning is attacked."""


def inputs(reader: Reader, seed: int, count: int, first: int = 0) -> Iterator[tuple[int, str, bytes]]:
    """(number, file in the folder, bytes) of the inputs `first` to `count`."""
    files = sorted(reader.folder.rglob("*")) if reader.folder else []
    small = [path for path in files if path.is_file() and path.stat().st_size < 2**20 and path.suffix != ".md"]
    for number in range(first, count):
        rng = keyed("fuzz", seed, reader.name, number)
        if reader.folder:
            path = small[int(rng.integers(len(small)))]
            yield number, str(path.relative_to(reader.folder)), mutated(path.read_bytes(), rng)
        else:
            yield number, "", mutated(reader.seeds[int(rng.integers(len(reader.seeds)))], rng)


def attack(reader: Reader, seed: int, count: int, work: Path) -> dict[str, Any]:
    """One row: outcomes of `count` inputs, and the sites of the faults, each with the number of its first input."""
    outcomes: Counter[str] = Counter()
    sites: dict[str, list[int]] = {}
    next_one = 0
    while next_one < count:
        for number, said in _child(reader, seed, count, next_one, work):
            next_one = number + 1
            outcomes[said.partition(":")[0]] += 1
            if said not in ("read", "refused"):
                sites.setdefault(said, []).append(number)
    faults = {site: {"times": len(at), "first": at[0]} for site, at in sorted(sites.items())}
    return {"reader": reader.name, "seed": seed, "inputs": count, "outcomes": dict(outcomes), "sites": faults}


def whole_files(reader: Reader, work: Path) -> list[str]:
    """What the reader says of its own whole files; anything but "read" makes its row worthless."""
    if reader.folder:
        return [outcome(lambda: reader.read(reader.folder))]
    return [outcome(lambda data=data: reader.read(_place(reader, work, "", data))) for data in reader.seeds]


def _child(reader: Reader, seed: int, count: int, first: int, work: Path) -> Iterator[tuple[int, str]]:
    """What a child says about each input, until it has read all or died of one.

    It says so in a file, so that no two processes wake one another for each input.
    """
    told = work / "told"
    told.write_bytes(b"")
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # those of the parent are not in its child
            _read_all(reader, seed, count, first, work, os.open(told, os.O_WRONLY | os.O_APPEND))
        finally:
            os._exit(0)
    began = since = time.monotonic()
    size, status, late = 0, None, False
    while status is None and not late:
        time.sleep(0.02 if time.monotonic() - began < 1 else 0.5)
        ended, found = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(found) if ended else None
        if told.stat().st_size > size:
            size, since = told.stat().st_size, time.monotonic()
        late = time.monotonic() - since > 6 * SECONDS
    if late:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    answers = told.read_text().splitlines()
    yield from enumerate(answers, first)
    if first + len(answers) < count:
        yield first + len(answers), "time: killed" if late or status == -signal.SIGXCPU else f"crash: status {status}"


def _read_all(reader: Reader, seed: int, count: int, first: int, work: Path, send: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    warnings.simplefilter("ignore")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**26, 2**26))
    ran: list[str] = []
    sys.addaudithook(lambda event, _: ran.append(event) if event in FORBIDDEN else None)
    signal.signal(signal.SIGVTALRM, _too_long)
    for _, name, data in inputs(reader, seed, count, first):
        path = _place(reader, work, name, data)
        ran.clear()
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        said = outcome(lambda path=path: reader.read(path))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        os.write(send, (f"ran: {ran[0]}" if ran else said).encode() + b"\n")


class _TooLong(BaseException):
    """Not an Exception, so that no reader takes it for its own."""


def _too_long(*_: Any) -> None:
    raise _TooLong


def outcome(read: Callable[[], Any]) -> str:
    """ "read", "refused" (one clear error), or the kind of a fault and where it was raised."""
    try:
        read()
    except _TooLong:
        return "time: more than the limit"
    except MemoryError as error:
        return f"memory: {_site(error)}"
    except (ValueError, OSError) as error:
        clear = type(error) is not UnicodeDecodeError and 0 < len(str(error)) < LONGEST_MESSAGE
        return "refused" if clear else f"unclear: {type(error).__name__} {_site(error)}"
    except Exception as error:
        return f"fault: {type(error).__name__} {_site(error)}"
    return "read"


def _site(error: BaseException) -> str:
    """The last line of ours in the traceback, and the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "wm_pipelines" in frame.filename] or frames[-1:]
    names = [f"{Path(f.filename).name}:{f.lineno}" for f in (ours[-1], frames[-1])]
    return " ".join(dict.fromkeys(names))


def _place(reader: Reader, work: Path, name: str, data: bytes) -> Path:
    """Write an input; in a folder whose other files are links to the whole ones."""
    if reader.folder is None:
        path = work / f"input{reader.suffix}"
        path.write_bytes(data)
        return path
    copy = work / "folder"
    last = work / "last"
    if not copy.exists():
        for path in reader.folder.rglob("*"):
            if path.is_file():
                own = copy / path.relative_to(reader.folder)
                own.parent.mkdir(parents=True, exist_ok=True)
                own.write_bytes(path.read_bytes())
    if last.exists():
        before = last.read_text()
        (copy / before).write_bytes((reader.folder / before).read_bytes())
    last.write_text(name)
    (copy / name).write_bytes(data)
    return copy


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| reader | inputs | read | refused | faults | distinct sites |", "|---|---|---|---|---|---|"]
    for row in rows:
        found = row["outcomes"]
        faults = row["inputs"] - found.get("read", 0) - found.get("refused", 0)
        told = (row["reader"], row["inputs"], found.get("read", 0), found.get("refused", 0), faults, len(row["sites"]))
        lines.append("| " + " | ".join(map(str, told)) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="for each reader, less for those with a `share`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose names hold this; several with commas")
    parser.add_argument("--show", action="store_true", help="the sites of the faults, with the first input of each")
    parser.add_argument("--out", type=Path, default=records.RESULTS / "fuzz.jsonl")
    args = parser.parse_args(arguments)
    import fuzz_readers

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for reader in fuzz_readers.readers(Path(temporary)):
            if not any(part in reader.name for part in args.only.split(",")):
                continue
            work = Path(temporary) / f"work-{len(rows)}"
            work.mkdir()
            if set(whole := whole_files(reader, work)) != {"read"}:
                print(f"    {reader.name}: its whole files are not read: {whole}", flush=True)
            rows.append(attack(reader, args.seed, max(1, round(args.inputs * reader.share)), work))
            records.append(args.out, rows[-1] | records.environment())
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            if args.show:
                for site, told in rows[-1]["sites"].items():
                    print(f"    {site}: {told['times']} times, first input {told['first']}", flush=True)
    return int(any(row["sites"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

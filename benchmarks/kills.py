"""Is anything lost when a command that replaces a result is killed? Every command below, killed at every moment.

    python benchmarks/kills.py                      # prints the table, rewrites results/kills.jsonl; status 1 if lost
    python benchmarks/kills.py --only seal --most 20

A moment is one change of the disk: the child is killed (SIGKILL) just before its n-th, for every n (evenly chosen
ones beyond `--most`), and then `--random` times by the clock. After each kill the result must be the old one or the
new one, whole; the next run must make the new one and leave nothing hidden beside it.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import records

Step = Callable[[Path, int], Any]
"""Writes version 0 or 1 of a result to a path."""

CHANGES = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "shutil.rmtree",
                     "ctypes.dlsym"})  # fmt: skip
TIMES = ("seconds", "wall_time_s", "time")


def cases(work: Path) -> dict[str, Step]:
    """Every command that replaces a result, ready to be called; a new one is one more entry."""
    import torch
    from PIL import Image

    from wm_pipelines.comclip import run as comclip
    from wm_pipelines.diorama.sheet import write_sheet
    from wm_pipelines.hub import EMBEDDED_ROOT
    from wm_pipelines.hub.sealing import seal_run
    from wm_pipelines.media.pictures import save_image
    from wm_pipelines.pipeline import AutoWMPipeline

    small = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    photo = save_image(small[0], work / "photo.png")
    cpl, adapted = (AutoWMPipeline.from_pretrained(name) for name in ("cpl", "kadaptation"))
    scorer = comclip.load("comclip")
    comclip.load = lambda base: scorer
    texts = ("a red cube left of a blue sphere", "a green cone behind a cube")

    def half(pipeline: Any, version: int) -> Any:
        return pipeline.to("cpu", (torch.float32, torch.float16)[version])

    def seal(out: Path, version: int) -> Any:
        return seal_run(_run(work / f"run-{version}", EMBEDDED_ROOT / "diorama-judge", version), out)

    return {
        "run comclip": lambda out, v: comclip.run([photo], [texts[v]], out),
        "save_adapter (cpl)": lambda out, v: cpl.save_adapter(out, (torch.float32, torch.float16)[v]),
        "save_adapter (kadaptation)": lambda out, v: adapted.save_adapter(out, (torch.float32, torch.float16)[v]),
        "save_pretrained (cpl)": lambda out, v: half(cpl, v).save_pretrained(out),
        "save_pretrained (kadaptation)": lambda out, v: half(adapted, v).save_pretrained(out),
        "seal": seal,
        "diorama": lambda out, v: write_sheet(out, seed=v, size=16),
        "extract": lambda out, v: save_image(small[v], out / "map.png"),
        "train": lambda out, v: _train(out, v),
    }


def attack(name: str, step: Step, root: Path, most: int, clock: random.Random, by_clock: int) -> dict[str, Any]:
    """One command: how many kills there were, and after how many the result was neither the old nor the new one."""
    root.mkdir()
    states = []
    for version in (0, 1):
        _child(lambda version=version: step(root / f"v{version}" / "out", version))
        states.append(fingerprint(root / f"v{version}" / "out"))
    counted = root / "count"
    _prepare(root, counted)
    began = time.monotonic()
    moments = _count(lambda: step(counted / "out", 1), root / "moments", counted)
    whole = time.monotonic() - began
    chosen = range(1, moments + 1) if moments <= most else sorted(clock.sample(range(1, moments + 1), most))
    row = {"kind": "command", "command": name, "moments": moments, "kills": 0, "mixed": 0, "left": 0, "failed": 0}
    row |= {"new": 0, "what": []}
    for n, at in enumerate([*chosen, *[None] * by_clock]):
        folder = root / f"kill-{n}"
        _prepare(root, folder)
        child = _fork(lambda folder=folder: step(folder / "out", 1), folder, at)
        if at is None:
            time.sleep(clock.uniform(0, whole))
            os.kill(child, signal.SIGKILL)
        if _status(child) == 0:
            shutil.rmtree(folder)
            continue
        row["kills"] += 1
        state = fingerprint(folder / "out")
        row["mixed"] += state not in states
        row["new"] += state == states[1]
        if state not in states:
            row["what"].append([at, sorted(state)[:4] if state else "gone"])
        if _status(_fork(lambda folder=folder: step(folder / "out", 1), folder, 0)):
            row["failed"] += 1
        else:
            row["left"] += bool(hidden(folder)) or fingerprint(folder / "out") != states[1]
        shutil.rmtree(folder)
    shutil.rmtree(root)
    return row


def fingerprint(folder: Path) -> dict[str, str] | None:
    """Every file that is not hidden with the hash of what it says, times left out; None without the folder.

    Of a training run the export counts: its state and log may be any of those on the way.
    """
    folder = folder / "export" if (folder / "state").exists() else folder
    if not folder.exists():
        return None
    return {
        str(path.relative_to(folder)): hashlib.sha256(_said(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def hidden(folder: Path) -> list[str]:
    """What is hidden below a folder; the lock of a training run stays there, empty."""
    return [str(p) for p in folder.rglob(".*") if p.name != ".lock"]


def _said(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl", ".html"):
        kept = (line for line in data.splitlines() if not any(f'"{name}"'.encode() in line for name in TIMES))
        return b"\n".join(kept) if path.suffix != ".html" else b""
    return data


def _prepare(root: Path, folder: Path) -> None:
    shutil.copytree(root / "v0", folder)


def _fork(work: Callable[[], Any], folder: Path, kill_at: int | None) -> int:
    """A child that does `work`, and kills itself before its n-th change below `folder` (0 or None: never)."""
    child = os.fork()
    if child:
        return child
    status, told = 1, os.dup(2)
    try:
        left = kill_at or 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal left
            if left and _changes(event, arguments, folder):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        _quiet()
        work()
        status = 0
    except BaseException as error:  # a fork must never return into its parent's code
        os.write(told, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _changes(event: str, arguments: tuple, folder: Path) -> bool:
    return event in CHANGES and (event.startswith("ctypes") or str(folder) in " ".join(map(str, arguments[:2])))


def _count(work: Callable[[], Any], told: Path, folder: Path) -> int:
    """How many changes below `folder` the work makes."""
    seen = 0

    def counted() -> None:
        nonlocal seen

        def hook(event: str, arguments: tuple) -> None:
            nonlocal seen
            seen += _changes(event, arguments, folder)

        sys.addaudithook(hook)
        work()
        told.write_text(str(seen))

    _child(counted)
    return int(told.read_text())


def _child(work: Callable[[], Any]) -> None:
    if _status(_fork(work, Path("/"), None)):
        raise RuntimeError("the command failed without a kill")


def _status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _quiet() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    warnings.simplefilter("ignore")


def _run(folder: Path, weights: Path, version: int) -> Path:
    """What `wm train` leaves, with the weights of an embedded judge."""
    if not folder.exists():
        shutil.copytree(weights, folder / "export", ignore=shutil.ignore_patterns("wm_config.json", "README.md", ".*"))
        recipe = {"task": "diorama-judge", "seed": version, "options": {}}
        record = {"recipe": recipe, "seed": version, "steps": 5, "wall_time_s": 2.5, "stages": [{"event": "started"}]}
        (folder / "record.json").write_text(json.dumps(record))
        (folder / "log.jsonl").write_text('{"step": 5}\n')
    return folder


def _train(out: Path, version: int) -> None:
    """A run that goes on for two steps, whose export is the result."""
    from safetensors.torch import save_file
    from torch import nn

    from wm_pipelines.training import Recipe, Task, train

    class Line(Task):
        def __init__(self, recipe: Recipe) -> None:
            self.net = nn.Linear(4, 4)
            nn.init.ones_(self.net.weight), nn.init.zeros_(self.net.bias)

        def modules(self) -> dict[str, nn.Module]:
            return {"net": self.net}

        def loss(self, indices: list[int], step: int, noise: Any) -> dict[str, Any]:
            return {"loss": self.net(noise.randn(indices, (4,), "x")).square().mean()}

        def export(self, folder: Path) -> None:
            save_file(self.net.state_dict(), folder / "model.safetensors")

    recipe = Recipe(task="line", steps=2 + 2 * version, batch_size=2, save_every=1, lr=0.01)
    train(Line(recipe), recipe, out)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| command | moments | kills | old, new | mixed or gone | next run failed or left something |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        old = row["kills"] - row["new"] - row["mixed"]
        told = [row["command"], row["moments"], row["kills"], f"{old}, {row['new']}", row["mixed"]]
        lines.append("| " + " | ".join(map(str, [*told, row["failed"] + row["left"]])) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="commands whose names hold this")
    parser.add_argument("--most", type=int, default=60, help="moments of a command")
    parser.add_argument("--random", type=int, default=5, help="kills by the clock, in addition")
    parser.add_argument("--out", type=Path, default=records.RESULTS / "kills.jsonl")
    args = parser.parse_args(arguments)
    rows = []
    os.environ["WM_PROGRESS"] = "0"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        for name, step in cases(work).items():
            if not args.only or args.only in name:
                rows.append(attack(name, step, work / f"case-{len(rows)}", args.most, random.Random(7), args.random))
                print(table(rows[-1:]).splitlines()[-1], rows[-1]["what"][:5], flush=True)
    records.write(args.out, [row | records.environment() for row in rows])
    print(table(rows))
    return int(any(row["mixed"] or row["failed"] or row["left"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

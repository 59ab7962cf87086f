"""Does a server that runs for hours stay as it is? ComfyUI with every example in turn, interrupts and `/free`.

    COMFYUI_PATH=/path/to/ComfyUI COMFYUI_PYTHON=/its/python python benchmarks/soak.py --minutes 60
    python benchmarks/soak.py --minutes 10 --only wm_comclip wm_cpl    # quick ones, that come round often
    python benchmarks/soak.py --minutes 0 --commands 200          # `wm` commands alone

After each run the server's resident memory, threads and file handles are read from /proc, and a row goes to
`results/soak.jsonl`; the first quarter of the time is left out of the fit, for libraries load what they need then. The
claim: the slope of memory over time has an interval that holds 0 or ends below 1 MB a minute, no thread or handle is
left at the end, and `wm` leaves nothing behind. Status 1 if it does not hold. Of several ComfyUIs in COMFYUI_PATH the
first is taken.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import records
from PIL import Image

from wm_pipelines.runtime.random import keyed

ROOT = Path(__file__).parents[1]
NODES = ROOT / "tests" / "nodes"
COMMANDS = (["list"], ["diorama", "--size", "16"], ["diorama", "--pair", "--size", "16"], ["validate", "nowhere"])


def examples() -> dict[str, dict[str, Any]]:
    """The example workflows in the form that the server takes, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((NODES / "workflows").glob("*.json"))}


def renewed(prompt: dict[str, Any], turn: int) -> dict[str, Any]:
    """The workflow with other seeds, so that the server does not hand out what it has."""
    changed = json.loads(json.dumps(prompt))
    for node in changed.values():
        for name in ("seed", "noise_seed"):
            if isinstance(node["inputs"].get(name), int):
                node["inputs"][name] += turn  # what differs in an example goes on differing
    return changed


def state(process: int) -> dict[str, int]:
    """Resident bytes, threads and file handles of a process."""
    folder = Path(f"/proc/{process}")
    pages = int((folder / "statm").read_text().split()[1])
    return {
        "resident": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": len(list((folder / "task").iterdir())),
        "handles": len(list((folder / "fd").iterdir())),
    }


def soak(minutes: float, out: Path, only: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the examples for so long; every third run is interrupted, and after each memory is freed.

    Args:
        only: names of the examples to run; None: all.
    """
    rows: list[dict[str, Any]] = []
    prompts = examples()
    prompts = {name: prompts[name] for name in only or prompts}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        for name in _pictures(prompts):
            path = base / "input" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(len(name)).integers(0, 255, (96, 128, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        module = _from_tests("comfy_server")
        server = module.Comfy(base, _from_tests("comfy_homes").homes(os.environ)[0])
        try:
            began, turn = time.monotonic(), 0
            core = server.get("/system_stats")["system"]["comfyui_version"]
            while time.monotonic() - began < 60 * minutes:
                name = list(prompts)[turn % len(prompts)]
                try:
                    run = server.queue(renewed(prompts[name], turn))
                except module.Refused as error:  # its checkpoint is not here
                    print(f"{name} is left out: {str(error)[:200]}", flush=True)
                    del prompts[name]
                    continue
                interrupted = turn % 3 == 2
                if interrupted:
                    time.sleep(float(keyed("soak", turn).uniform(0.05, 3)))
                    server.request("/interrupt", {})
                status = server.result(run, 1200)["status"]
                said, about = status["messages"][-1]
                server.request("/free", {"unload_models": True, "free_memory": True})
                time.sleep(1)
                row = {"kind": "run", "comfyui": core, "example": name, "turn": turn, "interrupted": interrupted}
                row |= {"said": said}
                row |= {"error": about["exception_message"][:300]} if said == "execution_error" else {}
                rows.append(row | {"minutes": (time.monotonic() - began) / 60} | state(server.server.pid))
                records.append(out, rows[-1])
                print(f"{rows[-1]['minutes']:.1f} min {name} {said} {rows[-1]['resident'] / 1e6:.0f} MB", flush=True)
                print(*([rows[-1]["error"]] if "error" in rows[-1] else ()), end="", flush=True)
                turn += 1
        finally:
            server.close()
    return rows


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Slope of resident memory in MB a minute with its 95 % interval, by bootstrap over runs, and what was left."""
    last = rows[-1]["minutes"]
    kept = [row for row in rows if row["minutes"] > last / 4]
    at, size = (np.array([row[key] for row in kept], float) for key in ("minutes", "resident"))
    drawn = np.random.default_rng(0).integers(len(kept), size=(2000, len(kept)))
    slopes = [np.polyfit(at[d], size[d] / 1e6, 1)[0] for d in drawn if len(set(at[d])) > 2]
    low, high = np.quantile(slopes, (0.025, 0.975))
    middle = kept[: max(len(kept) // 4, 1)], kept[-max(len(kept) // 4, 1) :]
    left = {key: int(np.median([r[key] for r in middle[1]]) - np.median([r[key] for r in middle[0]]))
            for key in ("threads", "handles")}  # fmt: skip
    slope = float(np.polyfit(at, size / 1e6, 1)[0])
    return {
        "kind": "verdict", "comfyui": rows[0].get("comfyui"), "runs": len(rows), "minutes": round(last, 1),
        "slope": slope, "low": float(low), "high": float(high),
        "threads_left": left["threads"], "handles_left": left["handles"],
        "errors": sum(row["said"] == "execution_error" for row in rows),
        "holds": bool((low <= 0 <= high or high < 1) and max(left.values()) <= 0),
    }  # fmt: skip


def commands(times: int) -> dict[str, Any]:
    """`wm` commands one after another on one folder, each in a process forked from this one, where all is imported;
    what is hidden or besides the results afterwards."""
    from wm_pipelines import cli

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        statuses = []
        for n in range(times):
            given = COMMANDS[n % len(COMMANDS)]
            out = ["--out", str(work / "out"), "--seed", str(n)] if given[0] == "diorama" else []
            said = work / "said"
            child = os.fork()
            if not child:
                _command(cli.main, ["wm", *given, *out], work, said)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            if "Traceback" in said.read_text():
                raise RuntimeError(said.read_text())
            said.unlink()
        left = [str(p.relative_to(work)) for p in work.rglob("*") if p.name.startswith(".") or p.parent == work]
    left = [name for name in left if name != "out"]
    return {"kind": "commands", "times": times, "left": left, "statuses": sorted(set(statuses)), "holds": not left}


def _command(main: Callable[[], None], arguments: list[str], work: Path, said: Path) -> None:
    """Run a command in this process, a child, and end it."""
    status = 1
    try:
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.chdir(work)
        sys.argv = arguments
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Resident memory over time; interrupted runs hollow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3))
    for interrupted, face in ((False, "tab:blue"), (True, "none")):
        some = [row for row in rows if row["interrupted"] == interrupted]
        axes.scatter([r["minutes"] for r in some], [r["resident"] / 1e6 for r in some], s=18, facecolors=face,
                     edgecolors="tab:blue", label="interrupted" if interrupted else "to the end")  # fmt: skip
    axes.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, 1.1 * max(r["resident"] for r in rows) / 1e6))
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _pictures(prompts: dict[str, dict[str, Any]]) -> set[str]:
    nodes = [node for prompt in prompts.values() for node in prompt.values() if "image" in node["inputs"]]
    return {node["inputs"]["image"] for node in nodes if isinstance(node["inputs"]["image"], str)}


def _from_tests(name: str) -> ModuleType:
    spec = spec_from_file_location(f"wm_{name}", NODES / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--only", nargs="+", metavar="EXAMPLE", help="names of the examples to run; default: all")
    parser.add_argument("--commands", type=int, default=0, help="`wm` commands to run after the server")
    parser.add_argument("--out", type=Path, default=records.RESULTS / "soak.jsonl")
    args = parser.parse_args(arguments)
    made = []
    if args.minutes > 0:
        rows = soak(args.minutes, args.out, args.only)
        made.append(verdict(rows))
        plot(rows, args.out.with_suffix(".png"))
    if args.commands:
        made.append(commands(args.commands))
    for row in made:
        records.append(args.out, row | records.environment())
        print(json.dumps(row, indent=1))
    return int(not all(row["holds"] for row in made))


if __name__ == "__main__":
    sys.exit(main())

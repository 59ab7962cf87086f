"""What `import wm_pipelines` costs, and that it imports neither torch nor diffusers.

    python benchmarks/startup.py            # prints, rewrites results/startup.jsonl; exit status 1 if a claim fails

Each sample is `python -X importtime -c "import wm_pipelines"` in a process of its own.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "startup.jsonl"
HEAVY = ("torch", "diffusers")
LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \| ( *)(\S+)")


def import_times(statement: str = "import wm_pipelines") -> dict[str, int]:
    """Module -> cumulative microseconds, of every module that a fresh interpreter imports for `statement`."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True
    )
    return {m[4]: int(m[2]) for m in map(LINE.match, done.stderr.splitlines()) if m}


def heavy(modules: dict[str, int]) -> list[str]:
    """The heavy packages among the imported modules."""
    return [name for name in HEAVY if any(m == name or m.startswith(f"{name}.") for m in modules)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    samples = [import_times() for _ in range(args.repeats)]
    milliseconds = [s["wm_pipelines"] / 1000 for s in samples]
    found = sorted({name for s in samples for name in heavy(s)})
    row = {
        "benchmark": "startup",
        "statement": "import wm_pipelines",
        "heavy": found,
        "modules": len(samples[0]),
        "median_ms": round(statistics.median(milliseconds), 2),
        "milliseconds": [round(m, 2) for m in milliseconds],
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(row) + "\n", encoding="utf-8")
    print(f"import wm_pipelines: {row['median_ms']} ms (median of {len(samples)}), {row['modules']} modules")
    print(f"{' and '.join(HEAVY)}: {'IMPORTED: ' + ', '.join(found) if found else 'neither is imported'}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

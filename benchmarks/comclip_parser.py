"""How well the English parser reads captions: F1 over entities with their attributes and over relations.

On the 150 captions of `comclip_parser_captions/`, whose README is the guide that they were parsed by: half of them
written before the parser was seen, half while it was made. Claims: on the unseen half at least 0.90 overall and 0.80
for each phenomenon. The parser before it is read from the history (`--before`, a commit) and scored alike.

python benchmarks/comclip_parser.py [--before COMMIT] [--misses]
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from records import RESULTS, environment, read, verdict, verdict_lines, write

from wm_pipelines.text.parser import ParsedText, parse

CAPTIONS = Path(__file__).parent / "comclip_parser_captions"
HALVES = ("unseen", "seen")
OVERALL, EACH = 0.90, 0.80
BEFORE = "ceb5cef"  # the last commit whose parser read captions from left to right without clauses
Parser = Callable[[str], ParsedText]


def captions(half: str) -> list[dict[str, Any]]:
    """Rows {phenomenon, caption, entities, relations} of a half."""
    return read(CAPTIONS / f"{half}.jsonl")


def wanted(row: dict[str, Any]) -> tuple[Counter, Counter]:
    """Entities and relations of the parse by hand, in the form of `said`."""
    things = [_thing(" ".join(words)) for words in row["entities"]]
    names = [name for _, name in things] + [None]
    ends = [(names[-1 if a is None else a], verb, names[-1 if b is None else b]) for a, verb, b in row["relations"]]
    return Counter(things), Counter(ends)


def said(parsed: ParsedText) -> tuple[Counter, Counter]:
    """Entities as (words before the last in no order, last word), relations as (subject, verb, object) by last word.

    So whether a noun before the name ("kitchen table") stands in the name or among the attributes does not count.
    """
    things = {entity.id: _thing(entity.text) for entity in parsed.entities}
    names = {id: name for id, (_, name) in things.items()} | {None: None}
    return Counter(things.values()), Counter((names[r.subject], r.verb, names[r.object]) for r in parsed.relations)


def _thing(text: str) -> tuple[tuple[str, ...], str]:
    *before, name = text.split()
    return tuple(sorted(before)), name


def f1(rows: Sequence[dict[str, Any]], parser: Parser) -> float:
    """2·right / (said + wanted), entities and relations counted together over all rows."""
    right = total = 0
    for row in rows:
        for ours, theirs in zip(said(parser(row["caption"])), wanted(row), strict=True):
            right += (ours & theirs).total()
            total += ours.total() + theirs.total()
    return 2 * right / total


def scores(half: str, parser: Parser) -> dict[str, float]:
    """F1 of a half: "overall", and each phenomenon."""
    rows = captions(half)
    kinds = dict.fromkeys(row["phenomenon"] for row in rows)
    found = {"overall": f1(rows, parser)}
    return found | {kind: f1([row for row in rows if row["phenomenon"] == kind], parser) for kind in kinds}


def before(commit: str) -> Parser:
    """`parse` as it was at a commit, from the repository's history: text/parser.py with its text/words.py."""
    with tempfile.TemporaryDirectory() as folder:
        modules = {}
        for name in ("words", "parser"):
            path = Path(folder) / f"{name}_before.py"
            shown = ["git", "show", f"{commit}:wm_pipelines/text/{name}.py"]
            text = subprocess.run(shown, cwd=CAPTIONS, check=True, capture_output=True, text=True).stdout
            path.write_text(text.replace("from wm_pipelines.text import words as w", "import words_before as w"))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            modules[name] = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[name])
    return modules["parser"].parse


def milliseconds(parser: Parser) -> float:
    """Median time of a caption over both halves, after a first pass."""
    texts = [row["caption"] for half in HALVES for row in captions(half)]
    taken = []
    for text in texts * 3:
        began = time.perf_counter()
        parser(text)
        taken.append(time.perf_counter() - began)
    return 1000 * sorted(taken)[len(taken) // 2]


def claims(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The verdict on the unseen half."""
    now = {row["phenomenon"]: row["f1"] for row in rows if row["half"] == "unseen" and row["parser"] == "rules"}
    parts = {f"overall, at least {OVERALL}": (now["overall"], now["overall"] >= OVERALL)}
    parts |= {f"{k}, at least {EACH}": (v, v >= EACH) for k, v in now.items() if k != "overall"}
    return verdict("the rule parser reads captions that were written before it", parts, {"seeds": 1}, 1)


def misses(parser: Parser) -> None:
    """Prints what is missing (-) and what is too much (+) in each caption."""
    for half in HALVES:
        for row in captions(half):
            ours, theirs = said(parser(row["caption"])), wanted(row)
            if ours != theirs:
                print(f"{half}, {row['phenomenon']}: {row['caption']}")
                for mine, right in zip(ours, theirs, strict=True):
                    print("    -", list((right - mine).elements()), "+", list((mine - right).elements()))


def main(arguments: Sequence[str] | None = None) -> int:
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("--before", default=BEFORE, help="commit whose parser is scored beside")
    known.add_argument("--misses", action="store_true", help="print what is wrong instead of measuring")
    known.add_argument("--out", type=Path, default=RESULTS / "comclip_parser.jsonl")
    options = known.parse_args(arguments)
    if options.misses:
        misses(parse)
        return 0
    rows = []
    for name, parser in (("rules", parse), (f"before ({options.before})", before(options.before))):
        speed = milliseconds(parser)
        for half in HALVES:
            for kind, value in scores(half, parser).items():
                rows.append({"kind": "f1", "parser": name, "half": half, "phenomenon": kind, "f1": round(value, 4)})
        rows.append({"kind": "time", "parser": name, "median_ms": round(speed, 3)})
    found = claims([row for row in rows if row["kind"] == "f1"])
    write(options.out, [row | environment() for row in (*rows, found)])
    values = {(r["parser"], r["half"], r["phenomenon"]): r["f1"] for r in rows if r["kind"] == "f1"}
    parsers = list(dict.fromkeys(row["parser"] for row in rows))
    print(f"{'F1':<24}" + "".join(f"{half + ', ' + name:>26}" for half in HALVES for name in parsers))
    for kind in scores("unseen", parse):
        cells = (values[name, half, kind] for half in HALVES for name in parsers)
        print(f"{kind:<24}" + "".join(f"{cell:>26.3f}" for cell in cells))
    print({row["parser"]: row["median_ms"] for row in rows if row["kind"] == "time"}, "ms a caption")
    print("\n".join(verdict_lines([found], 1)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

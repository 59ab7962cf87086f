"""What VLM4D's published replies give with our extractor and statistics, beside what was printed or found before.

Needs a clone of ShijieZhou-UCLA/VLM4D (`--root`, or VLM4D_ROOT); only figures are kept, nothing of its text. Each
figure is compared with the one expected, and what does not reproduce is printed at the end.

python benchmarks/vlm4d_rescore.py --root /path/to/VLM4D
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from records import RESULTS, environment, write

from wm_pipelines.evaluation.mcq.compare import compare, leaderboard
from wm_pipelines.evaluation.mcq.figures import position_bias
from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.rows import Row
from wm_pipelines.evaluation.mcq.stress import stress
from wm_pipelines.vlm4d.data import BUCKETS, load_vlm4d
from wm_pipelines.vlm4d.predictions import read_predictions
from wm_pipelines.vlm4d.twins import offers_rotations, offers_sides

# Table 1 of 2508.02095 (chain of thought, %): ego, exo, directional, false positive, all; behind them, from the
# released replies: direct answers, all, and McNemar's p of one against the other as it was rounded (None: no replies)
TABLE = {
    "gemini-2.5-pro-preview-06-05_1fps": (64.6, 62.9, 54.8, 80.0, 62.0, 62.4, 0.66),
    "gpt-4o_32frame": (55.5, 62.1, 49.5, 53.3, 57.5, 54.6, 0.03),
    "Llama-4-Scout-17B-16E-Instruct_10frame": (48.6, 56.2, 53.2, 75.6, 54.1, 50.6, 0.003),
    "Llama-4-Maverick-17B-128E-Instruct-FP8_10frame": (52.6, 54.3, 53.2, 51.1, 53.6, 47.5, 0.0),
    "Qwen2.5-VL-72B-Instruct_1fps": (54.3, 52.5, 49.5, 80.0, 53.0, 51.2, 0.19),
    "claude-sonnet-4-20250514_20frame": (52.6, 52.1, 44.0, 86.7, 51.3, None, None),
    "InternVideo2_5_Chat_8B_1fps": (57.2, 50.5, 44.2, 46.7, 50.7, 50.0, 0.21),
    "grok-2-vision-latest_16frame": (48.8, 49.7, 49.2, 66.7, 49.8, 49.6, 0.91),
    "InternVL2_5-38B_4frame": (46.5, 50.1, 43.2, 57.8, 47.9, 49.6, 0.26),
    "VideoLLaMA3-7B_1fps": (49.4, 45.1, 42.8, 53.3, 45.9, 51.2, 0.0),
    "Qwen2-VL-72B-Instruct_1fps": (48.1, 43.0, 40.8, 73.3, 44.5, 43.8, 0.67),
    "Aria-Chat_8frame": (47.2, 44.0, 38.5, 71.1, 44.3, 42.8, 0.35),
    "Qwen2.5-VL-7B-Instruct_1fps": (42.3, 43.7, 43.5, 64.4, 43.8, 44.5, 0.67),
    "VideoLLaMA3-2B_1fps": (53.2, 42.5, 34.2, 55.6, 43.7, 43.8, 0.96),
    "InternVL2_5-8B_4frame": (39.0, 44.0, 40.8, 42.2, 42.0, 42.8, 0.64),
    "InternVideo2-Chat-8B_1fps": (35.6, 39.3, 43.0, 0.0, 38.2, 34.2, 0.008),
    "Phi-4-multimodal-instruct_16frame": (41.0, 35.4, 37.5, 11.1, 36.6, 42.5, 0.0),
    "Qwen2-VL-7B-Instruct_1fps": (36.1, 34.7, 40.5, 35.6, 36.3, 38.0, 0.26),
    "llava-onevision-qwen2-7b-ov-chat-hf_1fps": (36.7, 35.6, 37.8, 35.6, 36.3, 37.3, 0.50),
    "Phi-3.5-vision-instruct_16frame": (33.4, 38.8, 23.2, 37.8, 34.0, 34.9, 0.58),
    "deepseek-vl2_8frame": (33.6, 32.9, 31.8, 46.7, 33.1, 37.9, 0.0),
    "LLaVA-NeXT-Video-34B-hf_8frame": (29.6, 31.6, 24.5, 55.6, 30.1, 35.6, 0.0),
    "pixtral-12b_8frame": (32.3, 25.8, 24.2, 22.2, 27.0, 32.0, 0.0),
}
COUNTS = {"gemini": 1125, "gpt-4o": 1044, "Llama-4-Scout": 983, "Qwen2.5-VL-72B": 962, "Qwen2.5-VL-7B": 796}
# the 50 videos of DAVIS 2016 (Perazzi et al.), which the paper's table 3 is about
DAVIS_2016 = (
    "bear blackswan bmx-bumps bmx-trees boat breakdance breakdance-flare bus camel car-roundabout car-shadow car-turn "
    "cows dance-jump dance-twirl dog dog-agility drift-chicane drift-straight drift-turn elephant flamingo goat hike "
    "hockey horsejump-high horsejump-low kite-surf kite-walk libby lucia mallard-fly mallard-water motocross-bumps "
    "motocross-jump motorbike paragliding paragliding-launch parkour rhino rollerblade scooter-black scooter-gray "
    "soapbox soccerball stroller surf swing tennis train"
).split()
UNSURE = ("not sure", "not enough information in the scene to answer")


class Published:
    """Replies of the clone, and the list of figures as it grows."""

    def __init__(self, root: Path):
        self.folder = root / "processed_outputs_paper_results"
        self.items = load_vlm4d(root, videos=False)
        self.found: list[dict] = []
        self._read: dict[tuple, list[Row]] = {}

    def rows(self, kind: str, model: str, judged: bool = True) -> list[Row]:
        files = [self.folder / f"{subset}_mc_{kind}" / f"{model}.json" for subset in ("real", "synthetic")]
        key = kind, model, judged
        if key not in self._read:
            self._read[key] = [row for file in files for row in read_predictions(file, self.items, judged=judged)]
        return self._read[key]

    def models(self, kind: str) -> list[str]:
        return sorted(path.stem for path in (self.folder / f"real_mc_{kind}").glob("*.json"))

    def note(self, what: str, value: float, expected: float, within: float) -> None:
        holds = abs(value - expected) <= within + 1e-9
        self.found.append({"kind": "figure", "what": what, "value": round(float(value), 5), "expected": expected,
                           "within": within, "reproduced": bool(holds)})  # fmt: skip


def percent(values: Sequence[bool]) -> float:
    return 100 * float(np.mean(values))


def table(data: Published) -> None:
    for model, expected in TABLE.items():
        rows = data.rows("cot", model)
        for bucket, share in zip(BUCKETS, expected, strict=False):
            data.note(f"{model}, {bucket}", percent([r.correct for r in rows if r.facet == bucket]), share, 0.05)
        data.note(f"{model}, all", percent([r.correct for r in rows]), expected[4], 0.05)
        if expected[5] is not None:
            direct = data.rows("direct-output", model)
            data.note(f"{model}, direct", percent([r.correct for r in direct]), expected[5], 0.05)
            p = compare(rows, direct, allow_mismatch=True).test.p
            data.note(f"{model}, p of reasoning against none", p, expected[6], 0.005 if expected[6] >= 0.01 else 0.001)
    for start, count in COUNTS.items():
        model = next(name for name in TABLE if name.startswith(start))
        data.note(f"{model}, right answers", sum(r.correct for r in data.rows("cot", model)), count, 0)


def extractor(data: Published) -> None:
    for kind, total, share in (("cot", 41_768, 99.3), ("direct-output", 39_952, 99.98)):
        began = time.process_time()
        rows = {model: data.rows(kind, model, judged=False) for model in data.models(kind)}
        seconds = time.process_time() - began
        every = [row for some in rows.values() for row in some]
        agree = percent([row.correct == row.annotations["judged_correct"] for row in every])
        data.note(f"extractor, {kind}: replies", len(every), total, 0)
        data.note(f"extractor, {kind}: agreement", agree, share, 0.05 if kind == "cot" else 0.005)
        moved = {m: percent([r.correct for r in some]) - percent([r.correct for r in data.rows(kind, m)])
                 for m, some in rows.items()}  # fmt: skip
        most = max(moved, key=lambda m: abs(moved[m]))
        rest = max(abs(value) for m, value in moved.items() if m != most)
        asked_otherwise = sum(row.annotations["asked_otherwise"] for row in every)
        row = {"kind": "extractor", "replies": kind, "seconds": round(seconds, 2), "moves_most": most,
               "by": round(moved[most], 2), "next": round(rest, 2), "asked_otherwise": asked_otherwise,
               "stages": Counter(r.stage or "none" for r in every)}  # fmt: skip
        data.found.append(row)
        data.note(f"extractor, {kind}: seconds for {total:,} replies, under 10", seconds, 5, 5)


def ranks(data: Published) -> None:
    board = leaderboard([row for m in data.models("cot") for row in data.rows("cot", m)], allow_mismatch=True)
    data.note("adjacent ranks with p < .05, of 22", sum(r.p < 0.05 for r in board[:-1]), 5, 0)
    data.note("of these by Holm", sum(r.adjusted < 0.05 for r in board[:-1]), 1, 0)
    effects = [r.micro.design_effect for r in board]
    data.note("smallest design effect", min(effects), 0.97, 0.005)
    data.note("largest design effect", max(effects), 1.11, 0.005)
    data.note("first against second, p", board[0].p, 0.002, 0.0005)
    correct = {m: {row.uid: row.correct for row in data.rows("cot", m)} for m in TABLE}
    other = [np.mean([correct[a.model][u] != correct[b.model][u] for u in correct[a.model]])
             for a, b in zip(board, board[1:], strict=False)]  # fmt: skip
    data.note("smallest discordance of neighbours", min(other), 0.31, 0.005)
    data.note("largest discordance of neighbours", max(other), 0.44, 0.005)
    solved = percent([any(correct[m][u] for m in correct) for u in correct[board[0].model]])
    data.note("items that one model of 23 solves", solved, 99.1, 0.05)
    data.note("plurality vote, ties split", 100 * vote(data), 57.2, 0.05)


def vote(data: Published) -> float:
    said: dict[str, Counter] = {}
    for model in TABLE:
        for row in data.rows("cot", model):
            said.setdefault(row.uid, Counter())[row.letter] += row.letter is not None
    right = {item.uid: item.right for item in data.items}
    scores = []
    for uid, letters in said.items():
        most = [letter for letter, count in letters.items() if count == max(letters.values())]
        scores.append(np.mean([letter in right[uid] for letter in most]))
    return float(np.mean(scores))


def positions(data: Published) -> None:
    for model, kind, spread in (("gpt-4o_32frame", "direct-output", 0.097), ("gpt-4o_32frame", "cot", 0.017),
                                ("InternVideo2-Chat-8B_1fps", "direct-output", 0.136)):  # fmt: skip
        data.note(f"{model}, {kind}: RStd", position_bias(data.rows(kind, model))["rstd"], spread, 0.0005)
    found = position_bias(data.rows("direct-output", "gpt-4o_32frame"))
    data.note("gpt-4o, direct: says C", 100 * found["said"]["C"] / sum(found["said"].values()), 36, 0.5)
    data.note("gpt-4o, direct: recall of A", found["recall"]["A"], 0.43, 0.005)
    data.note("gpt-4o, direct: recall of C", found["recall"]["C"], 0.70, 0.005)


def texts(data: Published) -> None:
    items = data.items
    made = [item for item in items if item.subset == "synthetic"]
    gold = Counter(item.options[item.answer].lower() for item in made)
    offered = Counter(text.lower() for item in made for text in item.options.values())
    for text, right, shown in (("left", 198, None), ("right", 95, None), ("towards the camera", 34, 38),
                               ("not moving", 44, 436)):  # fmt: skip
        data.note(f"synthetic, {text!r} is right", gold[text], right, 0)
        if shown is not None:
            data.note(f"synthetic, {text!r} is offered", offered[text], shown, 0)
    sides = [item for item in items if item.facet == "directional"]
    left = percent([_left(item) in item.right for item in sides])
    data.note("always left, else right, else A: directional", left, 53.8, 0.05)
    unsure = [item for item in items for text in item.options.values() if text.lower() in UNSURE]
    data.note("options of not being sure", len(unsure), 65, 0)
    data.note("of these right", sum(item.options[item.answer].lower() in UNSURE for item in unsure), 0, 0)
    data.note("items with left and right", sum(offers_sides(item.options) for item in items), 1040, 0)
    data.note("items with both rotations", sum(offers_rotations(item.options) for item in items), 135, 0)
    letters = Counter(item.answer for item in items)
    for letter, share in zip("ABCD", (24.6, 24.0, 25.2, 26.3), strict=True):
        data.note(f"gold is {letter}", 100 * letters[letter] / len(items), share, 0.05)
    real = [item.family for item in items if item.subset == "real"]
    for kind, share in (("translational", 57), ("rotational", 21), ("counting", 18), ("false positive", 4)):
        data.note(f"real, {kind} (inferred)", percent([kind in family for family in real]), share, 1)


def _left(item: Item) -> str:
    of = {text.lower(): letter for letter, text in item.options.items()}
    return of.get("left") or of.get("right") or "A"


def blind(data: Published) -> None:
    runs = [stress(data.items, seed=seed) for seed in range(3)]
    means = [percent([bias.correct for bias in run]) for run in runs]
    data.note("text alone, mean of three dealings", np.mean(means), 56.2, 1)
    data.found.append({"kind": "stress", "accuracies": [round(m, 2) for m in means]})
    for name, expected in (("real", 52), ("directional", 69), ("false positive", 67.5)):
        some = [b.correct for run in runs for i, b in zip(data.items, run, strict=True) if name in (i.subset, i.facet)]
        data.note(f"text alone, {name}", percent(some), expected, 3.5 if name == "false positive" else 1)
    always = set.intersection(*({b.uid for b in run if b.correct} for run in runs))
    never = set.intersection(*({b.uid for b in run if not b.correct} for run in runs))
    data.note("items that text alone always solves", len(always), 880, 50)
    data.note("items that text alone never solves", len(never), 658, 50)
    for model, solved, unsolved in (("gemini-2.5-pro-preview-06-05_1fps", 62.8, 59.9), ("gpt-4o_32frame", 56.8, 57.0)):
        rows = data.rows("cot", model)
        data.note(f"{model}, always solved by text", percent([r.correct for r in rows if r.uid in always]), solved, 1)
        data.note(f"{model}, never solved by text", percent([r.correct for r in rows if r.uid in never]), unsolved, 1)


def feature_field(data: Published) -> None:
    for kind, right in (("direct-output", 52), ("cot", 79)):
        rows = [r for r in data.rows(kind, "InternVideo2-Chat-8B_1fps")
                if "/davis/" in r.cluster and Path(r.cluster).stem in DAVIS_2016]  # fmt: skip
        data.note(f"DAVIS 2016, {kind}: questions", len(rows), 214, 0)
        data.note(f"DAVIS 2016, {kind}: right", sum(r.correct for r in rows), right, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("--root", type=Path, default=os.environ.get("VLM4D_ROOT"))
    known.add_argument("--out", type=Path, default=RESULTS / "vlm4d_rescore.jsonl")
    options = known.parse_args(arguments)
    if options.root is None:
        known.error("give --root, a clone of ShijieZhou-UCLA/VLM4D")
    data = Published(options.root)
    for part in (extractor, table, ranks, positions, texts, blind, feature_field):
        part(data)
    figures = [row for row in data.found if row["kind"] == "figure"]
    fine = sum(row["reproduced"] for row in figures)
    data.found.append({"kind": "verdict", "claim": "the figures follow from the published replies", "figures":
                       len(figures), "reproduced": fine, "holds": fine == len(figures)})  # fmt: skip
    write(options.out, [data.found[-1] | environment(), *data.found[:-1]])
    for row in data.found:
        if row["kind"] in ("extractor", "stress"):
            print(row)
    print(f"{fine} of {len(figures)} figures reproduce. Those that do not:")
    for row in figures:
        if not row["reproduced"]:
            print(f"  {row['what']}: {row['value']:g}, expected {row['expected']:g} within {row['within']:g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What the models of the miniature world get right: test pairs, seen and held-out combinations apart.

    python benchmarks/diorama_world.py --out benchmarks/results/diorama_world.jsonl

A drawn picture is *right* if diorama-judge sees the same colours and shapes as in the true render, each centroid
within 1.5 pixels and each area within 15 %. *Preserved* is the share of the 8 x 8 cells in which the true pair hardly
differs where the drawn picture hardly differs from the source's reconstruction. Beside them: what the judge itself
misses on true renders, and controls (another pair's action, the source as it is, a black picture).
"""

import argparse
import json
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from records import append, environment, mean_interval

from wm_pipelines import AutoWMPipeline
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.metrics import look, matched
from wm_pipelines.dynamics.labelling import plain
from wm_pipelines.hub import embedded
from wm_pipelines.world_model.sampling import Sampling, draw_codes
from wm_pipelines.world_model.selection import score_codes

SETS = {"seen pairs": "iid", "held-out pairs": "held_out"}
COUNTS = (1, 2, 4, 8)
AWAY, AREA = 1.5, 0.15  # pixels; share
CELL, STILL = 8, 0.03  # pixels; mean difference of a channel below which a cell counts as unchanged
AIMS = {"dynamics": 0.90, "right": 0.75, "preserved": 0.95}


class Test:
    """Test pairs with their codes, and what the judge sees in the true next states."""

    def __init__(self, world, judge: DioramaJudge, composition: str, count: int):
        data = DioramaDataset("pairs", "test", composition, length=count)
        items = [data[n] for n in range(count)]
        self.before, self.after = (torch.stack([item["rgb"][n] for item in items]) for n in (0, 1))
        self.actions = [data.chain(n).phrases(0)[0] for n in range(count)]
        self.wordings = [[data.chain(n).phrases(seed)[0] for seed in range(9)] for n in range(count)]
        self.scenes = [item["states"][1] for item in items]
        sides = (self.before, self.after)
        self.source, self.target = (torch.cat([world.encode(p) for p in side.split(32)]) for side in sides)
        self.judge, self.world = judge, world
        self.seen = look(judge, self.after)
        self.redrawn = self.decode(self.source)

    def __len__(self) -> int:
        return len(self.actions)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.world.decode(some) for some in codes.split(64)])

    def right(self, pictures: torch.Tensor, rows: np.ndarray | None = None) -> np.ndarray:
        """Which pictures show the next state of their pair; `rows` names the pairs."""
        rows = np.arange(len(self)) if rows is None else rows
        return np.array([same(found, self.seen[n], pictures.shape[-1])
                         for n, found in zip(rows, look(self.judge, pictures), strict=True)])  # fmt: skip

    def preserved(self, pictures: torch.Tensor) -> float:
        """Of the places where nothing happened, the share in which the picture is as the source's reconstruction."""
        still = cells(self.before, self.after) < STILL
        return float((cells(pictures, self.redrawn) < STILL)[still].mean())

    def judge_misses(self) -> float:
        """Share of the true renders in which the judge doesn't see the colours and shapes that are there."""
        there = [Counter((o.colour, o.shape) for o in scene.objects) for scene in self.scenes]
        found = [Counter((f.colour, f.shape) for f in seen) for seen in self.seen]
        return float(np.mean([a != b for a, b in zip(there, found, strict=True)]))


def same(found: list, wanted: list, side: int) -> bool:
    couples = matched(found, wanted)
    return couples is not None and all(
        math.dist(a.centre, b.centre) * side <= AWAY and abs(a.area / b.area - 1) <= AREA for a, b in couples
    )


def cells(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    away = (first - second).abs().mean(1, keepdim=True)
    return torch.nn.functional.avg_pool2d(away, CELL)[:, 0].numpy()


@torch.no_grad()
def draw(test: Test, actions: list[str], count: int, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """`(n, count, h, w)` codes and their mean log-probabilities; pair n has seed n."""
    world, found = test.world, []
    grid = tuple(test.source.shape[1:])
    with world.reading():
        for rows in torch.arange(len(test)).split(8):
            prompts = [world.backend.sequences.forward_prompt(test.source[n], actions[n]) for n in rows.tolist()]
            how = Sampling(temperature)
            found.append(draw_codes(world.backend, prompts, None, grid, seeds=rows.tolist(), count=count, how=how))
    codes, likely = zip(*found, strict=True)
    return torch.cat(codes), torch.cat(likely)


@torch.no_grad()
def score(test: Test, dynamics, codes: torch.Tensor, actions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and margins `(n, N)` of the dynamics model."""
    parts = [score_codes(dynamics, test.source[rows], codes[rows], [actions[n] for n in rows.tolist()])
             for rows in torch.arange(len(test)).split(8)]  # fmt: skip
    scores, margins = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(margins)


def said(test: Test, dynamics) -> dict:
    """How often the dynamics model says the action, in one of nine wordings, and each word of the plainest at all."""
    actions = []
    for rows in torch.arange(len(test)).split(16):
        actions += dynamics.infer_codes(test.source[rows], test.target[rows], 32).actions
    right = np.array([plain(a) in map(plain, known) for a, known in zip(actions, test.wordings, strict=True)], float)
    verbs = [a.split()[:1] == known[0].split()[:1] for a, known in zip(actions, test.wordings, strict=True)]
    return {"exact": float(right.mean()), "ci95": mean_interval(right), "verb": float(np.mean(verbs))}


def picked(test: Test, dynamics) -> dict:
    """Right and preserved for N candidates by who picks, with controls, and how the margin tells right from wrong."""
    codes, likely = draw(test, test.actions, COUNTS[-1])
    scores, margins = score(test, dynamics, codes, test.actions)
    pictures = test.decode(codes.flatten(0, 1))
    rows = np.arange(len(test)).repeat(COUNTS[-1])
    right = test.right(pictures, rows).reshape(len(test), -1)
    by, out, each = {"dynamics": scores, "likelihood": likely, "first": None}, {}, np.arange(len(test))
    for who, values in by.items():
        for n in COUNTS:
            chosen = np.zeros(len(test), int) if values is None else values[:, :n].argmax(1).numpy()
            out[f"{who} {n}"] = {"right": float(right[each, chosen].mean()),
                                 "ci95": mean_interval(right[each, chosen].astype(float))}  # fmt: skip
            if n == 4:
                some = pictures.unflatten(0, (len(test), -1))[each, chosen]
                equal = (codes[each, chosen] == test.target).float().mean()
                out[f"{who} {n}"] |= {"preserved": test.preserved(some), "codes_equal": float(equal)}
    out |= {f"oracle {n}": {"right": float(right[:, :n].any(1).mean())} for n in COUNTS}
    other = test.actions[1:] + test.actions[:1]
    shuffled = draw(test, other, 1)[0][:, 0]
    out["another action"] = {"right": float(test.right(test.decode(shuffled)).mean())}
    out["source copied"] = {"right": float(test.right(test.redrawn).mean())}
    out["black"] = {"right": float(test.right(torch.zeros_like(test.before)).mean())}
    out["true codes"] = {"right": float(test.right(test.decode(test.target)).mean())}
    flat, hits = margins.flatten().numpy(), right.flatten()
    edges = np.quantile(flat, np.linspace(0, 1, 6))
    bins = [(flat >= low) & (flat <= high) for low, high in zip(edges, edges[1:], strict=False)]
    table = [{"margin": float(flat[some].mean()), "right": float(hits[some].mean())} for some in bins if some.any()]
    return {"picks": out, "margins": table, "accepted": float((flat > 0).mean())}


def probe(test: Test, world, dynamics) -> dict[str, dict[str, float]]:
    """Share of pairs in which a model prefers the truth to a wrong action or a wrong next picture; chance is half."""
    other = test.actions[1:] + test.actions[:1]
    random, copy = test.target.roll(1, 0), test.source
    both = (test.actions, other)
    true, wrong = (score(test, dynamics, test.target[:, None], actions)[0][:, 0] for actions in both)
    pictures = {"copy": copy, "random picture": random}
    found = {"another action": float((true > wrong).float().mean())}
    for name, codes in pictures.items():
        found[name] = float((true > score(test, dynamics, codes[:, None], test.actions)[0][:, 0]).float().mean())
    truth = likely(test, world, test.target, test.actions)
    drawn = {"another action": truth > likely(test, world, test.target, other)}
    for name, codes in pictures.items():
        drawn[name] = truth > likely(test, world, codes, test.actions)
    return {"dynamics": found, "world": {name: float(better.float().mean()) for name, better in drawn.items()}}


@torch.no_grad()
def likely(test: Test, world, codes: torch.Tensor, actions: list[str]) -> torch.Tensor:
    """Mean log-probability `(n,)` of given pictures under the world model."""
    said, found = world.backend.sequences, []
    with world.reading():
        for n in range(len(test)):
            prompt = said.forward_prompt(test.source[n], actions[n])
            state = world.backend.read([prompt[:-1]])
            found += world.backend.completion_scores(state, [prompt[-1:]], [said.body(codes[n])])
    return torch.stack([values.mean() for values in found])


def rollouts(world, dynamics, judge: DioramaJudge, count: int) -> list[float]:
    """Share of right states after one, two and three steps of chains, each from what the one before drew."""
    data = DioramaDataset("pairs", "test", "iid", length=count, states=4)
    right: list[list[bool]] = [[], [], []]
    for n in range(count):
        item, words = data[n], data.chain(n).phrases(0)
        generator = torch.Generator().manual_seed(n)
        steps = world.rollout(item["rgb"][0], words, 4, dynamics, generator, output_type="pt")
        found, wanted = look(judge, torch.cat([s.images[0] for s in steps])), look(judge, item["rgb"][1:])
        for step in range(3):
            right[step].append(same(found[step], wanted[step], 64))
    return [float(np.mean(values)) for values in right]


def cost(test: Test) -> dict[str, float]:
    """Token-forwards and seconds of eight candidates against eight calls with one."""
    world, out = test.world, {}
    for name, count, calls in (("eight at once", 8, 1), ("eight calls", 1, 8)):
        began, world.backend.forwards = time.process_time(), 0
        for call in range(calls):
            world(test.before[0], test.actions[0], count, generator=torch.Generator().manual_seed(call))
        out[name] = {"seconds": time.process_time() - began, "tokens": world.backend.forwards}
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="world-model", help="embedded name or folder")
    parser.add_argument("--dynamics", default="dynamics", help="embedded name or folder")
    parser.add_argument("--base", help="folder of their base, if not as recorded")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--chains", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    world, dynamics = (AutoWMPipeline.from_pretrained(name, base=args.base) for name in (args.world, args.dynamics))
    judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()
    for name, composition in SETS.items():
        test = Test(world, judge, composition, args.pairs)
        row = {"benchmark": "diorama_world", "set": name, "pairs": args.pairs, "aims": AIMS,
               "judge_misses": test.judge_misses(), "said": said(test, dynamics), **picked(test, dynamics),
               "probe": probe(test, world, dynamics)}  # fmt: skip
        if composition == "iid":
            best = row["picks"]["dynamics 4"]
            reached = {"dynamics": row["said"]["exact"], "right": best["right"], "preserved": best["preserved"]}
            row["holds"] = {name: value >= AIMS[name] for name, value in reached.items()}
            row |= {"rollouts": rollouts(world, dynamics, judge, args.chains), "cost": cost(test)}
        print(json.dumps(row, indent=1))
        if args.out:
            append(args.out, row | environment())


if __name__ == "__main__":
    main()

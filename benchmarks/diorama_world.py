"""What the models of the miniature world get right: test pairs, seen and held-out combinations apart.

    python benchmarks/diorama_world.py --out benchmarks/results     # diorama_world.jsonl, diorama_dynamics.jsonl

A drawn picture is *right* if diorama-judge sees the same colours and shapes as in the true render, each centroid
within 1.5 pixels and each area within 15 %. *Preserved* is the share of the 8 x 8 cells in which the true pair hardly
differs where the drawn picture hardly differs from the source's reconstruction. Beside them: what the judge itself
misses on true renders, and controls (another pair's action, no action, the source as it is, a black picture), what
the margin over the copy says, chains of four steps, and tokens and seconds of eight candidates against eight calls.
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
from wm_pipelines.diorama.action_words import parse, phrase
from wm_pipelines.diorama.actions import apply, inverse, look_the_same
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
STEPS = 4  # of a chain


class Test:
    """Test pairs with their codes, and what the judge sees in the true next states."""

    def __init__(self, world, judge: DioramaJudge, composition: str, count: int):
        data = DioramaDataset("pairs", "test", composition, length=count)
        items = [data[n] for n in range(count)]
        self.before, self.after = (torch.stack([item["rgb"][n] for item in items]) for n in (0, 1))
        self.chains = [data.chain(n) for n in range(count)]
        self.wordings = [[chain.phrases(seed)[0] for seed in range(9)] for chain in self.chains]
        self.actions = [known[0] for known in self.wordings]
        self.undone = [undoing(chain) for chain in self.chains]
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


def undoing(chain) -> str:
    """The words that would lead back, said of the first state; "" where they are the same or there are none."""
    try:
        words = phrase(inverse(chain.actions[0], chain.states[0]), chain.states[0])
    except ValueError:
        return ""
    return "" if words == chain.phrases(0)[0] else words


def leads(chain, words: str) -> bool:
    """Whether what is said of a chain's first state is an action that leads to its second one."""
    try:
        return look_the_same(apply(chain.states[0], parse(words, chain.states[0])), chain.states[1])
    except ValueError:
        return False


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
    """How often the dynamics model says the action: words that, read in the first state, lead to the second. Beside it
    how often they are one of nine wordings, and how often the verb is right."""
    actions = []
    for rows in torch.arange(len(test)).split(16):
        actions += dynamics.infer_codes(test.source[rows], test.target[rows], 32).actions
    right = np.array([leads(test.chains[n], words) for n, words in enumerate(actions)], float)
    listed = [plain(a) in map(plain, known) for a, known in zip(actions, test.wordings, strict=True)]
    verbs = [a.split()[:1] == known[0].split()[:1] for a, known in zip(actions, test.wordings, strict=True)]
    return {"exact": float(right.mean()), "ci95": mean_interval(right), "listed": float(np.mean(listed)),
            "verb": float(np.mean(verbs))}  # fmt: skip


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
    drawn = {"another action": test.actions[1:] + test.actions[:1], "no action": [""] * len(test)}
    for name, actions in drawn.items():
        alone = draw(test, actions, 1)[0][:, 0]
        out[name] = {"right": float(test.right(test.decode(alone)).mean()), "copies": copies(test, alone)}
    out["first 1"]["copies"] = copies(test, codes[:, 0])
    out["source copied"] = {"right": float(test.right(test.redrawn).mean())}
    out["black"] = {"right": float(test.right(torch.zeros_like(test.before)).mean())}
    out["true codes"] = {"right": float(test.right(test.decode(test.target)).mean())}
    return {"picks": out, "margins": calibration(margins.flatten().numpy(), right.flatten())}


def copies(test: Test, codes: torch.Tensor) -> float:
    """Share of the pictures `(n, h, w)` whose codes are the source's."""
    return float((codes == test.source).flatten(1).all(1).float().mean())


def calibration(margins: np.ndarray, right: np.ndarray) -> dict:
    """What the margin over the copy says of a candidate: how often it is right by fifths of the margin, where it is
    accepted and where not, and the chance that a right one has the larger margin (one half says nothing)."""
    edges = np.quantile(margins, np.linspace(0, 1, 6))
    bins = [(margins >= low) & (margins <= high) for low, high in zip(edges, edges[1:], strict=False)]
    passed, order = margins > 0, np.searchsorted(np.sort(margins[~right]), margins[right])
    ties = np.searchsorted(np.sort(margins[~right]), margins[right], side="right") - order
    wrong = int((~right).sum())
    return {
        "fifths": [{"margin": float(margins[some].mean()), "right": float(right[some].mean())} for some in bins],
        "accepted": float(passed.mean()),
        "right if accepted": float(right[passed].mean()) if passed.any() else None,
        "right if not": float(right[~passed].mean()) if not passed.all() else None,
        "right above wrong": float((order + ties / 2).mean() / wrong) if wrong and right.any() else None,
    }


def probe(test: Test, world, dynamics) -> dict[str, dict[str, float]]:
    """Share of pairs in which a model prefers the truth to a wrong action or a wrong next picture; chance is half."""
    other = test.actions[1:] + test.actions[:1]
    pictures = {"copy": test.source, "random picture": test.target.roll(1, 0)}
    by = {
        "dynamics": lambda codes, actions: score(test, dynamics, codes[:, None], actions)[0][:, 0],
        "world": lambda codes, actions: likely(test, world, codes, actions),
    }
    undone = [words or said for words, said in zip(test.undone, test.actions, strict=True)]
    known = torch.tensor([bool(words) for words in test.undone])
    found: dict[str, dict[str, float]] = {}
    for who, value in by.items():
        true = value(test.target, test.actions)
        better = {"another action": true > value(test.target, other)}
        better |= {name: true > value(codes, test.actions) for name, codes in pictures.items()}
        found[who] = {name: float(some.float().mean()) for name, some in better.items()}
        found[who]["inverse action"] = float((true > value(test.target, undone))[known].float().mean())
    return found | {"inverse actions": {"n": int(known.sum())}}


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


def rollouts(world, dynamics, judge: DioramaJudge, count: int) -> list[dict[str, float]]:
    """Share of right states after each step of chains, each from what the one before drew; beside it how often the
    picture is right whose source was drawn from the true state before."""
    data = DioramaDataset("pairs", "test", "iid", length=count, states=STEPS + 1)
    right = {"chained": np.zeros((count, STEPS)), "from the true state": np.zeros((count, STEPS))}
    for n in range(count):
        item, words = data[n], list(data.chain(n).phrases(0))
        wanted = look(judge, item["rgb"][1:])
        how = {"num_candidates": 4, "verifier": dynamics, "output_type": "pt"}
        steps = world.rollout(item["rgb"][0], words, generator=torch.Generator().manual_seed(n), **how)
        alone = world(list(item["rgb"][:-1]), words, generator=torch.Generator().manual_seed(n),
                      return_candidates=False, **how)  # fmt: skip
        pictures = {"chained": [s.images[0] for s in steps], "from the true state": alone.images}
        for name, some in pictures.items():
            found = look(judge, torch.cat(some))
            right[name][n] = [same(a, b, 64) for a, b in zip(found, wanted, strict=True)]
    return [
        {"step": step + 1, "ci95": mean_interval(right["chained"][:, step]),
         **{name: float(values[:, step].mean()) for name, values in right.items()}}
        for step in range(STEPS)
    ]  # fmt: skip


def cost(test: Test) -> dict:
    """Token-forwards and seconds of eight candidates against eight calls with one, and whether they are as they must
    be: the prompt read once, one token for each code, at most half of the time."""
    world, found = test.world, {}
    codes = test.source[0].numel()
    for name, count, calls in (("warm", 1, 1), ("eight at once", 8, 1), ("eight calls", 1, 8)):
        began, world.backend.forwards = time.process_time(), 0
        for call in range(calls):
            world(test.before[0], test.actions[0], count, generator=torch.Generator().manual_seed(call))
        found[name] = {"seconds": time.process_time() - began, "tokens": world.backend.forwards}
    once, eight = found.pop("warm"), found["eight at once"]
    prompt, share = once["tokens"] - codes, eight["seconds"] / found["eight calls"]["seconds"]
    holds = eight["tokens"] == prompt + 8 * codes and share <= 0.5
    return {**found, "prompt": prompt, "codes": codes, "share_of_time": share, "holds": holds}


def entry(task: str, name: str, metric: str, value: float, **figures) -> dict:
    """A figure as records of checkpoints hold it."""
    return {"task": task, "dataset": f"Diorama test pairs, {name}", "metric": metric, "value": round(value, 4),
            "seeds": [0], "command": "python benchmarks/diorama_world.py", **figures}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="world-model", help="embedded name or folder")
    parser.add_argument("--dynamics", default="dynamics", help="embedded name or folder")
    parser.add_argument("--base", help="folder of their base, if not as recorded")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--chains", type=int, default=100)
    parser.add_argument("--out", type=Path, help="folder for diorama_world.jsonl and diorama_dynamics.jsonl")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    world, dynamics = (AutoWMPipeline.from_pretrained(name, base=args.base) for name in (args.world, args.dynamics))
    judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()
    for name, composition in SETS.items():
        test = Test(world, judge, composition, args.pairs)
        words, likes = said(test, dynamics), probe(test, world, dynamics)
        of_words = entry("actions in words", name, "exact phrase", words["exact"], ci95=words["ci95"], n=len(test))
        row = {"benchmark": "diorama_dynamics", "set": name, "pairs": args.pairs, "aim": AIMS["dynamics"],
               "said": words, "probe": likes["dynamics"], "inverse_actions": likes["inverse actions"]["n"],
               "evaluation": [of_words]}  # fmt: skip
        if composition == "iid":
            row["holds"] = words["exact"] >= AIMS["dynamics"]
        say(row, args.out)
        row = {"benchmark": "diorama_world", "set": name, "pairs": args.pairs, "aims": AIMS,
               "judge_misses": test.judge_misses(), **picked(test, dynamics), "probe": likes["world"]}  # fmt: skip
        best, copied = row["picks"]["dynamics 4"], row["picks"]["source copied"]["right"]
        row["evaluation"] = [
            entry("next picture, N = 4", name, "exact next state", best["right"], ci95=best["ci95"], n=len(test),
                  baseline=copied),
            entry("next picture, N = 4", name, "preserved", best["preserved"], n=len(test)),
        ]  # fmt: skip
        if composition == "iid":
            row["holds"] = {key: best[key] >= AIMS[key] for key in ("right", "preserved")}
            row |= {"rollouts": rollouts(world, dynamics, judge, args.chains), "cost": cost(test)}
        say(row, args.out)


def say(row: dict, folder: Path | None) -> None:
    print(json.dumps({key: value for key, value in row.items() if key != "evaluation"}, indent=1))
    if folder:
        append(folder / f"{row['benchmark']}.jsonl", row | environment())


if __name__ == "__main__":
    main()

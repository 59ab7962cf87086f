"""The micro-experiment of the graph transformer: does attention along a graph help, and is it what the graph says?

    python benchmarks/graph_transformer.py                    # everything, about 8 core-hours; stop and start at will
    python benchmarks/graph_transformer.py --report           # only the report on what is there
    python benchmarks/graph_transformer.py --shard 0/2        # half of the seeds, beside another process with 1/2
    python benchmarks/graph_transformer.py --smoke            # under a minute, meaningless sizes, nothing kept

A stock ViLT of width 48 answers questions about facts and a picture (graph_world.py). All arms of a seed have the same
start, data, order and steps:

    a  the padding mask alone            d  G and the trained bias
    b  the graph G                       e  as d, with a random graph of equal density
    c  the trained bias λ·Ĝ              f  a relational graph net (R-GCN, arXiv 1703.06103) of equal size

on 500, 2,000 and 8,000 scenes, five seeds; at 2,000 also d with 10 and 30 % of the edges moved (d10, d30), without
ties between question and context (d-apart), and with the rule parser's graph (d-parser). A cell is one (arm, scenes,
seed).

The claim was fixed before any run: d is better than a by more than two standard errors at two sizes or more, and
better than e there. If only d is better than a, it is regularisation, not what the graph says.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import make_parser, of_shard, parse, run_cells, same_settings
from comclip_parser import scores
from graph_world import ANSWERS, GRID, KINDS, LONGEST, PATCH, WORDS, Data, edge_f1, make, sample
from records import RESULTS, append, environment, read, verdict, verdict_lines, write
from torch import nn
from torch.nn import functional

from wm_pipelines.graph_transformer.attention import Cells, quasi_attention
from wm_pipelines.graph_transformer.backbones import Inputs, ViltBackbone
from wm_pipelines.graph_transformer.modeling import QuasiAttentionModel
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.noise import randn
from wm_pipelines.runtime.random import keyed
from wm_pipelines.text.parser import parse as parse_text

SIZES: dict[str, Any] = {
    "width": 48, "layers": 3, "heads": 4, "steps": 3000, "batch": 48, "lr": 1e-3, "bias_rate": 1.0, "warmup": 100,
    "decay": 0.01, "init": 0.1, "test": 1000, "every": 250, "scenes": [500, 2000, 8000], "parsed": 300,
}  # fmt: skip
QUICK: dict[str, Any] = SIZES | {
    "width": 16, "layers": 1, "steps": 4, "batch": 8, "test": 24, "every": 2, "scenes": [16, 24, 32], "parsed": 4,
}  # fmt: skip
ARMS: dict[str, tuple[str, str | None, bool]] = {  # what it is, its graph, whether it has the trained bias
    "a": ("padding mask alone", None, False),
    "b": ("G", "true", False),
    "c": ("λ·Ĝ", None, True),
    "d": ("G + λ·Ĝ", "true", True),
    "e": ("random graph of equal density + λ·Ĝ", "random", True),
    "f": ("R-GCN of equal size", "true", False),
    "d10": ("G + λ·Ĝ, 10 % of the edges moved", "corrupt10", True),
    "d30": ("G + λ·Ĝ, 30 % of the edges moved", "corrupt30", True),
    "d-apart": ("G + λ·Ĝ, question and context not tied", "apart", True),
    "d-parser": ("G + λ·Ĝ, the rule parser's graph", "parser", True),
}
MAIN = ("a", "b", "c", "d", "e", "f")
TYPES = 6  # relations of the R-GCN: fact, mention, question, open, to the picture, within the picture
PICTURE = GRID * GRID + 1
GOOD = 0.8  # of the ceiling, which is 1: text and picture always tell

Cell = tuple[str, int, int]


def cells_of(arms: list[str], scenes: list[int], seeds: int) -> list[Cell]:
    """(arm, scenes, seed), seed by seed; arms that vary the graph at the middle size alone."""
    return [
        (arm, count, seed)
        for seed in range(seeds)
        for arm in arms
        for count in (scenes if arm in MAIN else scenes[1:2])
    ]


class Answerer(nn.Module):
    """A stock ViLT with the bias of an arm."""

    def __init__(self, sizes: dict[str, Any], trained: bool):
        from transformers import ViltConfig, ViltForQuestionAnswering

        super().__init__()
        config = ViltConfig(
            vocab_size=len(WORDS),
            hidden_size=sizes["width"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            intermediate_size=4 * sizes["width"],
            image_size=GRID * PATCH,
            patch_size=PATCH,
            max_position_embeddings=LONGEST,
            num_labels=len(ANSWERS),
            initializer_range=sizes["init"],
        )
        self.vilt = ViltForQuestionAnswering(config)
        self.bias = QuasiAttentionModel(LONGEST, PICTURE, sizes["heads"]) if trained else None
        self.there = torch.ones(1, GRID * PATCH, GRID * PATCH, dtype=torch.long)

    def forward(self, data: Data, rows: torch.Tensor) -> torch.Tensor:
        backbone = ViltBackbone(self.vilt)
        there = self.there.expand(len(rows), -1, -1)
        visual = (data.pixels[rows], there)
        embedded = backbone.embed(Inputs(data.ids[rows], data.mask[rows], data.types[rows], visual))
        allowed, valid = data.allowed[rows], data.valid[rows]
        cells = Cells(allowed, valid) if self.bias is None else self.bias.cells(allowed, valid, LONGEST)
        return backbone.encode(embedded, lambda layer: cells)[0]


class RelationalNet(nn.Module):
    """R-GCN: h' = norm(h + relu(W₀h + Σ_r mean over neighbours by relation r of W_r h)), read at the first token."""

    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        width = sizes["width"] + 16 if sizes["width"] >= 48 else sizes["width"]
        self.words = nn.Embedding(len(WORDS), width)
        self.places = nn.Parameter(0.02 * torch.randn(LONGEST + PICTURE, width))
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(sizes["layers"]))
        self.ties = nn.ModuleList(nn.Linear(width, TYPES * width, bias=False) for _ in range(sizes["layers"]))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(sizes["layers"]))
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, len(ANSWERS)))

    def forward(self, data: Data, rows: torch.Tensor) -> torch.Tensor:
        patches = self.patches(data.pixels[rows]).flatten(2).transpose(1, 2)
        whole = torch.zeros_like(patches[:, :1])
        hidden = torch.cat([self.words(data.ids[rows]), whole, patches], 1) + self.places
        kinds = data.relations[rows].long()
        kinds[:, :LONGEST, LONGEST:] = kinds[:, LONGEST:, :LONGEST] = 5
        kinds[:, LONGEST:, LONGEST:] = 6
        by_type = functional.one_hot(kinds, TYPES + 1)[..., 1:].permute(0, 3, 1, 2).float()
        by_type = by_type * data.valid[rows][:, None, None, :]
        by_type = by_type / by_type.sum(-1, keepdim=True).clamp_min(1)
        for own, ties, norm in zip(self.own, self.ties, self.norms, strict=True):
            told = ties(hidden).unflatten(-1, (TYPES, -1)).transpose(1, 2)  # (B, R, S, width)
            hidden = norm(hidden + functional.relu(own(hidden) + (by_type @ told).sum(1)))
        return self.head(hidden[:, 0])


def run_cell(cell: Cell, sizes: dict[str, Any]) -> dict[str, Any]:
    """Train and test one cell."""
    arm, count, seed = cell
    _, graph, trained = ARMS[arm]
    began = time.process_time()
    data, held = make(count, graph, "train", seed), make(sizes["test"], graph, "test", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = RelationalNet(sizes) if arm == "f" else Answerer(sizes, trained)
    curve = train(net, data, held, seed, sizes)
    right = answered(net, held)
    reached = next((step for step, accuracy in curve if accuracy >= GOOD), None)
    cut = (
        1
        - (held.allowed & held.valid[:, :, None])[:, :LONGEST, :LONGEST].sum()
        / (held.mask[:, :, None] * held.mask[:, None]).sum()
    )
    return {
        "kind": "cell", "arm": arm, "scenes": count, "seed": seed, "settings": sizes,
        "accuracy": float(right.float().mean()),
        "by_kind": {name: float(right[held.kinds == k].float().mean()) for k, name in enumerate(KINDS)},
        "curve": curve, "steps_to_good": reached, "parameters": sum(p.numel() for p in net.parameters()),
        "cut_share": round(float(cut), 4), "cpu_s": round(time.process_time() - began, 1), **environment(),
    }  # fmt: skip


def train(net: nn.Module, data: Data, held: Data, seed: int, sizes: dict[str, Any]) -> list[list[float]]:
    """AdamW with a warm-up; the accuracy on the held-out scenes every so many steps."""
    bias = [p for name, p in net.named_parameters() if name.startswith("bias.")]
    plain = [p for name, p in net.named_parameters() if not name.startswith("bias.")]
    groups = [{"params": plain, "weight_decay": sizes["decay"], "factor": 1.0}]
    groups += [{"params": bias, "weight_decay": 0.0, "factor": sizes["bias_rate"]}] if bias else []
    optimizer = torch.optim.AdamW(groups, lr=sizes["lr"], fused=True)
    curve: list[list[float]] = []
    order = reading_order(seed, len(data.targets), sizes["batch"] * sizes["steps"])
    for step in range(sizes["steps"]):
        net.train()
        rows = torch.from_numpy(order[step * sizes["batch"] : (step + 1) * sizes["batch"]])
        loss = functional.cross_entropy(net(data, rows), data.targets[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = sizes["lr"] * min(1.0, (step + 1) / sizes["warmup"]) * group["factor"]
        optimizer.step()
        if (step + 1) % sizes["every"] == 0:
            curve.append([step + 1, float(answered(net, held).float().mean())])
    return curve


def reading_order(seed: int, count: int, wanted: int) -> np.ndarray:
    """Row numbers of all steps: every epoch in an order of its own."""
    epochs = [keyed("graph micro order", seed, count, n).permutation(count) for n in range(-(-wanted // count))]
    return np.concatenate(epochs)[:wanted]


@torch.no_grad()
def answered(net: nn.Module, data: Data) -> torch.Tensor:
    """Which scenes are answered right, bool (N,)."""
    net.eval()
    parts = torch.arange(len(data.targets)).split(128)
    return torch.cat([net(data, rows).argmax(1) == data.targets[rows] for rows in parts])


def parser_row(sizes: dict[str, Any]) -> dict[str, Any]:
    """F1 of the rule parser: on captions that were parsed by hand, and on the run-on texts of this world."""
    scenes = [sample("test", 0, n) for n in range(sizes["parsed"])]
    captions = {half: scores(half, parse_text)["overall"] for half in ("unseen", "seen")}
    return {
        "kind": "parser", "settings": sizes, "captions": captions,
        "run_on": edge_f1(scenes), "n": len(scenes), **environment(),
    }  # fmt: skip


def equality_row(sizes: dict[str, Any], batch: int = 2, heads: int = 12, size: int = 185) -> dict[str, Any]:
    """Largest difference of SDPA with the bias from the explicit formula at ViLT-B/32's size, and of each gradient."""
    width = 64 if sizes["steps"] > 100 else 8
    q, k, v = (randn((batch, heads, size, width), "graph equality", name) for name in "qkv")
    allowed = (randn((batch, size, size), "graph equality", "allowed") > 0) | torch.eye(size, dtype=torch.bool)
    ghat = randn((heads, size, size), "graph equality", "ghat")
    weight, found = randn(tuple(q.shape), "graph equality", "weight"), []
    for backend in ("explicit", "sdpa"):
        given = [t.clone().requires_grad_(True) for t in (q, k, v, ghat)]
        cells = Cells(allowed, torch.ones(batch, size, dtype=torch.bool), given[3])
        out = quasi_attention(*given[:3], cells, backend)
        (out * weight).sum().backward()
        found.append([out.detach(), *(t.grad for t in given)])
    apart = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True)]
    return {
        "kind": "equality", "settings": sizes, "tokens": size,
        **dict(zip(("out", "q", "k", "v", "ghat"), apart, strict=True)), **environment(),
    }  # fmt: skip


class Results:
    """Accuracies by arm, number of scenes and seed."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows: dict[tuple[str, int], dict[int, dict]] = defaultdict(dict)
        for row in rows:
            if row["kind"] == "cell":
                self.rows[row["arm"], row["scenes"]][row["seed"]] = row
        self.scenes = sorted({count for _, count in self.rows})

    def values(self, arm: str, count: int) -> dict[int, float]:
        return {seed: row["accuracy"] for seed, row in sorted(self.rows.get((arm, count), {}).items())}

    def difference(self, one: str, other: str, count: int) -> dict[str, Any] | None:
        """Mean of `one` - `other` over the seeds that both have, and its standard error; None below two seeds."""
        a, b = self.values(one, count), self.values(other, count)
        gaps = np.array([a[seed] - b[seed] for seed in sorted(set(a) & set(b))])
        if len(gaps) < 2:
            return None
        return {"value": float(gaps.mean()), "error": float(gaps.std(ddof=1) / np.sqrt(len(gaps))), "seeds": len(gaps)}


def judge(results: Results, seeds: int) -> tuple[list[dict[str, Any]], str]:
    """The claim's verdict, and what follows from it in words."""
    better, parts, found = [], {}, seeds
    for count in results.scenes:
        gap, control = results.difference("d", "a", count), results.difference("d", "e", count)
        if gap is None or control is None:
            continue
        found = min(found, gap["seeds"], control["seeds"])
        clear = gap["value"] > 2 * gap["error"]
        better.append((clear, clear and control["value"] > 0))
        parts[f"{count} scenes: d - a {_gap(gap)} (more than two errors)"] = [gap["value"], clear]
        parts[f"{count} scenes: d - e {_gap(control)} (above 0)"] = [control["value"], control["value"] > 0]
    claim = "attention along the graph helps by what the graph says"
    if len(better) < 2:
        return [verdict(claim, None, None, seeds)], "not enough cells"
    holds = sum(both for _, both in better) >= 2
    row = verdict(claim, parts, {"seeds": found}, seeds) | {"holds": holds}
    over = sum(clear for clear, _ in better) >= 2
    words = "what the graph says" if holds else "regularisation, not what the graph says" if over else "no gain"
    return [row], words


def _gap(gap: dict[str, Any]) -> str:
    return f"{gap['value']:+.3f} ± {gap['error']:.3f}"


def report(results: Results, rows: list[dict[str, Any]], seeds: int) -> tuple[str, list[dict[str, Any]]]:
    """The whole report as text, and as rows: figures of every arm, the parser, the verdict."""
    lines, made = [f"accuracy on {len(ANSWERS)} answers; ± is a standard error over seeds"], []
    order = {arm: n for n, arm in enumerate(ARMS)}
    for (arm, count), cells in sorted(results.rows.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        values = np.array(list(results.values(arm, count).values()))
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
        kinds = {kind: float(np.mean([row["by_kind"][kind] for row in cells.values()])) for kind in KINDS}
        steps = [row["steps_to_good"] for row in cells.values()]
        reached = f"{sum(s is not None for s in steps)} of {len(steps)} reach {GOOD:g}"
        some_row = next(iter(cells.values()))
        told = ", ".join(f"{kind} {value:.3f}" for kind, value in kinds.items())
        lines.append(
            f"{arm:<9}{ARMS[arm][0]:<44}{count:>5} scenes  {values.mean():.3f} ± {error:.3f}  ({told}; {reached}; "
            f"{some_row['parameters']:,} parameters, {some_row['cut_share']:.0%} of the text's cells cut)"
        )
        made.append({"kind": "figures", "arm": arm, "scenes": count, "accuracy": values.mean(), "error": error,
                     "by_kind": kinds, "steps_to_good": steps, "seeds": sorted(cells)})  # fmt: skip
    for row in rows:
        if row["kind"] == "parser":
            told = ", ".join(f"{half} {value:.3f}" for half, value in row["captions"].items())
            lines.append(f"\nrule parser, F1: captions {told}; run-on facts {row['run_on']:.3f}")
        if row["kind"] == "equality":
            apart = ", ".join(f"{name} {row[name]:.1e}" for name in ("out", "q", "k", "v", "ghat"))
            lines.append(f"SDPA against the explicit formula at {row['tokens']} tokens, relative: {apart}")
    for arm in ("d-parser", "d10", "d30", "d-apart"):
        middle = results.scenes[len(results.scenes) // 2] if results.scenes else 0
        gap = results.difference(arm, "d", middle)
        if gap:
            lines.append(f"{ARMS[arm][0]} against the true graph at {middle} scenes: {_gap(gap)}")
    judged, words = judge(results, seeds)
    lines += ["\nPre-registered claim:", *verdict_lines(judged, seeds), f"  what it is: {words}"]
    return "\n".join(lines), [*made, *({**row, "words": words} for row in judged)]


def plot(results: Results, path: Path) -> None:
    """Accuracy over the number of training scenes, a line for each main arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for arm in MAIN:
        points = [(count, np.array(list(results.values(arm, count).values()))) for count in results.scenes]
        points = [(count, values) for count, values in points if len(values)]
        if points:
            means = [values.mean() for _, values in points]
            errors = [values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0 for _, values in points]
            label = f"{arm}: {ARMS[arm][0]}"
            axis.errorbar([count for count, _ in points], means, errors, marker="o", capsize=3, label=label)
    axis.set(xscale="log", xlabel="training scenes", ylabel="accuracy on 1,000 unseen scenes", ylim=(0, 1))
    axis.legend(fontsize=8)
    with atomic(path) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)


def finish(out: Path, seeds: int) -> None:
    """Print the report; write its rows and the plot beside the results."""
    rows = read(out)
    results = Results(rows)
    text, made = report(results, rows, seeds)
    print(text)
    write(out.with_name(f"{out.stem}_verdicts.jsonl"), made)
    if results.scenes:
        plot(results, out.with_name(f"{out.stem}.png"))


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--smoke" in argv:
        argv.remove("--smoke")
        with tempfile.TemporaryDirectory() as folder:
            return main(["--quick", f"--work={folder}", f"--out={folder}/smoke.jsonl", "--seeds=1", *argv])
    parser = make_parser(__doc__, "graph_transformer", "not used", 5, ARMS, "seed")
    parser.add_argument("--smoke", action=argparse.BooleanOptionalAction, help="a run of seconds; nothing is kept")
    parser.add_argument("--scenes", help="numbers of training scenes, separated by commas (default: all)")
    args = parse(parser, argv, ARMS)
    sizes, out = (QUICK if args.quick else SIZES), args.out or RESULTS / "graph_transformer.jsonl"
    if args.report:
        finish(out, args.seeds)
        return 0
    rows = same_settings(parser, out, sizes)
    for kind, make_row in (("parser", parser_row), ("equality", equality_row)):
        if not any(row["kind"] == kind for row in rows):
            append(out, make_row(sizes))
    done = {(row["arm"], row["scenes"], row["seed"]) for row in rows if row["kind"] == "cell"}
    counts = [int(count) for count in args.scenes.split(",")] if args.scenes else sizes["scenes"]
    cells = [cell for cell in cells_of(args.arms, sizes["scenes"], args.seeds) if cell[1] in counts]

    def say(cell: Cell, row: dict[str, Any]) -> str:
        return f"seed {cell[2]} {cell[0]} on {cell[1]}: {row['accuracy']:.3f}, {row['cpu_s']} s of CPU"

    run_cells(of_shard(cells, 2, args.shard), done, lambda cell: run_cell(cell, sizes), out, say)
    finish(out, args.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The micro-experiment of Discffusion: does a few-shot attention score beat its zero-shot self and a dual encoder?

    python benchmarks/discffusion_micro.py --work runs/discffusion_micro     # everything; stop and start at will
    python benchmarks/discffusion_micro.py --report                          # only the report on what is there
    python benchmarks/discffusion_micro.py --quick --work W --out O          # seconds, meaningless sizes

Pictures of 16 x 16: two things (4 colours, 3 shapes) and one of 4 relations, said in 8 tokens. For each seed a UNet is
trained on 6,000 of them in pixel space, with a causal text tower, one caption in ten dropped; then both are frozen.
All arms have the same pictures, the same 200 few-shot triples and as many steps:

    a  zero-shot A_t                     d  LoRA, margin loss on A_t + B_t
    b  zero-shot Diffusion Classifier    e  LoRA, margin loss on B_t: fine-tuning without attention
    c  LoRA, margin loss on A_t          f  a CNN and a text tower of equal size: InfoNCE, then the triples

Tested on 250 pairs for each foil (subject, object, relation), choosing the picture and choosing the caption, a tie
being wrong, at 1, 5 and 10 timesteps. Half of the few-shot items have wrong pictures, half wrong captions.

The claim was fixed before any run: the mean of c, or of d, over the six cells is better than f by more than two
standard errors, and better than a. If e is at least as good as c, fine-tuning carries the gain and not attention.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import make_parser, parse, run_cells, same_settings
from diffusers import UNet2DConditionModel
from records import RESULTS, environment, read, verdict, verdict_lines, write
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from wm_pipelines.discffusion import adapter
from wm_pipelines.discffusion.captions import BEGIN, CONTENT, OTHER, Captions
from wm_pipelines.discffusion.capture import cross_sites
from wm_pipelines.discffusion.denoisers import Denoiser
from wm_pipelines.discffusion.reading import Rule, even_weights
from wm_pipelines.discffusion.sheet import Sheet
from wm_pipelines.discffusion.timesteps import released_timesteps
from wm_pipelines.discffusion.training import Item, Matcher, make_heads
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.random import keyed
from wm_pipelines.training import KeyedNoise

SIZES: dict[str, Any] = {
    "width": 32, "images": 6000, "steps": 3000, "batch": 32, "lr": 1e-3, "triples": 200, "few_steps": 300,
    "few_batch": 8, "few_lr": 1e-3, "margin": 0.1, "pairs": 250,
}  # fmt: skip
QUICK: dict[str, Any] = SIZES | {
    "width": 8, "images": 64, "steps": 6, "batch": 8, "triples": 8, "few_steps": 3, "few_batch": 2, "pairs": 6,
}  # fmt: skip
ARMS = ("a", "b", "c", "d", "e", "f")
TRAINED = {"c": "lse", "d": "lse+dc", "e": "dc"}
SIDE, TEXT, STEPS = 16, 48, (1, 5, 10)
COLOURS = ((0.9, 0.2, 0.2), (0.2, 0.8, 0.3), (0.25, 0.35, 0.95), (0.95, 0.85, 0.2))
SHAPES = ("square", "disc", "cross")
FOILS = ("subject", "object", "relation")
PLACES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # of the first from the second: left, right, above, below
BOS, EOS, WORDS = 11, 12, 13

Scene = tuple[int, int, int, int, int]  # colour, shape, relation, colour, shape


def sample(rng: np.random.Generator) -> Scene:
    """Two things that differ in colour and shape."""
    (c, d), (s, e) = rng.permutation(4)[:2], rng.permutation(3)[:2]
    return int(c), int(s), int(rng.integers(4)), int(d), int(e)


def foil_of(scene: Scene, foil: str, rng: np.random.Generator) -> Scene:
    """The scene with another subject or object (colour or shape changed), or another relation."""
    made = list(scene)
    if foil == "relation":
        made[2] = int((scene[2] + rng.integers(1, 4)) % 4)
    else:
        at = 0 if foil == "subject" else 3
        which = int(rng.integers(2))
        many = (4, 3)[which]
        made[at + which] = int((made[at + which] + rng.integers(1, many)) % many)
    return tuple(made)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """`(3, 16, 16)` in [-1, 1]."""
    picture = np.full((3, SIDE, SIDE), -0.8, np.float32) + rng.normal(0, 0.03, (3, SIDE, SIDE)).astype(np.float32)
    dx, dy = PLACES[scene[2]]
    middle = rng.integers(7, 10, 2)
    y, x = np.mgrid[:SIDE, :SIDE]
    for sign, colour, shape in ((1, scene[0], scene[1]), (-1, scene[3], scene[4])):
        cx, cy = middle[0] + sign * 4 * dx + rng.integers(-1, 2), middle[1] + sign * 4 * dy + rng.integers(-1, 2)
        u, v = np.abs(x - cx), np.abs(y - cy)
        inside = {"square": np.maximum(u, v) <= 2, "disc": u * u + v * v <= 6, "cross": (u * v == 0) & (u + v <= 3)}
        picture[:, inside[SHAPES[shape]]] = 2 * np.array(COLOURS[colour], np.float32)[:, None] - 1
    return picture


def ids_of(scenes: list[Scene | None]) -> torch.Tensor:
    """`(N, 8)`: begin, colour, shape, relation, colour, shape, end, end; None is the empty caption."""
    rows = [
        [BOS, EOS] + [EOS] * 6 if s is None else [BOS, s[0], 4 + s[1], 7 + s[2], s[3], 4 + s[4], EOS, EOS]
        for s in scenes
    ]
    return torch.tensor(rows)


def tower(seed: int) -> nn.Module:
    """A causal text tower, so that the begin-of-text token knows nothing of the text."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=WORDS, hidden_size=TEXT, intermediate_size=2 * TEXT, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=8, bos_token_id=BOS, eos_token_id=EOS,
                pad_token_id=EOS,
            )
        )  # fmt: skip


class Pixels(Denoiser):
    """A UNet in pixel space, predicting the noise."""

    def __init__(self, seed: int, width: int):
        self.text, self.train_steps, self.multiple = tower(seed), 1000, 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = UNet2DConditionModel(
                sample_size=SIDE, in_channels=3, out_channels=3, block_out_channels=(width, 2 * width),
                down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
                layers_per_block=1, norm_num_groups=8, cross_attention_dim=TEXT, attention_head_dim=4,
            )  # fmt: skip
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.alphas = (1 - betas).cumprod(0)

    def sites(self, which: str) -> dict[str, nn.Module]:
        return cross_sites(self.model, which)

    def tokenizers(self) -> list[tuple[Any, int]]:
        return []

    def encode_texts(self, texts: Any, device: torch.device) -> Captions:
        ids = ids_of(list(texts))
        kinds = torch.full_like(ids, CONTENT, dtype=torch.int8)
        kinds[ids == BOS], kinds[ids == EOS] = BEGIN, OTHER
        return Captions(self.text(ids)[0], kinds)

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return noise

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, captions: Captions) -> torch.Tensor:
        return self.model(noisy, t, captions.embeds).sample

    def parts(self) -> dict[str, nn.Module]:
        return {"unet": self.model, "text": self.text}


class Dual(nn.Module):
    """Arm f: a CNN and the same text tower, compared by cosine."""

    def __init__(self, seed: int, width: int):
        super().__init__()
        self.text = tower(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            wide, layers = 2 * width, [nn.Conv2d(3, width, 3, padding=1), nn.SiLU()]
            for inner, outer, stride in ((width, wide, 2), (wide, wide, 1), (wide, 2 * wide, 2), (2 * wide, wide, 1)):
                layers += [nn.Conv2d(inner, outer, 3, stride, 1), nn.GroupNorm(8, outer), nn.SiLU()]
            self.see = nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide * 16, 64))
            self.say = nn.Linear(TEXT, 64)
        self.scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, pictures: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        seen = functional.normalize(self.see(pictures), dim=-1)
        said = functional.normalize(self.say(self.text(ids)[0][:, 6]), dim=-1)  # the end of the text
        return self.scale.exp() * seen @ said.T


def pictures_of(name: str, seed: int, count: int) -> tuple[list[Scene], torch.Tensor]:
    rngs = [keyed("discffusion micro", name, seed, n) for n in range(count)]
    scenes = [sample(rng) for rng in rngs]
    return scenes, torch.from_numpy(np.stack([draw(s, rng) for s, rng in zip(scenes, rngs, strict=True)]))


def few_shots(seed: int, count: int) -> list[tuple[Scene, Scene, torch.Tensor]]:
    """(scene, foil, pictures `(2, 3, 16, 16)` of both)."""
    found = []
    for n in range(count):
        rng = keyed("discffusion micro few", seed, n)
        scene = sample(rng)
        foil = foil_of(scene, FOILS[n % 3], rng)
        found.append((scene, foil, torch.from_numpy(np.stack([draw(scene, rng), draw(foil, rng)]))))
    return found


def tests(seed: int, count: int) -> dict[str, list[tuple[Scene, Scene, torch.Tensor]]]:
    found: dict[str, list[tuple[Scene, Scene, torch.Tensor]]] = {}
    for foil in FOILS:
        found[foil] = []
        for n in range(count):
            rng = keyed("discffusion micro test", seed, foil, n)
            scene = sample(rng)
            other = foil_of(scene, foil, rng)
            found[foil].append((scene, other, torch.from_numpy(np.stack([draw(scene, rng), draw(other, rng)]))))
    return found


def optimise(parameters: list[nn.Parameter], steps: int, lr: float, loss_of: Any) -> None:
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    for step in range(steps):
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()


def order_of(name: str, seed: int, step: int, count: int, batch: int) -> np.ndarray:
    return keyed("discffusion micro order", name, seed, step).integers(count, size=batch)


def base_of(seed: int, sizes: dict[str, Any], work: Path) -> Pixels:
    """The trained base of a seed, made once and kept in `work`."""
    made, path = Pixels(seed, sizes["width"]), work / f"base_{seed}.safetensors"
    holder = nn.ModuleDict(made.parts())
    if not path.exists():
        scenes, pictures = pictures_of("train", seed, sizes["images"])

        def loss_of(step: int) -> torch.Tensor:
            rows, noise = order_of("base", seed, step, len(scenes), sizes["batch"]), KeyedNoise(seed, step)
            listed = rows.tolist()
            dropped = noise.uniform(listed, (), "drop") < 0.1
            said = [None if d else scenes[n] for n, d in zip(listed, dropped.tolist(), strict=True)]
            eps = noise.randn(listed, (3, SIDE, SIDE), "noise")
            t = noise.integers(listed, (), "t", 0, 1000)
            captions = made.encode_texts(said, torch.device("cpu"))
            return functional.mse_loss(made.predict(made.noised(pictures[rows], eps, t), t, captions), eps)

        optimise(list(holder.parameters()), sizes["steps"], sizes["lr"], loss_of)
        work.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            save_file({k: v.contiguous() for k, v in holder.state_dict().items()}, partial)
    holder.load_state_dict(load_file(path))
    holder.requires_grad_(False).eval()
    return made


def adapt(made: Pixels, score: str, seed: int, sizes: dict[str, Any]) -> int:
    """Trains a LoRA on the few-shot triples by the library's own loss; returns its size."""
    rule, few, cpu = Rule(score=score), few_shots(seed, sizes["triples"]), torch.device("cpu")
    trained = list(adapter.start(made.model, adapter.default_config(), seed).values())
    with torch.no_grad():
        items = [
            (
                Item(pictures, made.encode_texts([scene], cpu)),
                Item(pictures[:1], made.encode_texts([scene, foil], cpu)),
            )
            for scene, foil, pictures in few
        ]
        empty = made.encode_texts([None], cpu)
    heads = make_heads(made, rule, "uniform")
    matcher = Matcher(made, rule=rule, empty=empty, heads=heads, margin=sizes["margin"], shared_noise=True)

    def loss_of(step: int) -> torch.Tensor:
        rows = order_of("few", seed, step, len(items), sizes["few_batch"]).tolist()
        chosen = [items[n][k % 2] for k, n in enumerate(rows)]
        return matcher.loss(chosen, rows, KeyedNoise(seed, step))["loss"]

    optimise(trained, sizes["few_steps"], sizes["few_lr"], loss_of)
    made.model.requires_grad_(False)
    return sum(p.numel() for p in trained)


@torch.no_grad()
def judged(made: Pixels, seed: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """Margins of the true over the foil by A_t, B_t, their sum and -MSE, for each foil, side and number of steps."""
    found: dict[str, Any] = {}
    table, rule = released_timesteps(STEPS[-1]), Rule()
    sites = made.sites(rule.sites)
    for foil, pairs in tests(seed, sizes["pairs"]).items():
        latents = [p for _, _, pictures in pairs for p in pictures]
        texts = [s for scene, other, _ in pairs for s in (scene, other)]
        sheet = Sheet(
            made, sites=sites, rule=rule, weights=even_weights(sites), latents=latents, names=[""] * len(latents),
            texts=[""] * len(texts), captions=made.encode_texts([*texts, None], torch.device("cpu")),
            timesteps=table, seed=seed, batch_size=250,
        )  # fmt: skip
        wanted = [(2 * n + i, 2 * n + j) for n in range(len(pairs)) for i, j in ((0, 0), (1, 0), (0, 1))]
        steps = np.stack([sheet.step(k, wanted) for k in range(len(table))], 1).reshape(3, len(table), -1, 3)
        for n in STEPS:
            lse, dc, error = steps[:, [table.index(t) for t in released_timesteps(n)]].mean(1)
            scores = {"lse": lse, "dc": dc, "lse+dc": lse + dc, "mse": -error}
            for name, values in scores.items():
                for side, other in (("picture", 1), ("caption", 2)):
                    right = values[:, 0] > values[:, other]
                    found[f"{foil}/{side}/{n}/{name}"] = float(right.mean())
        found[f"{foil}/forwards"] = sheet.forwards
    return found


def dual_of(seed: int, sizes: dict[str, Any]) -> tuple[Dual, int]:
    """Arm f, trained on the same pictures as many steps, then on the triples."""
    net = Dual(seed, sizes["width"])
    scenes, pictures = pictures_of("train", seed, sizes["images"])

    def contrast(step: int) -> torch.Tensor:
        rows = order_of("base", seed, step, len(scenes), sizes["batch"])
        logits = net(pictures[rows], ids_of([scenes[n] for n in rows]))
        own = torch.arange(len(rows))
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2

    optimise(list(net.parameters()), sizes["steps"], sizes["lr"], contrast)
    few = few_shots(seed, sizes["triples"])

    def margin(step: int) -> torch.Tensor:
        losses = []
        for k, n in enumerate(order_of("few", seed, step, len(few), sizes["few_batch"]).tolist()):
            scene, foil, shown = few[n]
            scores = net(shown, ids_of([scene, foil]))
            wrong = scores[1, 0] if k % 2 == 0 else scores[0, 1]
            losses.append(torch.relu(wrong - scores[0, 0] + 10 * sizes["margin"]))
        return torch.stack(losses).mean()

    optimise(list(net.parameters()), sizes["few_steps"], sizes["few_lr"], margin)
    return net.eval(), sum(p.numel() for p in net.parameters())


@torch.no_grad()
def judged_dual(net: Dual, seed: int, sizes: dict[str, Any]) -> dict[str, float]:
    found = {}
    for foil, pairs in tests(seed, sizes["pairs"]).items():
        scores = torch.stack([net(shown, ids_of([scene, other])) for scene, other, shown in pairs])
        for n in STEPS:
            found[f"{foil}/picture/{n}/cosine"] = float((scores[:, 0, 0] > scores[:, 1, 0]).float().mean())
            found[f"{foil}/caption/{n}/cosine"] = float((scores[:, 0, 0] > scores[:, 0, 1]).float().mean())
    return found


def run_cell(cell: tuple[str, int], sizes: dict[str, Any], work: Path) -> dict[str, Any]:
    """One arm of one seed; a and b are two readings of one untrained run."""
    arm, seed = cell
    began, trained = time.process_time(), 0
    if arm == "f":
        net, parameters = dual_of(seed, sizes)
        accuracy: dict[str, Any] = judged_dual(net, seed, sizes)
    else:
        made = base_of(seed, sizes, work)
        parameters = sum(p.numel() for part in made.parts().values() for p in part.parameters())
        trained = adapt(made, TRAINED[arm], seed, sizes) if arm in TRAINED else 0
        accuracy = judged(made, seed, sizes)
    return {
        "kind": "cell", "arm": arm, "seed": seed, "settings": sizes, "accuracy": accuracy, "parameters": parameters,
        "trained": trained, "cpu_s": round(time.process_time() - began, 1), **environment(),
    }  # fmt: skip


def score_of(arm: str) -> str:
    return {"a": "lse", "b": "mse", "f": "cosine", **TRAINED}[arm]


def mean_of(row: dict[str, Any], steps: int, sides: tuple[str, ...] = ("picture", "caption")) -> float:
    name = score_of(row["arm"])
    return float(np.mean([row["accuracy"][f"{f}/{s}/{steps}/{name}"] for f in FOILS for s in sides]))


def report(rows: list[dict[str, Any]], seeds: int, pairs: int) -> list[dict[str, Any]]:
    """A table, and the verdict that was fixed before any run."""
    by_arm = {arm: {r["seed"]: r for r in rows if r["arm"] == arm} for arm in ARMS}
    print(f"{'arm':<4}{'n=1':>8}{'n=5':>8}{'n=10':>8}{'pictures':>10}{'captions':>10}   at n=10 by foil")
    for arm, own in by_arm.items():
        if own:
            means = [np.mean([mean_of(r, n) for r in own.values()]) for n in STEPS]
            sides = [np.mean([mean_of(r, STEPS[-1], (s,)) for r in own.values()]) for s in ("picture", "caption")]
            cells = {
                f"{f}/{s}": np.mean([r["accuracy"][f"{f}/{s}/10/{score_of(arm)}"] for r in own.values()])
                for f in FOILS for s in ("picture", "caption")
            }  # fmt: skip
            told = ", ".join(f"{k} {v:.3f}" for k, v in cells.items())
            row = "".join(f"{m:8.3f}" for m in means) + "".join(f"{s:10.3f}" for s in sides)
            print(f"{arm:<4}{row}   {told}")
    there = sorted(set.intersection(*(set(own) for own in by_arm.values())))
    parts = measured = None
    if there:
        means = {arm: np.array([mean_of(own[s], STEPS[-1]) for s in there]) for arm, own in by_arm.items()}
        best = max("cd", key=lambda arm: means[arm].mean())
        gap = means[best] - means["f"]
        # seeds where there are several, and the pairs' own spread at the least
        own = (2 * 0.25 / (6 * pairs * len(there))) ** 0.5
        error = max(own, float(gap.std(ddof=1)) / len(there) ** 0.5 if len(there) > 1 else 0.0)
        measured = {"value": float(gap.mean()), "low": float(gap.mean() - 2 * error), "seeds": len(there),
                    "high": float(gap.mean() + 2 * error), "detectable": 2.8 * error}  # fmt: skip
        parts = {
            f"{best} beats f by more than two standard errors": (measured, gap.mean() > 2 * error),
            f"{best} beats a": (float((means[best] - means["a"]).mean()), (means[best] - means["a"]).mean() > 0),
        }
        carried = "fine-tuning, not attention, carries the gain" if means["e"].mean() >= means["c"].mean() else (
            "attention gives more than fine-tuning alone")  # fmt: skip
        print(f"e {means['e'].mean():.3f}, c {means['c'].mean():.3f}: {carried}")
    claim = "the few-shot attention score beats a dual encoder and its zero-shot self"
    found = [verdict(claim, parts, measured, seeds)]
    print("\n".join(verdict_lines(found, seeds)))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, "discffusion_micro", "folder for the trained bases", 3, ARMS)
    args: argparse.Namespace = parse(parser, argv, ARMS)
    sizes = QUICK if args.quick else SIZES
    out = args.out or RESULTS / "discffusion_micro.jsonl"
    rows = [row for row in same_settings(parser, out, sizes, ("verdict",)) if row["kind"] == "cell"]
    if not args.report:
        if args.work is None:
            parser.error("--work is needed: the folder for the trained bases")
        cells = [(arm, seed) for seed in range(args.seeds) for arm in args.arms]
        done = {(row["arm"], row["seed"]) for row in rows}
        run_cells(
            cells, done, lambda cell: run_cell(cell, sizes, args.work), out,
            lambda cell, row: f"{cell[0]}, seed {cell[1]}: {mean_of(row, STEPS[-1]):.3f}",
        )  # fmt: skip
        rows = [row for row in read(out) if row["kind"] == "cell"]
    found = report(rows, args.seeds, sizes["pairs"])
    if rows:
        write(out, [*rows, *found])
    return 0


if __name__ == "__main__":
    sys.exit(main())

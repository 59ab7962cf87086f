"""A dynamics model that labels for a world model and picks its best sample, in a small world with an exact simulator.

    python benchmarks/bootstrap_micro.py --work /tmp/bootstrap --seeds 3
    python benchmarks/bootstrap_micro.py --work /tmp/smoke --out /tmp/smoke/rows.jsonl --smoke

Pictures of 32 x 32 pixels, a 4 x 4 grid of sprites under changing light and noise, become 16 of 64 codes by a VQ-VAE
that is trained first; words say "move red left", "recolour red blue", "remove red". A seed is another set of data,
tokeniser and models. All models start from one that saw the unlabelled pairs without any action.

Claims, fixed before: (1) the dynamics model says 1.5 times as many actions as the world model from the same labels
draws next states; (2) labels by the dynamics model add 10 points of exact states at equal steps; (3) weighting (alpha
0.8) of that arm raises edit success and does not raise copying; (4) its pick of four beats one sample and beats the
pick by the world model's own likelihood.

The tokeniser draws what light and noise change in its features together, and has one code for bare ground: without
that a place where nothing happened kept its code in 42 % of the cases, and a dynamics model said 13 % of held-out
actions right. 400 labels gave 23 to 38 %, where it labels nothing: hence 800. The wheels of the positions are short,
as these sequences are.

A seed takes about 13 minutes of one core: four for the tokeniser, three for base and dynamics model, one for each arm.
Killed at any moment it goes on with the stage or the arm that it was in.
"""

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from bootstrap_world import CELL, GRID, GROUND, NOISE, WORDS, Pairs, copied, draw_light, read_states, sample_pairs
from cells import make_parser, parse, run_cells, same_settings
from diffusers import VQModel
from records import RESULTS, append, environment, verdict, verdict_lines
from torch.nn import functional

from wm_pipelines.diorama.tokens_training import COMMITMENT, Codebook, spread
from wm_pipelines.dynamics.backend import TokenBackend
from wm_pipelines.dynamics.coded import CodedPairs, joined
from wm_pipelines.dynamics.families import default_layout
from wm_pipelines.dynamics.labelling import held_out_accuracy, label_pairs
from wm_pipelines.dynamics.layout import Sample
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.dynamics.training import completion_loss
from wm_pipelines.hub.stock import load_model
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.noise import randn
from wm_pipelines.runtime.random import keyed
from wm_pipelines.tokens.pictures import PictureTokens
from wm_pipelines.world_model.pipeline import WorldModelPipeline
from wm_pipelines.world_model.sampling import Sampling, draw_codes
from wm_pipelines.world_model.selection import score_codes
from wm_pipelines.world_model.weights import recognition_weights, vq_l2

SIZES = {"labelled": 800, "unlabelled": 6000, "held_out": 200, "test": 400, "tokens": 800, "base": 1500,
         "dynamics": 1500, "world": 800, "batch": 64, "keep": 3600}  # fmt: skip
QUICK = {"labelled": 12, "unlabelled": 24, "held_out": 8, "test": 8, "tokens": 3, "base": 2, "dynamics": 2, "world": 2,
         "batch": 4, "keep": 10}  # fmt: skip
ARMS = {  # where labels come from, alpha
    "dynamics": None,
    "labelled": ("own", 1.0),
    "labelled-0.5": ("own", 0.5),
    "synthetic": ("synthetic", 1.0),
    "synthetic-0.8": ("synthetic", 0.8),
    "synthetic-0.5": ("synthetic", 0.5),
    "true": ("true", 1.0),
}
COUNTS = (1, 2, 4, 8)
CALM = 10.0  # weight of what light and noise change in the features: a place that stays must keep its code
LEAST = 0.3  # held-out accuracy below which the dynamics model labels nothing


def make_tokens(pairs: Pairs, seed: int, steps: int, folder: Path) -> PictureTokens:
    """The VQ-VAE of a seed, trained on the unlabelled pairs or read from `folder`."""
    if not folder.exists():
        torch.manual_seed(seed)
        vq = VQModel(
            block_out_channels=(16, 24, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=16, vq_embed_dim=4, num_vq_embeddings=64,
            layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False, sample_size=32,
        )  # fmt: skip
        book, tokens = Codebook(torch.randn(64, 4)), PictureTokens(vq)
        spread(tokens, pairs.before[:64])
        optimiser = torch.optim.AdamW([*vq.parameters(), *book.parameters()], lr=2e-3)
        for step in range(steps):
            rows = keyed("tokens", seed, step).integers(len(pairs.before), size=64)
            pictures = torch.cat([pairs.before[rows[:32]], pairs.after[rows[32:]]])
            lit = torch.stack([draw_light(keyed("calm", seed, step, n)) for n in range(len(pictures))])
            grain = NOISE * randn(pictures.shape, "grain", seed, step)
            features, table = tokens.features(pictures), book()
            elsewhere = tokens.features((pictures * lit + grain).clamp(0, 1))
            with torch.no_grad():
                codes = torch.cdist(features.flatten(0, 2), table).argmin(1).reshape(features.shape[:-1])
            vectors = table[codes]
            passed_on = (features + (vectors - features).detach()).permute(0, 3, 1, 2).contiguous()
            out = vq.decode(passed_on, force_not_quantize=True).sample
            loss = functional.mse_loss(vectors, features.detach())
            loss = loss + COMMITMENT * functional.mse_loss(features, vectors.detach())
            loss = loss + CALM * functional.mse_loss(features, elsewhere)
            away = (out - 2 * pictures + 1).abs()
            sprites = ((pictures - GROUND).abs().amax(1, keepdim=True) > 0.15).float()  # a twentieth of the pixels
            loss = loss + (away * (1 + 9 * sprites)).mean() + 5 * (away.square() * (1 + 9 * sprites)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            tokens.codebook.copy_(of_one_ground(tokens, book(), pairs.before[:1500]))
        save(vq, folder)
    return PictureTokens(load_model(VQModel, folder).eval().requires_grad_(False))


@torch.no_grad()
def of_one_ground(tokens: PictureTokens, table: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Codes of which those that are mostly bare ground are one: their mean. A ground of many codes flickers."""
    features = torch.cat([tokens.features(some) for some in pictures.split(200)])
    away = (pictures - GROUND).abs().amax(1, keepdim=True)
    bare = (functional.max_pool2d(away, CELL)[:, 0] < 0.15).flatten()
    chosen = torch.cdist(features.flatten(0, 2), table).argmin(1)
    of_ground, of_all = (torch.bincount(some, minlength=len(table)) for some in (chosen[bare], chosen))
    return torch.where((2 * of_ground > of_all)[:, None], features.flatten(0, 2)[bare].mean(0), table)


def save(model: torch.nn.Module, folder: Path) -> None:
    """Whole or not at all: what is there is not made again."""
    with atomic_folder(folder, last="config.json") as partial:
        model.save_pretrained(partial)


def make_model(seed: int) -> dict:
    """Arguments of the pipelines: a fresh model of two layers of width 64."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = {name: n for n, name in enumerate(["<unk>", "<boi>", "<eoi>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = ["<boi>", "<eoi>", "<eos>"]
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", extra_special_tokens=marks)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(names) + 64, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )  # fmt: skip
    layout = default_layout("plain").model_copy(update={"size": (32, 32), "first_code": len(names)})
    return {"model": LlamaForCausalLM(config), "tokenizer": words, "layout": layout}


class Seed:
    """Data, tokeniser and base of a seed; made when first needed, kept in `work`."""

    def __init__(self, number: int, sizes: dict, work: Path):
        digest = sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()[:8]
        self.number, self.sizes, self.work = number, sizes, work / f"seed{number}-{digest}"
        splits = ("labelled", "unlabelled", "held_out", "test")
        self.pairs = {name: sample_pairs(number, name, sizes[name]) for name in splits}
        self.tokens = make_tokens(self.pairs["unlabelled"], number, sizes["tokens"], self.work / "tokens")
        self.coded = {name: self._encode(pairs) for name, pairs in self.pairs.items()}

    def _encode(self, pairs: Pairs) -> CodedPairs:
        parts = []
        for rows in torch.arange(len(pairs.before)).split(200):
            both = pairs.before[rows], pairs.after[rows]
            parts.append([*(self.tokens.encode(side) for side in both), vq_l2(self.tokens)(*both)])
        source, target, distances = (torch.cat(each) for each in zip(*parts, strict=True))
        nothing, names = ("",) * len(source), tuple(map(str, range(len(source))))
        return CodedPairs(source, target, distances, tuple((a,) for a in pairs.actions), nothing, nothing, names)

    def base(self) -> dict:
        """Parts of a pipeline whose model saw the unlabelled pairs without actions."""
        parts, path = {**make_model(self.number), "vq": self.tokens.vq}, self.work / "base"
        if path.exists():
            from transformers import LlamaForCausalLM

            return {**parts, "model": load_model(LlamaForCausalLM, path)}
        backend, pairs = WorldModelPipeline(**parts).backend, self.coded["unlabelled"]
        said = backend.sequences

        def sample(n: int) -> tuple[Sample, None]:
            sides = (pairs.source[n], pairs.target[n])
            both = [[*said.begin((GRID, GRID)), *said.body(codes), *said.end] for codes in sides]
            tokens = [*both[0], *both[1], said.stop]
            return Sample(tokens[:1], tokens[1:], []), None

        fit(backend, len(pairs), sample, self.sizes["base"], self.sizes["batch"], ("base", self.number))
        save(backend.model, path)
        return parts

    def dynamics(self) -> DynamicsModelPipeline:
        """The dynamics model tuned on the labelled pairs."""
        path, parts = self.work / "dynamics", self.base()
        if path.exists():
            from transformers import LlamaForCausalLM

            return DynamicsModelPipeline(**{**parts, "model": load_model(LlamaForCausalLM, path)})
        model, pairs = DynamicsModelPipeline(**parts), self.coded["labelled"]

        def sample(n: int) -> tuple[Sample, None]:
            said = model.backend.sequences
            return said.inverse_sample(pairs.source[n], pairs.actions[n][0], pairs.target[n]), None

        fit(model.backend, len(pairs), sample, self.sizes["dynamics"], self.sizes["batch"], ("dynamics", self.number))
        save(model.model, path)
        return model


def fit(
    backend: TokenBackend, count: int, sample: Callable, steps: int, batch: int, key: tuple, own: int | None = None
) -> None:
    """Tunes all weights; half of each batch from the first `own` samples where there are more."""
    model = backend.model.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50)
        rng = keyed("batch", *key, step)
        rows = rng.integers(count, size=batch)
        if own is not None:
            rows[: batch // 2] = rng.integers(own, size=batch // 2)
            rows[batch // 2 :] = rng.integers(own, count, size=batch - batch // 2)
        samples, weights = zip(*(sample(int(n)) for n in rows), strict=True)
        optimiser.zero_grad()
        completion_loss(backend, samples, weights, torch.device("cpu")).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval().requires_grad_(False)


def run_cell(cell: tuple[int, str], seeds: dict[int, Seed], sizes: dict, work: Path) -> dict:
    """One arm of one seed, measured on its test pairs."""
    number, arm = cell
    seed = seeds.setdefault(number, Seed(number, sizes, work))
    judge = seed.dynamics()
    row = {"kind": "cell", "seed": number, "arm": arm, "settings": sizes, **environment()}
    if arm == "dynamics":
        truth = read_states(seed.pairs["test"].after)
        redrawn = read_states(seed.tokens.decode(seed.coded["test"].target))
        wanted = seed.pairs["test"].next_states
        row["reader"] = {"renders": exact(truth, wanted), "reconstructions": exact(redrawn, wanted)}
        return row | {"exact_action": held_out_accuracy(judge, seed.coded["test"], 6)}
    source, alpha = ARMS[arm]
    pairs = seed.coded["labelled"]
    own = None
    if source != "own":
        more = seed.coded["unlabelled"]
        if source == "synthetic":
            unlabelled = CodedPairs(**{**vars(more), "actions": ((),) * len(more)})
            least = 0.0 if sizes is QUICK else LEAST
            more = label_pairs(judge, unlabelled, seed.coded["held_out"], sizes["keep"], least, 6)
            true = [seed.coded["unlabelled"].actions[int(name)] for name in more.names]
            row["labels_right"] = float(np.mean([a == b for a, b in zip(more.actions, true, strict=True)]))
        own, pairs = len(pairs), joined(pairs, more)
    world = WorldModelPipeline(**seed.base())
    weights = recognition_weights(pairs.distances, alpha)

    def sample(n: int) -> tuple[Sample, torch.Tensor]:
        made = world.backend.sequences.forward_sample(pairs.source[n], pairs.actions[n][0], pairs.target[n])
        weight = torch.ones(len(made.completion))
        weight[torch.tensor(made.codes)] = weights[n].flatten()
        return made, weight

    fit(world.backend, len(pairs), sample, sizes["world"], sizes["batch"], ("world", number, arm), own)
    row |= measure(world, seed)
    return row | ({"picks": picks(world, judge, seed)} if arm in ("synthetic", "synthetic-0.8") else {})


def exact(found: np.ndarray, wanted: np.ndarray) -> float:
    return float((found == wanted).all((1, 2)).mean())


def draw(world: WorldModelPipeline, seed: Seed, count: int, temperature: float) -> list[torch.Tensor]:
    """`(n, count, 4, 4)` codes for all test pairs, and their mean log-probabilities `(n, count)`."""
    coded, said, found = seed.coded["test"], world.backend.sequences, []
    for rows in torch.arange(len(coded)).split(50):
        prompts = [said.forward_prompt(coded.source[n], coded.actions[n][0]) for n in rows.tolist()]
        with torch.no_grad():
            codes, likely = draw_codes(
                world.backend, prompts, None, (GRID, GRID), rows.tolist(), count, Sampling(temperature)
            )
        found.append((codes, likely))
    return [torch.cat(each) for each in zip(*found, strict=True)]


def states_of(seed: Seed, codes: torch.Tensor) -> np.ndarray:
    flat = codes.flatten(0, -3)
    return np.concatenate([read_states(seed.tokens.decode(some)) for some in flat.split(200)])


def measure(world: WorldModelPipeline, seed: Seed) -> dict[str, float]:
    """Greedy: exact states, edit success, preserved cells, copies of the source."""
    codes, _ = draw(world, seed, 1, 0.0)
    found, pairs = states_of(seed, codes[:, 0]), seed.pairs["test"]
    changed = pairs.states != pairs.next_states
    right = found == pairs.next_states
    return {
        "exact": exact(found, pairs.next_states),
        "edit": float(np.mean([r[c].all() for r, c in zip(right, changed, strict=True)])),
        "preserved": float(right[~changed].mean()),
        "copied": copied(found, pairs.states),
    }


def picks(world: WorldModelPipeline, judge: DynamicsModelPipeline, seed: Seed) -> dict[str, dict[str, float]]:
    """Exact states of N samples at temperature 1, by who picks; prefixes of the same eight."""
    codes, likely = draw(world, seed, COUNTS[-1], 1.0)
    coded, wanted = seed.coded["test"], seed.pairs["test"].next_states
    scores = torch.cat([
        score_codes(judge, coded.source[rows], codes[rows], [coded.actions[n][0] for n in rows.tolist()])[0]
        for rows in torch.arange(len(coded)).split(25)
    ])  # fmt: skip
    right = (states_of(seed, codes).reshape(len(coded), COUNTS[-1], GRID, GRID) == wanted[:, None]).all((2, 3))
    rows = np.arange(len(coded))
    by = {"dynamics": scores, "likelihood": likely}
    found = {"oracle": {str(n): float(right[:, :n].any(1).mean()) for n in COUNTS}}
    for who, values in by.items():
        found[who] = {str(n): float(right[rows, values[:, :n].argmax(1).numpy()].mean()) for n in COUNTS}
    return found


def verdicts(rows: list[dict], seeds: int) -> list[dict]:
    """The four claims on the means over seeds."""
    cells = {(row["seed"], row["arm"]): row for row in rows if row["kind"] == "cell"}

    def mean(arm: str, *path: str):
        values = []
        for number in range(seeds):
            value = cells.get((number, arm))
            for key in path:
                value = value and value.get(key)
            values.append(value)
        known = [value for value in values if value is not None]
        return (float(np.mean(known)), len(known)) if known else (None, 0)

    def claim(name, needed, test):
        figures = [mean(*path) for path in needed]
        if any(value is None for value, _ in figures):
            return verdict(name, None, None, seeds)
        return verdict(name, test(*(v for v, _ in figures)), {"seeds": min(n for _, n in figures)}, seeds)

    pickers = (("dynamics", "4"), ("dynamics", "1"), ("likelihood", "4"))
    four = [("synthetic-0.8", "picks", who, n) for who, n in pickers]
    return [
        claim("actions are learned before states", [("dynamics", "exact_action"), ("labelled", "exact")],
              lambda a, s: {"1.5 times as many": (a / max(s, 1e-9), a >= 1.5 * s)}),
        claim("labels by the dynamics model help", [("synthetic", "exact"), ("labelled", "exact")],
              lambda a, b: {"at least 10 points": (a - b, a - b >= 0.1)}),
        claim("weights raise edits, not copies",
              [("synthetic-0.8", "edit"), ("synthetic", "edit"), ("synthetic-0.8", "copied"), ("synthetic", "copied")],
              lambda e, f, c, d: {"edit success rises": (e - f, e > f), "copies don't": (c - d, c <= d)}),
        claim("the dynamics model picks well", four,
              lambda a, b, c: {"four beat one": (a - b, a > b), "and beat likelihood": (a - c, a > c)}),
    ]  # fmt: skip


def say(cell: tuple, row: dict) -> str:
    names = ("exact_action", "labels_right", "exact", "edit", "preserved", "copied")
    figures = {key: round(row[key], 3) for key in names if key in row}
    return f"seed {cell[0]}, {cell[1]}: {json.dumps(figures)}"


def report(rows: list[dict], seeds: int) -> None:
    for row in sorted((r for r in rows if r["kind"] == "cell"), key=lambda r: (list(ARMS).index(r["arm"]), r["seed"])):
        print(say((row["seed"], row["arm"]), row))
        for who, values in row.get("picks", {}).items():
            print(f"    picked by {who}: " + ", ".join(f"{n}: {value:.3f}" for n, value in values.items()))
    print("\n".join(verdict_lines(verdicts(rows, seeds), seeds)))


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, "bootstrap_micro", "tokenisers, bases and dynamics models of the seeds", 3, ARMS)
    parser.add_argument("--smoke", dest="quick", action="store_true", help="the same as --quick")
    args = parse(parser, argv, ARMS)
    torch.set_num_threads(1)
    sizes = QUICK if args.quick else SIZES
    out = args.out or RESULTS / "bootstrap_micro.jsonl"
    rows = same_settings(parser, out, sizes, ("verdict",))
    if not args.report:
        work = args.work or Path("/tmp/bootstrap_micro")
        cells = [(number, arm) for number in range(args.seeds) for arm in args.arms]
        done = {(row["seed"], row["arm"]) for row in rows if row["kind"] == "cell"}
        seeds: dict[int, Seed] = {}
        run_cells(cells, done, lambda cell: run_cell(cell, seeds, sizes, work), out, say)
        rows = same_settings(parser, out, sizes, ("verdict",))
        for row in verdicts(rows, args.seeds):
            append(out, row)
    report(rows, args.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

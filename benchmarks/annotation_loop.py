"""The loop closed (arXiv 2506.06006, equation 1): labels from a dynamics model on unlabelled clips, against none.

    python benchmarks/annotation_loop.py --work /tmp/loop --base diorama-world
    python benchmarks/annotation_loop.py --work /tmp/tiny --tiny     # minutes: whether every step fits the next

All through the real steps: `wm train dynamics` on the labelled pairs, `wm annotate plan | run | reduce` on clips that
show states of the miniature world one after the other, `wm train world-model` on the labelled pairs alone and with the
triplets, at equal steps. Measured on test pairs in codes, greedily: *exact* (all codes of the next picture), *change*
(share of the codes that the truth changes which are right), *preserve* (share of the others that stay) and *copied*.
Killed at any moment it goes on. The clips go through H.264 with its halved colour, as real ones do; the pairs do not.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import append, environment, mean_interval, read

from wm_pipelines import AutoWMPipeline, WorldModelPipeline
from wm_pipelines.config import WMConfig
from wm_pipelines.diorama.pairs import sample_chain
from wm_pipelines.diorama.render import render
from wm_pipelines.dynamics.annotation.annotate import plan_annotation, reduce_annotation, run_annotation
from wm_pipelines.dynamics.coded import encode_pairs
from wm_pipelines.dynamics.labelling import held_out_accuracy, plain
from wm_pipelines.dynamics.scenes import DioramaPairs
from wm_pipelines.evaluation.statistics import mcnemar, paired_difference
from wm_pipelines.hub.sealing import seal_run
from wm_pipelines.media.video import write_video
from wm_pipelines.runtime.files import write_atomic
from wm_pipelines.training import train_main
from wm_pipelines.world_model.sampling import Sampling, draw_codes

RESULTS = Path(__file__).parent / "results" / "annotation_loop.jsonl"
STATES, HOLD = 4, 6  # of a clip, and frames that each is shown for
ARMS = ("labelled only", "with triplets")
SIZES = {"labelled": 400, "clips": 2000, "test": 400, "dynamics_steps": 1500, "world_steps": 1500, "batch": 24}
TINY = {"labelled": 24, "clips": 8, "test": 16, "dynamics_steps": 120, "world_steps": 10, "batch": 8}
CLIPS = {"spacing": HOLD, "frames": STATES, "max_ssim": 0.999, "min_hash_distance": 0, "max_gap_s": 60.0}
"""A small thing that moves leaves most of a picture alone: what real video calls no change is one here."""


def tiny_base(folder: Path) -> Path:
    """Random weights: every step can be run on it, and nothing can be learned from what comes out."""
    if (folder / "wm_config.json").is_file():
        return folder
    from diffusers import VQModel
    from transformers import LlamaConfig, LlamaForCausalLM

    from wm_pipelines.diorama.tokenizer import EOS
    from wm_pipelines.dynamics.families import default_layout
    from wm_pipelines.tokens.pictures import PictureTokens
    from wm_pipelines.world_model.base_training import make_tokenizer

    torch.manual_seed(0)
    levels = 4
    vq = VQModel(
        block_out_channels=(8,) * levels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, latent_channels=4, norm_num_groups=4, num_vq_embeddings=32,
        layers_per_block=1, mid_block_add_attention=False, sample_size=64,
    ).eval()  # fmt: skip
    tokens = PictureTokens(vq)
    pictures = torch.stack([DioramaPairs(length=8)[n].read()[0] for n in range(8)])
    with torch.no_grad():
        seen = tokens.features(pictures).flatten(0, 2)
        tokens.codebook.copy_(seen[torch.randperm(len(seen))[: len(tokens.codebook)]])
    vq = vq.half().float()  # as checkpoints hold it: those that are tuned from this one have the same codes
    tokenizer = make_tokenizer()
    layout = default_layout("plain").model_copy(update={"size": (64, 64), "stop": EOS, "first_code": len(tokenizer)})
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer) + 32, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
        )
    )  # fmt: skip
    world = WorldModelPipeline(model=model, tokenizer=tokenizer, vq=vq, layout=layout)
    world.wm_config = WMConfig(method="diorama-world", method_config={"image_size": 64})
    world.save_pretrained(folder)
    return folder


def make_clips(folder: Path, count: int, seed: int) -> None:
    """Clips of `STATES` states each, one after the other; nobody writes down what happens between them."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        path = folder / f"{n:06}.mp4"
        if path.exists():
            continue
        chain = sample_chain("annotation loop", seed, n, states=STATES)
        states = render(chain.states, (0,), 64, ("rgb",)).rgb[:, 0]
        write_video(list(states.repeat_interleave(HOLD, 0)), path, fps=8, quality=1)


def trained(task: str, work: Path, name: str, steps: int, batch: int, base: str, seed: int, **options: Any) -> Path:
    """A sealed checkpoint of `wm train`, made once; all weights are tuned, so that it stands alone."""
    folder = work / name
    if (folder / "wm_config.json").is_file():
        return folder
    given = {"base": base, "data": "diorama", "rank": 0, **options}
    overrides = [f"steps={steps}", f"batch_size={batch}", f"seed={seed}", "lr=1e-3", f"warmup={min(100, steps // 5)}"]
    train_main(task, None, work / f"{name}-run", [*overrides, *(f"options.{k}={v}" for k, v in given.items())])
    seal_run(work / f"{name}-run", folder)
    return folder


def annotated(work: Path, model: Path, sizes: dict[str, int], least_accuracy: float, workers: int) -> dict[str, Any]:
    """The triplets' manifest."""
    held_out = DioramaPairs("val", length=min(200, sizes["test"]))
    plan_annotation(
        work / "clips", work / "annotated", model=str(model), licence="CC0-1.0", shard_size=50, held_out=held_out,
        least_accuracy=least_accuracy, max_new_tokens=32, **CLIPS,
    )  # fmt: skip
    executor = {} if workers == 1 else {"executor": "processes", "workers": workers}
    run_annotation(work / "annotated", **executor)
    return reduce_annotation(work / "annotated", keep=round(0.6 * sizes["clips"] * (STATES - 1)))


def label_accuracy(work: Path, seed: int) -> float:
    """Share of the kept labels that name the one action between two states that follow one another."""
    from wm_pipelines.runtime.shards import read_rows

    rows, right = read_rows(work / "annotated" / "triplets" / "triplets.parquet"), 0
    for row in rows:
        first, second = row["source_frame"] // HOLD, row["target_frame"] // HOLD
        if second - first != 1:
            continue
        chain = sample_chain("annotation loop", seed, int(Path(row["video"]).stem), states=STATES)
        right += plain(row["action"]) in {plain(chain.phrases(n)[first]) for n in range(33)}
    return right / len(rows)


def measured(model: Path, test: Any, actions: list[str]) -> dict[str, np.ndarray]:
    """Per test pair; greedy."""
    world = AutoWMPipeline.from_pretrained(model)
    found = []
    for start in range(0, len(test), 16):
        rows = slice(start, start + 16)
        prompts = [
            world.backend.sequences.forward_prompt(codes, words)
            for codes, words in zip(test.source[rows], actions[rows], strict=True)
        ]
        grid = tuple(test.source.shape[1:])
        with world.reading():
            codes, _ = draw_codes(
                world.backend, prompts, None, grid, seeds=[0] * len(prompts), count=1, how=Sampling(temperature=0.0)
            )
        found.append(codes[:, 0])
    drawn = torch.cat(found)
    changes, hit, same = test.source != test.target, drawn == test.target, drawn == test.source

    def share(of: torch.Tensor, where: torch.Tensor) -> np.ndarray:
        return ((of & where).flatten(1).sum(1) / where.flatten(1).sum(1).clamp(min=1)).numpy()

    return {
        "exact": hit.flatten(1).all(1).float().numpy(),
        "change": share(hit, changes),
        "preserve": share(hit, ~changes),
        "copied": same.flatten(1).all(1).float().numpy(),
    }


def run(work: Path, base: str, seed: int, sizes: dict[str, int], least_accuracy: float, workers: int) -> list[dict]:
    """All steps of one seed, and the rows of what came of them."""
    work = work / f"seed-{seed}"
    labelled = {"length": sizes["labelled"], "cache": str(work / "labelled.safetensors")}
    work.mkdir(parents=True, exist_ok=True)
    make_clips(work / "clips", sizes["clips"], seed)
    common = {"batch": sizes["batch"], "base": base, "seed": seed, **labelled}
    judge = trained("dynamics", work, "dynamics", sizes["dynamics_steps"], **common)
    manifest = annotated(work, judge, sizes, least_accuracy, workers)
    world = {"steps": sizes["world_steps"], **common, "cache": str(work / "labelled-world.safetensors")}
    models = [
        trained("world-model", work, "world-labelled", **world),
        trained("world-model", work, "world-triplets", triplets=str(work / "annotated" / "triplets"), **world),
    ]
    loaded = AutoWMPipeline.from_pretrained(judge)
    pairs = DioramaPairs("test", length=sizes["test"])
    test = encode_pairs(pairs, loaded.backend.pictures, loaded.layout.size)
    actions = [words[0] for words in test.actions]
    scores = [measured(model, test, actions) for model in models]
    same = {"seed": seed, "base": base, **sizes}
    rows = [
        {
            "kind": "labels", **same, "accuracy_held_out": held_out_accuracy(loaded, test),
            "triplets": manifest["rows"], "labels_right": label_accuracy(work, seed), "dropped": manifest["dropped"],
            **environment(),
        }
    ]  # fmt: skip
    for arm, found in zip(ARMS, scores, strict=True):
        figures = {name: {"value": float(v.mean()), "interval": mean_interval(v)} for name, v in found.items()}
        rows.append({"kind": "arm", "arm": arm, **same, "figures": figures, **environment()})
    gaps = {name: paired_difference(scores[1][name], scores[0][name]) for name in scores[0]}
    found = mcnemar(scores[1]["exact"], scores[0]["exact"])
    rows.append(
        {
            "kind": "difference", **same, "mcnemar_exact_p": found.p,
            "gain": {name: [gap.value, gap.low, gap.high] for name, gap in gaps.items()}, **environment(),
        }
    )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for clips, runs and checkpoints")
    parser.add_argument("--base", default="diorama-world", help="token model that both directions are tuned from")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="random base, a few steps: only whether all fits together")
    parser.add_argument("--least-accuracy", type=float, default=0.3, help="of the dynamics model on held-out pairs")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"default {value}")
    args = parser.parse_args()
    sizes = {name: getattr(args, name) or value for name, value in (TINY if args.tiny else SIZES).items()}
    base = str(tiny_base(args.work / "base")) if args.tiny else args.base
    least = 0.0 if args.tiny else args.least_accuracy
    for seed in range(args.seeds):
        done = args.work / f"seed-{seed}" / "done"
        if done.exists():
            continue
        rows = run(args.work, base, seed, sizes, least, args.workers)
        for row in rows:
            append(args.out, row)
        write_atomic(done, "done\n")
    for row in read(args.out):
        if row["kind"] == "difference":
            gain = ", ".join(f"{n} {v:+.3f} [{lo:+.3f}, {hi:+.3f}]" for n, (v, lo, hi) in row["gain"].items())
            print(f"seed {row['seed']}: with triplets - labelled only: {gain}; p = {row['mcnemar_exact_p']:.3g}")


if __name__ == "__main__":
    main()

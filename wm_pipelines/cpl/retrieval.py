"""Image-to-text retrieval on Flickr30k (section 4 of CPL): fit on few captioned pictures, find the captions of others.

    python -m wm_pipelines.cpl.protocol flickr30k ~/data --shots 145 --base openai/clip-vit-base-patch16

The published protocol: 145, 290, 870 or 1450 training pictures (0.5 to 5 % of 29,000) with one of their captions
each, 1,000 test pictures against all 5,000 of theirs; a picture is right if any of its own five comes first. Here each
is compared with its nearest captions by plain CLIP only: all would be five million text passes.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.clip.towers import encode_images, encode_texts
from wm_pipelines.cpl.metrics import recall_at
from wm_pipelines.cpl.pipeline import CPLPipeline
from wm_pipelines.cpl.prompts import sentence, words
from wm_pipelines.data.flickr import Captioned, find_flickr30k, read_flickr30k
from wm_pipelines.media.pictures import load_image
from wm_pipelines.runtime.random import keyed

FLICKR_SHOTS = (145, 290, 870, 1450)
KS = (1, 5, 10)
AT_A_TIME = 64  # pictures held open


def read_retrieval(root: str | os.PathLike) -> tuple[list[Captioned], list[Captioned]]:
    """Training and test pictures of the folder `flickr30k` below `root`, with all their captions.

    Raises:
        ValueError: as `find_flickr30k` and `read_flickr30k`.
    """
    table, pictures = find_flickr30k(Path(root) / "flickr30k")
    return read_flickr30k(table, pictures, "train"), read_flickr30k(table, pictures, "test")


def retrieval(
    pipeline: CPLPipeline,
    train: Sequence[Captioned],
    test: Sequence[Captioned],
    shots: int = FLICKR_SHOTS[0],
    seed: int = 1,
    candidates: int = 16,
    cocoop: bool = True,
    say: Callable[[str], None] = print,
    **settings: Any,
) -> list[dict[str, Any]]:
    """One row for each method: R@1, R@5 and R@10 in per cent, of zero-shot CLIP, CoCoOp and CPL.

    Captions that are too long for the text tower lose words at their end until they fit; `cut` counts them.

    Args:
        pipeline: its prompt learner is replaced by a new one for each fit, from the same words.
        shots: training pictures. seed: of their draw, of the caption drawn for each, and of the fit.
        candidates: captions that a picture is compared with, by all methods alike.
        settings: of the fit, see `CPLSettings`.

    Raises:
        ValueError: as `CPLPipeline.fit_retrieval`, a picture that can't be read, or `shots` that are not there.
    """
    if type(shots) is not int or not 1 <= shots <= len(train):
        raise ValueError(f"shots must be an integer from 1 to {len(train)}, the training pictures, got {shots!r}")
    if type(candidates) is not int or candidates < 2:
        raise ValueError(f"candidates must be an integer of at least 2, got {candidates!r}")
    chosen = keyed("cpl flickr30k shots", seed).permutation(len(train))[:shots]
    few, cut_few = cut_to_fit(pipeline, [train[i] for i in sorted(chosen.tolist())])
    shown, cut_shown = cut_to_fit(pipeline, test)
    texts = list(dict.fromkeys(caption for picture in shown for caption in picture.captions))
    plain = plain_scores(pipeline, shown, texts)
    near = plain.topk(min(candidates, len(texts)), dim=1)
    own = [[texts[i] for i in row] for row in near.indices.tolist()]
    true = [[j for j, t in enumerate(row) if t in p.captions] for row, p in zip(own, shown, strict=True)]
    found = {"zero-shot": near.values}
    pictures = [load_image(picture.path) for picture in few]
    for name, weight in ([("CoCoOp", 0.0)] if cocoop else []) + [("CPL", None)]:
        pipeline.renew(seed)
        chosen_settings = {**settings, "seed": seed} | ({} if weight is None else {"lambda_cf": weight})
        pipeline.fit_retrieval(pictures, [p.captions for p in few], candidates, **chosen_settings)
        found[name] = torch.cat(
            [
                pipeline([load_image(p.path) for p in shown[at : at + AT_A_TIME]], own[at : at + AT_A_TIME]).logits
                for at in range(0, len(shown), AT_A_TIME)
            ]
        )
    common = {
        "dataset": "flickr30k", "shots": shots, "seed": seed, "pictures": len(shown), "texts": len(texts),
        "candidates": near.indices.shape[1], "cut": cut_few + cut_shown,
    }  # fmt: skip
    rows = []
    for name, scores in found.items():
        ks = [k for k in KS if k <= scores.shape[1]]
        rows.append({"method": name, **{f"R@{k}": recall_at(scores, true, k) for k in ks}, **common})
        figures = "  ".join(f"R@{k} {rows[-1][f'R@{k}']:6.2f}" for k in ks)
        say(f"flickr30k {shots} shots seed {seed}  {name:<24}{figures}")
    return rows


def cut_to_fit(pipeline: CPLPipeline, pictures: Sequence[Captioned]) -> tuple[list[Captioned], int]:
    """The pictures with captions that fit behind the learned context, and how many had to be cut."""
    limit, n_ctx = pipeline.clip.config.text_config.max_position_embeddings, pipeline.prompt_learner.config.n_ctx
    cut, made = 0, []
    for picture in pictures:
        captions = []
        for caption in picture.captions:
            kept = caption.split()
            while len(kept) > 1 and not _fits(pipeline, " ".join(kept), limit, n_ctx):
                kept.pop()
            whole = len(kept) == len(caption.split())
            cut += not whole
            captions.append(caption if whole else " ".join(kept))
        made.append(Captioned(picture.path, tuple(captions)))
    return made, cut


def _fits(pipeline: CPLPipeline, caption: str, limit: int, n_ctx: int) -> bool:
    ids = pipeline.tokenizer([sentence(caption)], add_special_tokens=True, verbose=False)["input_ids"][0]
    return len(ids) + n_ctx <= limit


@torch.no_grad()
def plain_scores(pipeline: CPLPipeline, shown: Sequence[Captioned], texts: Sequence[str]) -> torch.Tensor:
    """Cosines (pictures, texts) of plain CLIP on the CPU, the files opened a few at a time."""
    text = encode_texts(pipeline.clip, pipeline.tokenizer, [words(text) for text in texts]).float().cpu()
    rows = []
    for at in range(0, len(shown), AT_A_TIME):
        pixels = pipeline.preprocess([load_image(picture.path) for picture in shown[at : at + AT_A_TIME]])
        rows.append(encode_images(pipeline.clip, pixels).float().cpu() @ text.T)
    return torch.cat(rows)

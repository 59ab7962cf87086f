"""The second stage of annotation: codes of key frames, made once, and what a dynamics model says of each pair."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch

from wm_pipelines.dynamics.annotation.frames import read_picture
from wm_pipelines.dynamics.labelling import word_chances
from wm_pipelines.dynamics.layout import Layout
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.dynamics.run import load
from wm_pipelines.runtime.shards import Shard, read_rows
from wm_pipelines.tokens.pictures import PictureTokens

CODE = 1  # counts changes of what this stage makes of the same key frames
BATCH = 32
CHANGED = "shard config hash differs from plan; start a new output folder"
COLUMNS = {
    "id": "string", "video": "string", "class": "string", "licence": "string", "source_frame": "int64",
    "target_frame": "int64", "source_time": "float64", "target_time": "float64", "flow": "float32",
    "twin": "string", "rows": "uint16", "source_codes": "list<uint16>", "target_codes": "list<uint16>",
    "distances": "list<float32>", "action": "string", "token_logprobs": "list<float32>", "score": "float32",
    "copy_margin": "float32", "dropped": "string", "model": "string", "revision": "string", "weights": "string",
    "prompt": "string",
}  # fmt: skip
"""Of a pair, or of one of the sentences drawn for it, whose id ends with `#` and its number. twin: both pictures'
perceptual hashes, and the words where they were drawn. rows: of the grid of codes. distances: squared L2 of the
features before the nearest code is looked up, as the world model's `vq_l2`. token_logprobs: the stop's last. score:
their mean.
copy_margin: score minus that of the same words between the source and itself. dropped: why the pair or its label is
not to be used; codes and label are null where the pair was dropped. weights, prompt: SHA-256 of the model's weights
and of its layout, which holds the prompt."""


@dataclass(frozen=True)
class Label:
    """What a model says of a pair: `ended` is False where the sentence was cut off."""

    action: str
    logprobs: list[float]
    margin: float
    ended: bool

    @property
    def score(self) -> float:
        return sum(self.logprobs) / len(self.logprobs)


def label_codes(
    model: DynamicsModelPipeline,
    source: torch.Tensor,
    target: torch.Tensor,
    max_new_tokens: int,
    batch: int = BATCH,
    buckets: bool = True,
    chances: torch.Tensor | None = None,
) -> list[Label]:
    """The likeliest action of each pair, and by how much its score lies above that of the unchanged source.

    Args:
        source, target: codes `(N, h, w)`.
        buckets: pairs leave their batch where their sentence ends, and the copies are read in the order of their
            sentences' lengths, so that little padding is read.
        chances: `(N, M, max_new_tokens)` of `labelling.word_chances`: M sentences are drawn for each pair, and its M
            labels follow one another.
    """
    count = 1 if chances is None else chances.shape[1]
    said: list[tuple[list[int], list[float]]] = []
    for start in range(0, len(source), batch):
        rows = slice(start, start + batch)
        drawn = None if chances is None else chances[rows]
        said += model.infer_tokens(source[rows], target[rows], max_new_tokens, leave=buckets, chances=drawn)
    stop = model.backend.sequences.stop
    whole = [[*tokens, stop][: len(logprobs)] for tokens, logprobs in said]
    order = sorted(range(len(whole)), key=lambda n: len(whole[n])) if buckets else list(range(len(whole)))
    copies: list[float] = [0.0] * len(whole)
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        here = source[[n // count for n in some]]
        for n, values in zip(some, model.score_tokens(here, here[:, None], [whole[n] for n in some]), strict=True):
            copies[n] = float(values.mean())
    return [
        Label(model.words_of(tokens), logprobs, sum(logprobs) / len(logprobs) - copy, len(logprobs) > len(tokens))
        for (tokens, logprobs), copy in zip(said, copies, strict=True)
    ]


def weights_hash(model: DynamicsModelPipeline) -> str:
    """SHA-256 over all weights that decide a label, adapters and the tokeniser of pictures included."""
    digest = sha256()
    for part in (model.model, model.backend.pictures.vq):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def prompt_hash(layout: Layout) -> str:
    """SHA-256 over what stands around the codes, the instruction included."""
    return sha256(json.dumps(layout.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def load_labeller(model: str, base: str | None) -> DynamicsModelPipeline:
    """A dynamics model whose codes can be stored.

    Raises:
        ValueError: no dynamics model, or one whose pictures have no `PictureTokens` of at most 65,536 codes.
    """
    found = load(model, base)
    pictures = found.backend.pictures
    if not isinstance(pictures, PictureTokens) or pictures.num_codes > 2**16:
        raise ValueError(
            f"model {model!r} has {pictures.num_codes} codes of {type(pictures).__name__}; annotation stores those of "
            "PictureTokens, at most 65,536 of them"
        )
    return found


class Labeller:
    """The stage: a model for each worker, and rows of `COLUMNS` for each pair of consecutive key frames.

    Raises:
        ValueError: the model is not the one that was planned.
    """

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.model = load_labeller(config["model"], config["base"])
        found = {"weights": weights_hash(self.model), "prompt": prompt_hash(self.model.layout)}
        changed = [name for name, value in found.items() if value != config[name]]
        if changed:
            raise ValueError(f"{CHANGED} (model {config['model']!r} has other {' and '.join(changed)})")

    def __call__(self, shard: Shard) -> Iterator[dict[str, Any]]:
        frames = [row for path in shard.paths for row in read_rows(path)]
        follow = [n for n in range(1, len(frames)) if frames[n]["video"] == frames[n - 1]["video"]]
        good = [n for n in follow if not frames[n]["dropped"]]
        codes, features = self._encoded(frames, sorted({m for n in good for m in (n - 1, n)}))
        source, target = ([codes[n - back] for n in good] for back in (1, 0))
        labels = iter(())
        samples = self.config.get("num_action_samples", 0)
        pairs = {n: self._pair(frames[n - 1], frames[n]) for n in follow}
        if good:
            most, batch = self.config["max_new_tokens"], self.config["batch"]
            chances = word_chances([pairs[n]["id"] for n in good], samples, most, self.config.get("seed", 0))
            both = torch.stack(source), torch.stack(target)
            labels = iter(label_codes(self.model, *both, most, batch=batch, chances=chances))
        for n, row in pairs.items():
            if row["dropped"]:
                yield row
                continue
            distances = (features[n - 1] - features[n]).square().sum(-1)
            row = row | _coded(codes[n - 1], codes[n], distances)
            for sample in range(samples or 1):
                said = self._said(next(labels))
                known = {"id": f"{row['id']}#{sample}", "twin": f"{row['twin']} {said['action']}"} if samples else {}
                yield row | said | known

    def _encoded(
        self, frames: Sequence[dict[str, Any]], wanted: Sequence[int]
    ) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """Codes `(h, w)` and features `(h, w, D)` of some frames, each encoded once."""
        tokens = self.model.backend.pictures
        codes, features = {}, {}
        for start in range(0, len(wanted), BATCH):
            some = wanted[start : start + BATCH]
            pictures = torch.stack([read_picture(frames[n]["picture"]) for n in some]).float() / 255
            with torch.no_grad():
                found = tokens.features(pictures.to(tokens.codebook.device))
                looked_up = tokens.lookup(found).cpu()
            codes |= zip(some, looked_up, strict=True)
            features |= zip(some, found.cpu(), strict=True)
        return codes, features

    def _pair(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        known = {
            "id": f"{after['video']}:{before['frame']}-{after['frame']}",
            "video": after["video"],
            "class": after["class"],
            "source_frame": before["frame"],
            "target_frame": after["frame"],
            "source_time": before["time"],
            "target_time": after["time"],
            "flow": after["flow"],
            "twin": before["hash"] + after["hash"],
            "dropped": after["dropped"],
        }
        given = {name: self.config[name] for name in ("licence", "model", "revision", "weights", "prompt")}
        return dict.fromkeys(COLUMNS) | known | given

    def _said(self, label: Label) -> dict[str, Any]:
        why = "" if label.ended else f"no end within {self.config['max_new_tokens']} tokens"
        return {
            "action": label.action,
            "token_logprobs": label.logprobs,
            "score": label.score,
            "copy_margin": label.margin,
            "dropped": why or ("" if label.action else "no words"),
        }


def _coded(source: torch.Tensor, target: torch.Tensor, distances: torch.Tensor) -> dict[str, Any]:
    return {
        "rows": source.shape[0],
        "source_codes": source.flatten().tolist(),
        "target_codes": target.flatten().tolist(),
        "distances": distances.flatten().tolist(),
    }

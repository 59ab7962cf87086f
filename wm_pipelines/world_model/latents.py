"""Pairs as latents of an editor's VAE: each picture is encoded once, and the actions' wordings are kept beside it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from wm_pipelines.dynamics.coded import BATCH, content_of, module_hash, read_batch
from wm_pipelines.dynamics.data import Pair
from wm_pipelines.record import record_of
from wm_pipelines.runtime.caches import cached_text, read_cache
from wm_pipelines.runtime.devices import on_accelerator
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.readers import located, parse_json
from wm_pipelines.world_model.weights import latent_l2

PAD_COLOUR = (122, 116, 104)
TENSORS = ("source", "target", "deviation")


@dataclass(frozen=True)
class LatentPairs:
    """N labelled pairs, as their VAE gives them, not scaled.

    source: `(N, C, h, w)`, means of the pictures before. target, deviation: of those after. actions: wordings of each.
    """

    source: torch.Tensor
    target: torch.Tensor
    deviation: torch.Tensor
    actions: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def distances(self) -> torch.Tensor:
        """`(N, h, w)`: how far each place changed, as `weights.vae_l2`."""
        return latent_l2(self.source, self.target)


@torch.no_grad()
def encode_latents(
    pairs: Sequence[Pair],
    vae: AutoencoderKL,
    size: tuple[int, int],
    resize: str | None = None,
    cache: str | Path | None = None,
) -> LatentPairs:
    """Latents of pairs, made once and kept in the safetensors file `cache` if there is a name for one.

    Args:
        size: (height, width) that pictures must have, or get by `resize` ("pad", "crop") as `pictures.to_size`.

    Raises:
        ValueError: no pairs, one without an action, a picture of another size, or a file made of something else.
    """
    if not len(pairs):
        raise ValueError("`pairs` is empty; at least one is needed")
    identity = repr([content_of(pairs), module_hash(vae), list(size), resize, len(pairs)])
    if cache is not None and Path(cache).exists():
        return load_latents(Path(cache), identity)
    vae, found, actions = on_accelerator(vae), {name: [] for name in TENSORS}, []
    for start in range(0, len(pairs), BATCH):
        some = [pairs[n] for n in range(start, min(start + BATCH, len(pairs)))]
        for pair in some:
            if not pair.actions:
                raise ValueError(f"pair {pair.name!r} has no action")
        before, after = (2 * side.to(vae.device) - 1 for side in read_batch(some, size, resize, PAD_COLOUR))
        goal = vae.encode(after).latent_dist
        values = (vae.encode(before).latent_dist.mean, goal.mean, goal.std)
        for name, value in zip(TENSORS, values, strict=True):
            found[name].append(value.cpu())
        actions += [pair.actions for pair in some]
    made = LatentPairs(**{name: torch.cat(values) for name, values in found.items()}, actions=tuple(actions))
    if cache is not None:
        _save(made, Path(cache), identity)
    return made


def _save(made: LatentPairs, path: Path, identity: str) -> None:
    words = torch.tensor(list(json.dumps({"actions": made.actions}).encode()), dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(made, name).contiguous() for name in TENSORS}
    with atomic(path) as partial:
        save_file({**tensors, "words": words}, partial, metadata={"identity": identity})


def load_latents(path: Path, identity: str) -> LatentPairs:
    """The pairs of a cache.

    Raises:
        ValueError: it is damaged, or of other data than `identity`.
    """
    tensors = read_cache(path, identity, "latents", (*TENSORS, "words"))
    with located(f"`cache` {path}"):
        words = record_of(_Words, parse_json(cached_text(tensors.pop("words"))))
        if any(tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ValueError("its latents are not all finite numbers in float32; delete it or name another")
        shapes = {tuple(tensor.shape) for tensor in tensors.values()}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 4 or shape[0] != len(words.actions):
            raise ValueError("its latents and words are not of equally many pairs; delete it or name another")
    return LatentPairs(**tensors, actions=tuple(map(tuple, words.actions)))


@dataclass(frozen=True)
class _Words:
    actions: list[list[str]]

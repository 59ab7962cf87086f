"""Pairs as codes: each picture is tokenised once, and how far every place changed is kept beside the tokens."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from wm_pipelines.dynamics.data import Pair
from wm_pipelines.dynamics.pictures import check_pair, to_size
from wm_pipelines.record import record_of
from wm_pipelines.runtime.caches import cached_text, read_cache
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.readers import located, parse_json
from wm_pipelines.runtime.tensors import open_tensors

BATCH = 32
WORDS = ("actions", "kinds", "captions", "names")
Recognizer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Pictures `(B, 3, H, W)` before and after, in [0, 1], to what changed: `(B, h, w)`, 0 or more."""


@dataclass(frozen=True)
class CodedPairs:
    """N pairs. source, target: `(N, h, w)` int64 codes. distances: `(N, h, w)` float32, how far each place changed, by
    a recogniser. actions: wordings of each pair's action. kinds, captions, names: of each pair."""

    source: torch.Tensor
    target: torch.Tensor
    distances: torch.Tensor
    actions: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]
    captions: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def part(self, indices: Sequence[int]) -> "CodedPairs":
        """Some of the pairs, in that order."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        words = {key: tuple(getattr(self, key)[i] for i in indices) for key in WORDS}
        return CodedPairs(self.source[rows], self.target[rows], self.distances[rows], **words)

    def labelled(self, actions: Sequence[str]) -> "CodedPairs":
        """The same pairs with one action each."""
        return replace(self, actions=tuple((action,) for action in actions))


def joined(first: CodedPairs, second: CodedPairs) -> CodedPairs:
    """The pairs of both, in order."""
    names = ("source", "target", "distances")
    tensors = {key: torch.cat([getattr(first, key), getattr(second, key)]) for key in names}
    words = {key: getattr(first, key) + getattr(second, key) for key in WORDS}
    return CodedPairs(**tensors, **words)


def fingerprint(pictures: Any) -> str:
    """A hash of a tokeniser's weights."""
    return module_hash(pictures.vq)


def module_hash(module: torch.nn.Module) -> str:
    """A hash of a module's weights."""
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def content_of(pairs: Sequence[Pair]) -> str:
    """What tells a set of pairs from others: their `identity`, or a hash of their names."""
    known = getattr(pairs, "identity", None)
    return known or sha256("\n".join(pair.name for pair in pairs).encode()).hexdigest()


def read_batch(
    pairs: Sequence[Pair], size: tuple[int, int], resize: str | None, colour: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures before and after, `(B, 3, H, W)` each; arguments as `encode_pairs`.

    Raises:
        ValueError: a picture of another size, or two that would not be resized alike; names the pair.
    """
    both = [pair.read() for pair in pairs]
    for pair, (before, after) in zip(pairs, both, strict=True):
        with located(f"pair {pair.name}"):
            check_pair([before], [after], resize)
    before, after = (to_size([pair[n] for pair in both], size, resize, colour, "data") for n in (0, 1))
    return before, after


def encode_pairs(
    pairs: Sequence[Pair],
    pictures: Any,
    size: tuple[int, int],
    recognizer: Recognizer | None = None,
    resize: str | None = None,
    colour: Sequence[int] = (122, 116, 104),
    cache: str | Path | None = None,
    identity: str = "",
    recognizer_name: str = "",
) -> CodedPairs:
    """Codes of pairs, made once and kept in the safetensors file `cache` if there is a name for one.

    Args:
        pictures: the tokeniser. size: (height, width) that it takes. recognizer: None counts codes that differ.
        resize, colour: as `pictures.to_size`.
        identity: what the file must have been made of beside the tokeniser and the pairs, which go by their `identity`
            or by their names.
        recognizer_name: which recogniser's distances a file must hold; "" takes any, so that one file serves all
            stages of a training.

    Raises:
        ValueError: no pairs, what `read_batch` refuses, or a file made of something else.
    """
    if not len(pairs):
        raise ValueError("`pairs` is empty; at least one is needed")
    identity = repr([identity, content_of(pairs), fingerprint(pictures), list(size), resize, len(pairs)])
    if cache is not None and Path(cache).exists():
        return load_codes(Path(cache), identity, recognizer_name)
    found: dict[str, list[torch.Tensor]] = {"source": [], "target": [], "distances": []}
    words: dict[str, list[Any]] = {name: [] for name in WORDS}
    for start in range(0, len(pairs), BATCH):
        some = [pairs[n] for n in range(start, min(start + BATCH, len(pairs)))]
        before, after = read_batch(some, size, resize, colour)
        codes = [pictures.encode(side.to(pictures.codebook.device)).cpu() for side in (before, after)]
        changed = (codes[0] != codes[1]).float() if recognizer is None else recognizer(before, after).cpu()
        for name, value in zip(found, (*codes, changed), strict=True):
            found[name].append(value)
        for pair in some:
            for name, value in zip(WORDS, (pair.actions, pair.kind, pair.caption, pair.name), strict=True):
                words[name].append(value)
    tensors = {name: torch.cat(values) for name, values in found.items()}
    coded = CodedPairs(**tensors, **{name: tuple(values) for name, values in words.items()})
    if cache is not None:
        _save(coded, Path(cache), {"identity": identity, "recognizer": recognizer_name})
    return coded


def _save(coded: CodedPairs, path: Path, made_of: dict[str, str]) -> None:
    words = {key: getattr(coded, key) for key in WORDS}
    text = torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)
    tensors = {
        "source": coded.source.to(torch.int32), "target": coded.target.to(torch.int32),
        "distances": coded.distances.contiguous(), "words": text,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        save_file(tensors, partial, metadata=made_of)


def load_codes(path: Path, identity: str, recognizer: str) -> CodedPairs:
    """The pairs of a cache.

    Raises:
        ValueError: it is damaged, of other data than `identity`, or holds another `recognizer`'s distances.
    """
    names = ("source", "target", "distances")
    tensors = read_cache(path, identity, "codes", (*names, "words"))
    with open_tensors(path) as file:
        held = (file.metadata() or {}).get("recognizer", "")
    if recognizer not in ("", held):
        raise ValueError(
            f"`cache` {path} holds distances of {held or 'codes that differ':.200}, asked for {recognizer}; delete it "
            "or name another file"
        )
    sizes = {tuple(tensors[name].shape) for name in names}
    with located(f"`cache` {path}"):
        words = record_of(_Words, parse_json(cached_text(tensors["words"])))
        count = {len(getattr(words, name)) for name in WORDS} | {size[0] for size in sizes if size}
        if len(sizes) != 1 or len(sizes.pop()) != 3 or len(count) != 1:
            raise ValueError("its codes and words are not of equally many pairs; delete it or name another")
    source, target = tensors["source"].long(), tensors["target"].long()
    told = {name: tuple(getattr(words, name)) for name in WORDS if name != "actions"}
    return CodedPairs(source, target, tensors["distances"], tuple(map(tuple, words.actions)), **told)


@dataclass(frozen=True)
class _Words:
    actions: list[list[str]]
    kinds: list[str]
    captions: list[str]
    names: list[str]

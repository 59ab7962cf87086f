"""Texts as word pieces, and which of them each node of a graph owns: by the characters that tokenizers give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wm_pipelines.graph_transformer.graph import AttentionGraph, Span


@dataclass(frozen=True)
class Pieces:
    """A text that was encoded, without padding.

    Args:
        text: what the offsets count in, as `parsing.joined_text` makes it.
        ids, types: token and segment of each piece.
        offsets: characters (start, end) of each piece; equal where it stands for none.
        special: whether a piece belongs to no word: CLS, SEP, MASK.
        kept: characters (start, end) of each part that were encoded: the question, and the context.
    """

    text: str
    ids: tuple[int, ...]
    types: tuple[int, ...]
    offsets: tuple[Span, ...]
    special: tuple[bool, ...]
    kept: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.ids)


def encode(
    tokenizer: Any, question: str, context: str | None, limit: int, truncate: bool = False, name: str = "question"
) -> Pieces:
    """Question and context as one sequence, CLS question SEP context SEP with a tokenizer of BERT's kind.

    Args:
        tokenizer: of transformers, one that gives offsets. limit: tokens that the model takes.
        truncate: cut a text that is too long at its end, the context if there is one.
        name: of the question, for messages.

    Raises:
        ValueError: a tokenizer without offsets, or a text that is too long.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"`tokenizer` is a {type(tokenizer).__name__} without offsets; a fast tokenizer has them")
    found = tokenizer(question, context, return_offsets_mapping=True)
    if len(found["input_ids"]) > limit:
        if not truncate:
            what = f"`{name}` with its context" if context is not None else f"`{name}`"
            raise ValueError(
                f"{what} has {len(found['input_ids'])} tokens; the model takes {limit}; shorten it, or pass "
                "truncate=True"
            )
        found = _cut(tokenizer, question, context, limit, name)
    parts = found.sequence_ids(0)
    special_ids = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    shift = len(question) + 1
    offsets = tuple(
        (start + shift, end + shift) if part == 1 else (start, end)
        for (start, end), part in zip(found["offset_mapping"], parts, strict=True)
    )
    special = tuple(part is None or id in special_ids for part, id in zip(parts, found["input_ids"], strict=True))
    ends = [max((end for (_, end), p in zip(offsets, parts, strict=True) if p == part), default=0) for part in (0, 1)]
    kept = [(0, ends[0]), *([(shift, max(shift, ends[1]))] if context is not None else [])]
    types = found.get("token_type_ids") or [int(part == 1) for part in parts]
    text = question if context is None else f"{question} {context}"
    return Pieces(text, tuple(found["input_ids"]), tuple(types), offsets, special, tuple(kept))


def _cut(tokenizer: Any, question: str, context: str | None, limit: int, name: str) -> Any:
    if context is None:
        return tokenizer(question, truncation=True, max_length=limit, return_offsets_mapping=True)
    alone = len(tokenizer.tokenize(question)) + tokenizer.num_special_tokens_to_add(pair=True)
    if alone >= limit:
        raise ValueError(f"`{name}` alone has {alone} tokens; the model takes {limit} with the context; shorten it")
    return tokenizer(question, context, truncation="only_second", max_length=limit, return_offsets_mapping=True)


def node_pieces(graph: AttentionGraph, pieces: Pieces) -> torch.Tensor:
    """Which pieces each node owns, bool `(nodes, T)`: every piece that shares a character with its span.

    Raises:
        ValueError: a span beyond the text, beyond what was encoded, or without a piece.
    """
    graph.check_text(pieces.text)
    offsets = torch.tensor(pieces.offsets)
    spans = torch.tensor([node.span for node in graph.nodes]).reshape(-1, 2)
    starts, ends = offsets[:, 0], offsets[:, 1]
    owned = (starts < spans[:, 1:]) & (spans[:, :1] < ends) & (starts < ends)
    lost = _lost(pieces)
    for n, node in enumerate(graph.nodes) if lost or not owned.any(1).all() else ():
        start, end = node.span
        said = pieces.text[start:end]
        last = start + len(said.rstrip())
        if any(a <= start < b or start < a < last for a, b in lost):
            raise ValueError(f"node {n} {said!r} lies beyond token {len(pieces)}, where the text was cut")
        if not owned[n].any():
            raise ValueError(f"node {n} {said!r} has no token of its own; its `span` {node.span} holds no word")
    return owned


def _lost(pieces: Pieces) -> list[Span]:
    """Characters that were cut off, without the spaces before them."""
    begins = [start for start, _ in pieces.kept]
    ends = [begin - 1 for begin in begins[1:]] + [len(pieces.text)]
    found = []
    for (start, kept), end in zip(pieces.kept, ends, strict=True):
        rest = pieces.text[kept:end]
        if rest.strip():
            found.append((max(start, kept + len(rest) - len(rest.lstrip())), end))
    return found


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of different lengths as int64 `(B, longest)`, `value` behind the shorter ones."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])

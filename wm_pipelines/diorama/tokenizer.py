"""A CLIP tokenizer for the closed grammar: every grammar word is one token, and no input can turn into end-of-text."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wm_pipelines.diorama.words import VOCABULARY
from wm_pipelines.hub.stock import load_part
from wm_pipelines.runtime.files import atomic

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
MAX_LENGTH = 77
END = "</w>"


def byte_characters() -> dict[int, str]:
    """The printable stand-in of each of the 256 bytes, in CLIP's (GPT-2's) byte-level alphabet.

    Printable Latin-1 bytes stand for themselves; the others take the code points from 256 on, in order.
    """
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(kept)]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, in rank order, after which each of `words` (lower-case ASCII) is a single piece.

    Plain BPE training run to its end: the most frequent pair first, the alphabetically first of equals. Encoding
    replays the merges in this order, so every word reaches the single piece that it reached here.
    """
    pieces = [[*word[:-1], word[-1] + END] for word in sorted(set(words))]
    merges = []
    while True:
        pairs = Counter(pair for word in pieces for pair in zip(word, word[1:], strict=False))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in pieces:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1


def tokenizer_tables(words: Sequence[str] = VOCABULARY) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary (piece to id) and the merges.

    All 256 bytes exist both inside and at the end of a word, so a word outside the grammar is spelled in letters and
    nothing is ever unknown. As in CLIP, start-of-text and end-of-text are the last two ids, end-of-text the largest.
    """
    for word in words:
        if not (word.isascii() and word.isalpha() and word.islower()):
            raise ValueError(f"words must be lower-case ASCII letters only, got {word!r}")
    alphabet = list(byte_characters().values())
    merges = learn_merges(words)
    pieces = alphabet + [c + END for c in alphabet] + ["".join(pair) for pair in merges]
    pieces = list(dict.fromkeys(pieces)) + [BOS, EOS]
    return {piece: i for i, piece in enumerate(pieces)}, merges


def build_tokenizer(
    folder: str | os.PathLike, words: Sequence[str] = VOCABULARY, max_length: int = MAX_LENGTH
) -> "CLIPTokenizer":
    """Write a CLIP tokenizer for `words` to `folder` and return it, loaded from there.

    The folder gets `vocab.json`, `merges.txt`, `tokenizer.json`, `tokenizer_config.json` and
    `special_tokens_map.json`, each written whole or not at all, and loads as `CLIPTokenizer` and as `AutoTokenizer`.
    Padding is end-of-text and the model length 77 by default, as in CLIP. A text encoder over it needs
    `vocab_size=len(tokenizer)`, `bos_token_id=tokenizer.bos_token_id` and `eos_token_id=tokenizer.eos_token_id`:
    `CLIPTextModel` pools at the first end-of-text, and its defaults are those of CLIP's own vocabulary.

    Args:
        folder: created if absent.
        words: lower-case ASCII words that become one token each.
        max_length: the most tokens of a text.

    Returns:
        `transformers.CLIPTokenizer`.
    """
    from transformers import CLIPTokenizer

    vocab, merges = tokenizer_tables(words)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False))
    _write(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=2))
    config = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "do_lower_case": True,
        "errors": "replace",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2))
    # Built in memory so that no stale tokenizer.json in the folder can be read instead of the tables above.
    built = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)
    _write(folder / "tokenizer.json", built.backend_tokenizer.to_str(pretty=False))
    return load_part(CLIPTokenizer, folder)


def _write(path: Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text + ("" if text.endswith("\n") else "\n"), encoding="utf-8")

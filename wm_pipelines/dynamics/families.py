"""Which token models there are: whose pictures, codes and layout each class of transformers comes with.

Layouts are in `templates/`; they go into a checkpoint's `model_index.json` and are read from there ever after.
"""

import re
from importlib.resources import files
from typing import Any

import torch
from diffusers import VQModel
from torch import nn

from wm_pipelines.dynamics.backend import TokenBackend
from wm_pipelines.dynamics.layout import Layout
from wm_pipelines.dynamics.pictures import Emu3Pictures
from wm_pipelines.runtime.readers import parse_yaml
from wm_pipelines.tokens.pictures import PictureTokens
from wm_pipelines.tokens.vocabulary import CodeVocabulary

_EMU3 = re.compile(r"<\|visual token (\d{6})\|>")
OWN_LAYOUT = {"ChameleonForConditionalGeneration": "chameleon", "Emu3ForConditionalGeneration": "emu3"}


class ChameleonTokenBackend(TokenBackend):
    """Chameleon and Anole past the mask: `ChameleonForConditionalGeneration` can't emit a picture token itself, nor
    has it a decoder for its codes; the output layer is called directly, and a `VQModel` draws."""

    masked_logits = True


def default_layout(name: str) -> Layout:
    """One of the layouts that ship: "liquid", "chameleon", "emu3" or "plain" (words, source, target; no instruction).

    Raises:
        ValueError: another name.
    """
    folder = files(__package__) / "templates"
    known = sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))
    if name not in known:
        raise ValueError(f"`layout` {name!r:.200} is none of {', '.join(known)}")
    return Layout.model_validate(parse_yaml((folder / f"{name}.yaml").read_text(encoding="utf-8")))


def emu3_code(name: str) -> int | None:
    """The code that a token of Emu3's vocabulary is named after; None for one of text."""
    found = _EMU3.fullmatch(name)
    return int(found[1]) if found else None


def make_backend(
    model: nn.Module, vq: VQModel | None, tokenizer: Any, layout: Layout | str | None = None
) -> TokenBackend:
    """The backend of a model's class.

    Args:
        model: `GemmaForCausalLM` (Liquid), `ChameleonForConditionalGeneration` (Chameleon, Anole),
            `Emu3ForConditionalGeneration`, or any causal model of transformers with codes in its vocabulary.
        vq: what draws the codes; None for Emu3, which holds its own.
        layout: the checkpoint's, or one of `default_layout`; None: the one of the model's class.

    Raises:
        ValueError: a part that is missing or doesn't fit.
    """
    kind = type(model).__name__
    if layout is None:
        if kind not in OWN_LAYOUT:
            raise ValueError(f"`layout` is missing, and no layout belongs to {kind}; name one, as in layout='liquid'")
        layout = OWN_LAYOUT[kind]
    layout = default_layout(layout) if isinstance(layout, str) else layout
    if kind == "Emu3ForConditionalGeneration":
        if vq is not None:
            raise ValueError("`vq` is given, but Emu3 holds its own tokeniser; leave it out")
        pictures: Any = Emu3Pictures(model.model.vqmodel)
        codes = CodeVocabulary.from_names(model.config.vocabulary_map, emu3_code)
    else:
        if vq is None:
            raise ValueError(f"`vq` is missing: {kind} draws nothing without its VQModel")
        pictures = PictureTokens(vq)
        if layout.first_code is None:
            names = getattr(model.config, "vocabulary_map", None) or tokenizer.get_vocab()
            codes = CodeVocabulary.from_names(names)
        else:
            codes = CodeVocabulary(torch.arange(layout.first_code, layout.first_code + pictures.num_codes))
    backend = ChameleonTokenBackend if kind == "ChameleonForConditionalGeneration" else TokenBackend
    return backend(model, pictures, codes, tokenizer, layout)

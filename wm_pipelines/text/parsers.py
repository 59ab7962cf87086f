"""Which parser reads captions, by a word: the rules, spaCy with a model of the user's, or a FACTUAL model."""

from collections.abc import Callable
from typing import Any

from wm_pipelines.text.dependencies import from_dependencies
from wm_pipelines.text.factual import FactualParser
from wm_pipelines.text.parsed import ParsedText
from wm_pipelines.text.parser import parse

Parser = Callable[[str], ParsedText]
_KNOWN = "'rules', 'spacy:MODEL' or 'factual:FOLDER_OR_HUB_ID'"


def make_parser(parser: str | Parser) -> Parser:
    """The parser that a text names; a callable is returned as it is.

    Args:
        parser: "rules"; "spacy:en_core_web_sm", any spaCy pipeline with tagger, lemmatizer and parser; or
            "factual:lizhuang144/flan-t5-base-VG-factual-sg", any FACTUAL model by folder or Hub id.

    Raises:
        ValueError: another text or type, a model that can't be had, or no spaCy where it is asked for.
    """
    if callable(parser):
        return parser
    kind, _, model = parser.partition(":") if isinstance(parser, str) else ("", "", "")
    if parser == "rules":
        return parse
    if kind == "spacy" and model:
        return SpacyParser.from_name(model)
    if kind == "factual" and model:
        return FactualParser.from_pretrained(model)
    raise ValueError(f"parser={parser!r}; it must be a callable, {_KNOWN}")


class SpacyParser:
    """A spaCy pipeline: caption -> `ParsedText`.

    Args:
        nlp: text -> its words with heads and labels (see `dependencies.Token`).
    """

    def __init__(self, nlp: Callable[[str], Any]):
        self.nlp = nlp

    @classmethod
    def from_name(cls, name: str) -> "SpacyParser":
        """The pipeline of an installed package or a folder. spaCy is imported here, and only here.

        Raises:
            ValueError: spaCy is not installed, or has no such pipeline, or it parses no dependencies.
        """
        try:
            import spacy
        except ImportError as error:
            raise ValueError(
                f"parser='spacy:{name}' needs spaCy, which is not installed: "
                f"pip install spacy && python -m spacy download {name}"
            ) from error
        try:
            nlp = spacy.load(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"parser='spacy:{name}': spaCy has no pipeline {name!r}; python -m spacy download {name}"
            ) from error
        missing = {"parser", "lemmatizer"} - set(nlp.pipe_names)
        if missing:
            raise ValueError(f"parser='spacy:{name}': the pipeline has no {' and no '.join(sorted(missing))}")
        return cls(nlp)

    def __call__(self, text: str) -> ParsedText:
        """Entities and relations of a caption.

        Raises:
            ValueError: not a string.
        """
        if not isinstance(text, str):
            raise ValueError(f"a caption must be a string, got {text!r}")
        return from_dependencies(self.nlp(text))

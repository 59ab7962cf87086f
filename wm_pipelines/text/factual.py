"""Scene graphs as the FACTUAL models write them (arXiv 2305.17497): facts in brackets, out of a T5 model's text.

"( dog , is , brown ) , ( dog , chase , cat )": "is" gives an attribute or a number, anything else is a relation, one
word alone is a thing. Models with identifiers write "v:" before verbs, "pv:" before passives and ":1" behind a name.
"""

import re
from typing import Any

from wm_pipelines.text.parsed import Entity, ParsedText, Relation

PROMPT = "Generate Scene Graph: "
_NUMBER = re.compile(r":\d+$")


def read_facts(text: str) -> ParsedText:
    """Entities and relations of a FACTUAL model's text.

    Attributes go before the name in the order in which they come; relations keep their words ("sit on"), and those of
    passives are turned ("( cat , pv:chase by , dog )" is dog chase cat). Facts said twice count once.

    Raises:
        ValueError: text that is not facts in brackets with one or three parts, for example one that was cut short.
    """
    attributes: dict[str, list[str]] = {}
    relations: list[tuple[str, str, str]] = []
    for parts in _facts(text):
        attributes.setdefault(parts[0], [])
        if len(parts) == 1:
            continue
        who, what, whom = parts
        if what == "is":
            if whom not in attributes[who]:
                attributes[who].append(whom)
            continue
        attributes.setdefault(whom, [])
        if what.startswith("pv:") and what.endswith(" by"):
            who, what, whom = whom, what.removesuffix(" by"), who
        relations.append((who, what.removeprefix("pv:").removeprefix("v:"), whom))
    ids = {name: f"e{n}" for n, name in enumerate(attributes)}
    entities = (Entity(ids[name], _NUMBER.sub("", name), tuple(said)) for name, said in attributes.items())
    ties = (
        Relation(f"r{n}", ids[who], what, ids[whom]) for n, (who, what, whom) in enumerate(dict.fromkeys(relations))
    )
    return ParsedText(tuple(entities), tuple(ties))


def _facts(text: str) -> list[list[str]]:
    """The parts of each fact."""
    found, rest = [], text.strip()
    while rest:
        fact = re.match(r"\(([^()]*)\)\s*(,\s*(?=\()|$)", rest)
        parts = [part.strip() for part in fact[1].split(",")] if fact else []
        if len(parts) not in (1, 3) or not all(parts):
            raise ValueError(
                f"a FACTUAL scene graph is '( subject , relation , object ) , ..', got {text!r} with {rest[:60]!r}"
            )
        found.append(parts)
        rest = rest[fact.end() :]
    return found


class FactualParser:
    """A FACTUAL model: caption -> `ParsedText`.

    Args:
        model: `T5ForConditionalGeneration`. tokenizer: its own.
        beams: of the search. length: most tokens of an answer.

    Raises:
        ValueError: another model, or settings below 1.
    """

    def __init__(self, model: Any, tokenizer: Any, beams: int = 5, length: int = 256):
        if model.config.model_type != "t5":
            raise ValueError(f"the parser's model is a {model.config.model_type!r}; FACTUAL models are 't5'")
        for name, value in (("beams", beams), ("length", length)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}; it must be an integer of at least 1")
        self.model, self.tokenizer, self.beams, self.length = model.eval(), tokenizer, beams, length

    @classmethod
    def from_pretrained(cls, source: str, **options: int) -> "FactualParser":
        """A parser from a folder or Hub id, for example "lizhuang144/flan-t5-base-VG-factual-sg".

        Args:
            options: `beams`, `length`.

        Raises:
            ValueError: no such checkpoint, pickled weights, or another model.
        """
        from transformers import AutoConfig, AutoTokenizer, T5ForConditionalGeneration

        from wm_pipelines import hub
        from wm_pipelines.hub.stock import load_model, load_part

        folder = hub.resolve(source)
        kind = load_part(AutoConfig, folder).model_type
        if kind != "t5":
            raise ValueError(f"{source!r} is a {kind!r}; FACTUAL models are 't5'")
        hub.check_weights(folder)
        return cls(load_model(T5ForConditionalGeneration, folder), load_part(AutoTokenizer, folder), **options)

    def write(self, text: str) -> str:
        """The model's own text for a caption.

        Raises:
            ValueError: not a string.
        """
        import torch

        if not isinstance(text, str):
            raise ValueError(f"a caption must be a string, got {text!r}")
        inputs = self.tokenizer(PROMPT + text.strip(), return_tensors="pt").to(self.model.device)
        with torch.no_grad():
            ids = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                decoder_start_token_id=self.tokenizer.pad_token_id,
                num_beams=self.beams,
                max_new_tokens=self.length,
                do_sample=False,
            )
        return self.tokenizer.decode(ids[0], skip_special_tokens=True)

    def __call__(self, text: str) -> ParsedText:
        """Entities and relations of a caption.

        Raises:
            ValueError: not a string, or the model wrote no scene graph.
        """
        return read_facts(self.write(text))

"""A multiple-choice question with everything that is known about it: the record and its JSON (our design)."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from wm_pipelines.record import check_values
from wm_pipelines.runtime.readers import concise, parse_json

R = TypeVar("R")

LETTERS = "ABCDE"
SCHEMA_VERSION = 1

_PLAIN = (bool, int, float, str, list, dict, type(None))  # of JSON; others are made already
Answers = dict[str, str | None]


@dataclass(frozen=True)
class TextGraph:
    """Entities and relations of a text.

    Args:
        nodes: (start, end) characters of each mention. edges: (node, node, label), each pair once.
    """

    nodes: tuple[tuple[int, int], ...] = ()
    edges: tuple[tuple[int, int, str], ...] = ()

    def to_dict(self, offset: int = 0) -> dict:
        """`{"nodes": [{"span": [a, b], "modality": "text"}], "edges": [[i, j, label]]}`, spans moved by `offset`."""
        nodes = [{"span": [a + offset, b + offset], "modality": "text"} for a, b in self.nodes]
        return {"nodes": nodes, "edges": [list(edge) for edge in self.edges]}


@dataclass(frozen=True)
class Context:
    """What a reader is told beside the picture.

    Args:
        kind: "facts", "table" or "graph".
        text: its rows in random order, one sentence each.
        rows: (start, end) characters of each row.
        needed: the rows that lead from the question to the answer.
        graph: entities and relations of `text`.
    """

    kind: str
    text: str
    rows: tuple[tuple[int, int], ...]
    needed: tuple[int, ...]
    graph: TextGraph


@dataclass(frozen=True)
class Question:
    """One question. The truth is always that of the state, by `wm_pipelines.diorama.questions.truth`.

    Args:
        family: a name of `FAMILIES`.
        text: the question as it is asked, without the options.
        options: two to five answers, in the order in which they are shown.
        answer: index of the right one.
        program: what the text asks, in values that JSON knows.
        priors: for each option, the probability that it is right given all the text (question, options, context, and
            the law that drew them), exactly; they sum to 1.
        mirror: answer -> answer when left and right of the pictures change places; None where nothing is known.
        reverse: the same when the clip runs backwards; None for a picture, which has no time.
        frames: a smallest set of frames, found greedily, that already decides the answer.
        graph: entities and relations of `text`, where there is a context.
        world: "normal", or the law that does not hold: "inverted gravity", "no friction", "no inertia".
        conflict: whether a normal world would have another answer.
    """

    family: str
    text: str
    options: tuple[str, ...]
    answer: int
    program: dict
    priors: tuple[float, ...]
    mirror: Answers
    reverse: Answers | None
    frames: tuple[int, ...]
    context: Context | None = None
    graph: TextGraph | None = None
    world: str = "normal"
    conflict: bool = False

    def __post_init__(self) -> None:
        if not 2 <= len(self.options) <= len(LETTERS) or len(set(self.options)) != len(self.options):
            raise ValueError(f"`options` are {self.options}; two to five different answers")
        if not 0 <= self.answer < len(self.options):
            raise ValueError(f"`answer` is {self.answer!r}; an index into {len(self.options)} options")
        if len(self.priors) != len(self.options) or not math.isclose(sum(self.priors), 1, abs_tol=1e-9):
            raise ValueError(f"`priors` are {self.priors}; one for each option, summing to 1")
        for name, answers in (("mirror", self.mirror), ("reverse", self.reverse)):
            if answers is not None and set(answers) != set(self.options):
                raise ValueError(f"`{name}` maps {sorted(answers)}; it must map the options {sorted(self.options)}")

    @property
    def right(self) -> str:
        """The text of the right option."""
        return self.options[self.answer]

    @property
    def letter(self) -> str:
        return LETTERS[self.answer]

    @property
    def prior(self) -> float:
        """Text-prior probability of the right option."""
        return self.priors[self.answer]

    @property
    def full_text(self) -> str:
        """The question, behind its context if it has one: what `full_graph` has spans of."""
        return f"{self.context.text} {self.text}" if self.context else self.text

    def full_graph(self) -> dict:
        """The graph of `full_text`: the nodes of the context, then those of the question; no edge between the two."""
        if self.context is None or self.graph is None:
            return TextGraph().to_dict()
        first, offset = self.context.graph.to_dict(), len(self.context.text) + 1
        second, moved = self.graph.to_dict(offset), len(first["nodes"])
        edges = [[i + moved, j + moved, label] for i, j, label in second["edges"]]
        return {"nodes": first["nodes"] + second["nodes"], "edges": first["edges"] + edges}

    def twin(self, transform: str) -> "Question | None":
        """The question about the mirrored or reversed clip: the same text and options, another truth.

        Which frames of that clip matter is not known here.

        Args:
            transform: "mirror" or "reverse".

        Returns:
            None where the transformed clip has no answer.
        """
        if transform not in ("mirror", "reverse"):
            raise ValueError(f"`transform` is {transform!r}; allowed: mirror, reverse")
        answer = (getattr(self, transform) or {}).get(self.right)
        return None if answer is None else replace(self, answer=self.options.index(answer), frames=())

    def to_json(self) -> str:
        return json.dumps({"question": SCHEMA_VERSION, **asdict(self)}, allow_nan=False)

    @classmethod
    @concise()
    def from_json(cls, text: str) -> "Question":
        """The inverse of `to_json`.

        Raises:
            ValueError: another version, an unknown or missing field, or values that are not a question.
        """
        data = parse_json(text)
        if not isinstance(data, dict) or data.pop("question", None) != SCHEMA_VERSION:
            raise ValueError(f"not a question of version {SCHEMA_VERSION}")
        context, graph = data.get("context"), data.get("graph")
        if context is not None and not isinstance(context, dict):
            raise ValueError(f"`context` is {context!r:.200}; it must be a JSON object, or null")
        if context is not None:
            context = read_record(Context, context | {"graph": read_record(TextGraph, context.get("graph"))})
        graph = None if graph is None else read_record(TextGraph, graph)
        return read_record(cls, {**data, "context": context, "graph": graph}, kept=("program",))


def read_record(cls: type[R], data: Any, kept: Sequence[str] = ()) -> R:
    """A dataclass of `data`, its lists made tuples at every depth but in the fields `kept`.

    Raises:
        ValueError: `data` is no JSON object, or a field is unknown or missing.
    """
    if not isinstance(data, dict):
        raise ValueError(f"a {cls.__name__} is {data!r}; it must be a JSON object")
    known = {f.name for f in fields(cls)}
    if wrong := sorted(set(data) ^ known):
        state = "unknown" if wrong[0] in data else "missing"
        raise ValueError(f"field {wrong[0]!r} of {cls.__name__} is {state}; it has {', '.join(sorted(known))}")
    check_values(cls, {name: value for name, value in data.items() if isinstance(value, _PLAIN)})
    return cls(**{name: value if name in kept else _frozen(value) for name, value in data.items()})


def _frozen(value):
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value

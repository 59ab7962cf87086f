"""Training on the miniature world: questions about rendered pictures whose context says what no picture shows.

Options beside those of `GraphTransformerTask`:
    length: questions. contexts: kinds of context. families: kinds of question; all that take a context by default.
    rows: of a context, 4 to 12. split, composition: as in `DioramaDataset`. cache: a file that keeps pictures and
    questions between runs.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from wm_pipelines.diorama.datasets import COMPOSITIONS, SPLITS, DioramaDataset
from wm_pipelines.diorama.questions import CONTEXTS, FAMILIES, QUESTION_VOCABULARY, Item, Knobs
from wm_pipelines.diorama.questions.contexts import NAMES, NUMBERS
from wm_pipelines.diorama.questions.relations import PLACES
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, SHAPES, SIZES
from wm_pipelines.graph_transformer.graph import AttentionGraph
from wm_pipelines.graph_transformer.parsing import joined_text, with_mentions
from wm_pipelines.graph_transformer.training import DEFAULTS, GraphTransformerTask, Row
from wm_pipelines.record import explain
from wm_pipelines.runtime.caches import cached_text, read_cache
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.readers import located, parse_json


class _Told(TypedDict):
    question: str
    context: str | None
    answer: str
    graph: dict[str, Any]
    options: list[str]


_TOLD = TypeAdapter(list[_Told])
ASKED = tuple(name for name, family in FAMILIES.items() if family.medium == "picture" and family.contexts)
_KINDS = [f"the {shape}" for shape in SHAPES] + [f"the {colour} object" for colour in COLOURS]
ANSWERS: tuple[str, ...] = (
    *COLOURS, *SHAPES, *SIZES, *(f"{place} it" for place in PLACES), *NAMES, *NUMBERS, "no other object", *_KINDS,
    *(f"the {colour} {shape}" for colour in COLOURS for shape in SHAPES),
)  # fmt: skip
"""All that questions with a context may be answered by, in the order of the logits."""

WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(word for text in (*QUESTION_VOCABULARY, "has", *ANSWERS) for word in text.split())
)
"""The words of those questions, contexts and answers."""

SCENE_DEFAULTS: dict[str, Any] = {
    "length": 20000, "contexts": list(CONTEXTS), "families": list(ASKED), "rows": 5, "split": "train",
    "composition": "iid", "cache": None, **DEFAULTS,
}  # fmt: skip


class ContextQuestions:
    """Questions with a context, in turn of every family and kind of context, rendered once and held in memory.

    Args:
        length: questions. contexts, families: kinds to take turns. rows: of a context.
        split: "train", "val" or "test"; no question is in two of them. composition: "iid", "held_out" or "all".
        size: side of the pictures, pixels. cache: a file that keeps it all.

    Raises:
        ValueError: an argument is out of range, or `cache` holds something else.
    """

    def __init__(
        self,
        length: int,
        contexts: list[str],
        families: list[str],
        rows: int = 5,
        split: str = "train",
        composition: str = "iid",
        size: int = 64,
        cache: str | None = None,
    ):
        for name, values, allowed in (
            ("contexts", contexts, CONTEXTS),
            ("families", families, ASKED),
            ("split", [split], SPLITS),
            ("composition", [composition], COMPOSITIONS),
        ):
            wrong = [value for value in values if value not in allowed]
            if wrong or not values:
                raise ValueError(f"options.{name} is {values!r}; choose from {', '.join(allowed)}")
        if type(length) is not int or length < 1:
            raise ValueError(f"options.length is {length!r}; an integer of 1 or more")
        self.length, self.answers, self.words = length, list(ANSWERS), list(WORDS)
        self.sets = [
            DioramaDataset(
                "questions",
                split=split,
                composition=composition,
                length=length,
                name="graph transformer",
                families=[f for f in families if context in FAMILIES[f].contexts],
                context=context,
                knobs=Knobs(rows=rows),
            )
            for context in contexts
        ]
        self.data = f"Diorama questions with {', '.join(contexts)}, {split} split, {composition}, {length} questions"
        identity = repr([length, contexts, families, rows, split, composition, size])
        if cache is not None and Path(cache).exists():
            self._load(Path(cache), identity)
            return
        self._make(size)
        if cache is not None:
            self._save(Path(cache), identity)

    def item(self, index: int) -> Item:
        """The question and its world; kinds of context take turns, and within each the families."""
        turn, context = divmod(index, len(self.sets))
        return self.sets[context].questions.item(turn)

    def _make(self, size: int) -> None:
        from tqdm import tqdm

        self.rows: list[Row] = []
        self.options: list[tuple[str, ...]] = []
        self.rgb = torch.empty(self.length, 3, size, size, dtype=torch.uint8)
        for start in tqdm(range(0, self.length, 64), desc="questions"):
            items = [self.item(i) for i in range(start, min(self.length, start + 64))]
            shown = render([item.clip.scene for item in items], (0,), size, ("rgb",)).rgb[:, 0]
            self.rgb[start : start + len(items)] = (shown * 255).round().to(torch.uint8)
            self.rows += [row_of(item) for item in items]
            self.options += [item.question.options for item in items]

    def _save(self, path: Path, identity: str) -> None:
        from safetensors.torch import save_file

        told = [
            {**vars(row), "graph": row.graph.to_dict(), "options": options}
            for row, options in zip(self.rows, self.options, strict=True)
        ]
        text = torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            save_file({"rgb": self.rgb, "rows": text}, partial, metadata={"identity": identity})

    def _load(self, path: Path, identity: str) -> None:
        found = read_cache(path, identity, "questions", ("rgb", "rows"))
        self.rgb = found["rgb"]
        with located(path):
            try:
                told = _TOLD.validate_python(parse_json(cached_text(found["rows"])))
            except ValidationError as error:
                raise ValueError(f"its rows are damaged: {explain(error)}") from None
            self.options = [tuple(entry.pop("options")) for entry in told]
            self.rows = [Row(**entry | {"graph": AttentionGraph.from_dict(entry["graph"])}) for entry in told]

    def row(self, index: int) -> Row:
        """Question, context, answer, and the graph that the world gives."""
        return self.rows[index]

    def picture(self, index: int) -> torch.Tensor:
        """(3, H, W) uint8."""
        return self.rgb[index]


def row_of(item: Item) -> Row:
    """A question with its context and the exact graph of both, mentions of one thing tied."""
    question = item.question
    graph = AttentionGraph.from_dict(question.graph.to_dict())
    told = AttentionGraph.from_dict(question.context.graph.to_dict(len(question.text) + 1))
    text = joined_text(question.text, question.context.text)
    return Row(question.text, question.context.text, question.right, with_mentions(graph.joined(told), text))


class SceneTask(GraphTransformerTask):
    """`wm train graph-transformer`: a small ViLT on Diorama questions with a context."""

    defaults = SCENE_DEFAULTS

    def make_source(self) -> ContextQuestions:
        names = ("length", "contexts", "families", "rows", "split", "composition", "size", "cache")
        return ContextQuestions(**{name: self.options[name] for name in names})

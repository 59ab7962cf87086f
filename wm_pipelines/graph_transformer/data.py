"""Training on questions of one's own: a folder of rows (picture, text, question, answer, graph)."""

from pathlib import Path
from typing import Any

from PIL import Image

from wm_pipelines.data.tables import check_inside
from wm_pipelines.graph_transformer.graph import AttentionGraph
from wm_pipelines.graph_transformer.parsing import joined_text, read_graph
from wm_pipelines.graph_transformer.training import DEFAULTS, GraphTransformerTask, Row
from wm_pipelines.graph_transformer.words import words_of
from wm_pipelines.media.pictures import load_image
from wm_pipelines.runtime.readers import concise, located, read_jsonl, read_lines, read_text

ROWS, ANSWERS = "questions.jsonl", "answers.txt"
FIELDS = {"picture", "question", "answer", "text", "graph"}


class QuestionFolder:
    """`questions.jsonl`, an object on each line: `picture`, a file of the folder; `question`; `answer`; and, if there
    are any, `text`, what is told beside the picture (a table as `Table.text` writes it, too), and `graph`, in any form
    of `parsing.read_graph`, or the name of a file of the folder with one.

    `answers.txt`, one on each line, fixes the answers and their order; without it they are those of the rows, sorted.

    Args:
        root: the folder.

    Raises:
        ValueError: a file that is missing, a row with another layout, an answer that is not among the answers, or a
            graph that does not fit its text; names the line.
    """

    @concise()
    def __init__(self, root: str | Path):
        self.root = Path(root)
        path = self.root / ROWS
        if not path.is_file():
            raise ValueError(f"options.data: {str(root)!r} has no {ROWS}")
        self.rows, self.files = [], []
        for line, entry in read_jsonl(path):
            with located(path, line):
                self.rows.append(self._row(entry))
                self.files.append(self._file(entry["picture"]))
        listed = self.root / ANSWERS
        lines = [text.strip() for _, text in read_lines(listed)] if listed.is_file() else []
        self.answers = lines or sorted({row.answer for row in self.rows})
        if len(set(self.answers)) != len(self.answers) or len(self.answers) < 2:
            raise ValueError(f"options.data: there must be two or more different answers, got {len(self.answers)}")
        unknown = next((n for n, row in enumerate(self.rows) if row.answer not in self.answers), None)
        if unknown is not None:
            raise ValueError(f"{path}: the answer {self.rows[unknown].answer!r} is not in {ANSWERS}")
        self.length = len(self.rows)
        self.words = words_of([text for row in self.rows for text in (row.question, row.context or "")])
        given = sum(row.graph is not None for row in self.rows)
        self.data = f"folder of {self.length} questions with {len(self.answers)} answers, {given} with a graph"

    def _row(self, entry: Any) -> Row:
        if not isinstance(entry, dict):
            raise ValueError(f"a row is an object with {', '.join(sorted(FIELDS))}, got a {type(entry).__name__}")
        unknown = sorted(set(entry) - FIELDS)
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}; known: {', '.join(sorted(FIELDS))}")
        for name in ("picture", "question", "answer"):
            if not isinstance(entry.get(name), str) or not entry[name].strip():
                raise ValueError(f"`{name}` is {entry.get(name)!r}; a text that is not empty")
        text = entry.get("text")
        if text is not None and (not isinstance(text, str) or not text.strip()):
            raise ValueError(f"`text` is {text!r}; a text that is not empty, or left out")
        graph = entry.get("graph")
        return Row(entry["question"], text, entry["answer"], None if graph is None else self._graph(graph, entry))

    def _graph(self, graph: Any, entry: dict[str, Any]) -> AttentionGraph:
        if isinstance(graph, str) and not graph.strip().startswith(("(", "{", '"')):
            graph = read_text(self._file(graph))
        return read_graph(graph, joined_text(entry["question"], entry.get("text")))

    def _file(self, name: str) -> Path:
        path = self.root / check_inside(name)
        if not path.is_file() or not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"{name!r} is no file of the folder")
        return path

    def row(self, index: int) -> Row:
        """The question, its text, its answer and its graph."""
        return self.rows[index]

    def picture(self, index: int) -> Image.Image:
        """The picture, read when it is asked for."""
        return load_image(self.files[index])


FOLDER_DEFAULTS: dict[str, Any] = {**DEFAULTS, "data": None, "base": "dandelin/vilt-b32-mlm", "graph": "given"}


class FolderTask(GraphTransformerTask):
    """`wm train graph-transformer-folder`: a ViLT of any size on a folder of rows.

    Options as in `GraphTransformerTask`, and `data`, the folder.
    """

    defaults = FOLDER_DEFAULTS

    def make_source(self) -> QuestionFolder:
        if self.options["data"] is None:
            raise ValueError(f"options.data is missing: a folder with {ROWS} and pictures")
        return QuestionFolder(self.options["data"])

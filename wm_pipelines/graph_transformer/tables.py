"""Tables as text and as graphs: each cell a node, tied to its row, its column and its header (arXiv 2305.00581).

The text of a table is "row 1: name is Ann; age is 7; row 2: ...", so that any text encoder reads it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from wm_pipelines.graph_transformer.graph import AttentionGraph, GraphNode, Span
from wm_pipelines.runtime.readers import Source, read_csv

MOST_NODES = 1000
"""Of a table's graph, which has an edge for any two cells of a column; no text encoder here reads as many."""

Place = tuple[str, int, int]  # "cell" or "header", row, column
_ROW = re.compile(r"row ([^:;.\n]+): ((?:[^:;.\n]+ is [^:;.\n]*[;.]\s*)+)")
_PAIR = re.compile(r"([^:;.\n]+?) is ([^:;.\n]*?)\s*[;.]\s*")


@dataclass(frozen=True)
class Table:
    """A header and rows of as many cells; a cell may be empty, a header may not.

    Raises:
        ValueError: no column or row, a cell that is no string, or a row of another length.

    Example:
        >>> Table(("name", "age"), (("Ann", "7"),)).text()
        'row 1: name is Ann; age is 7;'
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "header", tuple(self.header))
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        if not self.header or not self.rows:
            raise ValueError(f"a table needs columns and rows, got {len(self.header)} and {len(self.rows)}")
        for n, row in enumerate((self.header, *self.rows)):
            where = f"`rows`[{n - 1}]" if n else "`header`"
            if len(row) != len(self.header):
                raise ValueError(f"{where} has {len(row)} cells for {len(self.header)} columns")
            for cell in row:
                if not isinstance(cell, str) or (not n and not cell.strip()):
                    raise ValueError(f"{where} has the cell {cell!r}; a text{'' if n else ' that is not empty'}")

    @classmethod
    def from_csv(cls, path: Source) -> "Table":
        """A CSV file whose first line is the header.

        Raises:
            ValueError: no such file, or as `runtime.readers.read_csv`.
        """
        rows = [row for _, row in read_csv(path, ())]
        if not rows:
            raise ValueError(f"{path} holds no row")
        return cls(tuple(rows[0]), tuple(tuple(value or "" for value in row.values()) for row in rows))

    def text(self) -> str:
        """The table as one line."""
        return "".join(piece for piece, _ in self._pieces()).strip()

    def graph(self) -> AttentionGraph:
        """Nodes for cells and for each mention of a header; edges within a row, within a column, and from cell to
        header. Spans count in `text()`."""
        return _graph(list(self._spans()))

    def _pieces(self) -> Iterator[tuple[str, Place | None]]:
        """The text in pieces; each that is a node with its kind, row and column."""
        for r, row in enumerate(self.rows):
            yield f"row {r + 1}: ", None
            for c, (name, cell) in enumerate(zip(self.header, row, strict=True)):
                yield name, ("header", r, c)
                yield " is ", None
                yield cell, ("cell", r, c)
                yield "; ", None

    def _spans(self) -> Iterator[tuple[Span, Place]]:
        at = 0
        for piece, key in self._pieces():
            if key is not None and piece.strip():
                yield (at, at + len(piece)), key
            at += len(piece)


def read_rows(text: str) -> AttentionGraph | None:
    """The graph of a text that is a table as `Table.text` writes it, its columns in any order; None for other text.

    Rows may end with a full stop, and be numbered in words.
    """
    if not text.startswith("row ") or _ROW.sub("", text).strip():
        return None
    columns: dict[str, int] = {}
    spans: list[tuple[Span, Place]] = []
    for r, row in enumerate(_ROW.finditer(text)):
        for pair in _PAIR.finditer(row[2]):
            column = columns.setdefault(pair[1], len(columns))
            for kind, group in (("header", 1), ("cell", 2)):
                if pair[group].strip():
                    start, end = pair.span(group)
                    spans.append(((row.start(2) + start, row.start(2) + end), (kind, r, column)))
    return _graph(spans)


def _graph(spans: list[tuple[Span, Place]]) -> AttentionGraph:
    """Nodes at their spans; edges within a row, within a column, and from cell to header."""
    if len(spans) > MOST_NODES:
        raise ValueError(f"a table of {len(spans)} cells and mentions of headers; up to {MOST_NODES} make a graph")
    edges = []
    for n, (_, (kind, row, column)) in enumerate(spans):
        for k, (_, (other, r, c)) in enumerate(spans[n + 1 :], n + 1):
            if kind == other == "cell" and (row == r or column == c):
                edges.append((n, k, "same row" if row == r else "same column"))
            elif column == c and kind != other and row == r:
                edges.append((n, k, "header"))
            elif column == c and kind == other == "header":
                edges.append((n, k, "same"))
    return AttentionGraph(tuple(GraphNode(span, kind=place[0]) for span, place in spans), tuple(edges))

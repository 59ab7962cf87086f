"""Tables as text and as graphs: each cell a node, tied to its row, its column and its header (arXiv 2305.00581).

The text of a table is "row 1: name is Ann; age is 7; row 2: ...", so that any text encoder reads it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from wm_pipelines.graph_transformer.graph import AttentionGraph, GraphNode, Span
from wm_pipelines.runtime.readers import Source, read_csv


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
        return cls(tuple(rows[0]), tuple(tuple(value or "" for value in row.values()) for row in rows))

    def text(self) -> str:
        """The table as one line."""
        return "".join(piece for piece, _ in self._pieces()).strip()

    def graph(self) -> AttentionGraph:
        """Nodes for cells and for each mention of a header; edges within a row, within a column, and from cell to
        header. Spans count in `text()`."""
        nodes: list[GraphNode] = []
        places: dict[tuple[str, int, int], int] = {}
        for span, key in self._spans():
            places[key] = len(nodes)
            nodes.append(GraphNode(span, kind=key[0]))
        edges = []
        for (kind, row, column), n in places.items():
            for (other, r, c), k in places.items():
                if k <= n or (row != r and column != c):
                    continue
                if kind == other == "cell":
                    edges.append((n, k, "same row" if row == r else "same column"))
                elif column == c and (row == r or kind == other):
                    edges.append((n, k, "header" if kind != other else "same"))
        return AttentionGraph(tuple(nodes), tuple(edges))

    def _pieces(self) -> Iterator[tuple[str, tuple[str, int, int] | None]]:
        """The text in pieces; each that is a node with its kind, row and column."""
        for r, row in enumerate(self.rows):
            yield f"row {r + 1}: ", None
            for c, (name, cell) in enumerate(zip(self.header, row, strict=True)):
                yield name, ("header", r, c)
                yield " is ", None
                yield cell, ("cell", r, c)
                yield "; ", None

    def _spans(self) -> Iterator[tuple[Span, tuple[str, int, int]]]:
        at = 0
        for piece, key in self._pieces():
            if key is not None and piece.strip():
                yield (at, at + len(piece)), key
            at += len(piece)

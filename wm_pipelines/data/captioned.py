"""A folder of captioned files: `anno.txt` (id TAB caption), and for each id a file in a folder beside it."""

from collections.abc import Sequence
from pathlib import Path


class CaptionedFolder:
    """The ids and captions of a folder, and where the files of an id are.

    Attributes: `root`, `names` (ids) and `captions`, in the order of `anno.txt`.

    Args:
        root: the folder.

    Raises:
        ValueError: no `anno.txt`, an empty one, or a line without a TAB.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not (self.root / "anno.txt").is_file():
            raise ValueError(f"options.data: {str(root)!r} has no anno.txt")
        lines = [x.split("\t", 1) for x in (self.root / "anno.txt").read_text(encoding="utf-8").splitlines() if x]
        broken = [i + 1 for i, line in enumerate(lines) if len(line) != 2]
        if broken or not lines:
            raise ValueError(f"anno.txt of {str(root)!r}: line {(broken or [1])[0]} is not 'id TAB caption'")
        self.names, self.captions = zip(*lines, strict=True)

    def path(self, folder: str, name: str, suffixes: Sequence[str], wanted: str | None = None) -> Path:
        """The file of id `name` in `folder`, with the first of `suffixes` that there is; never one outside it.

        Args:
            wanted: the suffixes as a message names them; the first by default.

        Raises:
            ValueError: there is none.
        """
        inside = (self.root / folder).resolve()
        for suffix in suffixes:
            path = self.root / folder / f"{name}{suffix}"
            if path.is_file() and path.resolve().is_relative_to(inside):
                return path
        raise ValueError(f"options.data: {folder}/{name}{wanted or suffixes[0]} is missing")

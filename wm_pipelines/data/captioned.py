"""A folder of captioned files: `anno.txt` (id TAB caption), and for each id a file in a folder beside it."""

from collections.abc import Sequence
from pathlib import Path

from wm_pipelines.data.tables import find_file
from wm_pipelines.runtime.readers import read_lines


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
        lines = [(number, *line.partition("\t")) for number, line in read_lines(self.root / "anno.txt")]
        broken = [number for number, name, tab, _ in lines if not tab or not name.strip()]
        if broken or not lines:
            raise ValueError(f"anno.txt of {str(root)!r}: line {(broken or [1])[0]} is not 'id TAB caption'")
        self.names, self.captions = zip(*((name, caption) for _, name, _, caption in lines), strict=True)

    def path(self, folder: str, name: str, suffixes: Sequence[str], wanted: str | None = None) -> Path:
        """The file of id `name` in `folder` with one of `suffixes`, in either case; never one outside the folder.

        Args:
            wanted: the suffixes as a message names them; the first by default.

        Raises:
            ValueError: there is none, or several.
        """
        path = find_file(self.root / folder, name, suffixes)
        if path is not None and path.resolve().is_relative_to((self.root / folder).resolve()):
            return path
        raise ValueError(f"options.data: {folder}/{name}{wanted or suffixes[0]} is missing")

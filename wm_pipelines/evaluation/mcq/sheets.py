"""Tables of text from .tsv, .csv and .xlsx files, without a spreadsheet library."""

import csv
import io
import os
import re
import zipfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from wm_pipelines.runtime import archives
from wm_pipelines.runtime.readers import MAX_BYTES, decode_text, located, read_text

SUFFIXES = (".tsv", ".csv", ".xlsx")

MOST_COLUMNS = 16_384
"""Of a sheet, as the format has it."""

MOST_XML, MOST_CELLS = 2**25, 2_000_000
"""Bytes of a sheet of an .xlsx, of which an element of XML takes many times as many, and cells."""

_NAMESPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_sheet(path: str | os.PathLike) -> list[dict[str, str]]:
    """Rows {column: value} of a table with a header; of an .xlsx, its first sheet. Empty cells are "".

    Raises:
        ValueError: another suffix, no such file, one that is broken or too large, no row, or a column twice.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no table: its suffix must be one of {', '.join(SUFFIXES)}")
    with located(path):
        rows = _xlsx(path) if path.suffix.lower() == ".xlsx" else _separated(path)
        rows = [row for row in rows if any(cell.strip() for cell in row)]
        if len(rows) < 2:
            raise ValueError("it holds no row")
        header = [cell.strip() for cell in rows[0]]
        twice = [name for name, times in Counter(header).items() if name and times > 1]
        if twice:
            raise ValueError(f"it has the column {twice[0]!r} twice")
        long = next((i for i, row in enumerate(rows) if len(row) > len(header)), None)
        if long is not None:
            raise ValueError(f"row {long} has {len(rows[long])} values for {len(header)} columns")
    width = len(header)
    return [dict(zip(header, [*row, *[""] * (width - len(row))], strict=True)) for row in rows[1:]]


def _separated(path: Path) -> list[list[str]]:
    csv.field_size_limit(MAX_BYTES)
    text = read_text(path, newline="")
    try:
        return list(
            csv.reader(io.StringIO(text, newline=""), delimiter="," if path.suffix.lower() == ".csv" else "\t")
        )
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _xlsx(path: Path) -> list[list[str]]:
    """Cells of the first sheet, by ECMA-376: shared strings, inline strings, numbers and booleans as they are kept."""
    try:
        with archives.opened(path) as archive:
            names = archive.namelist()
            sheets = sorted((n for n in names if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", n)), key=_number)
            if not sheets:
                raise ValueError("it has no sheet")
            texts = "xl/sharedStrings.xml"
            shared = [_joined(e) for e in _xml(archive, texts).iter(f"{_NAMESPACE}si")] if texts in names else []
            rows, cells = [], 0
            for row in _xml(archive, sheets[0]).iter(f"{_NAMESPACE}row"):
                rows.append(_cells(row, shared))
                cells += len(rows[-1])  # a cell far to the right fills its row with empty ones
                if cells > MOST_CELLS:
                    raise ValueError(f"it has more than {MOST_CELLS} cells; save it as .csv")
            return rows
    except (ValueError, OSError, ElementTree.ParseError, IndexError) as error:
        raise ValueError(f"it is no readable .xlsx: {error}") from None


def _xml(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    text = decode_text(archives.member(archive, name, MOST_XML))
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{name} declares entities, which tables have no use for")
    return ElementTree.fromstring(text)


def _cells(row: ElementTree.Element, shared: list[str]) -> list[str]:
    found: list[str] = []
    for cell in row.iter(f"{_NAMESPACE}c"):
        place = _column(cell.get("r", "")) if cell.get("r") else len(found)
        if place >= MOST_COLUMNS:
            raise ValueError(f"a cell has the reference {cell.get('r')!r}, beyond column {MOST_COLUMNS}")
        found += [""] * (place - len(found))
        value = cell.find(f"{_NAMESPACE}v")
        kind = cell.get("t", "n")
        if kind == "inlineStr":
            found.append(_joined(cell))
        elif value is None or value.text is None:
            found.append("")
        else:
            found.append(shared[int(value.text)] if kind == "s" else value.text)
    return found


def _joined(element: ElementTree.Element) -> str:
    return "".join(part.text or "" for part in element.iter(f"{_NAMESPACE}t"))


def _column(reference: str) -> int:
    """The place of "AB12" from 0: letters are digits to the base of 26."""
    letters = re.match(r"[A-Z]{1,3}", reference)
    if letters is None:
        raise ValueError(f"a cell has the reference {reference!r}")
    place = 0
    for letter in letters[0]:
        place = 26 * place + ord(letter) - ord("A") + 1
    return place - 1


def _number(name: str) -> int:
    return int(re.search(r"(\d+)\.xml", name)[1])

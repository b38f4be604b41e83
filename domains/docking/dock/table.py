"""Tables of a user (CSV; also with ``;`` or tabs, also gzipped), a row at a time: a broken row loses only itself."""

import codecs
import csv
import gzip
import io
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import RequestError
from domains.docking.chemistry.files import check_content

logger = logging.getLogger("disco")
DELIMITERS = ",;\t"
MISSING = {"", "nan", "na", "n/a", "none", "null"}  # pandas, with which DiffDock reads its tables, takes these as empty


@dataclass(frozen=True)
class Row:
    """One row. line: of the file, where the heading is line 1 (the row number of a spreadsheet); fields: what is not
    empty, by column; problem: why the line cannot be read as a row, else empty."""

    line: int
    fields: Mapping[str, str]
    problem: str = ""


@dataclass(frozen=True)
class _Heading:
    """places: column and its number; width: how many fields the heading has."""

    delimiter: str
    places: Mapping[str, int]
    width: int


def read_table(path: Path, columns: Mapping[str, Sequence[str]], needed: Sequence[str]) -> Iterator[Row]:
    """Rows that are not blank, read as they are asked for. A row is one line: quotes end on it.

    columns: headings that name each column, the preferred one first; needed: columns that must be there. Headings are
    known whatever their order and capitals; others are ignored and named in the log.

    Raises:
        RequestError: (at the call) the file cannot be read or is no table, or lacks a column.
    """
    lines = enumerate(_lines(path), start=1)
    _, first = next((each for each in lines if each[1].strip()), (0, ""))
    heading = _heading(path, first, columns, needed)
    return _rows(lines, heading)


def _lines(path: Path) -> Iterator[str]:
    """Lines of the (unpacked) file. Raises RequestError wherever it turns out to be damaged."""
    try:
        if path.is_dir():
            raise RequestError(f"{path}: a folder; give one table")
        with path.open("rb") as raw:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            file = gzip.GzipFile(fileobj=raw) if zipped else raw
            head = file.peek(io.DEFAULT_BUFFER_SIZE)
            encoding = _encoding(head)
            check_content(head.decode(encoding, "replace").encode(), path, "a table (CSV)")
            yield from io.TextIOWrapper(file, encoding, errors="replace")
    except FileNotFoundError as error:
        raise RequestError(f"{path}: no such file") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"{path}: the gzip file is damaged or was cut short ({error})") from error
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error


def _encoding(head: bytes) -> str:
    """UTF-16 where marked so (Excel's "Unicode text"), UTF-8 where it can be, else that of Western Windows."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # minds no character cut by the end
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def _heading(path: Path, line: str, columns: Mapping[str, Sequence[str]], needed: Sequence[str]) -> _Heading:
    delimiter = max(DELIMITERS, key=line.count)
    names = ["_".join(name.split()).casefold() for name in line.replace('"', "").split(delimiter)]
    known = {name: column for column, spellings in columns.items() for name in spellings}
    if twice := [name for name in known if names.count(name) > 1]:
        raise RequestError(f"{path}: the table has two columns '{twice[0]}'")
    chosen = {column: [name for name in spellings if name in names][:1] for column, spellings in columns.items()}
    places = {column: names.index(found[0]) for column, found in chosen.items() if found}
    if missing := [column for column in needed if column not in places]:
        wanted = ", ".join(f"{column} ({' or '.join(columns[column])})" for column in missing)
        found = ", ".join(name[:40] for name in names[:20] if name) or "nothing"
        every = ", ".join(name for spellings in columns.values() for name in spellings)
        raise RequestError(
            f"{path}: the first line must name the columns. Not found: {wanted}. It has: {found}. Known are: {every}"
        )
    if unused := [name for place, name in enumerate(names) if name and place not in places.values()]:
        logger.info("%s: columns that are not used: %s", path, ", ".join(unused))
    return _Heading(delimiter, places, len(names))


def _rows(lines: Iterator[tuple[int, str]], heading: _Heading) -> Iterator[Row]:
    number = 1
    try:
        for number, line in lines:
            row = _row(number, line, heading)
            if row is not None:
                yield row
    except RequestError as error:
        yield Row(number + 1, {}, f"the table ends here: {error}")


def _row(number: int, line: str, heading: _Heading) -> Row | None:
    """One line as a row, None where it is blank."""
    try:
        reader = csv.reader([line], delimiter=heading.delimiter, strict=True, skipinitialspace=True)
        values = [value.strip() for value in next(reader, [])]
    except csv.Error as error:
        return Row(number, {}, f"the line cannot be read ({error}): {_shown(line)}")
    if not any(values):
        return None
    if any(values[heading.width :]):
        advice = f"put text that holds a {heading.delimiter!r} in quotes"
        return Row(number, {}, f"has {len(values)} fields, the heading {heading.width}; {advice}: {_shown(line)}")
    fields = {name: values[place] for name, place in heading.places.items() if place < len(values)}
    return Row(number, {name: value for name, value in fields.items() if value.casefold() not in MISSING})


def _shown(line: str) -> str:
    return repr(line.strip()[:100])

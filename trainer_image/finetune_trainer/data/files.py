"""Data files of every format as numbered records: JSON lines, CSV with a header, Parquet, and plain text by lines.

A bad line is told with its file and number and does not stop the reading, so that a user mends the data once. Files
are streamed: of a Parquet file a batch of rows is in memory, of the others a line.
"""

import codecs
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.errors import BadData, InputMissing

LISTED_BAD_LINES = 10  # in an error message
KEPT_BAD_LINES = 100_000  # for who wants to see them all, within some 20 MB
PARQUET_ROWS = 1000  # rows read at once
TEXT_KEY = "text"  # where a record of a text file holds its line
_GZIP = b"\x1f\x8b"
_ENDINGS = {".csv": "csv", ".parquet": "parquet", ".txt": "text"}  # any other ending: jsonl


@dataclass(frozen=True)
class DataFile:
    """A file as the user named it, where it lies now, and its format: jsonl, csv, parquet, text, or None for what the
    ending means.

    A folder is read as one file: its files in the order of their names.
    """

    name: str
    path: Path
    format: str | None = None


@dataclass(frozen=True)
class Record:
    """One row of a file and the line it begins on (from 1; in Parquet: the row's number)."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class BadLine:
    """What is wrong with one line of a file, or with the file."""

    file: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


@dataclass
class BadLines:
    """What is wrong with the data so far: all bad lines counted, and the first KEPT_BAD_LINES of them."""

    count: int = 0
    lines: list[BadLine] = field(default_factory=list)

    @property
    def listed(self) -> list[str]:
        """The first few in words."""
        return [str(line) for line in self.lines[:LISTED_BAD_LINES]]

    def add(self, file: str, line: int | None, reason: str) -> None:
        self.count += 1
        if len(self.lines) < KEPT_BAD_LINES:
            self.lines.append(BadLine(file, line, reason))

    def raise_if_any(self) -> None:
        """Raises BadRows with the total and the first lines."""
        if self.count:
            raise BadRows(self)


class BadRows(BadData):
    """There are bad lines; `bad` has more of them than the message lists."""

    def __init__(self, bad: BadLines) -> None:
        listed = bad.listed
        more = f"\n… and {bad.count - len(listed)} more" if bad.count > len(listed) else ""
        noun = "line" if bad.count == 1 else "lines"
        super().__init__(f"{bad.count} bad {noun} in the data:\n" + "\n".join(listed) + more)
        self.bad = bad


class RowError(ValueError):
    """Why one line is not what it should be."""


def format_of(path: str | Path, given: str | None = None) -> str:
    """The format that was given, or the one that the path's ending means; jsonl for any unknown ending."""
    return given or _ENDINGS.get(Path(path).suffix.lower(), "jsonl")


def read_records(file: DataFile, bad: BadLines, expected: str = "a row of data") -> Iterator[Record]:
    """The readable rows of a file in order; unreadable ones go to `bad`, and so does a file without rows.

    expected: what a row should look like, for messages. Raises InputMissing if the file is not there.
    """
    for part in parts_of(file):
        yield from _read_one(part, bad, expected)


def parts_of(file: DataFile) -> list[DataFile]:
    """The files of a folder, each with its own name; a file itself."""
    if not file.path.is_dir():
        return [file]
    paths = sorted(
        path
        for path in file.path.rglob("*")
        if path.is_file() and not any(part.startswith((".", "_")) for part in path.relative_to(file.path).parts)
    )
    if not paths:
        raise InputMissing(f"{file.name}: is a folder without files; name one with data")
    return [DataFile(f"{file.name}/{path.relative_to(file.path)}", path, file.format) for path in paths]


def _read_one(file: DataFile, bad: BadLines, expected: str) -> Iterator[Record]:
    before, seen = bad.count, False
    try:
        for record in _READERS[format_of(file.path, file.format)](file, bad, expected):
            seen = True
            yield record
    except FileNotFoundError:
        raise InputMissing(f"{file.name}: no such file ({file.path})") from None
    except PermissionError as error:
        raise InputMissing(f"{file.name}: cannot be read: {error.strerror} ({file.path})") from None
    if not seen and bad.count == before:
        bad.add(file.name, None, f"the file is empty; each line must be {expected}")


def _lines(file: DataFile) -> Iterator[tuple[int, bytes]]:
    """Numbered lines with their line ends, without a byte order mark."""
    with file.path.open("rb") as stream:
        if stream.peek(2)[:2] == _GZIP:
            raise BadData(f"{file.name}: the file is compressed with gzip; unpack it first")
        for number, raw in enumerate(stream, start=1):
            yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def _jsonl(file: DataFile, bad: BadLines, expected: str) -> Iterator[Record]:
    for number, raw in _lines(file):
        if not raw.strip():
            continue
        try:
            yield Record(number, _json_object(raw.rstrip(b"\r\n"), expected))
        except RowError as error:
            bad.add(file.name, number, str(error))


def _json_object(raw: bytes, expected: str) -> dict[str, Any]:
    try:
        row = json.loads(_decoded(raw))
    except json.JSONDecodeError as error:
        hint = "; one JSON object per line is expected, not a JSON array" if raw.lstrip().startswith(b"[") else ""
        raise RowError(f"broken JSON at column {error.colno}: {error.msg}{hint}") from None
    except RecursionError:
        raise RowError("broken JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise RowError(f"a line must be a JSON object, not {kind_of(row)}: {expected}")
    return row


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(
            f"not UTF-8 (byte {error.start + 1} is 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from None


def _text(file: DataFile, bad: BadLines, expected: str) -> Iterator[Record]:
    for number, raw in _lines(file):
        if not raw.strip():
            continue
        try:
            yield Record(number, {TEXT_KEY: _decoded(raw.rstrip(b"\r\n"))})
        except RowError as error:
            bad.add(file.name, number, str(error))


def _csv(file: DataFile, bad: BadLines, expected: str) -> Iterator[Record]:
    """Rows by the names of the first line. A quoted cell may hold line ends, so a row may take several lines."""
    csv.field_size_limit(sys.maxsize)  # a cell may be a whole document; the module's own limit is 128 KiB
    reader = csv.reader(_csv_lines(file, bad), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad.add(
                file.name, line, f"broken CSV: {error}; quote cells with commas, quotes or line ends, and close them"
            )
            continue
        if not cells:
            continue  # a blank line
        if not header:
            header = [name.strip() for name in cells]
            problem = _header_problem(header)
            if problem:
                bad.add(file.name, line, problem)
                return
        elif len(cells) != len(header):
            bad.add(file.name, line, f"{len(cells)} cells, but the first line names {len(header)} columns")
        else:
            yield Record(line, dict(zip(header, cells, strict=True)))


def _csv_lines(file: DataFile, bad: BadLines) -> Iterator[str]:
    for number, raw in _lines(file):
        try:
            yield _decoded(raw)
        except RowError as error:
            bad.add(file.name, number, str(error))
            yield raw.decode("utf-8", errors="replace")  # so that the cells of the lines after it keep their places


def _header_problem(header: list[str]) -> str | None:
    if not all(header):
        return "the first line must name every column"
    twice = [name for name in header if header.count(name) > 1]
    return f"the first line names the column {twice[0]!r} twice" if twice else None


def _parquet(file: DataFile, bad: BadLines, expected: str) -> Iterator[Record]:
    import pyarrow  # here: it costs a tenth of a second and 60 MiB, and most jobs have no Parquet file
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file.path) as stream:
            line = 0
            for batch in stream.iter_batches(batch_size=PARQUET_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    line += 1
                    yield Record(line, _without_nulls(row))
    except pyarrow.ArrowInvalid as error:
        bad.add(file.name, None, f"not a readable Parquet file: {error}")


def _without_nulls(value: Any) -> Any:
    """Parquet gives each row every key that any row has, as null where it was absent."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


_READERS: dict[str, Callable[[DataFile, BadLines, str], Iterator[Record]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "text": _text,
}


def kind_of(value: Any) -> str:
    """What a value is called in JSON, for messages."""
    if value is None:
        return "null"
    kinds: Iterable[tuple[type, str]] = (
        (bool, "boolean"),
        (int, "number"),
        (float, "number"),
        (str, "string"),
        (list, "list"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")

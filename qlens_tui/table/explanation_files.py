"""Reads files in which others say what features are: explanations.

A file holds JSON lines, one JSON list of the same records, or CSV with a head (`.csv`); any of them
may be compressed by gzip. A folder stands for all such files in and under it. A record has

    layer      `layer`: a number, or Neuronpedia's name that begins with it ("8-res-jb")
    feature    `feature` or `index`
    text       `text`, `explanation` or `description`

and, of Neuronpedia, the model's name there (`modelId`). So Neuronpedia's exports are read as they
are: the folders of batches of its bucket, and the lists of its API.

What holds no such record is counted and left out; the rest of the file is read. polars parses the
lines, several thousand at once, because its parser is fast and does not hold the interpreter lock;
a part that it refuses is halved until the damaged lines are found.

Cost: 393,216 records of Neuronpedia (86 MB) take a second, with embeddings (2 GB) half a minute.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from pathlib import Path

import polars as pl

from lens_core.errors import UsageError, cannot_read
from qlens_tui.formats import counted

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv")
_FEATURE, _TEXT = ("feature", "index"), ("text", "explanation", "description")
_NAMES = ("layer", *_FEATURE, *_TEXT, "modelId")
_RAW = dict.fromkeys(_NAMES, pl.String)
_RECORDS = {"layer": pl.Int32, "feature": pl.Int32, "source": pl.String, "text": pl.String}
_BLOCK = 1 << 23  # bytes
_LONGEST_LINE = 1 << 24  # bytes
_LONGEST_LIST = 1 << 30  # bytes of a JSON list, which cannot be read in parts
_MOST_REFUSED = 1000

_ROWS_AT_ONCE = 1 << 15

_Line = tuple[int, bytes]
"""A line and its number in the file, from 1; or a record and its place in the list."""
_Rows = tuple[list[int], pl.DataFrame]
"""Rows with the columns `_NAMES` as text, and their numbers in the file."""


@dataclass(frozen=True)
class Found:
    """The records of a file or a folder, in its order.

    `records` has the columns layer, feature, text and source, which is Neuronpedia's name of the
    dictionary ("gpt2-small/8-res-jb"; "gpt2-small/" or "/8-res-jb" if it is not whole), or empty.
    `refused` counts the lines without a record; `why` names the first and says what is wrong.
    """

    path: Path
    records: pl.DataFrame
    refused: int
    why: str


def read_explanations(path: Path) -> Found:
    """Read a file, or the files of a folder.

    Raises:
        UsageError: there is no such file, or it holds no explanation.
        StoreError: it cannot be read.
    """
    parts: list[pl.DataFrame] = []
    refused, why = 0, ""
    for file in _files(path):
        reading = _Reading(file, file.name if file == path else str(file.relative_to(path)))
        parts += reading.read()
        why = why or reading.why
        refused += reading.refused
    records = pl.concat(parts) if parts else pl.DataFrame(schema=_RECORDS)
    if records.is_empty():
        raise UsageError(f"{path} holds no explanations: {why or 'it is empty'}")
    return Found(path, records, refused, why)


def _files(path: Path) -> list[Path]:
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise UsageError(f"{path} is not a regular file")
        if not path.is_dir():
            return [path]
        found = [file for file in sorted(path.rglob("*")) if _ending(file) and file.is_file()]
    except OSError as error:
        raise cannot_read(error, path) from None
    if not found:
        raise UsageError(f"{path} has no file of explanations ({', '.join(ENDINGS)}, or these .gz)")
    return found


def _ending(file: Path) -> str:
    """How the name of a file of explanations ends, without `.gz`; empty for other names."""
    ending = Path(file.name.removesuffix(".gz")).suffix.lower()
    return ending if ending in ENDINGS else ""


class _Reading:
    """Reads one file, and counts what is left out of it."""

    def __init__(self, path: Path, name: str) -> None:
        """`name` is the file's in remarks about lines."""
        self._path = path
        self._name = name
        self._unit = "line"
        self._is_damaged = False
        self.refused = 0
        self.why = ""

    def read(self) -> list[pl.DataFrame]:
        """The records, in parts; what was read before the file ended early is kept."""
        parts: list[pl.DataFrame] = []
        path = self._path
        try:
            with path.open("rb") as raw:
                is_compressed = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                file = gzip.GzipFile(fileobj=raw) if is_compressed else raw
                for numbers, rows in self._rows(self._blocks(file), _ending(path) == ".csv"):
                    parts.append(self._checked(numbers, rows))
                    if self.refused > _MOST_REFUSED:
                        self.why += f"; reading stopped at {self._unit} {numbers[-1]}"
                        break
        except FileNotFoundError:
            raise UsageError(f"no such file of explanations: {path}") from None
        except OSError as error:
            raise cannot_read(error, path) from None
        return parts

    def _refuse(self, number: int, why: str) -> None:
        self.refused += 1
        where = f"{self._unit} {number} of {self._name}" if number else str(self._name)
        self.why = self.why or f"{where} {why}"

    def _blocks(self, file: BufferedReader | gzip.GzipFile) -> Iterator[list[_Line]]:
        """The lines that are not blank, many at a time."""
        number, rest = 0, b""
        while True:
            block = self._block(file)
            lines = (rest + block).split(b"\n")
            rest = lines.pop() if block else b""
            if len(rest) > _LONGEST_LINE:
                raise UsageError(
                    f"{self._path} has a line of more than {_LONGEST_LINE >> 20} MiB: "
                    "it is not a file of explanations"
                )
            kept = [(at, each) for at, each in enumerate(lines, number + 1) if each.strip()]
            number += len(lines)
            if kept:
                yield kept
            if not block:
                return

    def _block(self, file: BufferedReader | gzip.GzipFile) -> bytes:
        """The next bytes; what compressed data has before its damage."""
        parts: list[bytes] = []
        if self._is_damaged:
            return b""
        try:
            while sum(map(len, parts)) < _BLOCK and (part := file.read1(_BLOCK)):
                parts.append(part)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self._refuse(0, "ends early, or its compressed data is damaged")
            self._is_damaged = True
        return b"".join(parts)

    def _rows(self, blocks: Iterator[list[_Line]], is_csv: bool) -> Iterator[_Rows]:
        first = next(blocks, None)
        if first is None:
            return
        number, start = first[0]
        if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise UsageError(f"{self._path} is UTF-16 text: save it as UTF-8")
        first[0] = number, start.removeprefix(BOM_UTF8)
        whole = chain([first], blocks)
        if is_csv:
            yield from self._cells(whole)
        elif start.lstrip().startswith(b"["):
            self._unit = "record"
            yield from self._parsed(self._list(whole))
        else:
            for lines in whole:
                yield from self._parsed(lines)

    def _list(self, blocks: Iterator[list[_Line]]) -> list[_Line]:
        """The records of a JSON list, as lines."""
        text: list[bytes] = []
        size = 0
        for lines in blocks:
            text += [each for _, each in lines]
            size += sum(len(each) for _, each in lines)
            if size > _LONGEST_LIST:
                raise UsageError(
                    f"{self._path} is a JSON list of more than {_LONGEST_LIST >> 30} GiB: "
                    "write one record per line"
                )
        try:
            records = json.loads(b"\n".join(text))
        except (ValueError, RecursionError):
            raise UsageError(f"{self._path} begins as a JSON list, but is not valid JSON") from None
        return [(at, json.dumps(record).encode()) for at, record in enumerate(records, 1)]

    def _parsed(self, lines: Sequence[_Line]) -> Iterator[_Rows]:
        """The records of JSON lines, without the damaged lines."""
        if not lines or self.refused > _MOST_REFUSED:
            return
        try:
            rows = pl.read_ndjson(b"\n".join(each for _, each in lines), schema=_RAW)
        except pl.exceptions.PolarsError:
            rows = pl.DataFrame()
        if rows.height == len(lines):
            yield [at for at, _ in lines], rows
        elif len(lines) == 1:
            self._refuse(lines[0][0], "is not a JSON record")
        else:
            half = len(lines) // 2
            yield from self._parsed(lines[:half])
            yield from self._parsed(lines[half:])

    def _cells(self, blocks: Iterator[list[_Line]]) -> Iterator[_Rows]:
        """The records of CSV, without the damaged rows, for which polars would refuse the file."""
        number = 0

        def lines() -> Iterator[str]:
            nonlocal number
            for block in blocks:
                for number, each in block:
                    try:
                        yield each.decode() + "\n"
                    except UnicodeDecodeError:
                        self._refuse(number, "is not UTF-8 text")

        def rows() -> Iterator[list[str]]:
            reader = csv.reader(lines(), strict=True)
            while True:
                try:
                    yield next(reader)
                except csv.Error as error:
                    self._refuse(number, f"is not CSV: {error}")
                except StopIteration:
                    return

        whole = rows()
        names = next(whole, [])
        if "layer" not in names:
            raise UsageError(
                f"{self._path} has no column layer: its first line must name the columns layer, "
                f"{' or '.join(_FEATURE)}, and {' or '.join(_TEXT)}"
            )
        numbers: list[int] = []
        kept: list[list[str]] = []
        for row in whole:
            if len(row) != len(names):
                self._refuse(number, f"has {counted(len(row), 'cell')}, the head {len(names)}")
                continue
            numbers.append(number)
            kept.append(row)
            if len(kept) == _ROWS_AT_ONCE:
                yield numbers, _frame(names, kept)
                numbers, kept = [], []
        if kept:
            yield numbers, _frame(names, kept)

    def _checked(self, numbers: Sequence[int], rows: pl.DataFrame) -> pl.DataFrame:
        """The records of these rows, without those that lack something."""
        read = rows.select(
            pl.Series("number", numbers),
            pl.col("layer").str.extract(r"^(\d{1,4})(?:-.+)?$").cast(pl.Int32),
            pl.coalesce(_FEATURE).str.extract(r"^(\d{1,9})$").cast(pl.Int32).alias("feature"),
            _source(),
            pl.coalesce(_TEXT).str.strip_chars().replace("", None).alias("text"),
        )
        for name in ("layer", "feature", "text"):
            for number in read.filter(pl.col(name).is_null())["number"]:
                self._refuse(number, f"has no {name}")
            read = read.filter(pl.col(name).is_not_null())
        return read.select(list(_RECORDS))


def _frame(names: Sequence[str], rows: Sequence[Sequence[str]]) -> pl.DataFrame:
    """The cells of CSV under their names, with null for empty cells and missing columns."""
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    found = {name: columns.get(name, [""] * len(rows)) for name in _NAMES}
    return pl.DataFrame(found, _RAW).select(pl.col(_NAMES).replace("", None))


def _source() -> pl.Expr:
    model = pl.col("modelId").fill_null("")
    name = pl.when(pl.col("layer").str.contains("-")).then("layer").otherwise(pl.lit(""))
    whole = pl.concat_str(model, pl.lit("/"), name)
    return pl.when(whole == "/").then(pl.lit("")).otherwise(whole).alias("source")

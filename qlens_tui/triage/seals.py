"""What proves that marks are what was written: a seal in every row, and tallies of the rows.

    seal  = CRC-32 of the table's name and the row's values, types among them
    tally = how many rows, and the sum of their seals: of all dictionaries, of all fields, and
            of the marks of each dictionary

A row that was changed does not fit its seal; a row that is gone does not fit the tally. Rows
are read by scanning, never through an index, which could be damaged itself. Seals tell
accidents, not forgers.

Cost: about 2 microseconds a row read or written.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# Subjects of `tallies`; those above zero are the marks of a dictionary.
DICTIONARIES, FIELDS = 0, -1

_COLUMNS = {
    "dictionaries": "id, sha256, name, model, layer",
    "fields": "id, kind, tag",
    "marks": "dictionary, feature, field, value, edit",
    "changes": "edit, dictionary, field, first, last, before, before_edit, after",
    "tallies": "subject, rows, total",
}
_KINDS = {"star": "the star", "reject": "the rejection", "note": "the note"}

MARK = f"seal('marks', {_COLUMNS['marks']})"
"""The seal of a mark, in SQL whose columns have these names."""


@dataclass(frozen=True)
class Field:
    """A kind of mark, or one tag; `damaged` if its row does not fit its seal."""

    kind: str
    tag: str
    damaged: bool


@dataclass(frozen=True)
class Dictionary:
    """The row of a dictionary; `damaged` if it does not fit its seal."""

    number: int
    sha256: str
    name: str
    model: str
    layer: int
    damaged: bool

    def __str__(self) -> str:
        return f"{self.name} (layer {self.layer})"


def seal(*values: object) -> int:
    """The seal of a row: the name of its table, then its values."""
    return zlib.crc32(repr(values).encode("utf-8", "surrogatepass"))


def add_functions(database: sqlite3.Connection) -> None:
    """Let SQL on this connection compute seals."""
    database.create_function("seal", -1, seal, deterministic=True)


def seal_row(database: sqlite3.Connection, table: str, where: str, *values: object) -> None:
    """Seal the rows of `table` that were just written."""
    database.execute(f"UPDATE {table} SET seal = {_sealing(table)} WHERE {where}", values)


def seal_everything(database: sqlite3.Connection) -> None:
    """Seal and count all rows as they stand."""
    for table in ("dictionaries", "fields", "marks", "changes"):
        seal_row(database, table, "1")
    for subject, table in ((DICTIONARIES, "dictionaries"), (FIELDS, "fields")):
        _set_tally(database, subject, *_counted(database, table))
    for (number,) in database.execute("SELECT id FROM dictionaries").fetchall():
        found = _counted(database, "marks", f"WHERE dictionary = {int(number)}")
        _set_tally(database, number, *found)


def recount(database: sqlite3.Connection, subject: int) -> None:
    """Tally dictionaries or fields anew; they are few."""
    _set_tally(
        database,
        subject,
        *_counted(database, "dictionaries" if subject == DICTIONARIES else "fields"),
    )


def add_to_tally(database: sqlite3.Connection, dictionary: int, rows: int, total: int) -> None:
    """Count rows of marks that came to a dictionary, and by how much their seals grew."""
    there = database.execute(
        "SELECT rows, total FROM tallies WHERE subject = ?", (dictionary,)
    ).fetchone() or (0, 0)
    _set_tally(database, dictionary, there[0] + rows, there[1] + total)


def dictionaries_of(database: sqlite3.Connection, *, sealed: bool) -> list[Dictionary]:
    """Every dictionary that has marks, or had some."""
    return [
        Dictionary(
            row[0],
            str(row[1]),
            str(row[2]),
            str(row[3]),
            row[4],
            sealed and written != seal("dictionaries", *row),
        )
        for *row, written in _rows(database, "dictionaries", sealed)
    ]


def fields_of(database: sqlite3.Connection, *, sealed: bool) -> dict[int, Field]:
    """Every kind of mark, by its number."""
    return {
        row[0]: Field(str(row[1]), str(row[2]), sealed and written != seal("fields", *row))
        for *row, written in _rows(database, "fields", sealed)
    }


def is_counted(
    database: sqlite3.Connection, subject: int, rows: Iterable[int]
) -> tuple[bool, int | None]:
    """Whether `rows`, seals of all rows of a subject, fit its tally, and how many there were."""
    found = database.execute(
        "SELECT subject, rows, total, seal FROM tallies NOT INDEXED WHERE subject = ?", (subject,)
    ).fetchone()
    if found is None or found[3] != seal("tallies", *found[:3]):
        return False, None
    seals = list(rows)
    return found[1:3] == (len(seals), sum(seals)), found[1]


def has_all_dictionaries(database: sqlite3.Connection) -> bool:
    """Whether every dictionary that has marks is there and undamaged."""
    rows = list(_rows(database, "dictionaries", True))
    whole = all(written == seal("dictionaries", *row) for *row, written in rows)
    return whole and is_counted(database, DICTIONARIES, [row[-1] for row in rows])[0]


def mark_rows(
    database: sqlite3.Connection, dictionary: int, feature: int | None = None, *, sealed: bool
) -> Iterator[tuple[int, int, str | int | None, bool, int]]:
    """Cells of a dictionary in the order of features.

    Each is feature, field, value, whether it is damaged, and its seal. `feature`: only its own.
    """
    where = "WHERE dictionary = ?" if feature is None else "WHERE dictionary = ? AND feature = ?"
    given = (dictionary,) if feature is None else (dictionary, feature)
    for *row, written in _rows(database, "marks", sealed, f"{where} ORDER BY feature", given):
        damaged = sealed and written != seal("marks", *row)
        yield row[1], row[2], row[3], damaged, written


def described(field: Field | None) -> str:
    """A mark in words: `the note`, `the tag war`."""
    if field is None or field.damaged:
        return "a tag"
    return _KINDS.get(field.kind) or f"the tag {field.tag}"


def damage_of_marks(
    database: sqlite3.Connection, dictionary: Dictionary, fields: Mapping[int, Field]
) -> list[str]:
    """What is wrong with the marks of one dictionary, a line each."""
    found, seals = [], []
    for feature, field, value, damaged, written in mark_rows(
        database, dictionary.number, sealed=True
    ):
        seals.append(written)
        if damaged:
            what = described(fields.get(field))
            found.append(f"{what} of feature {feature} of {dictionary} is damaged")
        elif value is not None and (field not in fields or fields[field].damaged):
            found.append(f"the name of a tag of feature {feature} of {dictionary} is damaged")
    fits, expected = is_counted(database, dictionary.number, seals)
    if not fits and not found:
        count = "" if expected is None else f": {len(seals)} of {expected} are there"
        found.append(f"marks of {dictionary} are missing{count}")
    return found


def damage_of(database: sqlite3.Connection) -> list[str]:
    """Everything that is wrong with a file that has seals, a line each."""
    dictionaries = dictionaries_of(database, sealed=True)
    fields = fields_of(database, sealed=True)
    found = [f"the entry of dictionary {each} is damaged" for each in dictionaries if each.damaged]
    found += [
        f"the name of a tag, now {each.tag!r}, is damaged"
        for each in fields.values()
        if each.damaged
    ]
    for subject, table, what in (
        (DICTIONARIES, "dictionaries", "dictionaries"),
        (FIELDS, "fields", "names of tags"),
    ):
        seals = [row[-1] for row in _rows(database, table, True)]
        if not is_counted(database, subject, seals)[0] and not found:
            found.append(f"{what} are missing")
    for each in dictionaries:
        found += damage_of_marks(database, each, fields)
    return found


def _rows(
    database: sqlite3.Connection,
    table: str,
    sealed: bool,
    rest: str = "",
    given: tuple[int, ...] = (),
) -> sqlite3.Cursor:
    # Of tables with an index on their values the rows themselves are read. Marks have none.
    scanned = "" if table == "marks" else "NOT INDEXED"
    columns = f"{_COLUMNS[table]}, {'seal' if sealed else '0'}"
    return database.execute(f"SELECT {columns} FROM {table} {scanned} {rest}", given)


def _sealing(table: str) -> str:
    return f"seal('{table}', {_COLUMNS[table]})"


def _counted(database: sqlite3.Connection, table: str, where: str = "") -> tuple[int, int]:
    rows, total = database.execute(
        f"SELECT COUNT(*), IFNULL(SUM(seal), 0) FROM {table} NOT INDEXED {where}"
    ).fetchone()
    return rows, total


def _set_tally(database: sqlite3.Connection, subject: int, rows: int, total: int) -> None:
    database.execute(
        "INSERT OR REPLACE INTO tallies VALUES (?, ?, ?, ?)",
        (subject, rows, total, seal("tallies", subject, rows, total)),
    )

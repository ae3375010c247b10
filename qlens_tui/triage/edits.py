"""One edit of many cells in the open triage file, with undo and redo.

The features of an edit are rows of the temporary table `chosen`. An undo reverts an edit cell by
cell, and only cells that still show that edit:

    cell shows edit e   ->  value and edit from before e
    else                ->  unchanged, counted: another session changed it since

`set_chosen` and `replay` run inside the caller's transaction. Damaged cells are never recorded as
the state before an edit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from operator import index
from typing import Any

from lens_core.errors import DamagedError
from qlens_tui.triage.database import RESTORE, transaction
from qlens_tui.triage.marks import DictionaryName, Selection, Step, whole_characters
from qlens_tui.triage.schema import CHANGE
from qlens_tui.triage.seals import Field, seal

Wanted = dict[tuple[str, str], "str | bool | None"]
"""The new value of each (kind, tag); `None` removes the mark."""

CHOSEN_TABLE = (
    "CREATE TEMP TABLE chosen (dictionary, feature, PRIMARY KEY (dictionary, feature))"
    " WITHOUT ROWID"
)
# Each chosen feature with the cell of one field, if it has one.
CHOSEN = """
    chosen c LEFT JOIN marks m
        ON m.dictionary = c.dictionary AND m.feature = c.feature AND m.field = :field
"""
# The changes of one edit with the cells that they were made to.
_REPLAYED = """
    c.edit = :edit AND m.dictionary = c.dictionary AND m.field = c.field
    AND m.feature BETWEEN c.first AND c.last
"""


def choose(database: sqlite3.Connection, selection: Selection) -> None:
    """Put the features into a temporary table, which does not block other sessions."""
    for dictionary, features in selection.items():
        number = number_of(database, dictionary)
        with transaction(database, "DEFERRED"):
            database.executemany(
                "INSERT OR IGNORE INTO chosen VALUES (?, ?)",
                ((number, index(feature)) for feature in features),
            )


def set_chosen(database: sqlite3.Connection, wanted: Wanted) -> Step | None:
    """Set marks of the chosen features; `None`, and rows to be rolled back, if none changed."""
    what = ", ".join(
        f"{'' if value else 'un'}{kind}{' ' if tag else ''}{tag}"
        for (kind, tag), value in wanted.items()
    )
    edit = database.execute("INSERT INTO edits (what) VALUES (?)", (what,)).lastrowid or 0
    changed = 0
    for (kind, tag), asked in wanted.items():
        value = 1 if asked is True else asked  # as SQLite returns it, to be sealed
        given = {
            "edit": edit, "field": field_of(database, kind, tag), "value": value,
            "kind": kind, "tag": tag,
        }  # fmt: skip
        database.executemany(
            "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (*row, seal(*row))
                for dictionary, first, last, *before in _runs(database, given)
                for row in [(edit, dictionary, given["field"], first, last, *before, value)]
            ),
        )
        changed += database.execute(
            "INSERT INTO marks SELECT c.dictionary, c.feature, :field, :value, :edit,"
            " seal(d.sha256, c.feature, :kind, :tag, :value, :edit)"
            f" FROM {CHOSEN} JOIN dictionaries d ON d.id = c.dictionary"
            " WHERE m.value IS NOT :value ON CONFLICT DO UPDATE"
            " SET value = excluded.value, edit = excluded.edit, seal = excluded.seal",
            given,
        ).rowcount
    return Step(edit, what, changed) if changed else None


def replay(database: sqlite3.Connection, verb: str, step: Step) -> Step:
    """Undo or redo `step` in the cells that no other edit has changed since.

    Raises:
        DamagedError: the record of the step is damaged.
    """
    before, after = ("c.before", "c.before_edit"), ("c.after", "c.edit")
    (_, standing), (value, edit) = (after, before) if verb == "undo" else (before, after)
    given = {"edit": step.edit}
    rows = database.execute(
        f"SELECT {CHANGE}, seal FROM changes WHERE edit = :edit", given
    ).fetchall()
    whole = all(seal(*row) == written for *row, written in rows)
    if not whole or sum(row[4] - row[3] + 1 for row in rows) != step.changed:
        raise DamagedError(
            f"the record of {step.what!r} is damaged, so it cannot be undone or redone: {RESTORE}"
        )
    ((left_alone,),) = database.execute(
        f"SELECT COUNT(*) FROM changes c, marks m WHERE {_REPLAYED}"
        f" AND m.edit NOT IN ({standing}, {edit})",
        given,
    )
    changed = database.execute(
        f"UPDATE marks AS m SET value = {value}, edit = {edit},"
        f" seal = seal(d.sha256, m.feature, f.kind, f.tag, {value}, {edit})"
        f" FROM changes c, dictionaries d, fields f WHERE {_REPLAYED} AND m.edit = {standing}"
        " AND d.id = m.dictionary AND f.id = m.field",
        given,
    ).rowcount
    database.execute("INSERT INTO edits (what) VALUES (?)", (f"{verb} of edit {step.edit}",))
    return Step(step.edit, step.what, changed, left_alone)


def number_of(database: sqlite3.Connection, dictionary: DictionaryName) -> int:
    """The row of a dictionary, with its current names."""
    row = (
        dictionary.sha256,
        whole_characters(dictionary.name),
        whole_characters(dictionary.model),
        dictionary.layer,
    )
    known = "SELECT id FROM dictionaries WHERE (sha256, name, model, layer) = (?, ?, ?, ?)"
    found = database.execute(known, row).fetchone()
    if found is None:
        database.execute(
            "INSERT INTO dictionaries (sha256, name, model, layer) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (sha256) DO UPDATE SET"
            " name = excluded.name, model = excluded.model, layer = excluded.layer",
            row,
        )
        found = database.execute(known, row).fetchone()
    return int(found[0])


def field_of(database: sqlite3.Connection, kind: str, tag: str) -> int:
    """The id of a kind of mark, or of a tag, created if it is new."""
    known = "SELECT id FROM fields WHERE kind = ? AND tag = ?"
    found = database.execute(known, (kind, tag)).fetchone()
    if found is None:
        database.execute("INSERT INTO fields (kind, tag) VALUES (?, ?)", (kind, tag))
        found = database.execute(known, (kind, tag)).fetchone()
    return int(found[0])


def _runs(database: sqlite3.Connection, given: Mapping[str, Any]) -> Iterator[list[Any]]:
    """The cells about to change, as runs [dictionary, first, last, value, edit] of equal cells.

    Raises:
        DamagedError: one of these marks is damaged.
    """
    field = Field(given["kind"], given["tag"])
    run: list[Any] = []
    for sha256, written, dictionary, feature, value, edit in database.execute(
        "SELECT d.sha256, m.seal, c.dictionary, c.feature, m.value, IFNULL(m.edit, 0)"
        f" FROM {CHOSEN} JOIN dictionaries d ON d.id = c.dictionary"
        " WHERE m.value IS NOT :value ORDER BY c.dictionary, c.feature",
        given,
    ):
        if written is not None and written != seal(sha256, feature, *field, value, edit):
            raise DamagedError(
                f"{field} of feature {feature} is damaged and was not changed: {RESTORE}"
            )
        if run and run[3:] == [value, edit] and run[:3:2] == [dictionary, feature - 1]:
            run[2] = feature
            continue
        if run:
            yield run
        run = [dictionary, feature, feature, value, edit]
    if run:
        yield run

"""The tables of the triage file, and the migration of an older file.

One row of `marks` is one cell: one feature's star, rejection, label, note or one tag. Its `edit` is
the last edit of the cell, so that an undo can see whether another edit followed. Rows of `changes`
are never deleted: they hold the state before and after every edit, as runs of features that were
equal before. `seal` is a checksum of the row (`seals`). The views `features` and `history` are for
people who open the file.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

from qlens_tui.triage.seals import dictionaries_of, fields_of, is_value, seal

VERSION = 3
FIRST_SEALED = 2
"""The first version whose rows have seals."""
# "qlns": identifies our file among SQLite databases.
APPLICATION = 0x716C6E73

CHANGE = "edit, dictionary, field, first, last, before, before_edit, after"
"""The columns of `changes` that its seal covers."""

_TABLES = """
CREATE TABLE dictionaries (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    model TEXT NOT NULL,
    layer INTEGER NOT NULL
);
CREATE TABLE fields (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('star', 'reject', 'label', 'note', 'tag')),
    tag TEXT NOT NULL CHECK ((kind = 'tag') = (tag <> '')),
    UNIQUE (kind, tag)
);
INSERT INTO fields (kind, tag) VALUES ('star', ''), ('reject', ''), ('label', ''), ('note', '');
-- value: 1, the text of a label or a note, or NULL where a mark was taken off again.
CREATE TABLE marks (
    dictionary INTEGER NOT NULL REFERENCES dictionaries,
    feature INTEGER NOT NULL,
    field INTEGER NOT NULL REFERENCES fields,
    value,
    edit INTEGER NOT NULL,
    seal INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (dictionary, feature, field)
) WITHOUT ROWID;
CREATE TABLE edits (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    what TEXT NOT NULL
);
CREATE TABLE changes (
    edit INTEGER NOT NULL REFERENCES edits,
    dictionary INTEGER NOT NULL REFERENCES dictionaries,
    field INTEGER NOT NULL REFERENCES fields,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    before,
    before_edit INTEGER NOT NULL,
    after,
    seal INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (edit, dictionary, field, first)
) WITHOUT ROWID;
CREATE VIEW features AS
    SELECT d.model, d.name AS dictionary, d.layer, m.feature,
        MAX(f.kind = 'star') AS star, MAX(f.kind = 'reject') AS reject,
        MAX(CASE f.kind WHEN 'label' THEN m.value END) AS label,
        GROUP_CONCAT(NULLIF(f.tag, ''), ', ') AS tags,
        MAX(CASE f.kind WHEN 'note' THEN m.value END) AS note
    FROM marks m JOIN dictionaries d ON d.id = m.dictionary JOIN fields f ON f.id = m.field
    WHERE m.value IS NOT NULL
    GROUP BY m.dictionary, m.feature;
CREATE VIEW history AS
    SELECT e.id AS edit, e.at, e.what, d.model, d.name AS dictionary, d.layer, c.first, c.last,
        f.kind, f.tag, c.before, c.after
    FROM edits e LEFT JOIN changes c ON c.edit = e.id
        LEFT JOIN dictionaries d ON d.id = c.dictionary LEFT JOIN fields f ON f.id = c.field"""


def make_tables(database: sqlite3.Connection) -> None:
    """Create the tables of a new file; inside a transaction."""
    for statement in _TABLES.split(";\n"):
        database.execute(statement)
    _sign(database)


def migrate(database: sqlite3.Connection) -> None:
    """Bring tables of an older version to this one; inside a transaction.

    Invalid values get no matching seal, and are reported as damaged.
    """
    version = version_of(database)
    if version == 1:
        _add_seals(database)
    if version in (1, 2):
        _add_labels(database)
        _sign(database)


def _add_seals(database: sqlite3.Connection) -> None:
    """Version 1 had no seals."""
    for table in ("marks", "changes"):
        database.execute(f"ALTER TABLE {table} ADD COLUMN seal INTEGER NOT NULL DEFAULT 0")
    fields = fields_of(database)
    for each in dictionaries_of(database):
        rows = database.execute(
            "SELECT feature, field, value, edit FROM marks WHERE dictionary = ?", (each.number,)
        ).fetchall()
        database.executemany(
            "UPDATE marks SET seal = ? WHERE dictionary = ? AND feature = ? AND field = ?",
            (
                (seal(each.sha256, at, *fields[field], value, edit), each.number, at, field)
                for at, field, value, edit in rows
                if field in fields and is_value(value)
            ),
        )
    rows = database.execute(f"SELECT {CHANGE} FROM changes").fetchall()
    database.executemany(
        "UPDATE changes SET seal = ? WHERE (edit, dictionary, field, first) = (?, ?, ?, ?)",
        ((seal(*row), *row[:4]) for row in rows),
    )


def _add_labels(database: sqlite3.Connection) -> None:
    """Version 2 allowed no label as the kind of a field, and had none in the view `features`."""
    database.execute("CREATE TEMP TABLE kept AS SELECT id, kind, tag FROM fields NOT INDEXED")
    for view in ("features", "history"):
        database.execute(f"DROP VIEW IF EXISTS {view}")
    database.execute("DROP TABLE fields")
    for statement in _TABLES.split(";\n"):
        if "TABLE fields" in statement or "CREATE VIEW" in statement:
            database.execute(statement)
    database.execute("DELETE FROM fields")
    database.execute("INSERT INTO fields SELECT id, kind, tag FROM kept")
    database.execute("DROP TABLE kept")


def version_of(database: sqlite3.Connection) -> int | None:
    """The version of the tables: 0 if there are none, `None` if they are not ours.

    Compares columns, not only names: SQLite may read a damaged table definition as another table
    without an error.
    """
    found = _columns(database)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as new:
        make_tables(new)
        ours = _columns(new)
    if found == ours:
        definition = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'fields'"
        ((sql,),) = database.execute(definition).fetchall()
        return VERSION if "'label'" in sql else 2
    if found == [column for column in ours if column[1] != "seal"]:
        return 1
    return None if database.execute("SELECT 1 FROM sqlite_master").fetchone() else 0


def has_seals(database: sqlite3.Connection) -> bool:
    """Whether marks have seals, in a file that may be damaged."""
    return any(table == "marks" and name == "seal" for table, name, *_ in _columns(database))


def _columns(database: sqlite3.Connection) -> list[tuple[object, ...]]:
    return database.execute(
        'SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.pk'
        " FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
        " AND m.name IN ('dictionaries', 'fields', 'marks', 'edits', 'changes')"
        " ORDER BY m.name, c.cid"
    ).fetchall()


def _sign(database: sqlite3.Connection) -> None:
    database.execute(f"PRAGMA application_id = {APPLICATION}")
    database.execute(f"PRAGMA user_version = {VERSION}")

"""The tables of the triage file, and how an older file gets them.

One row of `marks` is one cell: one feature's star, rejection, note or one tag. Its `edit` is
the edit that it shows, which is what lets an undo see whether somebody else came after.
`changes` is never deleted from: it holds what every edit found and left, as runs of features
that were alike before. `seal` and `tallies` are explained in `seals`. For a person who opens
the file there are the views `features` and `history`.
"""

from __future__ import annotations

import sqlite3

from qlens_tui.triage.seals import seal_everything

VERSION = 2
# "qlns": tells our file from any other database.
APPLICATION = 0x716C6E73

_TABLES = """
CREATE TABLE dictionaries (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    model TEXT NOT NULL,
    layer INTEGER NOT NULL,
    seal INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE fields (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('star', 'reject', 'note', 'tag')),
    tag TEXT NOT NULL CHECK ((kind = 'tag') = (tag <> '')),
    seal INTEGER NOT NULL DEFAULT 0,
    UNIQUE (kind, tag)
);
INSERT INTO fields (kind, tag) VALUES ('star', ''), ('reject', ''), ('note', '');
-- value: 1, the text of a note, or NULL where a mark was taken off again.
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

_TALLIES = """
CREATE TABLE tallies (
    subject INTEGER PRIMARY KEY,
    rows INTEGER NOT NULL,
    total INTEGER NOT NULL,
    seal INTEGER NOT NULL
)"""

_SEALED = ("dictionaries", "fields", "marks", "changes")


def make_tables(database: sqlite3.Connection) -> None:
    """Give a new file its tables; inside a transaction, with the functions of `seals`."""
    for statement in (*_TABLES.split(";\n"), _TALLIES):
        database.execute(statement)
    seal_everything(database)
    _sign(database)


def add_seals(database: sqlite3.Connection) -> None:
    """Turn a file of version 1, which had no seals, into one of this version."""
    for table in _SEALED:
        database.execute(f"ALTER TABLE {table} ADD COLUMN seal INTEGER NOT NULL DEFAULT 0")
    database.execute(_TALLIES)
    seal_everything(database)
    _sign(database)


def version_of(database: sqlite3.Connection) -> int:
    """The version that the tables are of: 0 for none, 1 without seals, 2 with them."""
    names = _names(database)
    return 0 if not names else 2 if "tallies" in names else 1


def is_like_ours(database: sqlite3.Connection) -> bool:
    """Whether the tables have the names of ours, whatever the header says."""
    return _names(database) >= {"dictionaries", "fields", "marks", "edits", "changes"}


def _names(database: sqlite3.Connection) -> set[str]:
    return {str(name) for (name,) in database.execute("SELECT name FROM sqlite_master")}


def _sign(database: sqlite3.Connection) -> None:
    database.execute(f"PRAGMA application_id = {APPLICATION}")
    database.execute(f"PRAGMA user_version = {VERSION}")

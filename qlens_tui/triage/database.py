"""The file that triage lives in: found, opened safely, and explained when it cannot be.

    <data>/triage.sqlite3      <data>: see `lens_core.directories`

It is work that nobody can compute again, so it is not in the cache, and every commit is on
the disk before the call returns (`synchronous = EXTRA`: the log, and the directory where a
rollback journal was). On a network filesystem, where the shared memory of a write-ahead log
is not shared, a rollback journal takes its place.

One row of `marks` is one cell: one feature's star, rejection, note or one tag. Its `edit` is
the edit that it shows, which is what lets an undo see whether somebody else came after.
`changes` is never deleted from: it holds what every edit found and left, as runs of features
that were alike before. For a person who opens the file there are the views `features` and
`history`.

Cost: a keystroke is one transaction and one or two syncs, some milliseconds on a local disk.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from lens_core.directories import DATA, data_dir, is_network_filesystem
from lens_core.errors import StoreError

NAME = "triage.sqlite3"
VERSION = 1
# "qlns": tells our file from any other database.
APPLICATION = 0x716C6E73
# Longer than the longest bulk edit of another session.
PATIENCE = 30.0

_SCHEMA = f"""
CREATE TABLE dictionaries (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    model TEXT NOT NULL,
    layer INTEGER NOT NULL
);
CREATE TABLE fields (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('star', 'reject', 'note', 'tag')),
    tag TEXT NOT NULL CHECK ((kind = 'tag') = (tag <> '')),
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
        LEFT JOIN dictionaries d ON d.id = c.dictionary LEFT JOIN fields f ON f.id = c.field;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


def triage_path() -> Path:
    """The user's triage file, which need not exist yet."""
    return data_dir() / NAME


def connect(path: Path) -> sqlite3.Connection:
    """Open the triage file at `path`, made if missing; read-only where it cannot be written.

    Raises:
        StoreError: it cannot be made or read, is damaged, is no triage file, or was written
            by a newer qlens.
    """
    writable = _is_writable(path)
    # Its log would have to be made to read what is in it; without one nobody is writing.
    idle = not path.with_name(f"{path.name}-wal").exists()
    mode = "rwc" if writable else "ro&immutable=1" if idle else "ro"
    place = f"file:{quote(os.fsencode(path))}?mode={mode}"
    with explained(path):
        database = sqlite3.connect(
            place, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
    try:
        with explained(path):
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA temp_store = MEMORY")
            _check_owner(database, path, writable)
            if writable:
                _prepare(database, path)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as one line that names the file and the mend."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # ours
    except sqlite3.Error as error:
        raise _refusal(error, path) from error


@contextmanager
def transaction(database: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All of the block or nothing of it, with nobody else writing meanwhile."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled back already
            database.execute("ROLLBACK")
        raise


def _is_writable(path: Path) -> bool:
    """Whether `path` can be changed; makes its directory."""
    mend = f"set {DATA} to a directory of yours"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StoreError(f"cannot keep marks: {path.parent} is not a directory: {mend}") from None
    except OSError as error:
        raise StoreError(f"cannot make {path.parent}: {error.strerror}: {mend}") from None
    # The journal is made beside the file.
    there = os.access(path.parent, os.W_OK | os.X_OK)
    if path.exists():
        return there and os.access(path, os.W_OK)
    if not there:
        raise StoreError(f"cannot make {path}: no permission to write in its directory: {mend}")
    return True


def _check_owner(database: sqlite3.Connection, path: Path, writable: bool) -> None:
    # In this order: another session may be making the tables, which come all at once.
    (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    (owner,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if tables and owner != APPLICATION:
        raise StoreError(f"{path} is a database of another program: move it away, or set {DATA}")
    if version > VERSION:
        raise StoreError(
            f"{path} was written by a newer qlens (schema {version}, this one knows {VERSION}): "
            "update qlens"
        )
    if not tables and not writable:
        raise StoreError(f"{path} is empty and cannot be written: set {DATA}")


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    _set_journal(database, "delete" if is_network_filesystem(path) else "wal")
    database.execute("PRAGMA synchronous = EXTRA")
    database.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's cache
    database.execute(f"PRAGMA journal_size_limit = {1 << 22}")
    if database.execute("PRAGMA user_version").fetchone() == (0,):
        with transaction(database):
            # Another session may have been first.
            if database.execute("PRAGMA user_version").fetchone() == (0,):
                for statement in _SCHEMA.split(";\n"):
                    database.execute(statement)


def _set_journal(database: sqlite3.Connection, wanted: str) -> None:
    """Several sessions may open a new file at once, and this does not wait by itself."""
    deadline = time.monotonic() + PATIENCE
    while database.execute("PRAGMA journal_mode").fetchone() != (wanted,):
        try:
            database.execute(f"PRAGMA journal_mode = {wanted}")
            return  # with the mode that the filesystem can do
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _refusal(error: sqlite3.Error, path: Path) -> StoreError:
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return StoreError(
            f"no space left in {path.parent}: nothing was changed; free some and do it again"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(f"another process is writing {path}: nothing was changed; do it again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        verb = "open" if code == sqlite3.SQLITE_CANTOPEN else "write"
        return StoreError(
            f"cannot {verb} {path}: nothing was changed; set {DATA} to a directory of yours"
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(f"the disk fails on {path}: nothing was changed; check it, or the mount")
    if code == sqlite3.SQLITE_TOOBIG:
        return StoreError(f"a note is too long for {path}: nothing was changed; shorten it")
    return StoreError(
        f"{path} is damaged: put a copy back, save what can be read with "
        "`sqlite3 FILE .recover`, or move it away to begin anew"
    )


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary code; what Python itself could not decode counts as damage."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF

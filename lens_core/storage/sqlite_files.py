"""What an SQLite file needs from its disk, for results and for marks."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from lens_core.storage.disk_space import free_bytes

LOG_INDEX_BYTES = 1 << 15
"""Bytes that SQLite needs to open a database with a write-ahead log, even for reading."""


def is_full(error: sqlite3.Error, path: Path) -> bool:
    """Whether SQLite failed on the database at `path` because there is no space.

    For a write it says so. For the index of its log, which it also needs for reading, it reports
    only an I/O error.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return free_bytes(path) < LOG_INDEX_BYTES
    return code == sqlite3.SQLITE_FULL


def read_mode(database: Path) -> str:
    """The `mode` in the URI with which to open an SQLite file that cannot be written.

    If its log is empty, no process is writing and the file can be opened as immutable, without an
    index of the log, for which there may be no space.
    """
    log = database.with_name(f"{database.name}-wal")
    holds = log.exists() and log.stat().st_size > 0
    return "ro" if holds else "ro&immutable=1"

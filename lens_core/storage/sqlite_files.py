"""What an SQLite file needs of its disk, for results and for marks alike."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from lens_core.storage.disk_space import free_bytes

LOG_INDEX_BYTES = 1 << 15
"""What SQLite needs to open a database that has a write-ahead log, even to read it."""


def is_full(error: sqlite3.Error, path: Path) -> bool:
    """Whether SQLite could not work on the database at `path` for want of space.

    It says so of a write. Of the index of its log, which it needs to read as well, it says only
    that the disk fails.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return free_bytes(path) < LOG_INDEX_BYTES
    return code == sqlite3.SQLITE_FULL


def read_mode(database: Path) -> str:
    """How to open an SQLite file that cannot be written, as the `mode` of its address.

    Where its log holds nothing nobody is writing, and no index of it needs to be made, for which
    there may be no room.
    """
    log = database.with_name(f"{database.name}-wal")
    holds = log.exists() and log.stat().st_size > 0
    return "ro" if holds else "ro&immutable=1"

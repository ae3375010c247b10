"""The triage file: finding it, opening it safely, and explaining failures.

    <data>/triage.sqlite3      <data>: see `lens_core.directories`

Marks cannot be computed again, so the file is not in the cache, and every commit is on disk
before the call returns (`synchronous = EXTRA`: the log, and the directory of a rollback journal).
On a network filesystem, where the shared memory of a write-ahead log does not work, a rollback
journal is used instead. A new file is created under another name and linked when it has its
tables, so an empty file is never a new one. If nothing can be written (no space or no permission),
the file is opened read-only.

Cost: an edit is one transaction with one or two syncs, some milliseconds on a local disk.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lens_core.directories import DATA, data_dir, is_network_filesystem
from lens_core.errors import DamagedError, StoreError, one_line
from lens_core.storage import sqlite_files
from lens_core.storage.disk_space import cannot_write, free_bytes, in_bytes
from lens_core.storage.files import sync, temporary_beside
from qlens_tui.triage.schema import (
    APPLICATION,
    FIRST_SEALED,
    VERSION,
    has_seals,
    make_tables,
    migrate,
    version_of,
)
from qlens_tui.triage.seals import add_functions

NAME = "triage.sqlite3"
# Longer than the longest bulk edit of another session.
PATIENCE = 30.0
RESTORE = "`qlens triage restore` restores a backup, or saves what is undamaged"


@dataclass(frozen=True)
class OpenFile:
    """An open triage file; `sealed` is false for a read-only one of version 1.

    `refusal` is the message for an edit if the file is read-only, else "".
    """

    database: sqlite3.Connection
    sealed: bool
    refusal: str = ""


def triage_path() -> Path:
    """The path of the user's triage file, which may not exist yet."""
    return data_dir() / NAME


def connect(path: Path, keep: Callable[[sqlite3.Connection], object]) -> OpenFile:
    """Open the triage file at `path`, created if missing; read-only if it cannot be written.

    `keep` makes a copy of a file of an older version before its tables are changed.

    Raises:
        DamagedError: the file is empty or not readable as a database, or only its log exists.
        StoreError: it cannot be created or read, is not a triage file, or was written by a newer
            qlens.
    """
    _make_directory(path.parent)
    logs = [f"{path}{ending}" for ending in ("-wal", "-journal") if _holds(f"{path}{ending}")]
    if not os.path.lexists(path):
        if logs:  # SQLite would apply it to the new file
            raise DamagedError(
                f"{path} is missing but its log {logs[0]} is there: put the file back, or "
                f"{RESTORE}; to start without marks, move the log away"
            )
        _make(path)
    demand_content(path)
    refusal = ""
    # The journal is created in the file's directory.
    if not (os.access(path.parent, os.W_OK | os.X_OK) and os.access(path, os.W_OK)):
        refusal = f"cannot write {path}: nothing was changed; set {DATA} to a directory of yours"
    else:
        try:
            with explained(path):
                return _opened(path, keep)
        except StoreError as error:
            cause = error.__cause__  # an OSError: the copy cannot be made
            if not isinstance(cause, OSError) and not (
                isinstance(cause, sqlite3.Error) and sqlite_files.is_full(cause, path)
            ):
                raise
            refusal = str(error)
    with explained(path):
        return open_to_read(path, refusal)


def open_to_read(path: Path, refusal: str = "") -> OpenFile:
    """Open a triage file without changing it or creating files.

    Raises:
        DamagedError, StoreError: as `connect`.
        sqlite3.Error: it cannot be read.
    """
    demand_content(path)
    database = _connection(path, sqlite_files.read_mode(path))
    try:
        return OpenFile(database, _demand_ours(database, path) >= FIRST_SEALED, refusal)
    except BaseException:
        database.close()
        raise


def open_damaged(path: Path) -> OpenFile:
    """Open a triage file as `open_to_read`, even if it is damaged."""
    demand_content(path)
    database = _connection(path, sqlite_files.read_mode(path))
    try:
        return OpenFile(database, has_seals(database))
    except BaseException:
        database.close()
        raise


def demand_content(path: Path) -> None:
    """Refuse a directory or an empty file in place of the triage file.

    Raises:
        DamagedError: it is a directory, or empty.
    """
    if path.is_dir():
        raise DamagedError(f"{path} is a directory, not a file: move it away")
    with suppress(OSError):  # SQLite reports a dangling link
        if path.stat().st_size == 0:
            raise DamagedError(
                f"{path} is empty: `qlens triage restore` restores a backup; "
                "to start without marks, remove it"
            )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as one line that names the file and the fix."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # ours
    except sqlite3.Error as error:
        raise _refused(error, path) from error
    except UnicodeDecodeError as error:  # raised by SQLite for a damaged schema
        raise _refused(sqlite3.DatabaseError(one_line(error)), path) from error


@contextmanager
def transaction(database: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """A transaction: all of the block or nothing, with no other writer."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled back already
            database.execute("ROLLBACK")
        raise


def _holds(log: str) -> bool:
    with suppress(OSError):
        return os.stat(log).st_size > 0
    return False


def _make_directory(directory: Path) -> None:
    fix = f"set {DATA} to a directory of yours"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StoreError(f"cannot keep marks: {directory} is not a directory: {fix}") from None
    except OSError as error:
        raise StoreError(f"cannot make {directory}: {error.strerror}: {fix}") from None


def _make(path: Path) -> None:
    """Create a new file, unless another session does it first.

    Raises:
        StoreError: it cannot be created.
    """
    temporary = temporary_beside(path)
    try:
        with closing(_connection(temporary, "rwc")) as database, transaction(database):
            make_tables(database)
        with suppress(FileExistsError):
            _put_in_place(temporary, path)
    except sqlite3.Error as error:
        if sqlite_files.is_full(error, path):
            raise _refused(error, path) from error
        raise StoreError(
            f"cannot make {path}: {one_line(error)}: set {DATA} to a directory of yours"
        ) from error
    except OSError as error:
        raise cannot_write(error, path) from error
    finally:
        for leftover in (temporary, temporary.with_name(f"{temporary.name}-journal")):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Link a new file to its name, unless another process has created that file."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a filesystem without links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.rename(temporary, path)
    with suppress(OSError):  # not every filesystem can sync a directory
        sync(path.parent)


def _opened(path: Path, keep: Callable[[sqlite3.Connection], object]) -> OpenFile:
    database = _connection(path, "rw")
    try:
        _demand_ours(database, path)
        _set_journal(database, "delete" if is_network_filesystem(path) else "wal")
        database.execute("PRAGMA synchronous = EXTRA")
        database.execute("PRAGMA fullfsync = ON")  # macOS: also flush the drive's cache
        database.execute(f"PRAGMA journal_size_limit = {1 << 22}")
        if version_of(database) != VERSION:
            keep(database)
            with transaction(database):
                migrate(database)  # nothing if another session was first
    except BaseException:
        database.close()
        raise
    return OpenFile(database, sealed=True)


def _connection(path: Path, mode: str) -> sqlite3.Connection:
    place = f"file:{quote(os.fsencode(path))}?mode={mode}"
    database = sqlite3.connect(
        place, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    # Text that is not UTF-8 matches no seal and is reported as damage.
    database.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA temp_store = MEMORY")
    add_functions(database)
    return database


def _demand_ours(database: sqlite3.Connection, path: Path) -> int:
    """The version of the tables, if this qlens supports it."""
    ((said,),) = database.execute("PRAGMA integrity_check(1)")
    if said != "ok":
        # Seals check rows, this checks the database's structure, which could be circular.
        raise DamagedError(
            f"{path} is damaged ({one_line(said)}): {RESTORE}; to start without marks, move it away"
        )
    with transaction(database, "DEFERRED"):  # another session may be changing the tables
        tables = version_of(database)
        (owner,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
    if tables == 0:
        raise DamagedError(
            f"{path} has no tables for marks: {RESTORE}; to start without marks, remove it"
        )
    if owner != APPLICATION:
        if tables is not None:
            raise DamagedError(f"the header of {path} is damaged: {RESTORE}")
        raise StoreError(f"{path} is a database of another program: move it away, or set {DATA}")
    if version > VERSION:
        raise StoreError(
            f"{path} was written by a newer qlens (schema {version}, this one knows {VERSION}): "
            "update qlens"
        )
    if version != tables:
        raise DamagedError(f"the header or a table of {path} is damaged: {RESTORE}")
    return int(version)


def _set_journal(database: sqlite3.Connection, wanted: str) -> None:
    """Set the journal mode; retries, because SQLite does not wait for other sessions here."""
    deadline = time.monotonic() + PATIENCE
    while database.execute("PRAGMA journal_mode").fetchone() != (wanted,):
        try:
            database.execute(f"PRAGMA journal_mode = {wanted}")
            return  # with the mode that the filesystem supports
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _refused(error: sqlite3.Error, path: Path) -> StoreError:
    """The error message for an SQLite error on the file at `path`."""
    code = _code(error)
    if sqlite_files.is_full(error, path):
        free, needed = free_bytes(path), sqlite_files.LOG_INDEX_BYTES
        room = f" ({in_bytes(free)} free, {in_bytes(needed)} needed)" if free < needed else ""
        return StoreError(
            f"no space left in {path.parent}{room}: nothing was changed; free some and try again"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(f"another process is writing {path}: nothing was changed; try again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        verb = "open" if code == sqlite3.SQLITE_CANTOPEN else "write"
        return StoreError(
            f"cannot {verb} {path}: nothing was changed; set {DATA} to a directory of yours"
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(f"the disk fails on {path}: nothing was changed; check it, or the mount")
    if code == sqlite3.SQLITE_TOOBIG:
        return StoreError(f"a text is too long for {path}: nothing was changed; shorten it")
    return DamagedError(
        f"{path} is damaged ({one_line(error)}): {RESTORE}; to start without marks, move it away"
    )


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary error code; text that Python cannot decode counts as damage."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF

"""Backups of the triage file: made when it is opened, and restored if it is damaged.

<data>/backups/triage-20260728T101500Z.sqlite3       a copy from that time (UTC)
<data>/triage.sqlite3.replaced-20260728T101500Z      the file that a restored copy replaced

SQLite makes a copy (`VACUUM INTO`), complete or not at all, if there were edits since the last
one. The last few are kept, and every copy that the file does not continue: of a file that it
replaced, or of edits that a restore took back. So a file that begins anew removes no copy of the
one before.

Cost: a tenth of a second per 100,000 marks, and the file's size on disk for each copy.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lens_core.errors import LensError, StoreError, UsageError
from lens_core.storage.files import replacing, sync
from qlens_tui.triage.database import (
    OpenFile,
    explained,
    open_damaged,
    open_to_read,
    transaction,
)
from qlens_tui.triage.marks import whole_characters
from qlens_tui.triage.schema import make_tables
from qlens_tui.triage.seals import (
    cells_of,
    damage_of,
    dictionaries_of,
    fields_of,
    is_value,
    seal,
)

FOLDER = "backups"
KEPT = 5
RESTORE_NEWEST = "`qlens triage restore latest` restores the newest"
_STAMP = re.compile(r"-(\d{8}T\d{6}Z)(?:-(\d+))?")
_LOGS = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Backup:
    """A copy of the triage file; `damage` is what is wrong with it, "" for nothing."""

    path: Path
    made: float
    bytes: int
    features: int
    damage: str

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class Restored:
    """What a restore did: the copy that was used, and the new path of the replaced file."""

    features: int
    source: Path
    replaced: Path | None


def backups_of(path: Path) -> list[Backup]:
    """The copies of the triage file at `path`, newest first."""
    return [_described(each) for each in _newest_first(path)]


def back_up(database: sqlite3.Connection, path: Path) -> Path | None:
    """Copy the file if it was edited since the last copy; otherwise return `None`.

    Raises:
        StoreError: the copy cannot be written.
        sqlite3.Error: the file cannot be read.
    """
    last = _last_edit(database)
    copies = _newest_first(path)
    if last is None or (copies and _last_edit_of(copies[0]) == last):
        return None
    target = _new_name(path.parent / FOLDER, f"{path.stem}-", path.suffix)
    size = database.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()[0]
    with replacing(target, size) as temporary:
        database.execute("VACUUM INTO ?", (os.fspath(temporary),))
    for old in _newest_first(path)[KEPT:]:
        if _continues(database, old):
            with suppress(OSError):
                old.unlink()
    return target


def why_missing(path: Path) -> str:
    """That the triage file is gone while there are backups of it, and what to do; "" if not."""
    copies = 0 if os.path.lexists(path) else len(_newest_first(path))
    if not copies:
        return ""
    return (
        f"{path} is missing, and there {'is a backup' if copies == 1 else f'are {copies} backups'}"
        f" of it: put the file back, or {RESTORE_NEWEST}; to start "
        f"without marks, move {path.parent / FOLDER} away"
    )


def damage_of_file(path: Path) -> list[str]:
    """Everything that is wrong with the triage file at `path`, or a copy; nothing is changed."""
    try:
        with explained(path):
            file = open_to_read(path)
            with closing(file.database):
                return damage_of(file.database, sealed=file.sealed)
    except LensError as error:
        return [str(error)]


def find_backup(path: Path, wanted: str) -> Path:
    """The copy for `wanted`: `latest`, its number in the list, its name, or a path.

    Raises:
        UsageError: there is none.
    """
    copies = _newest_first(path)
    if wanted == "latest":
        whole = [each for each in copies if not damage_of_file(each)]
        if not whole:
            raise UsageError(f"there is no undamaged backup of {path}")
        return whole[0]
    if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= len(copies):
        return copies[int(wanted) - 1]
    for each in copies:
        if wanted in (each.name, str(each)):
            return each
    if Path(wanted).is_file():
        return Path(wanted)
    raise UsageError(f"no backup {wanted!r}: `qlens triage restore` without a name lists them")


def restore(path: Path, source: Path) -> Restored:
    """Replace the triage file with a copy; the old file is kept under another name.

    Sessions that have the old file open notice this and no longer write.

    Raises:
        StoreError: the copy is damaged, or the disk is full; the file is unchanged.
    """
    damage = damage_of_file(source)
    if damage:
        raise StoreError(f"{source} is damaged ({damage[0]}): use another backup")

    def copied(temporary: Path) -> None:
        with closing(open_to_read(source).database) as database:
            database.execute("VACUUM INTO ?", (os.fspath(temporary),))

    return _put_back(path, source, copied)


def salvage(path: Path) -> Restored:
    """Replace the triage file with its undamaged marks; the old file is kept.

    Raises:
        UsageError: there is no file.
        StoreError: nothing in it can be read, or the disk is full; the file is unchanged.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}: `qlens triage restore` lists its backups")
    with explained(path):
        damaged = open_damaged(path)

    def copied(temporary: Path) -> None:
        with closing(damaged.database), closing(sqlite3.connect(temporary)) as new:
            new.isolation_level = None
            with transaction(new):
                make_tables(new)
                _copy_good_rows(damaged, path.stat().st_size, new)

    return _put_back(path, path, copied)


def _put_back(path: Path, source: Path, write: Callable[[Path], None]) -> Restored:
    replaced = _new_name(path.parent, f"{path.name}.replaced-", "")
    try:
        with explained(path), replacing(path) as temporary:
            write(temporary)
            features = _features_of(temporary)
            sync(temporary)
            _set_aside(path, replaced)
    except BaseException:
        _take_back(replaced, path)
        raise
    return Restored(features, source, replaced if os.path.lexists(replaced) else None)


def _set_aside(path: Path, target: Path) -> None:
    """Give a triage file a second name, and move its log, which SQLite would apply to the new file.

    The file keeps its first name until the new one replaces it, so that a crash never leaves none.
    """
    for ending in _LOGS:
        with suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{target}{ending}")
    with suppress(FileNotFoundError):
        try:
            os.link(path, target)
        except OSError:  # a directory, or a filesystem without links
            os.rename(path, target)


def _take_back(target: Path, path: Path) -> None:
    """Undo `_set_aside`."""
    for ending in ("", *_LOGS):
        with suppress(FileNotFoundError):
            os.rename(f"{target}{ending}", f"{path}{ending}")
    if os.path.lexists(path):  # renaming does nothing if both names are the same file
        target.unlink(missing_ok=True)


def _copy_good_rows(damaged: OpenFile, size: int, new: sqlite3.Connection) -> None:
    """Copy the readable marks that match their seals; their history is not copied."""
    old, fields = damaged.database, fields_of(damaged.database)
    new.execute("DELETE FROM fields")
    new.executemany(
        "INSERT OR IGNORE INTO fields (id, kind, tag) VALUES (?, ?, ?)",
        ((number, *each) for number, each in fields.items() if is_value(each.tag)),
    )
    # The only edit, so that an undo of an earlier session finds nothing to undo.
    new.execute("INSERT INTO edits (id, what) VALUES (1, 'salvaged from a damaged file')")
    # Pages that refer to each other in a circle would give rows without end.
    pages = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    most = max(size, *old.execute(pages).fetchone()) // 4
    for each in dictionaries_of(old):
        new.execute(
            "INSERT OR IGNORE INTO dictionaries (id, sha256, name, model, layer)"
            " VALUES (?, ?, ?, ?, ?)",
            [whole_characters(value) if isinstance(value, str) else value for value in each],
        )
        with suppress(sqlite3.Error):  # the rest of this dictionary cannot be read
            cells = cells_of(old, each, fields, sealed=damaged.sealed)
            for feature, field, value, damage in islice(cells, most):
                if not damage:
                    meaning = (each.sha256, feature, *fields[field], value, 1)
                    new.execute(
                        "INSERT OR IGNORE INTO marks VALUES (?, ?, ?, ?, 1, ?)",
                        (each.number, feature, field, value, seal(*meaning)),
                    )


def _described(path: Path) -> Backup:
    """What a triage file or a copy holds, and its damage; reads all of it."""
    found = path.stat()
    damage = damage_of_file(path)
    features = 0
    if not damage:
        with suppress(LensError, sqlite3.Error):
            features = _features_of(path)
    return Backup(path, found.st_mtime, found.st_size, features, damage[0] if damage else "")


def _features_of(path: Path) -> int:
    """The number of features with a mark."""
    with closing(open_to_read(path).database) as database:
        return int(
            database.execute(
                "SELECT COUNT(*) FROM (SELECT DISTINCT dictionary, feature FROM marks"
                " WHERE value IS NOT NULL)"
            ).fetchone()[0]
        )


def _newest_first(path: Path) -> list[Path]:
    folder, found = path.parent / FOLDER, []
    with suppress(OSError):
        for name in os.listdir(folder):
            stamp = _STAMP.fullmatch(name.removeprefix(path.stem).removesuffix(path.suffix))
            if stamp is not None:
                found.append((stamp[1], int(stamp[2] or 1), folder / name))
    return [copy for _, _, copy in sorted(found, reverse=True)]


def _new_name(folder: Path, before: str, after: str) -> Path:
    """A name with the time in it, which sorts after all others of the same second."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    taken = [0]
    with suppress(OSError):
        for name in os.listdir(folder):
            found = _STAMP.fullmatch(f"-{name.removeprefix(before).removesuffix(after)}")
            if found is not None and found[1] == stamp:
                taken.append(int(found[2] or 1))
    number = max(taken) + 1
    return folder / f"{before}{stamp}{f'-{number}' if number > 1 else ''}{after}"


def _last_edit(database: sqlite3.Connection) -> tuple[int, str, str] | None:
    found: tuple[int, str, str] | None = database.execute(
        "SELECT id, at, what FROM edits ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return found


def _last_edit_of(path: Path) -> tuple[int, str, str] | None:
    try:
        with closing(open_to_read(path).database) as database:
            return _last_edit(database)
    except (LensError, sqlite3.Error):
        return None


def _continues(database: sqlite3.Connection, copy: Path) -> bool:
    """Whether all edits in a copy are in the history of this file."""
    try:
        # Whether the copy is damaged does not matter, and to check it is slow.
        with closing(open_damaged(copy).database) as other:
            last = _last_edit(other)
    except (LensError, sqlite3.Error):
        return False
    known = "SELECT 1 FROM edits WHERE (id, at, what) = (?, ?, ?)"
    return last is not None and database.execute(known, last).fetchone() is not None

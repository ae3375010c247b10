"""Copies of the triage file: made when it is opened, kept a few, put back when it is damaged.

    <data>/backups/triage-20260728T101500Z.sqlite3       a copy as of then (UTC)
    <data>/triage.sqlite3.replaced-20260728T101500Z      what a restored copy took the place of

A copy is made by SQLite (`VACUUM INTO`), whole or not at all, when something was edited since
the last one and nothing is damaged: damage never drives a good copy out.

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
from pathlib import Path

from lens_core.errors import LensError, StoreError, UsageError, one_line
from lens_core.storage.files import replacing, sync
from qlens_tui.triage.database import (
    RESTORE,
    OpenFile,
    explained,
    open_to_read,
    transaction,
)
from qlens_tui.triage.schema import make_tables, version_of
from qlens_tui.triage.seals import (
    add_functions,
    damage_of,
    dictionaries_of,
    fields_of,
    mark_rows,
    seal_everything,
)

FOLDER = "backups"
KEPT = 5
_STAMP = re.compile(r"-(\d{8}T\d{6}Z)(?:-(\d+))?")
_LOGS = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Backup:
    """A copy of the triage file; `damage` says what is wrong with it, "" for nothing."""

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
    """What a restore did: the copy that was taken, and where the file that was there is now."""

    features: int
    source: Path
    replaced: Path | None


def backups_of(path: Path) -> list[Backup]:
    """The copies of the triage file at `path`, newest first."""
    return [describe(each) for each in _newest_first(path)]


def back_up(database: sqlite3.Connection, path: Path) -> Path | None:
    """Copy the file if it was edited since the last copy; `None` if not.

    Raises:
        StoreError: the copy cannot be written.
        sqlite3.Error: the file cannot be read.
    """
    last = _last_edit(database)
    copies = _newest_first(path)
    if last is None or (copies and _last_edit_of(copies[0]) == last):
        return None
    target = _free_name(path.parent / FOLDER, f"{path.stem}-", path.suffix)
    size = database.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()[0]
    with replacing(target, size) as temporary:
        database.execute("VACUUM INTO ?", (os.fspath(temporary),))
    for old in _newest_first(path)[KEPT:]:
        with suppress(OSError):
            old.unlink()
    return target


def keep_copy(file: OpenFile, path: Path) -> str:
    """`back_up`, unless something is damaged; "" or why no copy was made that should have been."""
    try:
        with explained(path):
            last, copies = _last_edit(file.database), _newest_first(path)
            if last is None or (copies and _last_edit_of(copies[0]) == last):
                return ""
            damage = damage_of_open(file)
            if damage:
                return f"{path} is damaged: {damage[0]}: {RESTORE}"
            back_up(file.database, path)
    except LensError as error:
        return f"no backup of the marks was made: {error}"
    return ""


def damage_of_file(path: Path) -> list[str]:
    """Everything that is wrong with the triage file at `path`, or with a copy; nothing is changed.

    A file from before there were seals is only checked as far as SQLite can.
    """
    try:
        with explained(path), closing(open_to_read(path).database) as database:
            return damage_of_open(OpenFile(database, _is_sealed(database)))
    except LensError as error:
        return [str(error)]


def damage_of_open(file: OpenFile) -> list[str]:
    """The same of an open file."""
    (said, *more) = [row[0] for row in file.database.execute("PRAGMA integrity_check(5)")]
    found = [] if (said, more) == ("ok", []) else [one_line(said), *map(one_line, more)]
    return (damage_of(file.database) if file.sealed else []) or found


def find_backup(path: Path, wanted: str) -> Path:
    """The copy that `wanted` means: `latest`, its number in the list, its name, or a path.

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
    for each in (*copies, Path(wanted)):
        if each.name == wanted or (each == Path(wanted) and each.is_file()):
            return each
    raise UsageError(f"no backup {wanted!r}: `qlens triage restore` without a name lists them")


def restore(path: Path, source: Path) -> Restored:
    """Put a copy in the place of the triage file, which is kept aside.

    Sessions that have the file open see that it was replaced, and write no more.

    Raises:
        StoreError: the copy is damaged, or the disk is full; the file is what it was.
    """
    damage = damage_of_file(source)
    if damage:
        raise StoreError(f"{source} is damaged ({damage[0]}): take another backup")

    def copied(temporary: Path) -> None:
        with closing(open_to_read(source).database) as database:
            database.execute("VACUUM INTO ?", (os.fspath(temporary),))

    return _put_back(path, source, copied)


def salvage(path: Path) -> Restored:
    """Put what is undamaged in the triage file in its place; the file itself is kept aside.

    Raises:
        StoreError: nothing in it can be read, or the disk is full; the file is what it was.
    """
    with explained(path):
        damaged = open_to_read(path)

    def copied(temporary: Path) -> None:
        with closing(damaged.database), closing(sqlite3.connect(temporary)) as new:
            new.isolation_level = None
            add_functions(new)
            with transaction(new):
                make_tables(new)
                _copy_good_rows(damaged, new)
                seal_everything(new)

    return _put_back(path, path, copied)


def _put_back(path: Path, source: Path, write: Callable[[Path], None]) -> Restored:
    replaced = _free_name(path.parent, f"{path.name}.replaced-", "")
    try:
        with explained(path), replacing(path) as temporary:
            write(temporary)
            features = _features_of(temporary)
            sync(temporary)
            _move(path, replaced)
    except BaseException:
        if not os.path.lexists(path):
            _move(replaced, path)
        raise
    return Restored(features, source, replaced if os.path.lexists(replaced) else None)


def _move(path: Path, target: Path) -> None:
    """Rename a triage file with its log, which SQLite would apply to the next of its name."""
    for ending in ("", *_LOGS):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{target}{ending}")


def _copy_good_rows(damaged: OpenFile, new: sqlite3.Connection) -> None:
    """Marks that fit their seals, of dictionaries and fields that do; as far as can be read."""
    old, sealed = damaged.database, damaged.sealed
    dictionaries = [each for each in dictionaries_of(old, sealed=sealed) if not each.damaged]
    fields = {n: each for n, each in fields_of(old, sealed=sealed).items() if not each.damaged}
    new.execute("DELETE FROM fields")
    new.executemany(
        "INSERT INTO fields (id, kind, tag) VALUES (?, ?, ?)",
        ((number, each.kind, each.tag) for number, each in fields.items()),
    )
    # The last edit of all: an undo of a session before finds nothing to take back.
    new.execute("INSERT INTO edits (id, what) VALUES (1, 'salvaged from a damaged file')")
    for each in dictionaries:
        new.execute(
            "INSERT INTO dictionaries (id, sha256, name, model, layer) VALUES (?, ?, ?, ?, ?)",
            (each.number, each.sha256, each.name, each.model, each.layer),
        )
        with suppress(sqlite3.Error):  # the rest of this dictionary cannot be read
            for feature, field, value, bad, _ in mark_rows(old, each.number, sealed=sealed):
                if not bad and field in fields:
                    new.execute(
                        "INSERT OR IGNORE INTO marks (dictionary, feature, field, value, edit)"
                        " VALUES (?, ?, ?, ?, 1)",
                        (each.number, feature, field, value),
                    )


def describe(path: Path) -> Backup:
    """What a triage file or a copy of one holds, and whether it is undamaged; reads it all."""
    found = path.stat()
    damage = damage_of_file(path)
    features = 0
    if not damage:
        with suppress(LensError, sqlite3.Error):
            features = _features_of(path)
    return Backup(path, found.st_mtime, found.st_size, features, damage[0] if damage else "")


def _features_of(path: Path) -> int:
    """How many features have a mark."""
    with closing(open_to_read(path).database) as database:
        return int(
            database.execute(
                "SELECT COUNT(*) FROM (SELECT DISTINCT dictionary, feature FROM marks"
                " WHERE value IS NOT NULL)"
            ).fetchone()[0]
        )


def _is_sealed(database: sqlite3.Connection) -> bool:
    return version_of(database) >= 2


def _newest_first(path: Path) -> list[Path]:
    folder, found = path.parent / FOLDER, []
    with suppress(OSError):
        for name in os.listdir(folder):
            stamp = _STAMP.fullmatch(name.removeprefix(path.stem).removesuffix(path.suffix))
            if stamp is not None:
                found.append((stamp[1], int(stamp[2] or 1), folder / name))
    return [copy for _, _, copy in sorted(found, reverse=True)]


def _free_name(folder: Path, before: str, after: str) -> Path:
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name, number = f"{before}{now}{after}", 1
    while os.path.lexists(folder / name):
        number += 1
        name = f"{before}{now}-{number}{after}"
    return folder / name


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

"""A cache of small results by key: diskcache without pickle, every entry with a checksum.

A value is one blob: a magic number, the JSON part and the arrays as safetensors, and a SHA-256
over key and content. An entry that does not match is removed and counts as missing. All values
are inside SQLite, so that no row can name a file to read or remove.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import diskcache

from lens_core.directories import CACHE, is_network_filesystem
from lens_core.errors import QlensWarning, StoreError, one_line
from lens_core.storage import disk_space
from lens_core.storage.damage import Damage
from lens_core.storage.files import discard, remove
from lens_core.storage.fingerprint import demand_json
from lens_core.storage.sqlite_files import LOG_INDEX_BYTES, is_full, read_mode

# Raise this when a result changes for the same inputs: older results are then not found.
RESULTS_FORMAT = 4

_MAGIC = b"qlens result 1\n"
_DIGEST_BYTES = 32


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """diskcache's storage without pickle: plain keys, values of bytes, all inside SQLite.

    Its parent pickles what it cannot store and unpickles any row that says so, so that
    a cache file could run code. Here such a row is an error, and no row can name a file
    to read or remove.
    """

    def put(self, key: object) -> tuple[object, bool]:
        if type(key) is bytes:
            return sqlite3.Binary(key), True
        if type(key) is str or (type(key) is int and -(1 << 63) <= key < 1 << 63):
            return key, True
        raise TypeError(f"a cache key must be str, bytes or a 64-bit int, not {_kind(key)}")

    def get(self, key: Any, raw: object) -> object:
        if not raw or type(key) not in (str, bytes, int):
            raise _DamagedEntryError("its key is pickled")
        return key

    def store(
        self, value: object, read: bool, key: object = diskcache.UNKNOWN
    ) -> tuple[int, int, None, memoryview]:
        if read or type(value) is not bytes:
            raise TypeError(f"a cache value must be bytes, not {_kind(value)}")
        return 0, diskcache.core.MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
        if mode != diskcache.core.MODE_RAW or filename is not None or type(value) is not bytes:
            raise _DamagedEntryError("it is not plain bytes")
        return value

    def filename(self, key: object = None, value: object = None) -> tuple[str, str]:
        raise TypeError("results live inside the database")

    def remove(self, file_path: object) -> None:
        """Do nothing: no row has a file."""


class ResultCache:
    """Small results by key: dictionaries of JSON values and numpy arrays.

    Safe for several processes. The oldest entries are dropped when the file reaches
    `size_limit` bytes. A damaged entry is dropped and counts as missing; a
    database that is damaged as a whole is removed and created again. If nothing can be
    written (a full disk, another user's file), existing entries are still read.
    """

    def __init__(self, directory: Path, *, size_limit: int = 1 << 30) -> None:
        self.directory = directory
        self._size_limit = size_limit
        self._refusal: StoreError | None = None
        self._told = False
        self._cache: Any = None
        try:
            self._cache = self._opened()
        except _UnwritableError as error:
            self._refusal = error

    def __enter__(self) -> ResultCache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        if self._cache is None:
            return count_results(self.directory)
        with self._errors():
            return len(self._cache)

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    def get(self, key: str) -> dict[str, Any] | None:
        """What was put under `key`; `None` if it is missing or damaged."""
        if self._cache is None:
            with suppress(_DamagedEntryError, sqlite3.Error):
                return _read_only(self.directory, key)
            return None
        try:
            with self._errors():
                entry = self._cache.get(key)
            return None if entry is None else _decoded(key, entry)
        except _DamagedEntryError:
            with self._errors():
                self._cache.delete(key)
        except _DamagedDatabaseError:
            self._start_again()
        return None

    def put(self, key: str, payload: Mapping[str, Any]) -> None:
        """Keep `payload`: JSON values (tuples come back as lists), and arrays at its top level.

        If it cannot be kept, a warning says why, once; the result itself is still usable.
        """
        entry = _encoded(key, payload)
        try:
            self._set(key, entry)
        except StoreError as error:
            if not self._told:
                warnings.warn(f"results are not kept: {error}", QlensWarning, stacklevel=2)
            self._told = True

    def _set(self, key: str, entry: bytes) -> None:
        if self._refusal is not None:
            raise self._refusal
        try:
            with self._errors():
                self._cache.set(key, entry)
        except _DamagedDatabaseError:
            self._start_again()
            with self._errors():
                self._cache.set(key, entry)

    def _opened(self) -> Any:
        _clear_the_place(self.directory)
        try:
            return self._open()
        except _DamagedDatabaseError:
            discard(self.directory)
            return self._open()

    def _open(self) -> Any:
        journal = "delete" if is_network_filesystem(self.directory) else "wal"
        # Pass all settings, because diskcache would take missing ones from the file.
        settings = {
            **diskcache.DEFAULT_SETTINGS,
            "size_limit": self._size_limit,
            "sqlite_journal_mode": journal,
            "sqlite_mmap_size": 0,  # a read error under a memory map kills the process
        }
        with self._errors():
            try:
                return diskcache.Cache(str(self.directory), timeout=10, disk=BytesDisk, **settings)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise _DamagedDatabaseError(one_line(error)) from error

    def _start_again(self) -> None:
        self._cache.close()
        discard(self.directory)
        self._cache = self._open()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except diskcache.Timeout:
            raise StoreError(
                f"cannot write to {self.directory}: it is locked by another process or read-only"
            ) from None
        except sqlite3.DatabaseError as error:
            raise _sqlite_refusal(error, self.directory) from error
        except OSError as error:
            refusal = disk_space.cannot_write(error, self.directory)
            raise _UnwritableError(refusal) if disk_space.is_full(error) else refusal from error


class _DamagedEntryError(Exception):
    pass


class _DamagedDatabaseError(Exception):
    pass


class _UnwritableError(StoreError):
    """The database may be undamaged, but cannot be opened or written."""


def _clear_the_place(root: Path) -> None:
    """Remove a file in place of the directory, or a directory in place of the database."""
    if os.path.lexists(root) and not root.is_dir():
        remove(root)
    if (root / diskcache.core.DBNAME).is_dir():
        remove(root / diskcache.core.DBNAME)


def _read_only(root: Path, key: str) -> dict[str, Any] | None:
    with closing(_connected(root, read_mode(root / diskcache.core.DBNAME))) as database:
        row = database.execute(
            "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (key,)
        ).fetchone()
    if row is None:
        return None
    mode, filename, value = row
    return _decoded(key, BytesDisk(str(root)).fetch(mode, filename, value, False))


def _sqlite_refusal(error: sqlite3.DatabaseError, directory: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if is_full(error, directory):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return _UnwritableError(
            disk_space.cannot_write(full, directory / diskcache.core.DBNAME, LOG_INDEX_BYTES)
        )
    # Not our tables, damaged, or moved by another process's repair.
    garbled = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    if code & 0xFF in garbled or code == sqlite3.SQLITE_READONLY_DBMOVED:
        return _DamagedDatabaseError(one_line(error))
    return _UnwritableError(f"cannot use {directory}: {one_line(error)}: set {CACHE} to another")


def _encoded(key: str, payload: Mapping[str, Any]) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    arrays = {name: item for name, item in payload.items() if isinstance(item, np.ndarray)}
    rest = {name: item for name, item in payload.items() if name not in arrays}
    demand_json(rest)
    little_endian = {
        name: np.require(array, array.dtype.newbyteorder("<"), "C")
        for name, array in arrays.items()
    }
    content = _MAGIC + save(little_endian, {"json": json.dumps(rest)})
    return content + _seal(key, content)


def _decoded(key: str, entry: bytes) -> dict[str, Any]:
    content, seal = entry[:-_DIGEST_BYTES], entry[-_DIGEST_BYTES:]
    if not content.startswith(_MAGIC) or _seal(key, content) != seal:
        raise _DamagedEntryError("its checksum does not match")
    from safetensors.numpy import load

    tensors = content[len(_MAGIC) :]
    header = json.loads(tensors[8 : 8 + int.from_bytes(tensors[:8], "little")])
    rest: dict[str, Any] = json.loads(header["__metadata__"]["json"])
    return rest | load(tensors)


def _seal(key: str, content: bytes) -> bytes:
    """The checksum covers the key: an entry moved under another key is damaged too."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass") + b"\0" + content).digest()


def _kind(value: object) -> str:
    return type(value).__name__


def _connected(root: Path, mode: str) -> sqlite3.Connection:
    place = quote(str(root / diskcache.core.DBNAME))
    return sqlite3.connect(f"file:{place}?mode={mode}", uri=True, timeout=10)


def count_results(root: Path) -> int:
    with suppress(sqlite3.Error), closing(_connected(root, "ro")) as database:
        return int(database.execute("SELECT COUNT(*) FROM Cache").fetchone()[0])
    return 0


def verify_results(root: Path, repair: bool) -> list[Damage]:
    path = root / diskcache.core.DBNAME
    for place, wrong in ((root, not root.is_dir()), (path, path.is_dir())):
        if wrong and os.path.lexists(place):
            kind = "a directory, not a file" if place == path else "a file, not a directory"
            done = "removed" if repair and remove(place) else ""
            return [Damage(place, f"{place} is {kind}", done)]
    if not path.exists():
        return []
    damaged: list[tuple[int, str]] = []
    try:
        with closing(_connected(root, "rw")) as database:
            rows = database.execute("SELECT rowid, key, raw, mode, filename, value FROM Cache")
            disk = BytesDisk(str(root))
            for rowid, key, raw, mode, filename, value in rows:
                try:
                    name = disk.get(key, raw)
                    _decoded(str(name), disk.fetch(mode, filename, value, False))
                except _DamagedEntryError as error:
                    damaged.append((rowid, f"entry {rowid} is damaged: {error}"))
            if repair:
                with database:
                    database.executemany(
                        "DELETE FROM Cache WHERE rowid = ?", [(rowid,) for rowid, _ in damaged]
                    )
    except sqlite3.DatabaseError as error:
        refusal = _sqlite_refusal(error, root)
        if not isinstance(refusal, _DamagedDatabaseError):
            raise refusal from error
        outcome = "removed" if repair and remove(root) else ""
        return [Damage(path, f"not a readable database: {refusal}", outcome)]
    return [Damage(path, reason, "removed" if repair else "") for _, reason in damaged]


def clear_results(root: Path) -> None:
    """Empty the database in place, because other processes may have it open; else remove it."""
    if not root.is_dir():
        return
    try:
        with closing(_connected(root, "rw")) as database:
            with database:
                database.execute("DELETE FROM Cache")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError as error:
        # Damaged, or the disk is too full to delete rows in the file.
        if not remove(root):
            raise disk_space.cannot_write(OSError(errno.EACCES, one_line(error)), root) from error

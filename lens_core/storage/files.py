"""Atomic writing of files, and locks for builders.

A file is written next to its target, synced and renamed: a reader, or a crash, sees either the
old or the new file. Locks belong to the operating system, so that a killed builder holds none.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lens_core.directories import CACHE
from lens_core.errors import StoreError
from lens_core.storage.disk_space import cannot_write

LOCK = "build.lock"
# The smallest useful write: a row of SQLite and its log.
_PROBE_BYTES = 1 << 15
_OWNER = re.compile(r"process \d+ on [\w-]+")


def temporary_beside(path: Path) -> Path:
    """A temporary name next to `path`, for a file or directory that is renamed when complete.

    It names its writer, so that maintenance can distinguish leftovers of killed processes from
    files that are being written.
    """
    writer = f"{host_name()}@{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{path.name}.{writer}.tmp")


@contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """A new file next to `path` that replaces it when the block succeeds.

    For files that other libraries write. `needed`: its size in bytes, if known.

    Raises:
        StoreError: it cannot be written; `path` is unchanged.
    """
    # Absolute, because polars expands a leading ~.
    temporary = temporary_beside(path.absolute())
    failure = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        # safetensors creates files that only their owner can read, but a cache can be shared.
        temporary.chmod(mode)
        sync(temporary)
        temporary.replace(path)
        with suppress(OSError):  # not all filesystems can sync a directory
            sync(path.parent)
    except OSError as error:
        failure = error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    if failure is not None:
        # Only now: the partial file, just removed, no longer takes up space.
        raise cannot_write(failure, path, needed) from failure


@contextmanager
def told_by_the_system() -> Iterator[None]:
    """Re-raise errors of Rust libraries that name an "os error 28" as the matching `OSError`."""
    try:
        yield
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees either the old or the new file."""
    with replacing(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_text_atomically(path: Path, text: str) -> None:
    """`write_bytes_atomically` for text, as UTF-8."""
    write_bytes_atomically(path, text.encode("utf-8"))


def host_name() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname())[:64] or "_"


def demand_writable(directory: Path) -> None:
    """Write a file of a few KB into `directory`, or where it would be created, and remove it.

    Checking permissions alone would miss a full disk, a used-up quota, or a failing mount.

    Raises:
        StoreError: it cannot be written.
    """
    place = Path(os.path.abspath(directory))
    while not os.path.lexists(place):
        place = place.parent
    probe, refusal = temporary_beside(place / "probe"), None
    try:
        probe.write_bytes(bytes(_PROBE_BYTES))
        sync(probe)
    except OSError as error:
        refusal = error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    if refusal is not None:
        raise cannot_write(refusal, directory / "probe", _PROBE_BYTES) from refusal


def sync(path: Path) -> None:
    """Wait until a file, or a directory's entries, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def build_lock(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock `directory` for one builder; a second one waits, or gets an error that names the first.

    An operating system's lock, so that a killed builder holds none.
    """
    import fcntl  # POSIX only, like the terminal app

    path = directory / LOCK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(error, path) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        with suppress(OSError):  # a full disk: the owner's name is optional
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {host_name()}".encode())
    except BlockingIOError:
        owner = _OWNER.match(os.read(handle, 200).decode(errors="replace"))
        os.close(handle)
        raise StoreError(
            f"{owner[0] if owner else 'another process'} is building {directory}: "
            "wait for it or stop it"
        ) from None
    except OSError as error:
        os.close(handle)
        raise StoreError(
            f"the filesystem of {directory} has no locks ({error.strerror}): "
            f"set {CACHE} to a local directory"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def discard(directory: Path) -> None:
    """Rename a directory in one step, then delete it."""
    aside = temporary_beside(directory)
    try:
        directory.rename(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(error, directory) from error
    shutil.rmtree(aside, ignore_errors=True)


def clear_directory(path: Path) -> None:
    """Remove a directory that is where a file is to be written; only for the cache.

    Raises:
        StoreError: it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        discard(path)


def remove(path: Path) -> bool:
    """Remove a file or a directory, but not the target of a link; False if that fails."""
    with suppress(OSError, StoreError):
        if path.is_dir() and not path.is_symlink():
            discard(path)
        else:
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)

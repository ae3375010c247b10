"""Parquet files with their own checksum inside.

    sha256( the file's bytes, with 64 zeros in place of the checksum )

A table may be copied alone (out of the cache, to a colleague), so a separate checksum file would
get lost. The file is written with a placeholder in its metadata and hashed, then the checksum
replaces the placeholder. Any later change, also in the footer, is detected before polars opens
the file. The metadata also holds `about`, a JSON object from the writer.

Cost: one more read of the file, about 1 s per GiB; nothing is held in memory. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from lens_core.errors import DamagedError, StoreError, cannot_read, one_line
from lens_core.storage.files import replacing, told_by_the_system
from lens_core.storage.fingerprint import demand_json

_KEY = "qlens"
# With unescaped quotes, which no string inside the JSON of `about` can contain.
_SEAL = b'"sealed_sha256": "'
_ZEROS = b"0" * 64
# Key and value are the last things in a Parquet footer, with its schema: a few KiB.
_TAIL = 1 << 20
_BLOCK = 1 << 20


def write_sealed(frame: pl.DataFrame | pl.LazyFrame, path: Path, about: Mapping[str, Any]) -> None:
    """Write `frame`, streamed if it is lazy, so that `path` is the old or the complete new file.

    Raises:
        StoreError: it cannot be written.
    """
    demand_json(about)
    metadata = json.dumps({**about, "sealed_sha256": _ZEROS.decode()}, sort_keys=True)
    with replacing_table(path) as temporary:
        frame.lazy().sink_parquet(temporary, metadata={_KEY: metadata})
        with temporary.open("r+b") as file:
            place = _place_of_the_seal(file)
            assert place is not None, "the metadata was just written"
            seal = _digest(file, place)
            file.seek(place)
            file.write(seal)


@contextmanager
def replacing_table(path: Path) -> Iterator[Path]:
    """`replacing` for files that polars writes, whose errors may name an OS error only in text."""
    with replacing(path) as temporary:
        try:
            with told_by_the_system():
                yield temporary
        except pl.exceptions.PolarsError as error:
            raise StoreError(f"cannot write {path}: {one_line(error)}") from error


def check_place(path: Path) -> None:
    """Refuse a path where no file can be created, before anything is computed.

    Raises:
        StoreError: it is a directory, or its folder is missing or not writable.
    """
    if os.path.isdir(path):
        raise StoreError(f"cannot write {path}: it is a directory")
    if not os.path.isdir(path.parent):
        raise StoreError(f"cannot write {path}: there is no directory {path.parent}")
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        raise StoreError(f"cannot write {path}: {one_line(error)}") from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StoreError(f"cannot write {path}: no permission to make files in {path.parent}")


def read_about(path: Path) -> dict[str, Any]:
    """Verify a sealed file and return its `about`.

    Raises:
        DamagedError: it is missing, cut short, changed, or not a file of this kind.
    """
    try:
        with path.open("rb") as file:
            place = _place_of_the_seal(file)
            if place is None:
                raise DamagedError(f"{path} is cut short, or was not written by qlens")
            if _digest(file, place) != _bytes_at(file, place, len(_ZEROS)):
                raise DamagedError(f"{path} is damaged: its checksum does not match")
            file.seek(0)
            about: dict[str, Any] = json.loads(pl.read_parquet_metadata(file)[_KEY])
    except FileNotFoundError:
        raise DamagedError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise DamagedError(f"cannot read {path}: Is a directory") from None
    except OSError as error:
        raise cannot_read(error, path) from None
    except (pl.exceptions.PolarsError, KeyError, ValueError) as error:
        raise DamagedError(f"{path} was not written by qlens: {one_line(error)}") from None
    return about


def _place_of_the_seal(file: BinaryIO) -> int | None:
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _TAIL)
    tail = _bytes_at(file, start, _TAIL)
    at = tail.rfind(_SEAL) + len(_SEAL)
    if at < len(_SEAL) or not re.fullmatch(rb"[0-9a-f]{64}", tail[at : at + len(_ZEROS)]):
        return None
    return start + at


def _digest(file: BinaryIO, place: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    for _ in range(place // _BLOCK):
        digest.update(file.read(_BLOCK))
    digest.update(file.read(place % _BLOCK))
    digest.update(_ZEROS)
    file.seek(place + len(_ZEROS))
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest().encode()


def _bytes_at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)

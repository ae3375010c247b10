"""What the cache holds, whether it is whole, and how to be rid of it.

Damage is found by checksums and leftovers by their writer's name, so that what a running
process writes or builds is never touched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from lens_core.directories import ATLAS, MODELS, OPERATORS, RESULTS, results_dir
from lens_core.errors import StoreError, UsageError
from lens_core.storage.files import LOCK, SUMS, build_lock, file_sha256, host_name, remove
from lens_core.storage.results import Damage, clear_results, count_results, verify_results
from lens_core.storage.tensors import open_tensors

KINDS = (MODELS, OPERATORS, ATLAS, RESULTS)

# safetensors writes through a hidden file of its own, named like the second.
_TEMPORARY = re.compile(r".*\.tmp|\.tmp\w{6}")
_OF_PROCESS = re.compile(r".*\.(?P<host>[^.]+)@(?P<pid>\d+)-[0-9a-f]{8}\.tmp")
_STALE_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Usage:
    """What one kind takes: `entries` are models, sets of operators, layers of atlases, results,
    or stray files.
    """

    entries: int
    bytes: int


def cache_info(directory: Path) -> dict[str, Usage]:
    """Entries and bytes by kind, and the "leftovers" of killed writers. Changes nothing."""
    usage = {}
    for kind in KINDS:
        root = _root(directory, kind)
        if kind == RESULTS:
            entries = count_results(root)
        else:
            children = os.listdir(root) if root.is_dir() else []
            entries = sum(not _TEMPORARY.fullmatch(name) for name in children)
        usage[kind] = Usage(entries, sum(map(_size, _files(root))))
    leftovers = _leftovers(directory)
    usage["leftovers"] = Usage(len(leftovers), sum(map(_size, leftovers)))
    return usage


def cache_verify(directory: Path, repair: bool = False) -> list[Damage]:
    """Check every file and entry of the cache; `repair` removes what is damaged.

    Reads everything once. What is removed is computed again when it is needed.
    """
    found = [Damage(path, "left by a killed writer", False) for path in _leftovers(directory)]
    for kind in (MODELS, OPERATORS, ATLAS):
        for path in _files(_root(directory, kind)):
            try:
                _verify_file(path, kind)
            except StoreError as error:
                found.append(Damage(path, str(error), False))
    if repair:
        found = [Damage(d.path, d.reason, remove(d.path)) for d in found]
    return found + verify_results(_root(directory, RESULTS), repair)


def cache_clear(directory: Path, kinds: Collection[str] = KINDS) -> int:
    """Remove all entries of `kinds`, and leftovers; returns how many bytes that freed.

    What is being built or written is not removed: that is a `StoreError`.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"the cache has no {kind!r}: choose from {', '.join(KINDS)}")
    before = _total(directory)
    roots = [_root(directory, kind) for kind in kinds if kind != RESULTS]
    with ExitStack() as locks:
        for root in roots:
            for path in _files(root):
                if path.name == LOCK:
                    locks.enter_context(build_lock(path.parent))
            for path in filter(_is_live, _temporaries(root)):
                raise StoreError(f"{path} is being written: clear the cache when it is done")
        for root in filter(Path.is_dir, roots):
            for child in list(root.iterdir()):
                if not remove(child):
                    raise StoreError(f"cannot remove {child}: is it somebody else's?")
    if RESULTS in kinds:
        clear_results(_root(directory, RESULTS))
    for path in _leftovers(directory):
        remove(path)
    return max(0, before - _total(directory))


def _root(directory: Path, kind: str) -> Path:
    return results_dir(directory) if kind == RESULTS else directory / kind


def _files(root: Path) -> Iterator[Path]:
    """The files under `root` that are not temporary."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not _TEMPORARY.fullmatch(name)]
        yield from (Path(folder, name) for name in sorted(names) if not _TEMPORARY.fullmatch(name))


def _temporaries(root: Path) -> Iterator[Path]:
    """Files and directories under `root` that have not got their name yet."""
    for folder, subfolders, names in os.walk(root):
        temporary = {name for name in subfolders + names if _TEMPORARY.fullmatch(name)}
        subfolders[:] = [name for name in subfolders if name not in temporary]
        yield from (Path(folder, name) for name in sorted(temporary))


def _leftovers(directory: Path) -> list[Path]:
    """Temporaries that no living process is writing."""
    roots = dict.fromkeys([directory, results_dir(directory).parent])
    found = [path for root in roots for path in _temporaries(root)]
    live = {path for path in found if _is_live(path)}
    # A hidden file of safetensors belongs to the writer of the file beside it.
    busy = {path.parent for path in live}
    return [p for p in found if p not in live and not (p.parent in busy and p.name[0] == ".")]


def _verify_file(path: Path, kind: str) -> None:
    """Check a file by the sums beside it, or by the checksum within.

    A model's file may have neither: its weights are checked when it is loaded,
    and here only that it is whole.
    """
    listed = re.compile(rf"([0-9a-f]{{64}})  {re.escape(path.name)}")
    with suppress(OSError):
        sums = (path.parent / SUMS).read_text("utf-8", errors="replace").splitlines()
        for written in filter(None, map(listed.fullmatch, sums)):
            if file_sha256(path) != written[1]:
                raise StoreError(f"{path} is damaged: its checksum does not match")
            return
    if path.suffix == ".safetensors":
        with open_tensors(path) as file:
            if "sha256" in file.metadata or kind != MODELS:
                file.verify()
    elif path.suffix == ".parquet":
        from lens_core.storage.sealed_parquet import read_about  # polars is slow to import

        read_about(path)


def _is_live(path: Path) -> bool:
    writer = _OF_PROCESS.fullmatch(path.name)
    if writer is None:
        return False
    if writer["host"] == host_name():
        return bool(psutil.pid_exists(int(writer["pid"])))
    # Another machine's process cannot be asked; a write does not take a day.
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime < _STALE_SECONDS
    return False


def _size(path: Path) -> int:
    with suppress(OSError):  # another process may have just removed it
        return sum(map(_size, _files(path))) if path.is_dir() else path.lstat().st_size
    return 0


def _total(directory: Path) -> int:
    return sum(usage.bytes for usage in cache_info(directory).values())

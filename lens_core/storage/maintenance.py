"""Maintenance of the cache: its contents, verifying and clearing it.

Damage is found by checksums, and leftovers by their writer's name, so that files that a running
process writes or builds are never touched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from lens_core.directories import (
    ATLAS,
    CONTEXTS,
    LENS_FILES,
    MODELS,
    OPERATORS,
    RESULTS,
    results_dir,
)
from lens_core.errors import DamagedError, StoreError, UsageError
from lens_core.storage.checksum_lists import SUMS, file_sha256, read_checksums
from lens_core.storage.damage import Damage
from lens_core.storage.files import LOCK, build_lock, host_name, remove
from lens_core.storage.results import clear_results, count_results, verify_results
from lens_core.storage.tensors import open_tensors

KINDS = (MODELS, OPERATORS, ATLAS, CONTEXTS, LENS_FILES, RESULTS)

# safetensors writes to its own hidden file first, named like the second.
_TEMPORARY = re.compile(r".*\.tmp|\.tmp\w{6}")
_OF_PROCESS = re.compile(r".*\.(?P<host>[^.]+)@(?P<pid>\d+)-[0-9a-f]{8}\.tmp")
_STALE_SECONDS = 24 * 3600
# Names that only files have in a cache, and that only directories have in a set of operators.
_OF_FILES = re.compile(r".+\.(safetensors|parquet|json|lock|damaged)|SHA256SUMS")
_FOLDERS_OF_A_BUILD = ("units", "locks")


@dataclass(frozen=True)
class Usage:
    """What one kind takes: `entries` are models, sets of operators, layers of atlases, corpora of
    contexts, results, or stray files.
    """

    entries: int
    bytes: int


def cache_info(directory: Path) -> dict[str, Usage]:
    """Entries and bytes by kind, and "leftovers" of killed processes. Changes nothing."""
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
    """Check every file and entry of the cache; `repair` rewrites or removes what is damaged.

    Reads everything once. What is removed is computed again when needed.
    """
    found = [_removed(path, "left by a killed process", repair) for path in _leftovers(directory)]
    for kind in (MODELS, OPERATORS, ATLAS, CONTEXTS, LENS_FILES):
        root = _root(directory, kind)
        here = _misplaced(root, repair)
        for entry in sorted(root.iterdir()) if root.is_dir() else ():
            if entry.is_dir() and not _TEMPORARY.fullmatch(entry.name):
                here += _VERIFIERS[kind](entry, repair)
        # A directory in place of a file is also a missing file: report it once.
        found += {each.path: each for each in here}.values()
    return found + verify_results(_root(directory, RESULTS), repair)


def cache_lacks(directory: Path) -> list[str]:
    """What an undamaged cache lacks and only a build can restore, one line each."""
    root = _root(directory, OPERATORS)
    if not root.is_dir():
        return []
    from lens_core.operators.verify import lacks  # torch is slow to import

    return [line for entry in sorted(root.iterdir()) if (line := lacks(entry))]


def cache_clear(directory: Path, kinds: Collection[str] = KINDS) -> int:
    """Remove all entries of `kinds`, and leftovers; returns the number of bytes freed.

    Raises a `StoreError` for what is being built or written.
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
                    raise StoreError(f"cannot remove {child}: check its owner and permissions")
    if RESULTS in kinds:
        clear_results(_root(directory, RESULTS))
    for path in _leftovers(directory):
        remove(path)
    return max(0, before - _total(directory))


def _root(directory: Path, kind: str) -> Path:
    return results_dir(directory) if kind == RESULTS else directory / kind


def _files(root: Path) -> Iterator[Path]:
    """The files under `root`, without temporary ones."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not _TEMPORARY.fullmatch(name)]
        yield from (Path(folder, name) for name in sorted(names) if not _TEMPORARY.fullmatch(name))


def _temporaries(root: Path) -> Iterator[Path]:
    """Files and directories under `root` that still have a temporary name."""
    for folder, subfolders, names in os.walk(root):
        temporary = {name for name in subfolders + names if _TEMPORARY.fullmatch(name)}
        subfolders[:] = [name for name in subfolders if name not in temporary]
        yield from (Path(folder, name) for name in sorted(temporary))


def _leftovers(directory: Path) -> list[Path]:
    """Temporary files that no running process is writing."""
    roots = dict.fromkeys([directory, results_dir(directory).parent])
    found = [path for root in roots for path in _temporaries(root)]
    live = {path for path in found if _is_live(path)}
    # A hidden file of safetensors belongs to the writer of the file next to it.
    busy = {path.parent for path in live}
    return [p for p in found if p not in live and not (p.parent in busy and p.name[0] == ".")]


def _misplaced(root: Path, repair: bool) -> list[Damage]:
    """Directories in place of files, and files in place of directories."""
    found = []
    if os.path.lexists(root) and not root.is_dir():
        found.append(_removed(root, f"{root} is a file, not a directory", repair))
    for folder, subfolders, names in os.walk(root):
        wrong = [name for name in subfolders if _OF_FILES.fullmatch(name)]
        subfolders[:] = [name for name in subfolders if name not in wrong]
        for name in sorted(wrong):
            path = Path(folder, name)
            found.append(_removed(path, f"{path} is a directory, not a file", repair))
        above = Path(folder)
        for name in names:
            path = above / name
            if name in _FOLDERS_OF_A_BUILD and above.parent == root:
                found.append(_removed(path, f"{path} is a file, not a directory", repair))
    return found


def _verify_model(directory: Path, repair: bool) -> list[Damage]:
    """Check a model by its checksum list; a model without one is checked when it is loaded.

    A damaged copy is made again as a whole, so one missing file is damage to all of it.
    """
    listed, unread = read_checksums(directory)
    found = [Damage(directory / SUMS, f"{directory / SUMS} is damaged")] if unread else []
    for name, written in listed:
        path = directory / name
        if not path.is_file():
            found.append(Damage(path, f"{path} is missing"))
        elif file_sha256(path) != written:
            found.append(Damage(path, f"{path} is damaged: its checksum does not match"))
    known = {name for name, _ in listed}
    for path in directory.glob("*.safetensors"):
        if path.name not in known:
            found += _verify_file(path, _verify_tensors, repair=False)
    if repair and found:
        outcome = "removed with the copy that it belongs to" if remove(directory) else ""
        found = [Damage(each.path, each.reason, outcome) for each in found]
    return found


def _verify_operators(directory: Path, repair: bool) -> list[Damage]:
    from lens_core.operators.verify import verify_operators  # torch is slow to import

    return verify_operators(directory, repair=repair)


def _verify_atlas(directory: Path, repair: bool) -> list[Damage]:
    from lens_core.atlas.files import demand_piece  # polars is slow to import

    return [
        damage
        for path in sorted(directory.glob("*.parquet"))
        if path.is_file()
        for damage in _verify_file(path, demand_piece, repair=repair)
    ]


def _verify_contexts(directory: Path, repair: bool) -> list[Damage]:
    from lens_core.contexts.files import verify_file  # torch is slow to import

    return [
        damage
        for path in sorted(directory.glob("*.safetensors"))
        if path.is_file()
        for damage in _verify_file(path, verify_file, repair=repair)
    ]


def _verify_lenses(directory: Path, repair: bool) -> list[Damage]:
    return [
        damage
        for path in sorted(directory.glob("*.safetensors"))
        if path.is_file()
        for damage in _verify_file(path, _verify_tensors, repair=repair)
    ]


def _verify_tensors(path: Path) -> None:
    """Check a model's file by its checksum or, if it has none, only that it is complete."""
    with open_tensors(path) as file:
        if "sha256" in file.metadata:
            file.verify()


def _verify_file(path: Path, demand: Callable[[Path], object], *, repair: bool) -> list[Damage]:
    try:
        demand(path)
    except DamagedError as error:
        return [_removed(path, str(error), repair)]
    except StoreError as error:  # cannot be read, which does not prove damage
        return [Damage(path, str(error))]
    return []


def _removed(path: Path, reason: str, repair: bool) -> Damage:
    return Damage(path, reason, "removed" if repair and remove(path) else "")


_VERIFIERS = {
    MODELS: _verify_model,
    OPERATORS: _verify_operators,
    ATLAS: _verify_atlas,
    CONTEXTS: _verify_contexts,
    LENS_FILES: _verify_lenses,
}


def _is_live(path: Path) -> bool:
    writer = _OF_PROCESS.fullmatch(path.name)
    if writer is None:
        return False
    if writer["host"] == host_name():
        return bool(psutil.pid_exists(int(writer["pid"])))
    # A process on another machine cannot be checked, but no write takes a day.
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime < _STALE_SECONDS
    return False


def _size(path: Path) -> int:
    with suppress(OSError):  # another process may have removed it
        return sum(map(_size, _files(path))) if path.is_dir() else path.lstat().st_size
    return 0


def _total(directory: Path) -> int:
    return sum(usage.bytes for usage in cache_info(directory).values())

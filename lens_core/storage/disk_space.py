"""Disk space: whether there is enough, and the message if there is not.

Used by the command line and the app before a build starts, and by every writer when the
system refuses a write. A quota may allow less than the reported free space.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from lens_core.directories import variable_of
from lens_core.errors import StoreError, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def in_bytes(number: int | float) -> str:
    """A size with a unit, such as `1.7 GiB`."""
    unit = 0
    while number >= 1023.95 and unit < len(_UNITS) - 1:
        number /= 1024
        unit += 1
    return f"{number:.1f} {_UNITS[unit]}" if unit else f"{int(number)} B"


def is_full(error: BaseException) -> bool:
    """Whether the system refused a write because there is no space."""
    return isinstance(error, OSError) and error.errno in _FULL


def free_bytes(path: Path) -> int:
    """Free bytes on the disk where `path` is, or would be."""
    place = Path(os.path.abspath(path))
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def size_of(directory: Path) -> int:
    """Bytes of the files in a directory, 0 if there is none."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def demand_space(directory: Path, needed: int) -> None:
    """Check that `needed` more bytes can be written below `directory`.

    Raises:
        StoreError: there is too little space; the message gives needed, free, and the difference.
    """
    free = free_bytes(directory)
    if needed > free:
        raise StoreError(
            f"no space left in {directory}: the build needs {in_bytes(needed)} more, "
            f"{in_bytes(free)} free: "
            f"{_fix(directory, needed - free)}"
        )


def cannot_write(error: OSError, path: Path, needed: int | None = None) -> StoreError:
    """The error for a refused write to `path`; `needed` is the intended size, if known."""
    if not is_full(error):
        reason = error.strerror or one_line(error)
        variable = variable_of(path)
        fix = f": set {variable} to a directory of yours" if variable else ""
        return StoreError(f"cannot write {path}: {reason}{fix}")
    said = f"no space left in {path.parent}"
    missing = None
    if error.errno == errno.EDQUOT:
        said += ": the disk quota is used up"
    elif needed is not None:
        free = free_bytes(path)
        # A disk without free inodes can still have free bytes.
        if needed > free:
            missing = needed - free
            said += f": {in_bytes(needed)} needed, {in_bytes(free)} free"
    return StoreError(f"{said}: {_fix(path, missing)}")


def _fix(path: Path, missing: int | None) -> str:
    variable = variable_of(path)
    elsewhere = f"set {variable} to a larger disk" if variable else "write to another disk"
    return f"free {'some' if missing is None else in_bytes(missing)}, or {elsewhere}"

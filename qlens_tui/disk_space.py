"""Whether a build has room on its disk: asked before it begins, by the command and by the app."""

from __future__ import annotations

import shutil
from pathlib import Path

from lens_core.errors import StoreError
from qlens_tui.formats import in_bytes


def demand_space(directory: Path, needed: int) -> None:
    """See to it that `directory` can grow to `needed` bytes.

    Raises:
        StoreError: its disk is too full.
    """
    place = directory
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    missing = needed - size_of(directory) - free
    if missing > 0:
        raise StoreError(
            f"the build needs {in_bytes(needed)} and {place} has {in_bytes(free)} free: "
            f"free {in_bytes(missing)}, or set QLENS_CACHE_DIR to a larger disk"
        )


def size_of(directory: Path) -> int:
    """Bytes of the files in a directory, 0 if there is none."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())

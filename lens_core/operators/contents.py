"""What a directory of operators holds, what it lacks, and which passes would restore it.

The lens reads a site's means, which are computed from its sums, which are joined from units. So
lost means cost nothing, means stay usable when sums are lost, and only units whose rows are lost
are computed again. Damaged sums are set aside, because their other rows are still valid:

    sums-007.safetensors.damaged
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lens_core.errors import DamagedError, OperatorError, StoreError
from lens_core.operators.manifest import read_manifest
from lens_core.operators.plan import BuildPlan, Unit, aside_file, mean_file, sums_file
from lens_core.operators.sums import demand_ours, lost_units
from lens_core.storage.files import clear_directory, remove
from lens_core.storage.tensors import open_tensors


def is_usable(directory: Path) -> bool:
    """Whether every site can be read: it has means, or sums to make them from."""
    return _all_sites(directory, any)


def is_complete(directory: Path) -> bool:
    """Whether every site has both means and sums."""
    return _all_sites(directory, all)


def wanted_units(directory: Path, plan: BuildPlan) -> list[Unit]:
    """Units from which missing sums are to be joined, whether or not they exist."""
    lost: set[Unit] = set()
    for site in plan.sites:
        if not (directory / sums_file(site)).is_file():
            lost.update(lost_units(plan, site, directory / aside_file(site)))
    return [unit for unit in plan.units() if unit in lost]


def missing_units(directory: Path) -> list[Unit]:
    """Wanted units that do not exist undamaged (all of them if no build was started)."""
    plan = read_manifest(directory)
    return [
        unit
        for unit in wanted_units(directory, plan)
        if not is_whole(unit_path(directory, unit), plan)
    ]


def bytes_left(directory: Path, plan: BuildPlan) -> int:
    """Bytes of the finished files that are still to be written."""
    return sum(
        plan.site_bytes(site) for site in plan.sites if not (directory / sums_file(site)).is_file()
    )


def unit_path(directory: Path, unit: Unit) -> Path:
    """Where a unit is kept until the sums are joined."""
    return directory / "units" / unit.filename


def is_whole(path: Path, plan: BuildPlan, site: int | None = None) -> bool:
    """Whether a file is there, undamaged, and of this build (and of `site`)."""
    try:
        with open_tensors(path) as file:
            file.verify()
            demand_ours(file, plan, site)
    except DamagedError:
        return False
    return True


def set_aside(directory: Path, site: int) -> None:
    """Rename damaged sums, so that their valid rows are kept and new sums can be written."""
    path = directory / sums_file(site)
    clear_directory(path)
    with suppress(OSError):  # another process did it, or this directory is read-only
        os.replace(path, directory / aside_file(site))


def take_damage_away(directory: Path) -> None:
    """Read all files, so that a build redoes damaged ones; about 1 s per GiB."""
    with suppress(OperatorError):
        plan = read_manifest(directory)
        for site in plan.sites:
            sums, mean = directory / sums_file(site), directory / mean_file(site)
            if os.path.lexists(sums) and not is_whole(sums, plan, site):
                set_aside(directory, site)
            if os.path.lexists(mean) and not is_whole(mean, plan, site):
                remove(mean)


def _all_sites(directory: Path, enough: Callable[[list[bool]], bool]) -> bool:
    try:
        plan = read_manifest(directory)
    except (OperatorError, StoreError):
        return False
    return all(
        enough([(directory / name(site)).is_file() for name in (sums_file, mean_file)])
        for site in plan.sites
    )

"""Checking and repairing one set of operators, file by file, without a model.

    manifest damaged   rewritten from the plan in the other files
    means damaged      rewritten from the sums
    sums damaged       set aside: the means are used, `qlens build` redoes the units of lost rows
    unit damaged       removed: its build computes it again

Reads everything once; about 1 s per GiB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lens_core.errors import DamagedError, StoreError
from lens_core.operators.contents import is_complete, is_usable, missing_units, set_aside
from lens_core.operators.manifest import (
    MANIFEST,
    examine_manifest,
    read_manifest,
    sealed_files,
    write_manifest,
)
from lens_core.operators.plan import BuildPlan, aside_file, mean_file, sums_file
from lens_core.operators.sums import demand_ours, join_site, lost_units, restore_means
from lens_core.storage.damage import Damage
from lens_core.storage.files import remove
from lens_core.storage.tensors import open_tensors

_BUILD = "run `qlens build` with the configuration"


def verify_operators(directory: Path, *, repair: bool) -> list[Damage]:
    """The damage in `directory`, repaired if `repair`."""
    plan, wrong = examine_manifest(directory)
    found, ours = [], sealed_files(directory)
    if wrong and ours:
        found.append(_manifest(directory, plan, wrong, repair=repair))
    by_site: set[Path] = set()
    if plan is not None:
        for site in plan.sites:
            by_site |= {directory / name(site) for name in (sums_file, mean_file)}
            try:
                found += _site(directory, plan, site, repair=repair)
            except StoreError as error:  # not read, or not written
                found.append(Damage(directory / sums_file(site), str(error)))
    others = sorted({*ours, *filter(Path.is_file, directory.glob("*.safetensors"))} - by_site)
    return found + [damage for path in others for damage in _file(path, plan, repair=repair)]


def lacks(directory: Path) -> str:
    """What finished operators lack without being damaged; "" for nothing."""
    if not is_usable(directory) or is_complete(directory):
        return ""
    units, plan = missing_units(directory), read_manifest(directory)
    if all((directory / sums_file(site)).is_file() for site in plan.sites):
        return ""  # only means are missing, which the sums give
    return (
        f"{directory} lacks sums, without which stability is not known: {_redo(plan, len(units))}"
    )


def _manifest(directory: Path, plan: BuildPlan | None, wrong: str, *, repair: bool) -> Damage:
    path = directory / MANIFEST
    if plan is None:
        return Damage(path, wrong, fix=_BUILD)
    if repair:
        write_manifest(plan, directory)
    return Damage(path, wrong, "rewritten from the files beside it" if repair else "")


def _site(directory: Path, plan: BuildPlan, site: int, *, repair: bool) -> Iterator[Damage]:
    sums, mean = directory / sums_file(site), directory / mean_file(site)
    bad_sums, bad_mean = _reason(sums, plan, site), _reason(mean, plan, site)
    answered = bool(bad_mean) and not bad_sums
    if bad_mean and (os.path.lexists(mean) or answered):
        outcome = ""
        if repair and answered:
            restore_means(directory, plan, site)
            outcome = "rewritten from the sums" if not _reason(mean, plan, site) else ""
        elif repair:
            outcome = "removed" if remove(mean) else ""
        yield Damage(mean, bad_mean, outcome)
    if bad_sums and os.path.lexists(sums):
        lost = len(lost_units(plan, site, sums))
        redo = _redo(plan, lost) if lost else ""
        if not repair:
            yield Damage(sums, bad_sums, fix=redo)
            return
        set_aside(directory, site)
        if lost == 0:
            join_site(directory, plan, site, {})
            yield Damage(sums, bad_sums, "rewritten from its rows, which are whole")
            return
        done = "set aside" if lost < len(plan.units_of(site)) else "removed"
        if done == "removed":
            remove(directory / aside_file(site))
        yield Damage(sums, bad_sums, "" if os.path.lexists(sums) else done, redo)


def _redo(plan: BuildPlan, lost: int) -> str:
    return f"{_BUILD}: it redoes {lost} of {len(plan.units())} units"


def _file(path: Path, plan: BuildPlan | None, *, repair: bool) -> Iterator[Damage]:
    """Damage to a file that only a build can restore."""
    try:
        reason = _reason(path, plan)
    except StoreError as error:  # not read
        yield Damage(path, str(error))
        return
    if reason:
        yield Damage(path, reason, "removed" if repair and remove(path) else "")


def _reason(path: Path, plan: BuildPlan | None, site: int | None = None) -> str:
    """What is damaged in a file; "" for nothing."""
    try:
        with open_tensors(path) as file:
            file.verify()
            if plan is not None:
                demand_ours(file, plan, site)
    except DamagedError as error:
        return str(error)
    return ""

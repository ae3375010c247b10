"""Sums of one site: joined from units, turned into means, and recovered from a damaged file.

    T[site] = sum over halves and buckets of sums[half, bucket] / tokens

A file of sums also holds, for each unit, the checksum of the rows that came from it. One
flipped bit therefore costs the passes of one unit, not those of the build.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import DamagedError, OperatorError, StoreError
from lens_core.operators.manifest import sealed_files
from lens_core.operators.plan import DTYPES, BuildPlan, Unit, aside_file, mean_file, sums_file
from lens_core.storage.files import clear_directory, remove
from lens_core.storage.tensors import TensorFile, open_tensors, write_tensors

ROWS = "rows"
"""The metadata that holds the checksums of units' rows, by the unit's file name, as JSON."""

Sums = dict[str, Float[Tensor, "halves buckets d_model d_model"]]
Means = dict[str, Float[Tensor, "d_model d_model"]]


def means_of(plan: BuildPlan, sums: Mapping[str, Tensor]) -> Means:
    """The means that the lens reads: sums of all halves and buckets divided by all tokens."""
    n_tokens = plan.tokens.sum()
    return {
        name: (parts.double().sum((0, 1)) / n_tokens).to(DTYPES[plan.dtype])
        for name, parts in sums.items()
    }


def empty_sums(plan: BuildPlan, site: int) -> Sums:
    """Zeros for every family that has this site."""
    return {
        family.name: torch.zeros(
            (2, family.n_buckets, plan.d_model, plan.d_model), dtype=DTYPES[plan.dtype]
        )
        for family in plan.families(site)
    }


def rows_of(unit: Unit, sums: Mapping[str, Tensor]) -> Float[Tensor, "buckets rows d_model"]:
    """The part of one site's sums that comes from `unit`, as a view."""
    whole = sums[unit.family.name][unit.half]
    # A reverse pass gives rows; a forward-mode pass gives columns.
    whole = whole.transpose(1, 2) if unit.family.forward_mode else whole
    return whole[:, unit.start : unit.stop]


def put_rows(unit: Unit, site: int, file: TensorFile, sums: Mapping[str, Tensor]) -> None:
    """Copy the rows of `site` from the open file of `unit` into `sums`."""
    rows = file.get("sums")[:, site]  # [rows, buckets, d_model]
    rows_of(unit, sums).copy_(rows.transpose(0, 1))


def restore_means(directory: Path, plan: BuildPlan, site: int, *, write: bool = True) -> Means:
    """Recompute the means of one site from its sums, bit for bit; written if `write`.

    A failure to write them (no space, no permission) is ignored.

    Raises:
        DamagedError: the sums are damaged too.
    """
    with open_tensors(directory / sums_file(site)) as file:
        file.verify()
        demand_ours(file, plan, site)
        sums = {name: file.get(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about = {name: said for name, said in file.metadata.items() if name not in (ROWS, "sha256")}
    means = means_of(plan, sums)
    if write:
        with suppress(StoreError):
            _write_means(directory, site, means, about)
    return means


def demand_ours(file: TensorFile, plan: BuildPlan, site: int | None = None) -> None:
    """Refuse a file that belongs to other operators, or to another site than `site`.

    Raises:
        DamagedError: it is.
    """
    about = file.metadata
    # Units of an earlier version name only their micro-batch; their checksum is still valid.
    if "micro_batch" in about and "operators" not in about:
        return
    if about.get("operators") != plan.fingerprint:
        raise DamagedError(f"{file.path} belongs to other operators")
    # Files of an earlier version do not name their site.
    if site is not None and about.get("site", str(site)) != str(site):
        raise DamagedError(f"{file.path} belongs to site {about['site']}, not {site}")


def salvaged(path: Path, plan: BuildPlan, site: int) -> tuple[Sums, list[Unit]]:
    """The sums in a damaged file, and the units whose rows in it are undamaged.

    The rows of all other units are not to be used.
    """
    units = plan.units_of(site)
    with suppress(StoreError, ValueError, KeyError, TypeError), open_tensors(path) as file:
        expected = json.loads(file.metadata[ROWS])
        found = {name: file.get(name).clone() for name in file.keys()}  # noqa: SIM118
        empty = empty_sums(plan, site)
        alike = found.keys() == empty.keys() and all(
            (found[name].shape, found[name].dtype) == (empty[name].shape, empty[name].dtype)
            for name in empty
        )
        demand_ours(file, plan, site)
        if alike:
            return found, [
                unit for unit in units if expected[unit.filename] == _checksum(unit, found)
            ]
    return empty_sums(plan, site), []


def join_site(
    directory: Path, plan: BuildPlan, site: int, files: Mapping[Unit, TensorFile]
) -> None:
    """Write the sums of one site and its means, from units' open files and from valid rows.

    Raises:
        OperatorError: some unit is neither among `files` nor undamaged in the sums set aside.
    """
    aside = directory / aside_file(site)
    sums, whole = salvaged(aside, plan, site)
    for unit in plan.units_of(site):
        if unit in files:
            put_rows(unit, site, files[unit], sums)
        elif unit not in whole:
            raise OperatorError(f"{unit.filename} is missing in {directory}: run `qlens build`")
    # More than one if memory ran out during the build, or if shards chose differently.
    batches = {int(file.metadata["micro_batch"]) for file in files.values()} | _batches(
        directory, plan
    )
    about = plan.provenance | {"micro_batches": json.dumps(sorted(batches)), "site": str(site)}
    path = directory / sums_file(site)
    clear_directory(path)
    rows = json.dumps({unit.filename: _checksum(unit, sums) for unit in plan.units_of(site)})
    write_tensors(path, sums, {**about, ROWS: rows})
    _write_means(directory, site, means_of(plan, sums), about)
    remove(aside)


def lost_units(plan: BuildPlan, site: int, damaged: Path) -> list[Unit]:
    """The units that must be computed again to restore the sums of `site`."""
    whole = set(salvaged(damaged, plan, site)[1])
    return [unit for unit in plan.units_of(site) if unit not in whole]


def _checksum(unit: Unit, sums: Mapping[str, Tensor]) -> str:
    rows = rows_of(unit, sums).contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(rows.numpy().data).hexdigest()


def _write_means(
    directory: Path, site: int, means: Mapping[str, Tensor], about: Mapping[str, str]
) -> None:
    """Write the means of one site, with metadata that says what they belong to."""
    path = directory / mean_file(site)
    clear_directory(path)
    write_tensors(path, means, about)


def _batches(directory: Path, plan: BuildPlan) -> set[int]:
    """The micro-batches with which the existing finished files were made."""
    for path in sealed_files(directory):
        with suppress(StoreError, ValueError, KeyError, TypeError), open_tensors(path) as file:
            said = json.loads(file.metadata["micro_batches"])
            file.verify()
            demand_ours(file, plan)
            return {int(each) for each in said}
    return set()

"""Sums of one site: joined from units, turned into means, and what of a damaged file is whole.

    T[site] = sum over halves and buckets of sums[half, bucket] / tokens

A file of sums also says, for each unit, the checksum of the rows that came from it. One
flipped bit therefore costs the passes of one unit, not of the build.
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
    """What the lens reads: the sums of all halves and buckets over all tokens."""
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
    """Copy what `unit` says of `site` from its open file into `sums`."""
    rows = file.get("sums")[:, site]  # [rows, buckets, d_model]
    rows_of(unit, sums).copy_(rows.transpose(0, 1))


def restore_means(directory: Path, plan: BuildPlan, site: int, *, write: bool = True) -> Means:
    """The means of one site from its sums, to the bit what they were; written if `write`.

    A disk without room, or a directory that cannot be moved, is no reason not to answer.

    Raises:
        DamagedError: the sums are damaged too.
    """
    with open_tensors(directory / sums_file(site)) as file:
        file.verify()
        demand_ours(file, plan)
        sums = {name: file.get(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about = {name: said for name, said in file.metadata.items() if name not in (ROWS, "sha256")}
    means = means_of(plan, sums)
    if write:
        with suppress(StoreError):
            _write_means(directory, site, means, about)
    return means


def demand_ours(file: TensorFile, plan: BuildPlan) -> None:
    """Refuse a file that says it is of other operators.

    Raises:
        DamagedError: it is.
    """
    about = file.metadata
    # Units of an earlier version say their micro-batch only; their checksum stands.
    if "micro_batch" in about and "operators" not in about:
        return
    if about.get("operators") != plan.fingerprint:
        raise DamagedError(f"{file.path} belongs to other operators")


def salvaged(path: Path, plan: BuildPlan, site: int) -> tuple[Sums, list[Unit]]:
    """What a damaged file of sums still proves: sums, and the units whose rows in them are whole.

    The rows of all other units are whatever the file says, or zeros.
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
        if alike and file.metadata.get("operators") == plan.fingerprint:
            return found, [
                unit for unit in units if expected[unit.filename] == _checksum(unit, found)
            ]
    return empty_sums(plan, site), []


def join_site(
    directory: Path, plan: BuildPlan, site: int, files: Mapping[Unit, TensorFile]
) -> None:
    """Write the sums of one site and its means, from units' open files and from good rows.

    Raises:
        OperatorError: some unit is neither among `files` nor whole in the sums set aside.
    """
    aside = directory / aside_file(site)
    sums, whole = salvaged(aside, plan, site)
    for unit in plan.units_of(site):
        if unit in files:
            put_rows(unit, site, files[unit], sums)
        elif unit not in whole:
            raise OperatorError(f"{unit.filename} is missing in {directory}: run `qlens build`")
    # More than one where memory ran out on the way, or where shards chose differently.
    batches = {int(file.metadata["micro_batch"]) for file in files.values()} | _batches(
        directory, plan
    )
    about = plan.provenance | {"micro_batches": json.dumps(sorted(batches))}
    path = directory / sums_file(site)
    clear_directory(path)
    rows = json.dumps({unit.filename: _checksum(unit, sums) for unit in plan.units_of(site)})
    write_tensors(path, sums, {**about, ROWS: rows})
    _write_means(directory, site, means_of(plan, sums), about)
    remove(aside)


def lost_units(plan: BuildPlan, site: int, damaged: Path) -> list[Unit]:
    """The units without which the sums of `site` cannot be had again."""
    whole = set(salvaged(damaged, plan, site)[1])
    return [unit for unit in plan.units_of(site) if unit not in whole]


def _checksum(unit: Unit, sums: Mapping[str, Tensor]) -> str:
    rows = rows_of(unit, sums).contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(rows.numpy().data).hexdigest()


def _write_means(
    directory: Path, site: int, means: Mapping[str, Tensor], about: Mapping[str, str]
) -> None:
    """Keep the means of one site, with what they are of."""
    path = directory / mean_file(site)
    clear_directory(path)
    write_tensors(path, means, about)


def _batches(directory: Path, plan: BuildPlan) -> set[int]:
    """The micro-batches behind the finished files that are there, which all name them."""
    for path in sealed_files(directory):
        with suppress(StoreError, ValueError, KeyError, TypeError), open_tensors(path) as file:
            said = json.loads(file.metadata["micro_batches"])
            file.verify()
            demand_ours(file, plan)
            return {int(each) for each in said}
    return set()

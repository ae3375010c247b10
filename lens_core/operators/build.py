"""Building operators: `3 d_model` passes over the reference, unit by unit.

Each unit records its micro-batches (`Linearization`), makes one pass per row and sums in
float64, in the order of the plan. When memory runs out, the amount done at once is halved.
When every unit is finished, `assemble` turns them into one file per site.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import ModelError, OperatorError
from lens_core.linearization import Linearization
from lens_core.memory import FULL_TOKENS, is_out_of_memory, release
from lens_core.model import ResidualStream
from lens_core.operators.contents import (
    bytes_left,
    is_complete,
    is_whole,
    missing_units,
    take_damage_away,
    unit_path,
    wanted_units,
)
from lens_core.operators.files import Operators
from lens_core.operators.manifest import agree, examine_manifest, read_manifest, write_manifest
from lens_core.operators.passes import Positions
from lens_core.operators.plan import DTYPES, BuildPlan, Unit, mean_file, plan_build, sums_file
from lens_core.operators.sums import join_site, restore_means
from lens_core.reference import ReferenceSample
from lens_core.storage.disk_space import cannot_write, demand_space
from lens_core.storage.files import build_lock, clear_directory, remove
from lens_core.storage.tensors import open_tensors, write_tensors
from lens_core.terms import Progress

# Most cotangents per pass on a GPU: a pass's memory grows with their number.
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Work:
    """What is left to build: the wanted units, and which of them exist."""

    plan: BuildPlan
    units: Sequence[Unit]
    delivered: Sequence[Unit]

    @property
    def passes(self) -> int:
        """Passes over the reference for all units."""
        return sum(map(self.plan.passes, self.units))

    @property
    def done(self) -> int:
        """Passes for the units that exist."""
        return sum(map(self.plan.passes, self.delivered))


def begin(
    model: ResidualStream,
    model_fingerprint: str,
    reference: ReferenceSample,
    directory: Path,
    *,
    batch: int | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Work:
    """Examine `directory` and return what `build_operators` will do, if the disk has room.

    Reads everything in it; damaged files are removed, to be computed again. Nothing is left to
    do if all sums are undamaged.

    Raises:
        StoreError: the disk is too full for what the shard writes.
    """
    take_damage_away(directory)
    plan, _ = examine_manifest(directory)
    if plan is None or plan.fingerprint != directory.name:
        plan = plan_build(model, model_fingerprint, reference, batch=batch)
    number, of = shard
    wanted = set(wanted_units(directory, plan))
    units = [unit for unit in plan.units()[number - 1 :: of] if unit in wanted]
    delivered = [unit for unit in units if is_whole(unit_path(directory, unit), plan)]
    needed = sum(plan.unit_bytes(unit) for unit in units if unit not in delivered)
    if of == 1:  # the last of several shards also writes the finished files
        needed += bytes_left(directory, plan)
    demand_space(directory, needed)
    return Work(plan, units, delivered)


def seconds_left(model: ResidualStream, reference: ReferenceSample, work: Work) -> float | None:
    """Seconds that the missing units will take on this machine, from timing one row per family.

    Records one micro-batch per family and makes two passes over it; `None` if memory runs out.
    """
    lacking = [unit for unit in work.units if unit not in set(work.delivered)]
    recorder = _Recorder(model, reference)
    seconds = 0.0
    try:
        for family in {unit.family.name: unit.family for unit in lacking}.values():
            units = [unit for unit in lacking if unit.family.name == family.name]
            samples = work.plan.micro_batches(units[0].half)[0]
            n_rows = recorder.rows(samples)
            rows = torch.eye(n_rows, model.d_model, dtype=model.dtype, device=model.device)
            start = time.monotonic()
            recording = recorder.at(samples, forward_mode=family.forward_mode)
            walks = []
            for _ in range(2):
                begun = time.monotonic()
                family.run(recording, rows, Positions.of(reference, samples)).cpu()
                walks.append(time.monotonic() - begun)
            record = time.monotonic() - start - sum(walks)
            n_records = sum(len(work.plan.micro_batches(unit.half)) for unit in units)
            n_walks = sum(map(work.plan.passes, units)) / n_rows
            seconds += n_records * record + n_walks * min(walks)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        recorder.drop()
    return seconds


def build_operators(
    model: ResidualStream,
    reference: ReferenceSample,
    plan: BuildPlan,
    directory: Path,
    *,
    shard: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> None:
    """Compute the units of `shard` (number, total) that `directory` does not hold yet.

    Raises:
        OperatorError: the directory holds another build, or the model gave NaN.
        StoreError: another process is building this shard, or the disk is full.
    """
    number, of = shard
    _make(directory / "units")
    with build_lock(directory / "locks" / f"shard-{number}-of-{of}"):
        plan = agree(plan, directory)
        wanted = set(wanted_units(directory, plan))  # none if another process has finished it
        units = [unit for unit in plan.units()[number - 1 :: of] if unit in wanted]
        total = sum(plan.passes(unit) for unit in units)
        done = 0
        recorder = _Recorder(model, reference)
        for unit in units:
            path = unit_path(directory, unit)
            if not is_whole(path, plan):
                sums = None
                while sums is None:
                    before = done

                    def tick(passes: int, before: int = before, total: int = total) -> None:
                        if progress is not None:
                            progress(before + passes, total)

                    try:
                        sums = _sum_unit(model, plan, unit, recorder, tick)
                    except (RuntimeError, MemoryError) as error:
                        smaller = recorder.shrink(plan) if is_out_of_memory(error) else None
                        if smaller is None:
                            raise
                        plan = smaller
                        write_manifest(plan, directory)
                        total = sum(plan.passes(each) for each in units)
                if not bool(torch.isfinite(sums).all()):
                    raise ModelError(
                        f"the derivatives of block outputs are not finite ({unit.filename}): the "
                        'model\'s weights or the dtype overflow; try compute.dtype = "float64"'
                    )
                clear_directory(path)
                write_tensors(path, {"sums": sums}, _about_unit(plan, plan.micro_batch))
            done += plan.passes(unit)
            if progress is not None:
                progress(done, total)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(error, directory) from error


def _about_unit(plan: BuildPlan, micro_batch: int) -> dict[str, str]:
    return plan.provenance | {"micro_batch": str(micro_batch)}


class _Recorder:
    """Keeps the last recording, so that units on the same micro-batch share it."""

    def __init__(self, model: ResidualStream, reference: ReferenceSample) -> None:
        self._model = model
        self._reference = reference
        self._key: tuple[range, bool] | None = None
        self._kept: Linearization | None = None
        self._rows_at_once = _ROWS_AT_ONCE if model.device.type == "cuda" else 1
        self._rows_tried = 1

    def at(self, samples: range, *, forward_mode: bool) -> Linearization:
        key = samples, forward_mode
        if self._kept is None or self._key != key:
            self.drop()
            tokens = self._reference.tokens[samples.start : samples.stop].to(self._model.device)
            self._kept = Linearization(self._model, tokens, forward_mode=forward_mode)
            self._key = key
        return self._kept

    def positions(self, samples: range) -> Positions:
        return Positions.of(self._reference, samples)

    def drop(self) -> None:
        self._kept = None
        release(self._model.device)

    def rows(self, samples: range) -> int:
        """Cotangents per pass: enough to fill a GPU when the micro-batch does not."""
        tokens = len(samples) * self._reference.length
        self._rows_tried = max(1, min(self._rows_at_once, FULL_TOKENS["cuda"] // tokens))
        return self._rows_tried

    def shrink(self, plan: BuildPlan) -> BuildPlan | None:
        """A plan that needs less memory; `None` if nothing is left to reduce."""
        self.drop()
        if self._rows_tried > 1:
            self._rows_at_once = self._rows_tried // 2
            return plan
        if plan.micro_batch > 1:
            return replace(plan, micro_batch=plan.micro_batch // 2)
        return None


def _sum_unit(
    model: ResidualStream,
    plan: BuildPlan,
    unit: Unit,
    recorder: _Recorder,
    tick: Callable[[int], None],
) -> Float[Tensor, "rows places buckets d_model"]:
    n_rows = unit.stop - unit.start
    shape = n_rows, unit.family.n_places(plan.n_blocks), unit.family.n_buckets, plan.d_model
    sums = torch.zeros(shape, dtype=torch.float64)
    passes = 0
    for samples in plan.micro_batches(unit.half):
        recording = recorder.at(samples, forward_mode=unit.family.forward_mode)
        step = recorder.rows(samples)
        for first in range(0, n_rows, step):
            rows = range(first, min(first + step, n_rows))
            vectors = torch.zeros(len(rows), plan.d_model, dtype=model.dtype, device=model.device)
            for at, row in enumerate(rows):
                vectors[at, unit.start + row] = 1
            part = unit.family.run(recording, vectors, recorder.positions(samples))
            sums[first : first + len(rows)] += part.cpu().double()
            passes += len(rows)
            tick(passes)
    return sums.to(DTYPES[plan.dtype])


def import_units(source: Path, directory: Path) -> int:
    """Copy another machine's finished units into `directory`; returns their number.

    Raises:
        OperatorError: `source` holds another build (other weights, reference or settings).
    """
    plan = read_manifest(source)
    _make(directory / "units")
    agree(plan, directory)
    brought = 0
    for unit in plan.units():
        path, target = unit_path(source, unit), unit_path(directory, unit)
        if is_whole(path, plan) and not is_whole(target, plan):
            with open_tensors(path) as unit_file:
                about = _about_unit(plan, int(unit_file.metadata["micro_batch"]))
                clear_directory(target)
                write_tensors(target, {"sums": unit_file.get("sums")}, about)
            brought += 1
    return brought


def finish(directory: Path, progress: Progress | None = None) -> list[Unit]:
    """Assemble if all units exist; else return the missing ones.

    If several builders finish together, each waits for the lock and looks again under it, so that
    the last one finds every unit.

    Raises:
        StoreError: the disk has no room for the finished files.
    """
    with build_lock(directory / "locks" / "assemble", wait=True):
        if is_complete(directory):
            return []
        missing = missing_units(directory)
        if not missing:
            demand_space(directory, bytes_left(directory, read_manifest(directory)))
            assemble(directory, progress)
        return missing


def assemble(directory: Path, progress: Progress | None = None) -> Operators:
    """Join the units into one file of sums per site and one of means; remove the units.

    Sites that have sums keep them; missing means are made from the sums.

    Raises:
        OperatorError: units are missing; the message counts them.
    """
    plan = read_manifest(directory)
    missing = missing_units(directory)
    if missing:
        raise OperatorError(
            f"{len(missing)} of {len(plan.units())} units are missing in {directory}: "
            "run the other shards of `qlens build` first"
        )
    files = {
        unit: open_tensors(unit_path(directory, unit)) for unit in wanted_units(directory, plan)
    }
    for site in plan.sites:
        if not (directory / sums_file(site)).is_file():
            join_site(directory, plan, site, files)
        elif not (directory / mean_file(site)).is_file():
            restore_means(directory, plan, site)
        if progress is not None:
            progress(site + 1, len(plan.sites))
    for unit in plan.units():
        remove(unit_path(directory, unit))
    return Operators(directory)

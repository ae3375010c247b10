"""Building operators: `3 d_model` passes over the reference, unit by unit.

Each unit records its micro-batches (`Linearization`), walks them once per row and adds up
in float64, in the order of the plan. Running out of memory halves what is done at once and
goes on. Once every unit is there, `assemble` turns them into one file per site.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import ModelError, OperatorError
from lens_core.linearization import Linearization
from lens_core.memory import FULL_TOKENS, is_out_of_memory, release
from lens_core.model import ResidualStream
from lens_core.operators.files import Operators, means_of
from lens_core.operators.plan import (
    COMPLETE,
    DTYPES,
    BuildPlan,
    Unit,
    agree,
    is_complete,
    is_whole,
    mean_file,
    missing_units,
    read_manifest,
    sums_file,
    write_manifest,
)
from lens_core.reference import ReferenceSample
from lens_core.storage.disk_space import cannot_write
from lens_core.storage.files import build_lock, write_text_atomically
from lens_core.storage.tensors import TensorFile, open_tensors, write_tensors
from lens_core.terms import Progress

# Cotangents to walk at once on a GPU, at most: the memory of a pass grows with them.
_ROWS_AT_ONCE = 32


def build_operators(
    model: ResidualStream,
    reference: ReferenceSample,
    plan: BuildPlan,
    directory: Path,
    *,
    shard: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> None:
    """Compute the units of `shard` (number, of how many) that `directory` does not hold yet.

    Raises:
        OperatorError: the directory holds another build, or the model gave NaN.
        StoreError: another process is building this shard, or the disk is full.
    """
    number, of = shard
    units_dir = directory / "units"
    _make(units_dir)
    with build_lock(directory / "locks" / f"shard-{number}-of-{of}"):
        plan = agree(plan, directory)
        if is_complete(directory):
            return  # another process finished it since this one looked
        units = plan.units()[number - 1 :: of]
        total = sum(plan.passes(unit) for unit in units)
        done = 0
        recorder = _Recorder(model, reference)
        for unit in units:
            path = units_dir / unit.filename
            if not is_whole(path):
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
                write_tensors(path, {"sums": sums}, {"micro_batch": str(plan.micro_batch)})
            done += plan.passes(unit)
            if progress is not None:
                progress(done, total)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(error, directory) from error


class _Recorder:
    """Keeps the last recording, so that units over one micro-batch share it."""

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

    def drop(self) -> None:
        self._kept = None
        release(self._model.device)

    def rows(self, samples: range) -> int:
        """Cotangents to walk at once: enough to fill a GPU when the micro-batch does not."""
        tokens = len(samples) * self._reference.length
        self._rows_tried = max(1, min(self._rows_at_once, FULL_TOKENS["cuda"] // tokens))
        return self._rows_tried

    def shrink(self, plan: BuildPlan) -> BuildPlan | None:
        """A plan that takes less at once; `None` when nothing is left to give up."""
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
            part = unit.family.run(recording, vectors, plan.positions)
            sums[first : first + len(rows)] += part.cpu().double()
            passes += len(rows)
            tick(passes)
    return sums.to(DTYPES[plan.dtype])


def import_units(source: Path, directory: Path) -> int:
    """Bring another machine's finished units of the same build into `directory`; their number.

    Raises:
        OperatorError: `source` holds another build (other weights, reference or settings).
    """
    plan = read_manifest(source)
    _make(directory / "units")
    agree(plan, directory)
    brought = 0
    for unit in plan.units():
        path, target = source / "units" / unit.filename, directory / "units" / unit.filename
        if is_whole(path) and not is_whole(target):
            with open_tensors(path) as unit_file:
                batch = unit_file.metadata["micro_batch"]
                write_tensors(target, {"sums": unit_file.get("sums")}, {"micro_batch": batch})
            brought += 1
    return brought


def assemble(directory: Path, progress: Progress | None = None) -> Operators:
    """Turn the units into one file of sums per site and one of means; remove the units.

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
    units = [(unit, directory / "units" / unit.filename) for unit in plan.units()]
    files = [(unit, open_tensors(path)) for unit, path in units]
    # More than one where memory ran out on the way, or where shards chose differently.
    batches = sorted({int(file.metadata["micro_batch"]) for _, file in files})
    about = plan.provenance | {"micro_batches": json.dumps(batches)}
    for site in range(plan.n_blocks + 1):
        sums = _gather(plan, site, files)
        write_tensors(directory / sums_file(site), sums, about)
        write_tensors(directory / mean_file(site), means_of(plan, sums), about)
        if progress is not None:
            progress(site + 1, plan.n_blocks + 1)
    write_text_atomically(directory / COMPLETE, "")
    for _, path in units:
        path.unlink(missing_ok=True)
    return Operators(directory)


def _gather(
    plan: BuildPlan, site: int, files: Sequence[tuple[Unit, TensorFile]]
) -> dict[str, Float[Tensor, "halves buckets d_model d_model"]]:
    """The sums of one site from every unit that has rows of it."""
    sums: dict[str, Tensor] = {}
    for unit, file in files:
        family = unit.family
        if site >= family.n_places(plan.n_blocks):
            continue
        shape = 2, family.n_buckets, plan.d_model, plan.d_model
        whole = sums.setdefault(family.name, torch.zeros(shape, dtype=DTYPES[plan.dtype]))
        rows = file.get("sums")[:, site]  # [rows, buckets, d_model]
        for bucket in range(family.n_buckets):
            place = whole[unit.half, bucket]
            # A reverse pass gives rows; a forward-mode pass gives columns.
            place = place.T if family.forward_mode else place
            place[unit.start : unit.stop] = rows[:, bucket]
    return sums

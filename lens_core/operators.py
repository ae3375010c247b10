"""The `d x d` operators of every site: what Query Lens does to any feature, as matrices.

    T_value[site] = 1/N sum_{b,s,s'} d h_final[b,s] / d h_site[b,s']
    T_key[site]   = 1/N sum_{b,s,s'} d h_site[b,s'] / d h_0[b,s]
    R[block]      = 1/N sum_{b,s,s'} d block_out[b,s] / d block_in[b,s']

The mean of the transported vector is linear in the feature and the same map for all
features (method.md, section 3), so `3 d_model` passes over the reference serve every
feature of every dictionary of a model.

On disk are *sums*, in two halves of the reference and, for the transitions, two buckets
of the feature's position, with the counts to divide by. A build is a list of units (one
family, one half, some rows), each summed over its micro-batches in order and written
whole: a killed build resumes at the next unit, shards on other machines take every n-th
unit, and merging is putting units side by side, so that the result is the same to the
last bit however it was made, as long as the micro-batch is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import ModelError, OperatorError, StoreError
from lens_core.families import FAMILIES, N_BUCKETS, Family, Positions
from lens_core.linearization import Linearization, recorded_bytes
from lens_core.memory import FULL_TOKENS, is_out_of_memory, release, samples_at_once
from lens_core.model import ResidualStream
from lens_core.reference import ReferenceSample
from lens_core.store import (
    TensorFile,
    build_lock,
    fingerprint,
    open_tensors,
    versions,
    write_tensors,
    write_text_atomically,
)

FORMAT = 1
_MANIFEST = "manifest.json"
# Written last: every file before it is whole.
_COMPLETE = "complete"
# Rows of a unit: small enough to lose little to a kill, large enough that recording the
# micro-batches again for the next unit (about 5 passes) stays a few percent.
_ROWS_ONE_BATCH, _ROWS_MANY_BATCHES = 32, 128

Progress = Callable[[int, int], None]
"""Called with the passes done and their number; may raise to cancel, nothing is lost."""


@dataclass(frozen=True)
class Unit:
    """Rows `start` to `stop` of one family over one half of the reference."""

    family: Family
    half: int
    start: int
    stop: int

    @property
    def filename(self) -> str:
        return f"{self.family.name}-half{self.half}-{self.start:05d}.safetensors"


@dataclass(frozen=True)
class BuildPlan:
    """What a build will do; written as its manifest, so that a resumed build does the same."""

    fingerprint: str
    inputs: dict[str, Any]
    d_model: int
    n_blocks: int
    dtype: str
    samples: int
    length: int
    skip_first: int
    skip_last: int
    micro_batch: int
    rows_per_unit: int
    device: str
    format: int = FORMAT

    @property
    def halves(self) -> tuple[range, range]:
        """The samples of each half, as `ReferenceSample.split_halves` has them."""
        middle = max(1, self.samples // 2)
        return range(middle), range(middle, self.samples)

    @property
    def positions(self) -> Positions:
        return Positions(self.skip_first, self.length - self.skip_last)

    @property
    def tokens(self) -> Float[Tensor, "halves buckets"]:
        """Tokens that the sums of each half and bucket run over (float64)."""
        counts = torch.tensor(self.positions.counts, dtype=torch.float64)
        return torch.stack([len(half) * counts for half in self.halves])

    def units(self) -> list[Unit]:
        """Every unit, those that share a recording next to each other."""
        return [
            Unit(family, half, start, min(start + self.rows_per_unit, self.d_model))
            for half, samples in enumerate(self.halves)
            for family in FAMILIES
            for start in range(0, self.d_model, self.rows_per_unit)
            if samples
        ]

    def micro_batches(self, half: int) -> list[range]:
        samples = self.halves[half]
        return [
            range(start, min(start + self.micro_batch, samples.stop))
            for start in range(samples.start, samples.stop, self.micro_batch)
        ]

    def passes(self, unit: Unit) -> int:
        return (unit.stop - unit.start) * len(self.micro_batches(unit.half))

    @property
    def bytes_on_disk(self) -> int:
        """Size of the finished operators: sums by half and bucket, and means, for each site."""
        matrices = (self.n_blocks + 1) * (2 * 2 * N_BUCKETS + 2) + self.n_blocks * 3
        return matrices * self.d_model**2 * _DTYPES[self.dtype].itemsize

    @property
    def bytes_while_building(self) -> int:
        """Peak size on disk: the units stay until the finished files are all written."""
        return 2 * self.bytes_on_disk


_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def operator_inputs(
    model_fingerprint: str, reference: ReferenceSample, dtype: str
) -> dict[str, Any]:
    """Everything that operators depend on, by content."""
    return {
        "kind": "operators",
        "format": FORMAT,
        "model": model_fingerprint,
        "reference": reference.sha256,
        "dtype": dtype,
        "versions": versions(),
    }


def plan_build(
    model: ResidualStream,
    model_fingerprint: str,
    reference: ReferenceSample,
    *,
    batch: int | None = None,
) -> BuildPlan:
    """Choose the micro-batch (`batch` samples, or as many as fit) and say what it will take."""
    dtype = str(model.dtype).removeprefix("torch.")
    inputs = operator_inputs(model_fingerprint, reference, dtype)
    if batch is None:
        sample = reference.tokens[:1].to(model.device)
        kept = recorded_bytes(model, sample, forward_mode=True)
        batch = samples_at_once(model.device, reference.length, kept)
    largest_half = max(half.stop - half.start for half in reference.split_halves())
    batch = min(batch, largest_half)
    return BuildPlan(
        fingerprint=fingerprint(inputs),
        inputs=inputs,
        d_model=model.d_model,
        n_blocks=model.n_blocks,
        dtype=dtype,
        samples=reference.samples,
        length=reference.length,
        skip_first=reference.skip_first,
        skip_last=reference.skip_last,
        micro_batch=batch,
        rows_per_unit=_ROWS_ONE_BATCH if batch == largest_half else _ROWS_MANY_BATCHES,
        device=str(model.device),
    )


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
    try:
        units_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write to {directory}: {error.strerror}") from error
    with build_lock(directory / "locks" / f"shard-{number}-of-{of}"):
        plan = _agree(plan, directory)
        units = plan.units()[number - 1 :: of]
        total = sum(plan.passes(unit) for unit in units)
        done = 0
        recorder = _Recorder(model, reference)
        for unit in units:
            path = units_dir / unit.filename
            if not _is_whole(path):
                sums = None
                while sums is None:
                    before = done

                    def tick(passes: int, before: int = before, total: int = total) -> None:
                        if progress is not None:
                            progress(before + passes, total)

                    try:
                        sums = _sum_unit(model, plan, unit, recorder, tick)
                    except (RuntimeError, MemoryError) as error:
                        if not is_out_of_memory(error) or not recorder.shrink(plan):
                            raise
                        plan = recorder.replan(plan, directory)
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


class _Recorder:
    """Keeps the last recording, so that units over one micro-batch share it."""

    def __init__(self, model: ResidualStream, reference: ReferenceSample) -> None:
        self._model = model
        self._reference = reference
        self._key: tuple[range, bool] | None = None
        self._kept: Linearization | None = None
        kind = model.device.type
        self.rows_at_once = 32 if kind == "cuda" else 1

    def at(self, samples: range, *, forward_mode: bool) -> Linearization:
        key = samples, forward_mode
        if self._kept is None or self._key != key:
            self._kept = None
            release(self._model.device)
            tokens = self._reference.tokens[samples.start : samples.stop].to(self._model.device)
            self._kept = Linearization(self._model, tokens, forward_mode=forward_mode)
            self._key = key
        return self._kept

    def rows(self, samples: range) -> int:
        """Cotangents to walk at once: enough to fill a GPU when the micro-batch does not."""
        if self.rows_at_once == 1:
            return 1
        tokens = len(samples) * self._reference.length
        return max(1, min(self.rows_at_once, FULL_TOKENS["cuda"] // tokens))

    def shrink(self, plan: BuildPlan) -> bool:
        """Take less at once; False when nothing is left to give up."""
        self._kept = None
        release(self._model.device)
        if self.rows_at_once > 1:
            self.rows_at_once //= 2
            return True
        return plan.micro_batch > 1

    def replan(self, plan: BuildPlan, directory: Path) -> BuildPlan:
        if self.rows_at_once > 1:
            return plan
        smaller = replace(plan, micro_batch=max(1, plan.micro_batch // 2))
        _write_manifest(smaller, directory)
        return smaller


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
            sums[first : first + len(rows)] += part.double().cpu()
            passes += len(rows)
            tick(passes)
    return sums.to(_DTYPES[plan.dtype])


def is_complete(directory: Path) -> bool:
    """Whether `directory` holds finished operators."""
    return (directory / _COMPLETE).is_file()


def missing_units(directory: Path) -> list[Unit]:
    """Units that no shard has delivered yet (all of them where nothing was begun)."""
    plan = read_manifest(directory)
    return [unit for unit in plan.units() if not _is_whole(directory / "units" / unit.filename)]


def import_units(source: Path, directory: Path) -> int:
    """Bring another machine's finished units of the same build into `directory`; their number.

    Raises:
        OperatorError: `source` holds another build (other weights, reference or settings).
    """
    plan = read_manifest(source)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "units").mkdir(exist_ok=True)
    _agree(plan, directory)
    brought = 0
    for unit in plan.units():
        path, target = source / "units" / unit.filename, directory / "units" / unit.filename
        if _is_whole(path) and not _is_whole(target):
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
    for site in range(plan.n_blocks + 1):
        sums = _gather(plan, site, files)
        write_tensors(directory / _sums_file(site), sums, {})
        write_tensors(directory / _mean_file(site), _means(plan, sums), {})
        if progress is not None:
            progress(site + 1, plan.n_blocks + 1)
    write_text_atomically(directory / _COMPLETE, "")
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
        whole = sums.setdefault(family.name, torch.zeros(shape, dtype=_DTYPES[plan.dtype]))
        rows = file.get("sums")[:, site]  # [rows, buckets, d_model]
        for bucket in range(family.n_buckets):
            place = whole[unit.half, bucket]
            # A reverse pass gives rows; a forward-mode pass gives columns.
            place = place.T if family.forward_mode else place
            place[unit.start : unit.stop] = rows[:, bucket]
    return sums


def _means(
    plan: BuildPlan, sums: Mapping[str, Tensor]
) -> dict[str, Float[Tensor, "d_model d_model"]]:
    n_tokens = plan.tokens.sum()
    return {
        name: (parts.double().sum((0, 1)) / n_tokens).to(_DTYPES[plan.dtype])
        for name, parts in sums.items()
    }


def _sums_file(site: int) -> str:
    return f"sums-{site:03d}.safetensors"


def _mean_file(site: int) -> str:
    return f"mean-{site:03d}.safetensors"


class Operators:
    """Finished operators, read from disk tensor by tensor and kept once read.

    Matrices act on column vectors: a value is carried by `T_value[site] @ v`, a key by
    `k @ T_key[site]`.
    """

    def __init__(self, directory: Path, device: torch.device | str = "cpu") -> None:
        self.directory = directory
        self.plan = read_manifest(directory)
        self.device = torch.device(device)
        if not is_complete(directory):
            raise OperatorError(f"the operators in {directory} are not finished: run `qlens build`")
        self.n_blocks = self.plan.n_blocks
        self.d_model = self.plan.d_model
        self._kept: dict[int, dict[str, Tensor]] = {}

    def value(self, site: int) -> Float[Tensor, "d_model d_model"]:
        """`T_value[site]`."""
        return self._mean(site)["value"]

    def key(self, site: int) -> Float[Tensor, "d_model d_model"]:
        """`T_key[site]`."""
        return self._mean(site)["key"]

    def response(self, block: int) -> Float[Tensor, "d_model d_model"]:
        """`R[block]`."""
        return self._mean(block)["response"]

    def _mean(self, site: int) -> dict[str, Tensor]:
        if site not in self._kept:
            path = self.directory / _mean_file(site)
            try:
                found = _verified(path)
            except StoreError:
                # The sums say the same: only where they too are damaged is a build lost.
                found = _means(self.plan, self._sums(site))
                write_tensors(path, found, {})
            self._kept[site] = {name: matrix.to(self.device) for name, matrix in found.items()}
        return self._kept[site]

    def first_order(
        self, side: str, site: int, off: frozenset[int] = frozenset()
    ) -> Float[Tensor, "d_model d_model"]:
        """`I + sum R[k]` over the blocks after (`value`) or before (`key`) `site` that are on."""
        blocks = range(site, self.n_blocks) if side == "value" else range(site)
        total = torch.eye(self.d_model, dtype=_DTYPES[self.plan.dtype], device=self.device)
        for k in blocks:
            if k not in off:
                total += self.response(k)
        return total

    def halves(self, side: str, site: int) -> list[Float[Tensor, "d_model d_model"]]:
        """The transition of each half of the reference (a single one for a single sample)."""
        tokens = self.plan.tokens.sum(1)
        sums = self._sums(site)[side].double().sum(1)
        return [
            (sums[half] / tokens[half]).to(_DTYPES[self.plan.dtype]).to(self.device)
            for half in range(2)
            if tokens[half] > 0
        ]

    def buckets(self, side: str, site: int) -> list[Float[Tensor, "d_model d_model"] | None]:
        """The transition for features before and from position 16, each over its own tokens.

        `None` for a bucket that no position of the reference falls into.
        """
        tokens = self.plan.tokens.sum(0)
        sums = self._sums(site)[side].double().sum(0)
        dtype = _DTYPES[self.plan.dtype]
        return [
            (sums[bucket] / tokens[bucket]).to(dtype).to(self.device) if tokens[bucket] else None
            for bucket in range(N_BUCKETS)
        ]

    def _sums(self, site: int) -> dict[str, Tensor]:
        try:
            return _verified(self.directory / _sums_file(site))
        except StoreError as error:
            with suppress(OSError):
                (self.directory / _COMPLETE).unlink(missing_ok=True)
            raise OperatorError(
                f"the operators in {self.directory} are damaged ({error}): run `qlens build` again"
            ) from error


def _verified(path: Path) -> dict[str, Tensor]:
    with open_tensors(path) as file:
        file.verify()
        return {name: file.get(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def read_manifest(directory: Path) -> BuildPlan:
    """The plan of the build in `directory`.

    Raises:
        OperatorError: there is none, or another version of qlens wrote it.
    """
    path = directory / _MANIFEST
    try:
        fields: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        if fields.get("format") != FORMAT:
            raise OperatorError(
                f"{path} was written by another version of qlens: run `qlens build` again"
            )
        return BuildPlan(**fields)
    except FileNotFoundError as error:
        raise OperatorError(f"no operators in {directory}: run `qlens build` first") from error
    except (OSError, ValueError, TypeError) as error:
        raise OperatorError(
            f"{path} is damaged ({type(error).__name__}): remove {directory} and build again"
        ) from error


def _write_manifest(plan: BuildPlan, directory: Path) -> None:
    write_text_atomically(directory / _MANIFEST, json.dumps(asdict(plan), indent=1) + "\n")


def _agree(plan: BuildPlan, directory: Path) -> BuildPlan:
    """The plan already begun in `directory`, which a resumed build or another shard keeps."""
    if not (directory / _MANIFEST).is_file():
        _write_manifest(plan, directory)
        return plan
    begun = read_manifest(directory)
    if begun.fingerprint != plan.fingerprint:
        raise OperatorError(
            f"{directory} holds operators of another model, reference or version: use another "
            "directory, or remove it"
        )
    return begun


def _is_whole(path: Path) -> bool:
    """Whether a unit is there and undamaged; a damaged one is removed, to be computed again."""
    if not path.is_file():
        return False
    try:
        with open_tensors(path) as file:
            file.verify()
    except StoreError:
        path.unlink(missing_ok=True)
        return False
    return True

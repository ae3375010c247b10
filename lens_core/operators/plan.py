"""What a build of operators consists of: units, their order, their files, their manifest.

A build is a list of units (one family, one half of the reference, some rows), each summed
over its micro-batches in order and written whole. A killed build resumes at the next unit,
shards on other machines take every n-th unit, and merging is putting units side by side:
the result is the same to the last bit however it was made, as long as the micro-batch is.

    <operators>/<fingerprint>/manifest.json          this plan, written first
                              units/*.safetensors    sums by rows, until all are there
                              sums-*.safetensors     sums by site: halves and buckets
                              mean-*.safetensors     what the lens reads, by site
                              complete               written last
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import DamagedError, OperatorError
from lens_core.linearization import recorded_bytes
from lens_core.memory import samples_at_once
from lens_core.model import ResidualStream
from lens_core.operators.passes import FAMILIES, N_BUCKETS, Family, Positions
from lens_core.reference import ReferenceSample
from lens_core.storage.files import build_lock, write_text_atomically
from lens_core.storage.fingerprint import fingerprint, versions
from lens_core.storage.tensors import open_tensors

FORMAT = 2
# Written last: every file before it is whole.
COMPLETE = "complete"
_MANIFEST = "manifest.json"
# Few enough to lose little to a kill; enough that recording the micro-batches again for
# the next unit (about 5 passes) stays a few percent.
_ROWS_PER_UNIT = 64


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
    def provenance(self) -> dict[str, str]:
        """What every file of the finished operators says about itself."""
        return {
            "operators": self.fingerprint,
            "model": str(self.inputs["model"]),
            "reference": str(self.inputs["reference"]),
            "versions": json.dumps(self.inputs["versions"]),
            "convention": "paper",
            "dictionary": "any",
        }

    @property
    def bytes_on_disk(self) -> int:
        """Size of the finished operators: sums by half and bucket, and means, for each site."""
        matrices = (self.n_blocks + 1) * (2 * 2 * N_BUCKETS + 2) + self.n_blocks * 3
        return matrices * self.d_model**2 * DTYPES[self.dtype].itemsize

    @property
    def bytes_while_building(self) -> int:
        """Peak size on disk: the units stay until the finished files are all written."""
        return 2 * self.bytes_on_disk


DTYPES = {"float32": torch.float32, "float64": torch.float64}


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
        rows_per_unit=_ROWS_PER_UNIT,
        device=str(model.device),
    )


def is_complete(directory: Path) -> bool:
    """Whether `directory` holds finished operators, every file of them."""
    if not (directory / COMPLETE).is_file():
        return False
    sites = range(read_manifest(directory).n_blocks + 1)
    return all((directory / name(k)).is_file() for k in sites for name in (sums_file, mean_file))


def missing_units(directory: Path) -> list[Unit]:
    """Units that no shard has delivered yet (all of them where nothing was begun)."""
    plan = read_manifest(directory)
    return [unit for unit in plan.units() if not is_whole(directory / "units" / unit.filename)]


def read_manifest(directory: Path) -> BuildPlan:
    """The plan of the build in `directory`.

    Raises:
        OperatorError: there is none, it is damaged, or another version of qlens wrote it.
    """
    path = directory / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if manifest.get("format") != FORMAT:
            raise OperatorError(
                f"{path} was written by another version of qlens: run `qlens build` again"
            )
        seal = manifest.pop("sha256")
        plan = BuildPlan(**manifest)
        if seal != fingerprint(manifest) or plan.fingerprint != fingerprint(plan.inputs):
            raise ValueError("its checksum does not match")
    except FileNotFoundError as error:
        raise OperatorError(f"no operators in {directory}: run `qlens build` first") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise OperatorError(f"{path} is damaged: remove {directory} and build again") from error
    return plan


def write_manifest(plan: BuildPlan, directory: Path) -> None:
    """Write the plan, sealed, so that a changed number in it is found."""
    manifest = asdict(plan)
    sealed = manifest | {"sha256": fingerprint(manifest)}
    write_text_atomically(directory / _MANIFEST, json.dumps(sealed, indent=1) + "\n")


def agree(plan: BuildPlan, directory: Path) -> BuildPlan:
    """The plan already begun in `directory`, which a resumed build or another shard keeps."""
    with build_lock(directory / "locks" / "manifest", wait=True):
        if not (directory / _MANIFEST).is_file():
            write_manifest(plan, directory)
            return plan
        begun = read_manifest(directory)
    if (begun.fingerprint, begun.rows_per_unit) != (plan.fingerprint, plan.rows_per_unit):
        raise OperatorError(
            f"{directory} holds operators of another model, reference or version: use another "
            "directory, or remove it"
        )
    return begun


def is_whole(path: Path) -> bool:
    """Whether a unit is there and undamaged; a damaged one is removed, to be computed again."""
    if not path.is_file():
        return False
    try:
        with open_tensors(path) as file:
            file.verify()
    except DamagedError:
        path.unlink(missing_ok=True)
        return False
    return True


def sums_file(site: int) -> str:
    return f"sums-{site:03d}.safetensors"


def mean_file(site: int) -> str:
    return f"mean-{site:03d}.safetensors"

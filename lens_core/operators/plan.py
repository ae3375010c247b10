"""What a build of operators consists of: units, their order, their files.

A build is a list of units (one family, one half of the reference, some rows), each summed
over its micro-batches in order and written as a whole. An interrupted build resumes at the next
unit, shards on other machines take every n-th unit, and merging copies units into one
directory: the result is always the same bits, as long as the micro-batch is the same.

    <operators>/<fingerprint>/manifest.json          this plan, written first
                              units/*.safetensors    sums by rows, until all are there
                              sums-*.safetensors     sums by site: halves and buckets
                              mean-*.safetensors     what the lens reads, by site

Every file contains the plan, so that a lost manifest can be written again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.linearization import block_bytes
from lens_core.memory import samples_at_once
from lens_core.model import ResidualStream
from lens_core.operators.passes import FAMILIES, Family, Positions
from lens_core.reference import ReferenceSample
from lens_core.storage.fingerprint import fingerprint, versions

FORMAT = 2
# Few enough that an interruption loses little; enough that recording the micro-batches again
# for the next unit (about 5 passes) costs only a few percent.
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
    """What a build will do; written as the manifest, so that a resumed build does the same.

    `is_last_only`: each sample has one target, its last token (`ReferenceSample.ends`).
    """

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
    is_last_only: bool = False

    @property
    def halves(self) -> tuple[range, range]:
        """The samples of each half, as `ReferenceSample.split_halves` has them."""
        middle = max(1, self.samples // 2)
        return range(middle), range(middle, self.samples)

    @property
    def tokens(self) -> Float[Tensor, "halves buckets"]:
        """By what the sums of each half and bucket are divided (float64)."""
        positions = Positions(self.skip_first, self.length - self.skip_last)
        each = (1, 0) if self.is_last_only else positions.counts
        counts = torch.tensor(each, dtype=torch.float64)
        return torch.stack([len(half) * counts for half in self.halves])

    def units(self) -> list[Unit]:
        """Every unit; units that share a recording are next to each other."""
        return [
            Unit(family, half, start, min(start + self.rows_per_unit, self.d_model))
            for half, samples in enumerate(self.halves)
            for family in FAMILIES
            for start in range(0, self.d_model, self.rows_per_unit)
            if samples
        ]

    def families(self, site: int) -> list[Family]:
        """The families that have this site; the last one has no block after it."""
        return [family for family in FAMILIES if site < family.n_places(self.n_blocks)]

    def units_of(self, site: int) -> list[Unit]:
        """The units from which the sums of one site are joined."""
        names = {family.name for family in self.families(site)}
        return [unit for unit in self.units() if unit.family.name in names]

    @property
    def sites(self) -> range:
        return range(self.n_blocks + 1)

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
        """The metadata of every file of the finished operators."""
        return {
            "operators": self.fingerprint,
            "plan": json.dumps(asdict(self), sort_keys=True),
            "model": str(self.inputs["model"]),
            "reference": str(self.inputs["reference"]),
            "versions": json.dumps(self.inputs["versions"]),
            "convention": "paper",
            "dictionary": "any",
        }

    @property
    def bytes_on_disk(self) -> int:
        """Size of the finished operators."""
        return sum(map(self.site_bytes, self.sites))

    @property
    def bytes_while_building(self) -> int:
        """Peak size on disk: the units stay until all finished files are written."""
        return self.bytes_on_disk + sum(map(self.unit_bytes, self.units()))

    def site_bytes(self, site: int) -> int:
        """Size of one site's sums, by half and bucket, and of its means."""
        matrices = sum(2 * family.n_buckets + 1 for family in self.families(site))
        return matrices * self.d_model**2 * DTYPES[self.dtype].itemsize

    def unit_bytes(self, unit: Unit) -> int:
        """Size of one unit: its rows at every site."""
        rows = (unit.stop - unit.start) * unit.family.n_places(self.n_blocks)
        return rows * unit.family.n_buckets * self.d_model * DTYPES[self.dtype].itemsize


DTYPES = {"float32": torch.float32, "float64": torch.float64}


def operator_inputs(
    model_fingerprint: str, reference: ReferenceSample, dtype: str
) -> dict[str, Any]:
    """The fingerprint of everything that operators depend on."""
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
    """Plan a build with micro-batches of `batch` samples, or as many as fit."""
    dtype = str(model.dtype).removeprefix("torch.")
    inputs = operator_inputs(model_fingerprint, reference, dtype)
    if batch is None:
        sample = reference.tokens[:1].to(model.device)
        kept = sum(each.recorded + each.walked for each in block_bytes(model, sample))
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
        is_last_only=reference.ends is not None,
    )


def sums_file(site: int) -> str:
    return f"sums-{site:03d}.safetensors"


def mean_file(site: int) -> str:
    return f"mean-{site:03d}.safetensors"


def aside_file(site: int) -> str:
    """The name under which damaged sums are kept until redone, for their valid rows."""
    return f"{sums_file(site)}.damaged"

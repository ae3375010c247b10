"""(a) A whole dictionary, ours against one feature at a time.

Per feature (docs/method.md, section 2, as in the authors' code): block by block `torch.func.jvp`
from the dictionary's layer up for the value, `torch.func.vjp` down for the key, the block
evaluated again for each, the feature at every position; then the mean is read out under Query
Lens and Logit Lens. Computing the stream at which the blocks are evaluated is not counted.

Ours: 768 passes for each of the three families (`qlens build`), recording and assembling,
spread over all features; and for each feature the top 25 of three lenses on both sides.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.layer_lists import lists_of
from benchmarks.measure import Report, Row, in_turns, peak_memory, progress, timed
from benchmarks.shape import GPT2_SMALL, TINY
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.lens import QueryLens
from lens_core.lenses import LOGIT, QUERY
from lens_core.model import ResidualModel
from lens_core.operators.build import assemble, build_operators
from lens_core.operators.passes import FAMILIES
from lens_core.operators.plan import BuildPlan, plan_build
from lens_core.ranking import top_k
from lens_core.reference import ReferenceSample
from lens_core.storage.tensors import write_tensors

AT_LEAST = 250


def run(*, quick: bool) -> Report:
    shape, samples, n = (TINY, 4, 64) if quick else (GPT2_SMALL, 32, 2048)
    middle = shape.n_layers // 2 - 1
    slice_ = shape.dictionary(middle, n)
    lens = shape.lens(samples, {middle: slice_})
    layers = 0, middle, shape.n_layers - 1

    theirs = _per_feature(lens, slice_, layers, 1 if quick else 3)
    built = _build(lens.model, lens.carrier.reference, rows_per_unit=4 if quick else 64)
    progress(f"top 25 of {slice_.n_features} features")
    scoring = in_turns(
        {"lists": lambda: lists_of(lens, slice_, first_order=True)}, 1 if quick else 2
    )["lists"]
    scored = scoring.smallest / slice_.n_features
    ours = built.total / shape.n_dictionary + scored
    unit = 1000
    said = (
        f"{shape}, values and keys; {samples} x 32 tokens",
        f"per feature: torch.func.jvp and vjp over {samples * 32} tokens at once, layers "
        f"{', '.join(map(str, layers))} timed ({theirs.features} features), the others by "
        "their number of blocks;",
        "  full transition and the lists of Query Lens and Logit Lens; the stream given",
        f"ours: {built.passes} passes of each family timed through lens_core.operators.build, "
        f"times {shape.d_model}; recording and assembling once;",
        f"  scoring from {slice_.n_features} features: top 25 of Query Lens, Logit Lens and first "
        "order, both sides",
    )  # fmt: skip
    rows = [
        Row("per feature: value, mean over layers", theirs.value, "s"),
        Row("per feature: key, mean over layers", theirs.key, "s"),
        Row("per feature: reading out, both sides", unit * theirs.readout, "ms"),
        *(Row(f"ours: one {name} pass", unit * seconds, "ms", spread)
          for name, (seconds, spread) in built.by_family.items()),
        Row("ours: all passes and recordings", built.walking, "s"),
        Row("ours: assembling the files", built.assembling, "s"),
        Row("ours: scoring, a feature", unit * scored, "ms", scoring.spread),
        Row("one feature by the per-feature procedure", unit * theirs.total, "ms"),
        Row("one feature of the whole dictionary, ours", unit * ours, "ms"),
        Row("per feature / ours", theirs.total / ours, "x", "", AT_LEAST, at_least=True),
        Row("the same, were first order asked of both", theirs.with_first_order / ours, "x"),
        Row("the whole dictionary, ours", ours * shape.n_dictionary / 3600, "h"),
        Row("the whole dictionary, per feature", theirs.total * shape.n_dictionary / 86400, "days"),
        peak_memory(),
    ]  # fmt: skip
    return Report("(a) a whole dictionary: ours against one feature at a time", said, tuple(rows))


@dataclass(frozen=True)
class PerFeature:
    """Seconds of one feature, means over layers; `features` were timed a layer and side."""

    value: float
    key: float
    readout: float
    features: int

    @property
    def total(self) -> float:
        return self.value + self.key + self.readout

    @property
    def with_first_order(self) -> float:
        """First order takes another pass over the same blocks, and another list."""
        return 2 * (self.value + self.key) + 1.5 * self.readout


@torch.no_grad()
def _per_feature(
    lens: QueryLens, dictionary: FeatureDictionary, layers: tuple[int, ...], features: int
) -> PerFeature:
    model = lens.model
    sites = model.sites(lens.carrier.reference.tokens)
    n_blocks = model.n_blocks
    seconds: dict[str, list[float]] = {"value": [], "key": []}
    walked = {"value": 0, "key": 0}
    for layer in layers:
        progress(f"per-feature procedure at layer {layer}")
        start = 2 * layer + 2
        for feature in range(features):
            value, key = dictionary.values[feature], dictionary.keys[feature]
            seconds["value"].append(timed(lambda v=value, s=start: _walk_up(model, sites, v, s)))  # type: ignore[misc]
            seconds["key"].append(timed(lambda k=key, s=start: _walk_down(model, sites, k, s)))  # type: ignore[misc]
            walked["value"] += n_blocks - start
            walked["key"] += start
    per_block = {side: sum(seconds[side]) / walked[side] for side in seconds}
    starts = [2 * layer + 2 for layer in range(model.n_layers)]
    readout = in_turns({"readout": lambda: _read_out(lens, value, key)}, 3)["readout"].smallest
    return PerFeature(
        per_block["value"] * mean(n_blocks - start for start in starts),
        per_block["key"] * mean(starts),
        readout,
        features,
    )


def _walk_up(model: ResidualModel, sites: list[Tensor], value: Tensor, start: int) -> Tensor:
    running = value.expand_as(sites[0])
    for k in range(start, model.n_blocks):
        _, step = torch.func.jvp(lambda x, k=k: model.block(k, x), (sites[k],), (running,))  # type: ignore[misc]
        running = running + step
    return running.mean((0, 1))


def _walk_down(model: ResidualModel, sites: list[Tensor], key: Tensor, start: int) -> Tensor:
    running = key.expand_as(sites[0])
    for k in reversed(range(start)):
        _, pull = torch.func.vjp(lambda x, k=k: model.block(k, x), sites[k])  # type: ignore[misc]
        running = running + pull(running)[0]
    return running.mean((0, 1))


def _read_out(lens: QueryLens, value: Tensor, key: Tensor) -> None:
    for side, vector in (("value", value), ("key", key)):
        for each in (QUERY, LOGIT):
            top_k(lens.readout(each.readouts[side]).scores(vector), 25)


@dataclass(frozen=True)
class Built:
    """What building every operator takes, in seconds; passes are over the whole reference."""

    by_family: dict[str, tuple[float, str]]
    walking: float
    assembling: float
    passes: int

    @property
    def total(self) -> float:
        return self.walking + self.assembling


def _build(model: ResidualModel, reference: ReferenceSample, *, rows_per_unit: int) -> Built:
    """The first unit of every family and half as `qlens build --shard` makes it, and the files."""
    plan = replace(plan_build(model, model.fingerprint, reference), rows_per_unit=rows_per_unit)
    shards = plan.d_model // rows_per_unit
    with TemporaryDirectory(prefix="qlens-bench-") as name:
        directory = Path(name)
        progress(f"{rows_per_unit} passes of each family, {plan.micro_batch} samples at once")
        ticks = [time.perf_counter()]
        build_operators(
            model, reference, plan, directory, shard=(1, shards),
            progress=lambda _done, _of: ticks.append(time.perf_counter()),
        )  # fmt: skip
        passes: dict[str, list[list[float]]] = {}
        first: dict[str, list[float]] = {}
        for name_, took in _by_unit(plan, shards, ticks):
            first.setdefault(name_, []).append(took[0])
            passes.setdefault(name_, []).append(took[1:])
        walking = 0.0
        by_family = {}
        for family in FAMILIES:
            # All micro-batches of both halves of the reference.
            a_pass = sum(
                mean(took) * len(plan.micro_batches(half))
                for half, took in enumerate(passes[family.name])
            )
            every = [each for took in passes[family.name] for each in took]
            spread = (
                f"median of one {median(every):.2f} s, slowest {max(every) / median(every):.2f}x"
            )
            by_family[family.name] = a_pass, spread
            walking += plan.d_model * a_pass
            recorded = sum(
                max(0.0, one - mean(took))
                for one, took in zip(first[family.name], passes[family.name], strict=True)
            )
            # A half in one micro-batch is recorded once for all of its units, else once a unit.
            walking += recorded * (1 if len(plan.micro_batches(0)) == 1 else shards)
        progress("assembling the operator files")
        _fill(plan, directory)
        assembling = timed(lambda: assemble(directory))
    return Built(by_family, walking, assembling, rows_per_unit)


def _by_unit(plan: BuildPlan, shards: int, ticks: list[float]) -> Iterator[tuple[str, list[float]]]:
    """The family of each unit that was built, and the seconds of its passes."""
    took = [later - earlier for earlier, later in pairwise(ticks)]
    for unit in plan.units()[::shards]:
        n = plan.passes(unit)
        yield unit.family.name, took[:n]
        took = took[n + 1 :]  # one more tick when the unit is written


def _fill(plan: BuildPlan, directory: Path) -> None:
    """Fill in the units that were not computed, so that assembling has the full amount of work."""
    for unit in plan.units():
        path = directory / "units" / unit.filename
        if not path.is_file():
            shape = (
                unit.stop - unit.start, unit.family.n_places(plan.n_blocks),
                unit.family.n_buckets, plan.d_model,
            )  # fmt: skip
            about = {"micro_batch": str(plan.micro_batch)}
            write_tensors(path, {"sums": torch.randn(shape)}, about)

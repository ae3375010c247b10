"""The numbers of the overview, against plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_core.atlas.files import SCHEMA, piece_name, write_piece
from lens_core.directories import ATLAS
from qlens_tui.table.known_layer import KnownLayer
from qlens_tui.table.overview import (
    BINS,
    METRICS,
    Marked,
    Measured,
    Metric,
    Overview,
    marked_in,
    measure,
    overview_of,
    together,
)
from qlens_tui.triage.marks import DictionaryName
from qlens_tui.triage.triage import Triage

Value = tuple[float | None, int | None]
"""A value, and the bin it belongs to (`None`: it is not counted)."""

UNKNOWN: list[Value] = [(None, None), (math.nan, None), (math.inf, None)]


def values(metric: Metric) -> st.SearchStrategy[Value]:
    """Values whose bins are known in advance."""
    inside = st.tuples(st.integers(0, BINS - 1), st.floats(0.01, 0.99))
    if metric.kind == "log share":
        found = inside.map(lambda at: (10 ** ((at[0] + at[1]) / 2 - 5), at[0]))
        edges = [(10**-power, 10 - 2 * power) for power in range(1, 6)]
        return found | st.sampled_from([*UNKNOWN, *edges, (0.0, None), (1.0, 9), (1e-7, 0)])
    if metric.kind == "share":
        # Of lists of 25 and of 10, exact in whole numbers, in float32 on neither side for sure.
        edges = [(j / n, min(j * BINS // n, BINS - 1)) for n in (10, 25) for j in range(n + 1)]
        return inside.map(lambda at: ((at[0] + at[1]) / BINS, at[0])) | st.sampled_from(
            [*UNKNOWN, *edges]
        )
    edges = [(j / 5 - 1, j) for j in range(BINS)]
    return inside.map(lambda at: ((at[0] + at[1]) / 5 - 1, at[0])) | st.sampled_from(
        [*UNKNOWN, *edges, (0.0, 5), (-0.0, 5), (1.0, 9), (1.5, 9), (-1.5, 0)]
    )


ROWS = st.lists(st.tuples(st.booleans(), *map(values, METRICS)), max_size=30)
Row = tuple[Any, ...]


def frame(rows: Sequence[Row], layer: int = 0) -> pl.DataFrame:
    """An atlas with only these values."""
    said = [
        {"layer": layer, "feature": feature, "silent": silent}
        | {metric.source: value for metric, (value, _) in zip(METRICS, values, strict=True)}
        for feature, (silent, *values) in enumerate(rows)
    ]
    return pl.DataFrame(said, schema=dict(SCHEMA))


def on_disk(rows: Sequence[Row], cache: Path, layer: int = 0, parts: int = 1) -> KnownLayer:
    """The layer with such an atlas in a cache."""
    name, whole = f"{layer:064d}", frame(rows, layer)
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    for start, stop in pairwise(bounds):
        path = cache / ATLAS / name / piece_name(range(start, stop), len(rows))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_piece(whole[start:stop], path, {"layers": [{"layer": layer, "atlas": name}]})
    return KnownLayer(layer, f"sha{layer}", "sae", len(rows), str(cache / ATLAS / name))


def check(measured: Measured, rows: Sequence[Row]) -> None:
    """Compare with what can be counted by hand."""
    assert measured.silent == sum(silent for silent, *_ in rows)
    for at, spread in enumerate(measured.spreads):
        metric = METRICS[at]
        here = [row[1 + at] for row in rows if row[1 + at][1] is not None]
        bins = [sum(bin_ == each for _, bin_ in here) for each in range(BINS)]
        assert list(spread.bins) == bins, metric.source
        assert spread.count == len(here)
        if not here:
            assert spread.median is None
            continue
        within = [min(max(value, metric.low), 1.0) for value, _ in here]
        near = {"rel": 0.004} if metric.kind == "log share" else {"abs": 0.00051}
        assert spread.median == pytest.approx(median(within), **near), metric.source


@given(ROWS)
def test_bins_medians_and_silent_features_are_those_counted_by_hand(rows):
    check(measure(frame(rows)), rows)


@given(st.lists(ROWS, min_size=1, max_size=3))
def test_layers_put_together_are_measured_like_one_layer_of_all_their_features(layers):
    whole = together(
        Overview(len(rows), Marked(1, 2, 3, 4), measure(frame(rows))) for rows in layers
    )
    everything = [row for rows in layers for row in rows]
    assert whole.features == len(everything)
    n = len(layers)
    assert whole.marked == Marked(n, 2 * n, 3 * n, 4 * n)
    assert whole.measured is not None
    check(whole.measured, everything)


ROW: Row = (False, (0.12, 5), (0.5, 7), (0.96, 9), (None, None), (0.02, 6), (0.2, 2), (0.0, 0))


def test_an_atlas_is_read_from_all_of_its_pieces(tmp_path):
    rows = [ROW] * 5 + [(True, *ROW[1:5], (0.0, None), *ROW[6:])] * 4
    found = overview_of(on_disk(rows, tmp_path, layer=3, parts=3))
    assert found.features == 9
    assert found.measured is not None
    check(found.measured, rows)


def test_a_layer_without_an_atlas_keeps_its_features_and_takes_nothing_from_the_whole(tmp_path):
    bare = overview_of(KnownLayer(1, "sha1", "sae", 40))
    assert bare == Overview(40)
    full = overview_of(on_disk([ROW] * 3, tmp_path))
    assert together([bare, full, bare]) == Overview(83, None, full.measured)


def test_an_atlas_that_is_not_whole_counts_as_none(tmp_path):
    known = on_disk([ROW] * 4, tmp_path, parts=2)
    (first, second) = sorted(Path(known.atlas or "").iterdir())
    whole = second.read_bytes()
    middle = len(whole) // 2
    second.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert overview_of(known).measured is None
    second.unlink()
    assert overview_of(known).measured is None
    second.write_bytes(whole)
    assert overview_of(known).measured is not None
    first.unlink()
    assert overview_of(known).measured is None


def test_an_atlas_of_another_size_than_the_dictionary_counts_as_none(tmp_path):
    known = on_disk([ROW] * 4, tmp_path)
    assert overview_of(KnownLayer(0, "sha", "sae", 5, known.atlas)).measured is None


def test_a_dictionary_without_features_has_empty_bins_and_no_median(tmp_path):
    found = overview_of(on_disk([], tmp_path))
    assert found.features == 0
    assert found.measured is not None
    check(found.measured, [])
    assert together([]) == Overview(0)


def test_marks_are_those_of_the_layers_own_dictionary(tmp_path):
    with Triage(tmp_path / "triage.sqlite") as triage:
        here = DictionaryName("sha2", "sae", "model", 2)
        triage.apply({here: [0, 1, 2]}, star=True)
        triage.apply({here: [2, 3]}, reject=True, add=["a", "b"])
        triage.apply({here: [9]}, note="odd")
        triage.apply({DictionaryName("sha3", "sae", "model", 3): [5]}, star=True)
        assert marked_in(triage, KnownLayer(2, "sha2", "sae", 10)) == Marked(3, 2, 2, 5)
        assert marked_in(triage, KnownLayer(3, "sha3", "sae", 10)) == Marked(1, 0, 0, 1)
        assert marked_in(triage, KnownLayer(4, "sha4", "sae", 10)) == Marked()
        triage.apply({here: [0, 1, 2]}, star=False)
        assert marked_in(triage, KnownLayer(2, "sha2", "sae", 10)) == Marked(0, 2, 2, 3)


def test_the_scales_edges_are_round_numbers_and_zero_gain_is_one():
    edges = {m.kind: [m.at(i / BINS) for i in range(BINS + 1)] for m in METRICS}
    assert edges["difference"] == pytest.approx([j / 5 - 1 for j in range(11)])
    assert edges["share"] == pytest.approx([j / 10 for j in range(11)])
    assert edges["log share"][::2] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1])

"""Layers that a filter cannot match are left out, and no other, whatever their atlases hold."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_core.errors import UsageError
from qlens_tui.table.column_names import EXPLANATION
from qlens_tui.table.filter_layers import layers_that_may_match
from qlens_tui.table.rows import KNOWN, MARKS, all_rows, filtered
from tests.qlens_tui.table.test_rows import CONDITIONS, TEXTS, TYPED, frames

LAYERS = {0: 10, 1: 10, 2: 10}
OF_ATLAS = ("silent", "density", "value_gain")
TYPES = {"layer": pl.Int32, "feature": pl.Int32, **MARKS}


def known(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The marks and explanations of a frame."""
    keys = ["layer", "feature"]
    return frame.select(*keys, *MARKS), frame.select(*keys, EXPLANATION)


def kept(frame: pl.DataFrame, where: str) -> set[int]:
    rows = filtered(all_rows(frame), where, TEXTS)
    return set(rows.taken()["layer"])


@given(frames(), CONDITIONS)
@settings(deadline=None)
def test_no_layer_with_a_row_that_passes_an_expression_is_left_out(frame, asked):
    assert kept(frame, asked.sql) <= set(layers_that_may_match(asked.sql, LAYERS, *known(frame)))


@given(frames(), TYPED)
@settings(deadline=None)
def test_no_layer_with_a_row_that_has_the_words_is_left_out(frame, typed):
    where = " ".join(place + word for place, word in typed)
    found = layers_that_may_match(where, LAYERS, *known(frame))
    assert kept(frame, where) <= set(found)
    if all(place.lower() in ("tag:", "note:", "label:", "explanation:") for place, _ in typed):
        assert kept(frame, where) == set(found)


@given(
    frames(),
    st.sampled_from(
        [
            "coalesce(density, 0) < 0.5",
            "not (density is null)",
            "case when density > 0 then star else true end",
            "density is not distinct from 0.5",
            "not (nullif(value_gain, 0.5) > 2)",
            "least(density, value_gain) > 0",
        ]
    ),
)
@settings(deadline=None)
def test_where_null_may_become_true_every_layer_may_match(frame, where):
    marks, _ = known(frame)
    try:
        rows = kept(frame, where)
    except UsageError:
        return
    assert rows <= set(layers_that_may_match(where, LAYERS, marks))


MARKED = pl.DataFrame(
    {
        "layer": [1, 2],
        "feature": [3, 4],
        "star": [True, False],
        "reject": [False, True],
        "label": ["", "body"],
        "tags": [["is null"], []],
        "note": ["", ""],
    },
    TYPES,
)


@pytest.mark.parametrize(
    ("where", "layers"),
    [
        ("layer = 1", (1,)),
        ("layer in (0, 2) and gain k > 0.2", (0, 2)),
        ("layer between 1 and 2 and not silent", (1, 2)),
        ("star and gain k > 0.2", (1,)),
        ("star or gain k > 0.2", (0, 1, 2)),
        ("marked", (1, 2)),
        ("not marked", (0, 1, 2)),
        ("tags like '%is null%'", (1,)),
        ("label:body war", (2,)),
        ("war", (0, 1, 2)),
        ("tag:nothing", ()),
        ("feature = 77", ()),
        ("1 = 2 and star", ()),
        ("layer = 1 and coalesce(density, 1) = 1", (0, 1, 2)),
        ("array_length(value_query_ids) = 0", (0, 1, 2)),
    ],
)
def test_the_layers_of_a_filter(where, layers):
    assert layers_that_may_match(where, LAYERS, MARKED) == layers


def test_every_list_column_leaves_all_layers():
    for name, dtype in KNOWN.items():
        if isinstance(dtype, pl.List) and name not in MARKS:
            where = f"array_length({name}) >= 0 and layer = 1"
            assert layers_that_may_match(where, LAYERS, MARKED) == (0, 1, 2)

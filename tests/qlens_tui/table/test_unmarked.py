"""Marked and unmarked features among the rows."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlens_tui.table import unmarked
from qlens_tui.table.rows import MARKS, all_rows, only_these, with_marks
from qlens_tui.table.unmarked import next_unmarked
from qlens_tui.triage.marks import Mark

EACH_MARK = (
    Mark(star=True), Mark(reject=True), Mark(label="a"), Mark(tags=("a",)), Mark(note="a"),
)  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(8, 9), st.integers(0, 30)), unique=True, min_size=1),
    st.sets(st.tuples(st.integers(8, 9), st.integers(0, 30))),
    st.integers(0),
    st.sampled_from([1, 3, 1 << 12]),
)
def test_the_next_unmarked_row_is_the_first_one_after_and_then_from_the_first(
    order: list[tuple[int, int]], marked: set[tuple[int, int]], seed: int, at_a_time: int
) -> None:
    rows = only_these(
        all_rows(pl.DataFrame(sorted(order), ["layer", "feature"], orient="row")), order
    )
    marks = {
        layer: {feature: EACH_MARK[0] for each, feature in marked if each == layer}
        for layer in (8, 9)
    }
    position = seed % len(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unmarked, "_AT_A_TIME", at_a_time)
        found = next_unmarked(rows, position, marks)

    others = [at % len(order) for at in range(position + 1, position + len(order))]
    assert found == next((at for at in others if order[at] not in marked), None)


def test_a_feature_is_marked_by_any_mark() -> None:
    rows = [
        (8, at, mark.star, mark.reject, mark.label, list(mark.tags), mark.note)
        for at, mark in enumerate(EACH_MARK)
    ]
    types = {"layer": pl.Int32, "feature": pl.Int32, **MARKS}
    marked = pl.DataFrame(rows, types, orient="row")
    frame = pl.DataFrame({"layer": [8] * 6, "feature": range(6)})

    assert with_marks(frame, marked)["marked"].to_list() == [True] * 5 + [False]

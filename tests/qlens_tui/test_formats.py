"""Numbers as both front ends write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qlens_tui.formats import (
    counted,
    density,
    duration,
    in_bytes,
    number,
    ranks_moved,
    score_change,
    share,
)


@given(st.floats(width=32))
@example(-10000.0)
@example(-9999.996)
@example(-99999.96)
def test_a_score_never_takes_more_than_eight_columns(value: float) -> None:
    assert len(number(value)) <= 8


@given(st.floats(1e-3, 1e5, exclude_max=True))
def test_a_score_is_written_to_three_digits_at_least(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, abs=5e-4 + value * 5e-4)


@given(st.floats(0, 1))
def test_a_density_never_takes_more_than_six_columns_and_is_never_zero_for_what_fires(
    value: float,
) -> None:
    text = density(value)
    assert len(text) <= 6
    assert (float(text.strip("<%")) == 0) == (value == 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_says_so(value: float) -> None:
    assert number(value) == share(value) == "n/a"


@pytest.mark.parametrize(("value", "text"), [(0.1234, "+12.3%"), (-1, "-100.0%"), (0, "+0.0%")])
def test_shares_have_a_sign(value: float, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(
    ("lost", "text"),
    [(0.382, "-38.2%"), (-0.05, "+5.0%"), (1.5, "-150.0%"), (None, "n/a"), (math.nan, "n/a")],
)
def test_a_lost_score_is_negative_and_a_gain_positive(lost: float | None, text: str) -> None:
    assert score_change(lost) == f"score {text}"


@pytest.mark.parametrize(("by", "text"), [(0, "0"), (4, "+4"), (-12, "-12")])
def test_ranks_moved_have_a_sign(by: int, text: str) -> None:
    assert ranks_moved(by) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (1048575, "1.0 MiB")],
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert in_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (125, "2:05 min"), (9000, "2 h 30 min")],
)
def test_times_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_agree_with_their_nouns() -> None:
    assert counted(1, "pass", "passes") == "1 pass"
    assert counted(2304, "unit") == "2,304 units"
    assert counted(0, "pass", "passes") == "0 passes"

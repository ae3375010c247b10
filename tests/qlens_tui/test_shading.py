"""Shades, digits, bars, and contexts in a given width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_core.evidence import Context
from qlens_tui.shading import Piece, bars, concordance, has_no_colour, pieces, shade_of
from qlens_tui.text import cells


@pytest.mark.parametrize(
    ("activation", "shade"),
    [(None, 0), (0.0, 0), (-1.0, 0), (0.001, 1), (2.0, 1), (2.1, 2), (6.0, 3), (6.1, 4), (8.0, 4)],
)
def test_a_shade_is_the_quarter_of_the_range(activation: float | None, shade: int) -> None:
    assert shade_of(activation, 8.0) == shade


def test_without_a_range_nothing_is_shaded() -> None:
    assert shade_of(1.0, 0.0) == 0


@pytest.mark.parametrize(("ascii_only", "third"), [(False, " war³"), (True, " war^3")])
def test_digits_follow_tokens_that_fire_and_brackets_are_round_the_token(
    ascii_only: bool, third: str
) -> None:
    shown = list(
        pieces(
            ("a", " war", " cry", "s"), (0.0, 3.0, 4.0, None), 4.0,
            ascii_only=ascii_only, digits=True, peak=2,
        )
    )  # fmt: skip
    space = "_" if ascii_only else "␣"
    assert [piece.text for piece in shown] == ["a", third, f"[{space}cry]", "s"]
    assert [piece.shade for piece in shown] == [0, 3, 4, 0]
    assert [piece.is_peak for piece in shown] == [False, False, True, False]


def test_tokens_that_share_a_character_are_one_piece_with_the_strongest_shade() -> None:
    tokens = ("x", "\\xe6", "\\x88", "\\x98", "y")
    shown = list(pieces(tokens, (0, 1, 4, 2, 0), 4.0, ascii_only=False, digits=False, peak=3))
    assert shown == [
        Piece("x", 0, tokens=range(1)),
        Piece("[战]", 4, is_peak=True, tokens=range(1, 4)),
        Piece("y", 0, tokens=range(4, 5)),
    ]


def test_before_activations_are_there_nothing_is_shaded() -> None:
    shown = pieces(("a", "b"), (), 4.0, ascii_only=False, digits=True, peak=1)
    assert [(piece.text, piece.shade) for piece in shown] == [("a", 0), ("[b]", 0)]


WORDS = st.lists(st.text(st.characters(exclude_categories=[]), max_size=9), max_size=6)


@given(WORDS, st.text(max_size=9), WORDS, st.integers(0, 90), st.integers(0, 60), st.booleans())
def test_a_context_takes_exactly_its_width_and_its_token_stands_in_one_place(
    before: list[str], token: str, after: list[str], left: int, right: int, ascii_only: bool
) -> None:
    count = len(before) + 1 + len(after)
    around = tuple(float(at % 5) for at in range(count))
    context = Context(0, 0, 4.0, 0, tuple(before), token, tuple(after), around)
    line = concordance(
        context, 4.0, left, right, ascii_only=ascii_only, digits=True, ellipsis="..."
    )
    text = "".join(piece.text for piece in line)

    assert cells(text) == left + max(right, 2)
    start = "".join(piece.text for piece in line[: [p.is_peak for p in line].index(True)])
    assert cells(start) == left
    assert text.isascii() or not ascii_only


@pytest.mark.parametrize(
    ("counts", "shown", "in_ascii"),
    [((), "", ""), ((0, 0), "··", "  "), ((1,), "█", "@"), ((1000, 0, 30, 1), "█·▄▁", "@ =.")],
)
def test_bars_are_as_high_as_the_logarithm_of_their_counts(
    counts: tuple[int, ...], shown: str, in_ascii: str
) -> None:
    assert bars(counts, ascii_only=False) == shown
    assert bars(counts, ascii_only=True) == in_ascii


@pytest.mark.parametrize(("value", "plain"), [(None, False), ("", False), ("1", True)])
def test_no_color_counts_if_it_is_not_empty(value: str | None, plain: bool) -> None:
    assert has_no_colour({} if value is None else {"NO_COLOR": value}) == plain

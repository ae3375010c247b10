"""Untrusted text: nothing reaches the terminal raw, and different texts look different."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lens_core.faces import escape_bytes
from qlens_tui.text import (
    as_typed,
    cells,
    context_label,
    fit,
    has_shape,
    neutralise_formula,
    read_back,
    token_label,
    visible,
    wrapped,
)

# Every code point, lone surrogates included, with the dangerous ones made likely.
ANYTHING = st.text(
    st.characters(exclude_categories=[])
    | st.sampled_from(" \\_xunrte8\udce6\udc88æ\t\n\r\x00\x1b\x7f\x9b\u202e")
    | st.sampled_from("\u2066\u200d\ufe0f\u0301␣⏎⇥◌日")
)
UNIT = re.compile(r"\\x..|\\u.{4}|\\U.{8}|\\[\\ntr_]|.")


def _read_back(shown: str, *, ascii_only: bool) -> str:
    """The original text, by the documented notation."""
    if shown == r"\empty":
        return ""
    marker = "_" if ascii_only else "␣"
    units = UNIT.findall(shown)
    first = next((i for i, unit in enumerate(units) if unit != marker), len(units))
    last = next((i for i, unit in enumerate(units[::-1]) if unit != marker), len(units))
    body = units[first : len(units) - last]
    return " " * first + "".join(map(_meaning, body)) + (" " * last if body else "")


def _meaning(unit: str) -> str:
    if re.match(r"\\[xuU]", unit):
        code = int(unit[2:], 16)
        return chr(0xDC00 + code if unit[1] == "x" and code >= 0x80 else code)
    names = {r"\\": "\\", r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\_": "_"}
    return {"⏎": "\n", "⇥": "\t", "◌": "", **names}.get(unit, unit)


@given(ANYTHING)
def test_whatever_the_text_a_terminal_can_only_print_it(text: str) -> None:
    shown = visible(text)

    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}
    assert all(byte >= 0x20 and byte != 0x7F for byte in shown.encode("utf-8"))
    assert not any(0xFE00 <= ord(c) <= 0xFE0F or 0xE0000 <= ord(c) <= 0xE0FFF for c in shown)
    assert not shown.startswith(" ")
    assert not shown.endswith(" ")
    assert unicodedata.category(shown[:1] or "x")[0] != "M"


@given(ANYTHING)
def test_in_ascii_every_character_is_printable_ascii(text: str) -> None:
    shown = visible(text, ascii_only=True)

    assert re.fullmatch(r"[ -~]*", shown)
    assert shown == shown.strip(" ")


@given(ANYTHING, st.booleans())
@example("\\_ ", True)
@example("\\ ", True)
@example("_", True)
@example("__init__", True)
@example("\\\\x41\\", False)
@example("\\\x1b", False)
@example("\\empty", False)
@example("", False)
@example("◌\u0301 \u0301", False)
@example("\udce6\\xe6æ", True)
@example("\\\udce6", False)
def test_the_text_can_be_read_back_so_no_two_texts_look_alike(text: str, ascii_only: bool) -> None:
    face = escape_bytes(text)
    shown = token_label(face, ascii_only=ascii_only)

    assert shown == (visible(text, ascii_only=ascii_only) or r"\empty")
    assert _read_back(shown, ascii_only=ascii_only) == text
    assert read_back(shown, ascii_only=ascii_only) == face


@given(ANYTHING, st.booleans())
def test_in_the_middle_of_a_line_a_text_only_lacks_the_marks_of_its_outer_spaces(
    text: str, ascii_only: bool
) -> None:
    between = context_label(escape_bytes(f"x{text}x"), ascii_only=ascii_only)

    assert between == visible(f"x{text}x", ascii_only=ascii_only)
    assert context_label(" dry ", ascii_only=ascii_only) == " dry "


@given(ANYTHING, st.booleans())
@example("\\U00110000", False)
@example("\\x4", False)
@example("\\", True)
@example("a␣b", True)
def test_whatever_is_typed_can_be_read_back(typed: str, ascii_only: bool) -> None:
    read = read_back(typed, ascii_only=ascii_only)

    assert read_back(token_label(read, ascii_only=ascii_only), ascii_only=ascii_only) == read


@pytest.mark.parametrize(
    ("typed", "in_unicode", "in_ascii"),
    [
        ("war", "war", "war"),
        ("␣war", " war", " war"),
        ("_war", "_war", " war"),
        ("a⏎⇥", "a\n\t", "a\n\t"),
        (r"\n\x1b", "\n\x1b", "\n\x1b"),
        (r"\U00110000 \q", r"\U00110000 \q", r"\U00110000 \q"),
    ],
)
def test_marks_are_read_as_what_they_mark_and_the_rest_as_it_stands(
    typed: str, in_unicode: str, in_ascii: str
) -> None:
    assert read_back(typed) == in_unicode
    assert read_back(typed, ascii_only=True) == in_ascii


@pytest.mark.parametrize(
    ("text", "in_unicode", "in_ascii"),
    [
        ("dry", "dry", "dry"),
        (" dry", "␣dry", "_dry"),
        ("a b ", "a b␣", "a b_"),
        ("  ", "␣␣", "__"),
        ("\n\t\r", r"⏎⇥\r", r"\n\t\r"),
        ("\x00\x1b[31m\x7f\x9b", r"\x00\x1b[31m\x7f\u009b", r"\x00\x1b[31m\x7f\u009b"),
        ("abc\u202etxt.exe", r"abc\u202etxt.exe", r"abc\u202etxt.exe"),
        ("\u2066\u200e\u061c", r"\u2066\u200e\u061c", r"\u2066\u200e\u061c"),
        ("a\u200bb\ufeff\u2060", r"a\u200bb\ufeff\u2060", r"a\u200bb\ufeff\u2060"),
        ("❤\ufe0f", r"❤\ufe0f", r"\u2764\ufe0f"),
        ("co\u00adop", r"co\u00adop", r"co\u00adop"),
        ("\U000e0041", r"\U000e0041", r"\U000e0041"),
        ("\u2028\u2029", r"\u2028\u2029", r"\u2028\u2029"),
        ("\ue000\uffff\U0010ffff", r"\ue000\uffff\U0010ffff", r"\ue000\uffff\U0010ffff"),
        ("\ud800", r"\ud800", r"\ud800"),
        ("a\udce6\udc88", r"a\xe6\x88", r"a\xe6\x88"),
        ("\u00a0x\u3000", r"\u00a0x\u3000", r"\u00a0x\u3000"),
        ("\u0301a\u0301", "◌\u0301a\u0301", r"\u0301a\u0301"),
        ("a \u0301", "a ◌\u0301", r"a \u0301"),
        ("\x1b\u0301", "\\x1b◌\u0301", r"\x1b\u0301"),
        ("日本é", "日本é", r"\u65e5\u672c\u00e9"),
        ("␣", r"\u2423", r"\u2423"),
        ("_x_y_", "_x_y_", r"\_x_y\_"),
        ("C:\\dir", "C:\\dir", "C:\\dir"),
        (r"\text \n \x1b", r"\\text \\n \\x1b", r"\\text \\n \\x1b"),
        ("[red]x[/red]", "[red]x[/red]", "[red]x[/red]"),
    ],
)
def test_each_kind_of_character_has_its_documented_shape(
    text: str, in_unicode: str, in_ascii: str
) -> None:
    assert visible(text) == in_unicode
    assert visible(text, ascii_only=True) == in_ascii


def test_a_token_without_characters_is_named() -> None:
    assert token_label("") == r"\empty"
    assert token_label(r"\empty") == r"\\empty"
    assert token_label(" dry") == "␣dry"


@given(ANYTHING, st.integers(0, 30), st.sampled_from(["…", "...", "~"]))
@example("日本語", 4, "…")
@example("a\u200d", 5, "…")
@example("❤\ufe0f❤\ufe0f", 3, "…")
@example("\x00\x01", 3, "…")
def test_a_fitted_text_takes_exactly_its_width(text: str, width: int, ellipsis: str) -> None:
    assert cells(fit(text, width, ellipsis=ellipsis)) == width
    assert cells(fit(visible(text), width, ellipsis=ellipsis)) == width


@pytest.mark.parametrize(
    ("text", "width", "fitted"),
    [
        ("word", 6, "word  "),
        ("word", 4, "word"),
        ("words", 4, "wor…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日… "),
        ("日本語", 1, "…"),
        ("日本語", 0, ""),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
    ],
)
def test_fitting_never_cuts_a_wide_character_or_an_accent_in_half(
    text: str, width: int, fitted: str
) -> None:
    assert fit(text, width) == fitted


def test_an_ellipsis_wider_than_the_room_is_left_out() -> None:
    assert fit("words", 2, ellipsis="...") == "wo"


@given(ANYTHING, st.integers(2, 30))
def test_wrapping_leaves_nothing_out_and_no_line_is_too_wide(text: str, width: int) -> None:
    shown = visible(text)
    lines = wrapped(shown, width)
    assert all(cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == shown.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("one two", 7, ["one two"]),
        ("one two", 6, ["one", "two"]),
        ("a longword b", 4, ["a", "long", "word", "b"]),
        ("日本語", 5, ["日本", "語"]),
    ],
)
def test_lines_are_broken_at_spaces_and_words_only_where_they_are_longer(
    text: str, width: int, lines: list[str]
) -> None:
    assert wrapped(text, width) == lines


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "-"]
)
def test_a_cell_that_a_spreadsheet_would_run_starts_with_an_apostrophe(text: str) -> None:
    assert neutralise_formula(text) == "'" + text


@pytest.mark.parametrize("text", ["", "a=1", " word", "1", "'", "_=1", "é"])
def test_other_cells_are_left_alone(text: str) -> None:
    assert neutralise_formula(text) == text


@given(ANYTHING, st.booleans())
def test_what_was_typed_in_the_notation_stays_as_it_is_and_everything_is_printable(
    text: str, ascii_only: bool
) -> None:
    shown = visible(text, ascii_only=ascii_only)
    assert as_typed(shown, ascii_only=ascii_only) == shown
    typed = as_typed(text, ascii_only=ascii_only)
    assert all(character == " " or has_shape(character) for character in typed)
    assert typed.isascii() or not ascii_only


def test_a_filter_of_an_app_in_unicode_means_the_same_in_ascii() -> None:
    assert as_typed("␣war a⏎b ⇥", ascii_only=True) == r"_war a\nb \t"
    assert read_back("␣war", ascii_only=True) == read_back("_war", ascii_only=True) == " war"

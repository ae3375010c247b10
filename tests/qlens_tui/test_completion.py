"""Which tokens a typed text is completed to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlens_tui.completion import Completion

TEXTS = ["trade", " trade", " Trade", " trader", "TRADE", " the", "ade", " betrayed", "\udcff", ""]


def found(typed, n=50):
    return [TEXTS[token] for token in Completion(TEXTS).ids(typed, n)]


def test_what_was_typed_comes_first_and_then_the_word_with_a_space():
    assert found("trade") == ["trade", " trade", "TRADE", " Trade", " trader"]
    assert found("Trade") == [" Trade", "trade", "TRADE", " trade", " trader"]


def test_a_typed_space_is_meant():
    assert found(" trade") == [" trade", " Trade", " trader"]


def test_beginnings_come_before_what_merely_holds_the_letters():
    assert found("ade") == ["ade", " trade", " Trade", "trade", "TRADE", " trader"]
    assert found("tra")[-1] == " betrayed"


def test_nothing_typed_finds_nothing_and_odd_tokens_can_be_found():
    assert found("") == []
    assert found("\udcff") == ["\udcff"]
    assert found("trade", 2) == ["trade", " trade"]


@given(st.text(max_size=4), st.lists(st.text(max_size=6)))
def test_every_token_that_holds_what_was_typed_is_found_once(typed, texts):
    ids = Completion(texts).ids(typed, len(texts))
    assert len(set(ids)) == len(ids)
    expected = {at for at, text in enumerate(texts) if typed.casefold() in text.casefold()}
    assert set(ids) == (expected if typed else set())


@pytest.mark.parametrize(
    ("typed", "ascii_only", "first"),
    [
        ("␣tra", False, [1, 3]),
        ("_tra", True, [1, 5, 3]),
        ("_tra", False, [5]),
        ("⏎", False, [4]),
        (r"\n", False, [4, 6]),
        ("#3", False, [3, 7]),
        ("#9", False, []),
        ("#", False, [7]),
        (r"\empty", False, []),
        ("tra", False, [2, 1, 3]),
    ],
)
def test_marks_escapes_and_ids_are_understood_as_lists_write_them(typed, ascii_only, first):
    texts = ["", " tra", "tra", " trade", "\n", "_tra", r"\n", "x#3"]

    assert Completion(texts).offered(typed, 50, ascii_only=ascii_only)[: len(first)] == first
    assert bool(first) == bool(Completion(texts).offered(typed, 50, ascii_only=ascii_only))


@given(st.text(max_size=4), st.lists(st.text(max_size=6)), st.integers(0, 4))
def test_what_a_plain_text_finds_is_found_in_its_order(typed, texts, n):
    found = Completion(texts).offered(typed, n)

    assert len(set(found)) == len(found) <= n
    if typed.isalpha():
        assert found == Completion(texts).ids(typed, n)

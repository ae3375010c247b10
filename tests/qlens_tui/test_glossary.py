"""Every word on the screen is explained once."""

from __future__ import annotations

from typing import get_args

import pytest

from lens_core.direct import Transition
from lens_core.paths import Split
from qlens_tui.app.widgets.table_columns import COLUMNS
from qlens_tui.glossary import GLOSSARY

WORDS = [word for _, words in GLOSSARY for word in words]
TERMS = [term for word in WORDS for term in word.term.split(", ")]


@pytest.mark.parametrize("title", [column.title for column in COLUMNS])
def test_every_column_of_the_table_is_explained(title):
    assert title in TERMS


@pytest.mark.parametrize(
    "word",
    [
        *("Logit Lens", "Query Lens", "score", "unit", "cosine", "moved", "vs on", "=", "+"),
        *("length", "carried", "stability", "relative variance", "operators", "direct method"),
        *("silent", "share", "direct", "bias", "grey"),
        "kept from before",
        "compare",
        *(f"{split} split" for split in get_args(Split)),
        *(transition.replace("-", " ") for transition in get_args(Transition)),
    ],
)
def test_the_words_in_the_heads_of_the_panes_are_explained(word):
    assert word in TERMS


def test_no_term_is_explained_twice():
    assert len(TERMS) == len(set(TERMS))


def test_an_explanation_is_ascii_and_so_is_its_term_where_only_ascii_is_written():
    for word in WORDS:
        assert word.meaning.isascii()
        assert word.shown(ascii_only=True).isascii()
        assert word.shown(ascii_only=False) == word.term

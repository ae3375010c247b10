"""Which rows have the words of a filter, and what of them matches.

A word is in a list if it is in the text of one of the list's tokens, ignoring case; `#24211` is
also the token with that id. Tags, labels, notes and explanations are texts.

Cost at a million rows: see benchmarks/table.py. The texts of the vocabulary are read once per
word, the lists' ids once per word and list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from lens_core.errors import UsageError
from lens_core.faces import id_named, outside
from qlens_tui.table.column_names import EXPLANATION, MARKED
from qlens_tui.table.explanations import NO_EXPLANATIONS
from qlens_tui.table.filter_words import Word, Words
from qlens_tui.table.matches import Matches

_Kept = np.ndarray[Any, np.dtype[np.bool_]]
_TEXTS = ("tags", "label", "note", EXPLANATION)


def having(frame: pl.DataFrame, asked: Words, texts: Sequence[str] | None) -> tuple[_Kept, Matches]:
    """Whether each row has all words, and what matches; columns of marks may be missing.

    Raises:
        UsageError: the lists, explanations, or `texts`, the faces of all token ids, are needed and
            not there, or a word is an id outside of the vocabulary.
    """
    kept = np.ones(frame.height, dtype=bool)
    tokens: dict[str, tuple[frozenset[int], ...]] = {}
    words: dict[str, tuple[str, ...]] = {}
    if EXPLANATION in asked.columns and EXPLANATION not in frame.columns:
        raise UsageError(NO_EXPLANATIONS)
    for word in asked.words:
        if word.is_state:
            kept &= _is_so(frame, word)
            continue
        folded = word.text.casefold()
        found = np.zeros(frame.height, dtype=bool)
        lists = [name for name in word.columns if name not in _TEXTS and name in frame.columns]
        ids = _ids(folded, texts) if lists else []
        for name in lists:
            tokens[name] = (*tokens.get(name, ()), frozenset(ids))
            found |= _in_list(frame[name], ids)
        for name in _TEXTS:
            if name in word.columns:
                words[name] = (*words.get(name, ()), folded)
                found |= _in_text(frame, name, folded)
        if not lists and not set(word.columns) <= set(_TEXTS):
            raise UsageError("words are searched in the atlas, which is not built yet")
        if lists and not found.any():
            _check_id(word, texts)
        kept &= found
    return kept, Matches(asked.columns, tokens, words)


def _is_so(frame: pl.DataFrame, word: Word) -> _Kept:
    """Whether each feature's marks are so; without marks, all are unmarked."""
    (name,) = word.columns
    if name not in frame.columns:
        return np.full(frame.height, name == MARKED)
    column = frame[name]
    if name == "tags":
        column = column.list.len() > 0
    so = column.fill_null(value=False).to_numpy()
    return ~so if name == MARKED else so


def _ids(word: str, texts: Sequence[str] | None) -> list[int]:
    if texts is None:
        raise UsageError("the vocabulary is still loading: filter by words in a moment")
    named = id_named(word)
    return [at for at, text in enumerate(texts) if at == named or word in text.casefold()]


def _check_id(word: Word, texts: Sequence[str] | None) -> None:
    named = id_named(word.text)
    if texts is not None and named is not None and named >= len(texts):
        raise UsageError(outside(f"'{word.text}'", len(texts)))


def _in_list(lists: pl.Series, ids: Sequence[int]) -> _Kept:
    found = np.zeros(len(lists), dtype=bool)
    if ids:
        flat = lists.explode(empty_as_null=False, keep_nulls=False)
        ends = lists.list.len().fill_null(0).cast(pl.Int64).cum_sum()
        hits = flat.is_in(pl.Series([ids], dtype=pl.List(pl.Int32))).arg_true()
        found[ends.search_sorted(hits, side="right").to_numpy()] = True
    return found


def _in_text(frame: pl.DataFrame, name: str, word: str) -> _Kept:
    found = np.zeros(frame.height, dtype=bool)
    if name not in frame.columns or (name == "tags" and "\n" in word):
        return found  # the separator of tags, which no tag contains
    texts = frame[name].list.join("\n") if name == "tags" else frame[name]
    texts = texts.fill_null("")
    found |= texts.str.contains_any([word], ascii_case_insensitive=True).to_numpy()
    # Python folds the case of all letters, but is slow.
    there = (texts.str.len_bytes() > texts.str.len_chars()).arg_true()
    rows = [row for row, text in zip(there, texts[there], strict=True) if word in text.casefold()]
    found[rows] = True
    return found

"""Completes typed text to tokens of the vocabulary, the likeliest first.

Most words begin with a space, which people do not type: without a leading space both forms
match, with one only that form. The order: the token exactly as typed (as the command line takes
it), the same word with a space, both in another case; then tokens that begin with what was
typed, shorter ones and those with a space first; finally tokens that contain it.

A token can also be typed as lists show it, with marks and escapes, or as `#` and its id.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import chain, zip_longest

from lens_core.faces import id_named
from qlens_tui.text import read_back

_EXACT, _EXACT_BUT_CASE, _BEGINS, _BEGINS_BUT_CASE, _HOLDS = range(5)


class Completion:
    """The faces of a vocabulary's tokens, ready for searching; each search is one pass."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._folded = [text.casefold() for text in texts]

    def ids(self, typed: str, n: int) -> list[int]:
        """The ids of the `n` likeliest tokens; empty if nothing was typed."""
        if not typed:
            return []
        folded = typed.casefold()
        beginnings = folded if typed.startswith(" ") else (folded, f" {folded}")
        hits = [at for at, text in enumerate(self._folded) if text.startswith(beginnings)]
        if len(hits) < n:  # these come last, and one letter has many
            hits = [at for at, text in enumerate(self._folded) if folded in text]
        return heapq.nsmallest(n, hits, key=lambda at: (*self._rank(at, typed, folded), at))

    def offered(self, typed: str, n: int, *, ascii_only: bool = False) -> list[int]:
        r"""The ids of the `n` likeliest tokens for text, a list's notation or an id.

        A text that is also a notation (`\n`) is read both ways; the results alternate.
        """
        readings = dict.fromkeys((read_back(typed, ascii_only=ascii_only), typed))
        turns = zip_longest(*(self.ids(reading, n) for reading in readings))
        found = (token for turn in turns for token in turn if token is not None)
        named = id_named(typed)
        first = [] if named is None or named >= len(self._texts) else [named]
        return list(dict.fromkeys(chain(first, found)))[:n]

    def _rank(self, at: int, typed: str, folded: str) -> tuple[int, int, bool]:
        text, small = self._texts[at], self._folded[at]
        spaced = not typed.startswith(" ") and text.startswith(" ")
        if spaced:
            text, small = text[1:], small[1:]
        if small == folded:
            return _EXACT if text == typed else _EXACT_BUT_CASE, len(text), spaced
        if small.startswith(folded):
            tier = _BEGINS if text.startswith(typed) else _BEGINS_BUT_CASE
        else:
            tier = _HOLDS
        return tier, len(text), not spaced

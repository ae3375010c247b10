"""Reads the tokens of a search as they are typed: `war`, `war, battle`, `war -star`.

    typed    token, or  item {"," item | " " "-" item}
    item     ["-"] token                        with "-": not wanted
    token    text, the notation of lists, #24211, or any of these in double quotes

What is one token as a whole is that token, whatever it contains. Otherwise commas, and a minus
after a space, separate items; spaces around them do not count. In double quotes, every character
counts. So a token with a comma, with outer spaces or with a minus in front can be typed in double
quotes, and in the notation of lists (`␣war`) or as `#` and its id without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from lens_core.errors import UsageError
from lens_core.token_query import TokenQuery

_MINUS = re.compile(r"\s*-\s*")
_QUOTED = re.compile(r'\s*"([^"]*)(")?')
_PLAIN = re.compile(r"[^,]*?(?=\s*,|\s+-|\s*\Z)", re.DOTALL)
_NEXT = re.compile(r"\s*(,)|\s+(?=-)|\s*\Z")


@dataclass(frozen=True)
class Word:
    """One item: `start` is where its token begins in the typed text, with the quote."""

    text: str
    start: int
    is_unwanted: bool = False
    is_quoted: bool = False


def words_of(typed: str) -> list[Word]:
    """The items of a typed list; one that is not typed yet is empty.

    Raises:
        UsageError: a double quote is not closed, or is closed in the middle of an item.
    """
    words: list[Word] = []
    at, more = 0, True
    while more:
        minus = _MINUS.match(typed, at)
        at = minus.end() if minus else at
        if quoted := _QUOTED.match(typed, at):
            if not quoted[2]:
                raise UsageError(f"a double quote in '{typed}' is not closed: close it")
            words.append(Word(quoted[1], at, minus is not None, is_quoted=True))
            at = quoted.end()
        else:
            if words:  # the space at the beginning of all counts, as in a single token
                at += len(typed[at:]) - len(typed[at:].lstrip())
            plain = _PLAIN.match(typed, at)
            assert plain is not None  # it can be empty
            words.append(Word(plain[0], at, minus is not None))
            at = plain.end()
        separator = _NEXT.match(typed, at)
        if separator is None:
            raise UsageError(f"put a comma between the tokens in '{typed}'")
        more, at = bool(separator[1]) or separator.end() < len(typed), separator.end()
    return words


def query_of(typed: str, find: Callable[[str], int]) -> TokenQuery:
    """The tokens of a typed text; `find` gives the id of one token, or raises `UsageError`.

    Raises:
        UsageError: an item is not a token or is missing, or the query cannot be answered.
    """
    try:
        return TokenQuery((find(typed),))
    except UsageError:
        words = words_of(typed)
        if words == [Word(words[0].text, 0)]:  # a single item, in the plain form
            raise
    ids: tuple[list[int], list[int]] = [], []
    for word in words:
        if not word.text:
            raise UsageError(
                f"a token is missing in '{typed}': write a, b or a -b, and a comma or a minus "
                "that is a token in double quotes"
            )
        token = find(word.text)
        if token in (*ids[0], *ids[1]):
            raise UsageError(f"'{word.text}' is in '{typed}' twice: name each token once")
        ids[word.is_unwanted].append(token)
    if not ids[0]:
        raise UsageError(f"'{typed}' names no token to look for: begin with one, as in a -b")
    query = TokenQuery(tuple(ids[0]), tuple(ids[1]))
    query.check()
    return query

"""Parses a typed filter: words to search for, or one SQL expression over the columns.

A filter is SQL if it starts with the name of a column, `not` or `(`, or contains `<`, `>` or `=`;
everything else is words, and text in double quotes is always words. So `dry` and `"layer"`
search for a word, and `silent`, `density > 0.01` and `note like '%kiln%'` are SQL.

polars parses the SQL, and in a subquery its parser can read files (`read_csv`, in `SELECT`) even
if only an expression is expected. So only known pieces are passed on: the text is split into the
few kinds of pieces below, every name must be a column, or a keyword or function listed here, and
polars gets the pieces joined again, with columns quoted. `SELECT` is not listed; neither are
comments, backslashes and prefixed strings, for which two parsers could disagree on where a string
ends. Long expressions are refused, because their cost in polars' parser grows faster than their
length.

This module does not use polars; `qlens_tui.table.filter_sql` evaluates the result. Words use the
notation of lists: `␣war` (in ASCII `_war`) is " war" (see `qlens_tui.text`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import SequenceMatcher

from lens_core.errors import UsageError
from qlens_tui.text import read_back

RULE = (
    'each word, as lists show it or in "quotes", must be in a token of LL or QL (value, key), '
    "a tag or the note; a column name first, or < > =, makes it SQL"
)
KEYWORDS = frozenset(
    (
        "and", "between", "case", "distinct", "else", "end", "false", "from", "ilike", "in",
        "is", "like", "not", "null", "or", "then", "true", "when",
    )
)  # fmt: skip
FUNCTIONS = frozenset(
    (
        "abs", "array_contains", "array_length", "avg", "ceil", "coalesce", "concat",
        "count", "ends_with", "exp", "floor", "greatest", "least", "left", "length", "ln",
        "log10", "log2", "lower", "max", "median", "min", "mod", "nullif", "pow", "right",
        "round", "sign", "sqrt", "starts_with", "stddev", "strpos", "substr", "sum", "trim",
        "upper",
    )
)  # fmt: skip
_MOST_PIECES = 200
_PIECE = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<string>'(?:[^'\\]|'')*')
      | (?P<name>[A-Za-z_]\w*+|"[A-Za-z_]\w*")(?!')
      | (?P<sign><>|<=|>=|!=|==|[<>=+*/%(),]|-(?!-))
    )\s*""",
    re.VERBOSE | re.ASCII,
)
_WORD = re.compile(r'"([^"]*)"|(\S+)')


@dataclass(frozen=True)
class Words:
    """Words that a row must all contain, with their spaces; none match every row."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Expression:
    """SQL that is safe to give to polars, and the columns it uses."""

    sql: str
    columns: frozenset[str]


def parse_filter(
    text: str, columns: Collection[str], *, ascii_only: bool = False
) -> Words | Expression:
    """Parse a typed filter; `columns` are the existing ones.

    Raises:
        UsageError: it is SQL with unknown names, or with SQL that is not allowed.
    """
    if not _is_sql(text, columns):
        typed = (quoted or word for quoted, word in _WORD.findall(text))
        found = (read_back(word, ascii_only=ascii_only) for word in typed)
        return Words(tuple(word for word in found if word))
    return _expression(text, columns)


def _expression(text: str, columns: Collection[str]) -> Expression:
    pieces: list[str] = []
    used: set[str] = set()
    end = 0
    names = {name.lower(): name for name in columns}
    while end < len(text):
        piece = _PIECE.match(text, end)
        if piece is None:
            raise UsageError(
                f"cannot read the filter from {text[end:].strip()[:20]!a} on; "
                "to look for words, put them in double quotes"
            )
        shown = piece[piece.lastgroup or 0]
        if shown == ")" and pieces[-1:] == ["("] and pieces[-2:][0].lower() in FUNCTIONS:
            # polars would panic, not refuse.
            raise UsageError(f"{pieces[-2]}() needs a column, as in abs(value_gain)")
        if piece.lastgroup == "name":
            word = shown.strip('"').lower()
            is_call = text[piece.end() : piece.end() + 1] == "("
            if word in names and not is_call:
                used.add(names[word])
                shown = f'"{names[word]}"'
            elif shown.startswith('"') or word not in (
                KEYWORDS | FUNCTIONS if is_call else KEYWORDS
            ):
                raise UsageError(_unknown(shown.strip('"'), is_call, columns))
        pieces.append("=" if shown == "==" else shown)
        end = piece.end()
        if len(pieces) > _MOST_PIECES:
            raise UsageError("the filter is too long: filter in two steps, or mark and filter")
    return Expression(" ".join(pieces), frozenset(used))


def nearest(name: str, names: Collection[str]) -> str:
    """The most similar name."""

    def likeness(candidate: str) -> tuple[float, bool]:
        return SequenceMatcher(None, name.lower(), candidate).ratio(), name.lower() in candidate

    return max(sorted(names), key=likeness)


def _is_sql(text: str, columns: Collection[str]) -> bool:
    bare = re.sub(r'"[^"]*"', " ", text)
    first = re.match(r"\s*([A-Za-z_]\w*|\()", bare)
    opens = first is not None and first[1].lower() in {"(", "not", *map(str.lower, columns)}
    return opens or any(sign in bare for sign in "<>=")


def _unknown(name: str, is_call: bool, columns: Collection[str]) -> str:
    if is_call:
        return f"no function {name} in a filter: the nearest is {nearest(name, FUNCTIONS)}"
    return (
        f"no column {name}: the nearest is {nearest(name, columns)}; "
        "to look for words, put them in double quotes"
    )

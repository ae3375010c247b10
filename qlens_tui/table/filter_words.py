"""Parses a typed filter: words to search for, or one SQL expression over the columns.

A filter is SQL if it starts with the name of a column, `not` or `(`, or contains `<`, `>` or `=`;
everything else is words, and text in double quotes is always words. So `dry` and `"layer"`
search for a word, and `silent`, `gain k > 0.3` and `note like '%kiln%'` are SQL. Columns have the
names of the table's head, with spaces or underscores, and those of files
(`qlens_tui.table.column_names`).

A word is searched in Query Lens's two lists. `ll:` before it means Logit Lens's, `key:` or
`value:` one side (`ll:key:war`), `tag:` the tags, `label:` the label, `note:` the note and
`explanation:` what others say (`qlens_tui.table.explanations`). `is:starred`, `is:rejected`,
`is:tagged` and `is:unmarked` are about a feature's marks.

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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches

from lens_core.errors import UsageError
from lens_core.lenses import LOGIT, QUERY, Lens
from lens_core.terms import SIDES
from qlens_tui.table.column_names import header, names_of
from qlens_tui.text import read_back

RULE = (
    "each word must be in a token of QL's lists (ll: of LL's; key: or value: of one side), or "
    "after tag:, label:, note: or explanation: there; is:starred, is:tagged, is:unmarked; "
    '"quotes" keep spaces (" war"); a column '
    "first, or < > =, is SQL: gain k > 0.3"
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
      | (?P<name>[A-Za-z_]\w*+|"[A-Za-z_][\w ]*")(?!')
      | (?P<sign><>|<=|>=|!=|==|[<>=+*/%(),]|-(?!-))
    )\s*""",
    re.VERBOSE | re.ASCII,
)
_LENSES = {"ql": QUERY, "ll": LOGIT}
_TEXTS = {"tag": "tags", "label": "label", "note": "note", "explanation": "explanation"}
_IS = "is"
_PREFIXES = (*_LENSES, *SIDES, *_TEXTS, _IS)
STATES = {"starred": "star", "rejected": "reject", "tagged": "tags", "unmarked": "marked"}
"""What `is:` can ask of a feature's marks, and the column that says so."""
_STATES_IN_SQL = {"star": "star", "reject": "reject", "tags": "tags <> ''", "marked": "not marked"}
_WORD = re.compile(rf'((?:(?:{"|".join(_PREFIXES)}):)*)(?:"([^"]*)"|(\S*))', re.IGNORECASE)
_PREFIXED = re.compile(r"([a-z]+):.", re.IGNORECASE)
_SPACED = re.compile(r"\s*((?:ll|ql)\s+(?:value|key)|(?:gain|stab)\s+[vk])(?![\w(])", re.IGNORECASE)
"""The head's names of two words."""


@dataclass(frozen=True)
class Word:
    """A word with its spaces, and the columns of which one must have it.

    `is_state`: one of `STATES`, of which the column must say that it is so.
    """

    text: str
    columns: tuple[str, ...]
    is_state: bool = False


@dataclass(frozen=True)
class Words:
    """Words that a row must all have; none match every row."""

    words: tuple[Word, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in which words are searched, in the order of the words."""
        return tuple(dict.fromkeys(column for word in self.words for column in word.columns))


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
    if _is_sql(text, columns):
        return _expression(text, columns)
    words = (_word(*parts, ascii_only=ascii_only) for parts in _WORD.findall(text) if any(parts))
    return Words(tuple(word for word in words if word.text))


def _word(prefixes: str, quoted: str, bare: str, *, ascii_only: bool) -> Word:
    """A word and its prefixes (`ll:key:`), each kind once; others are the beginning of the text."""
    if prefixes and not (quoted or bare):
        raise UsageError(f"no word after {prefixes} such as {prefixes}war")
    _check_prefix(prefixes, bare)
    lens: Lens | None = None
    sides: tuple[str, ...] = ()
    rest = prefixes
    while rest:
        prefix, _, after = rest.partition(":")
        name = prefix.lower()
        if name == _IS and rest == prefixes:
            return _state(after + (quoted or bare))
        if name in _TEXTS and rest == prefixes:
            return Word(read_back(after + (quoted or bare), ascii_only=ascii_only), (_TEXTS[name],))
        if name in _LENSES and lens is None:
            lens = _LENSES[name]
        elif name in SIDES and not sides:
            sides = (name,)
        else:
            break
        rest = after
    lists = tuple(f"{side}_{(lens or QUERY).column}_ids" for side in sides or SIDES)
    return Word(read_back(rest + (quoted or bare), ascii_only=ascii_only), lists)


def _state(name: str) -> Word:
    column = STATES.get(name.lower())
    if column is None:
        raise UsageError(f"is:{name}: write is:{', is:'.join(STATES)}")
    return Word(name.lower(), (column,), is_state=True)


def with_state(text: str, state: str, columns: Collection[str]) -> str:
    """A filter that also asks for one of `STATES`, or no longer if it did."""
    if text and _is_sql(text, columns):
        sql = _STATES_IN_SQL[STATES[state]]
        if text == sql:
            return ""
        if text.startswith("(") and text.endswith(f") and {sql}"):
            return text[1 : -len(f") and {sql}")]
        return f"({text}) and {sql}"
    word = f"{_IS}:{state}"
    words = text.split(" ")
    if word in words:
        return " ".join(each for each in words if each != word)
    return f"{text} {word}".strip()


def _check_prefix(prefixes: str, bare: str) -> None:
    """Refuse a word that seems to begin with a misspelt prefix."""
    typed = _PREFIXED.match(bare)
    if prefixes or typed is None:
        return
    for meant in get_close_matches(typed[1].lower(), _PREFIXES, 1, 0.75):
        raise UsageError(
            f"cannot look in {typed[1]}: the nearest is {meant}:; "
            "to look for the text, put it in double quotes"
        )


def _expression(text: str, columns: Collection[str]) -> Expression:
    pieces: list[str] = []
    used: set[str] = set()
    end = 0
    names = names_of(columns)
    while end < len(text):
        if len(pieces) > _MOST_PIECES:
            raise UsageError("the filter is too long: filter in two steps, or mark and filter")
        titled = _titled(text, end, names)
        if titled is not None:
            column, end = titled
            used.add(column)
            pieces.append(f'"{column}"')
            continue
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
    return Expression(" ".join(pieces), frozenset(used))


def nearest(name: str, names: Collection[str]) -> str:
    """The most similar name."""

    def likeness(candidate: str) -> tuple[float, bool]:
        folded = candidate.lower()
        return SequenceMatcher(None, name.lower(), folded).ratio(), name.lower() in folded

    return max(sorted(names), key=likeness)


def nearest_column(name: str, columns: Collection[str]) -> str:
    """The most similar name of a column, in the head of the table or in files."""
    return nearest(name, {*columns, *map(header, columns)})


def _is_sql(text: str, columns: Collection[str]) -> bool:
    bare = re.sub(r'"[^"]*"', " ", text)
    names = names_of(columns)
    first = re.match(r"\s*([A-Za-z_]\w*(?![\w:])|\()", bare)
    opens = first is not None and first[1].lower() in {"(", "not", *names}
    return opens or _titled(bare, 0, names) is not None or any(sign in bare for sign in "<>=")


def _titled(text: str, at: int, names: Mapping[str, str]) -> tuple[str, int] | None:
    """The column whose name of two words, as in the head, is at a place, and where that ends."""
    found = _SPACED.match(text, at)
    column = names.get(" ".join(found[1].lower().split())) if found is not None else None
    return None if found is None or column is None else (column, found.end())


def _unknown(name: str, is_call: bool, columns: Collection[str]) -> str:
    if is_call:
        return f"no function {name} in a filter: the nearest is {nearest(name, FUNCTIONS)}"
    return (
        f"no column {name}: the nearest is {nearest_column(name, columns)}; "
        "to look for words, put them in double quotes"
    )

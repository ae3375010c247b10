"""SQL filters, evaluated by polars, and a trial on a few made-up rows.

The trial shows while typing whether a condition can be used. Planning alone does not find every
error: polars plans a comparison of a list with a number, for example, and fails on rows.

Cost of a trial: some milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import polars as pl
import polars.selectors as cs

from lens_core.errors import UsageError
from qlens_tui.table.filter_words import Expression, Words, parse_filter

_QUOTES = "to look for words, put them in double quotes"
_SPECIMENS: Mapping[Any, tuple[Any, Any]] = {
    pl.Boolean: (False, True),
    pl.Int32: (0, 7),
    pl.Float32: (-0.25, 2.0),
    pl.String: ("", "It's 5 o'clock"),
    pl.List(pl.Int32): ([], [7]),
    pl.List(pl.Float32): ([], [2.0]),
    pl.List(pl.String): ([], ["draft"]),
}
"""Sample values for each column type, in addition to null."""


def read_filter(
    text: str, columns: Mapping[str, Any], *, ascii_only: bool = False
) -> Words | Expression:
    """Parse a typed filter; `columns` are the existing ones, with their types.

    Raises:
        UsageError: it is SQL with unknown names, or with SQL that is not allowed or fails.
    """
    asked = parse_filter(text, columns, ascii_only=ascii_only)
    if isinstance(asked, Expression):
        _try_out(asked, columns)
    return asked


def answer(frame: pl.DataFrame, asked: Expression) -> pl.Series:
    """True or false for each row, or one value for all; null counts as false.

    Raises:
        UsageError: polars cannot answer it; the message is one line.
    """
    with _refusing():
        plain = frame.lazy().select(sorted(asked.columns)).with_columns(cs.float().fill_nan(None))
        if "tags" in asked.columns:
            plain = plain.with_columns(pl.col("tags").list.join(", "))
        answers = plain.select(pl.sql_expr(asked.sql).alias("kept"))
        if answers.collect_schema()["kept"] != pl.Boolean:
            raise UsageError(
                "the filter is not a condition: compare something, as in density > 0.01; " + _QUOTES
            )
        return answers.collect()["kept"].fill_null(False)


def _try_out(asked: Expression, columns: Mapping[str, Any]) -> None:
    """Refuse an expression that fails on `columns`, whatever they hold."""
    rows = {}
    for number, name in enumerate(sorted(asked.columns), 2):
        little, much = _SPECIMENS[columns[name]]
        # Lists of two columns may have different lengths, and then cannot be added.
        fuller = [much * number] * 2 if isinstance(much, list) else [much, little]
        rows[name] = pl.Series(name, [None, little, *fuller], columns[name])
    answer(pl.DataFrame(rows), asked)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        said = re.sub(r" at Line: \d+, Column: \d+", "", str(error).partition("\n")[0])
        if said.startswith("unable to parse"):
            said = "it is not a complete condition, such as density > 0.01"
        raise UsageError(
            f"the filter cannot be used: {' '.join(said.split())}; {_QUOTES}"
        ) from None

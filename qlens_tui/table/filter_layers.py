"""Which layers a filter can match at all, from what is known without their atlases.

An export of `tag:war` or `layer = 10 and gain k > 0.2` need not tabulate other layers, which takes
minutes. Words that are looked for in marks and explanations say it directly. Of SQL, the columns of
the atlas are taken as unknown (null): a comparison with null is null, `false and null` is false, so
what is false stays false whatever the atlas says. This holds of comparisons and `and`, `or`, `not`
only, so that with anything else (`coalesce`, `is null`, lists) every layer may match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from qlens_tui.table.column_names import EXPLANATION, MARKED
from qlens_tui.table.filter_sql import answer, read_filter
from qlens_tui.table.filter_words import FUNCTIONS, KEYWORDS, Expression, Words
from qlens_tui.table.rows import KNOWN, MARKS, with_marks
from qlens_tui.table.word_search import having

_LOGIC = frozenset(("and", "between", "false", "ilike", "in", "like", "not", "or", "true"))
_OTHER = (KEYWORDS | FUNCTIONS) - _LOGIC
_HERE = frozenset(("layer", "feature", EXPLANATION, MARKED, *MARKS))
_QUOTED = re.compile(r"\"[^\"]*\"|'(?:[^']|'')*'")


def layers_that_may_match(
    where: str,
    n_features: Mapping[int, int],
    marks: pl.DataFrame,
    explanations: pl.DataFrame | None = None,
) -> tuple[int, ...]:
    """The layers of which a feature may pass a filter, in their order.

    Args:
        n_features: of each layer.
        marks: of `qlens_tui.triage.triage.marks_frame`.
        explanations: layer, feature and explanation (`Explanations.frame`); `None`: there are none.

    Raises:
        UsageError: the filter cannot be read or used.
    """
    asked = read_filter(where, KNOWN)
    if isinstance(asked, Expression) and not _keeps_null(asked):
        return tuple(n_features)
    places = [
        pl.DataFrame({"feature": pl.int_range(n, dtype=pl.Int32, eager=True)}).select(
            pl.lit(layer, pl.Int32).alias("layer"), "feature"
        )
        for layer, n in n_features.items()
    ]
    frame = with_marks(pl.concat(places), marks)
    if explanations is not None:
        frame = frame.join(explanations, on=["layer", "feature"], how="left", maintain_order="left")
        frame = frame.with_columns(pl.col(EXPLANATION).fill_null(""))
    if isinstance(asked, Words):
        here = Words(tuple(word for word in asked.words if set(word.columns) <= _HERE))
        may = pl.Series(having(frame, here, None)[0])
    else:
        missing = {name: KNOWN[name] for name in asked.columns if name not in frame.columns}
        may = _may(frame.with_columns(_unknown(missing)), asked)
    found = set(frame["layer"].filter(may))
    return tuple(layer for layer in n_features if layer in found)


def _keeps_null(asked: Expression) -> bool:
    """Whether the expression is only comparisons and logic, of numbers, texts and truth."""
    lists = any(isinstance(KNOWN[name], pl.List) for name in asked.columns - _HERE)
    words = re.findall(r"[a-z_]\w*", _QUOTED.sub(" ", asked.sql).lower())
    return not lists and not _OTHER & set(words)


def _unknown(columns: Mapping[str, Any]) -> list[pl.Expr]:
    return [pl.lit(None, dtype).alias(name) for name, dtype in columns.items()]


def _may(frame: pl.DataFrame, asked: Expression) -> pl.Series:
    fails = answer(frame, Expression(f"not ( {asked.sql} )", asked.columns))
    if len(fails) != frame.height:  # one answer for all
        fails = pl.repeat(bool(fails.all()), frame.height, eager=True)
    return ~fails

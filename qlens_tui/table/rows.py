"""Which features are in the table, in which order: a fixed frame, and row numbers in it.

A million features with their token lists take some hundred megabytes. Filtering or sorting the
frame would copy them; row numbers (four bytes per row) are enough, and the table asks for the
rows that are on screen. Frames have some columns of `lens_core.atlas.files.SCHEMA`, at least
`layer` and `feature`, and those of `qlens_tui.triage.triage.marks_frame`.

Cost at a million rows: see benchmarks/table.py. The app calls it in a worker thread; polars and
numpy release the interpreter lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from lens_core.atlas.files import SCHEMA
from lens_core.errors import UsageError
from qlens_tui.table.column_names import EXPLANATION, MARKED, header
from qlens_tui.table.explanations import NO_EXPLANATIONS
from qlens_tui.table.filter_sql import answer, read_filter
from qlens_tui.table.filter_words import Expression, nearest_column
from qlens_tui.table.matches import NO_MATCHES, Matches
from qlens_tui.table.sort_key import SortKey
from qlens_tui.table.word_search import having

MARKS: Mapping[str, Any] = {
    "star": pl.Boolean,
    "reject": pl.Boolean,
    "label": pl.String,
    "tags": pl.List(pl.String),
    "note": pl.String,
}
"""The columns that triage adds."""
SEARCHED = ("value_query_ids", "value_logit_ids", "key_query_ids", "key_logit_ids")
"""The lists in which words can be searched, besides explanations and the texts of marks."""
KNOWN: Mapping[str, Any] = {**SCHEMA, EXPLANATION: pl.String, **MARKS, MARKED: pl.Boolean}
"""All columns that a filter may name, and their types."""
_ROW = "row number"
_NUMBER = pl.col("layer").cast(pl.Int64) * 2**32 + pl.col("feature")


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of `frame`, which is in order of layer and feature (see `all_rows`).

    `order` holds the row numbers in the order shown; None: all rows, in order. `matches` says what
    the last filter looked for.
    """

    frame: pl.DataFrame
    order: pl.Series | None = None
    matches: Matches = NO_MATCHES

    def __len__(self) -> int:
        return self.frame.height if self.order is None else len(self.order)

    def __getitem__(self, part: slice) -> Rows:
        """Some of the rows, with the same frame."""
        return replace(self, order=self.numbers[part])

    @property
    def numbers(self) -> pl.Series:
        """The row numbers in the frame, in the order shown."""
        if self.order is not None:
            return self.order
        return pl.int_range(self.frame.height, dtype=pl.UInt32, eager=True)

    @cached_property
    def spans_layers(self) -> bool:
        layers = self.frame["layer"]
        return layers.min() != layers.max()

    @cached_property
    def widest_feature(self) -> int:
        """How many digits the largest feature index has."""
        return len(str(self.frame["feature"].max() or 0))

    def page(self, start: int, count: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The values of consecutive rows; missing columns are left out.

        Cost: only for these `count` rows.
        """
        present = [name for name in columns if name in self.frame.columns]
        part = slice(start, start + count)
        return self._taken(self.frame.select(present), part).rows(named=True)

    def taken(self) -> pl.DataFrame:
        """The rows as a new frame, with all columns copied."""
        return self._taken(self.frame, slice(None))

    def features(self) -> pl.DataFrame:
        """Layer and feature of the rows, in the order shown."""
        return self._taken(self.frame.select("layer", "feature"), slice(None))

    def feature(self, position: int) -> tuple[int, int]:
        """The layer and feature at a position."""
        row = self._row(position)
        return self.frame["layer"][row], self.frame["feature"][row]

    def find(self, layer: int, feature: int) -> int | None:
        """The position of a feature; `None` if it has no row."""
        same = (self.frame["layer"] == layer) & (self.frame["feature"] == feature)
        rows = same.arg_true()
        return self._place(rows[0]) if len(rows) else None

    def nearest(self, layer: int, feature: int) -> int | None:
        """The position of a feature or, in order of the features, of the next one, or the last.

        `None` if there are no rows, or they are in another order.
        """
        place = self.find(layer, feature)
        if place is not None or not len(self):
            return place
        if self.order is not None and not self.order.is_sorted():
            return None
        numbers = self.features().select(_NUMBER).to_series()
        return min(int(numbers.search_sorted(layer * 2**32 + feature)), len(self) - 1)

    def same_as(self, other: Rows) -> bool:
        """Whether these are the same features in the same order."""
        return len(self) == len(other) and self.features().equals(other.features())

    def follow(self, before: Rows, position: int) -> int:
        """Where a cursor at `position` in `before` goes.

        To the same feature; if it has no row now, to the next feature of `before` that has, else,
        in order of the features, to the next one of all, or to the last one. 0 if the two are of
        other features.
        """
        if not len(before) or not len(self):
            return 0
        place = self.find(*before.feature(position))
        if place is not None:
            return place
        names = ["layer", "feature"]
        if self.order is None or not self.frame[names].equals(before.frame[names]):
            return 0
        here = np.zeros(self.frame.height, dtype=bool)
        here[self.order.to_numpy()] = True
        following = before[position:].numbers.to_numpy()
        kept = here[following]
        if kept.any():
            following_place = self._place(int(following[kept.argmax()]))
        elif self.order.is_sorted() and (before.order is None or before.order.is_sorted()):
            later = (self.order > int(following[0])).arg_true()
            following_place = int(later[0]) if len(later) else None
        else:
            following_place = None
        return len(self) - 1 if following_place is None else following_place

    def _taken(self, frame: pl.DataFrame, part: slice) -> pl.DataFrame:
        return frame[part] if self.order is None else frame[self.order[part]]

    def _row(self, position: int) -> int:
        return position if self.order is None else int(self.order[position])

    def _place(self, row: int) -> int | None:
        if self.order is None:
            return row
        places = (self.order == row).arg_true()
        return int(places[0]) if len(places) else None


def all_rows(frame: pl.DataFrame) -> Rows:
    """All rows of a frame, by layer and feature; a frame in another order is copied."""
    ordered = frame.select(_NUMBER).to_series().is_sorted()
    return Rows(frame if ordered else frame.sort("layer", "feature"))


def only_these(rows: Rows, features: Sequence[tuple[int, int]]) -> Rows:
    """The rows of these features, in their order, out of `all_rows`; others are left out."""
    numbers = rows.frame.select(_NUMBER).to_series()
    wanted = pl.Series([layer * 2**32 + feature for layer, feature in features], dtype=pl.Int64)
    wanted = wanted.filter(wanted.is_in(numbers.implode()))
    return Rows(rows.frame, numbers.search_sorted(wanted).cast(pl.UInt32))


def with_marks(frame: pl.DataFrame, marked: pl.DataFrame) -> pl.DataFrame:
    """The frame with the marks of `triage.marks_frame`, replacing previous ones."""
    keys = [pl.col(name).cast(pl.Int64) for name in ("layer", "feature")]
    marks = frame.select(keys).join(
        marked.with_columns(keys), on=["layer", "feature"], how="left", maintain_order="left"
    )
    blanks = {
        "star": False, "reject": False, "label": "", "tags": pl.lit([], MARKS["tags"]), "note": "",
    }  # fmt: skip
    filled = marks.select(pl.col(name).fill_null(blank) for name, blank in blanks.items())
    has_any = pl.col("star") | pl.col("reject") | (pl.col("tags").list.len() > 0)
    has_text = (pl.col("label") != "") | (pl.col("note") != "")
    return frame.with_columns(filled.with_columns((has_any | has_text).alias(MARKED)).get_columns())


def filtered(
    rows: Rows, text: str, texts: Sequence[str] | None = None, *, ascii_only: bool = False
) -> Rows:
    """The rows that pass a filter (see `filter_words`), in the same order.

    In SQL, `tags` is one text ("draft, keep") and NaN is null. Words are searched in the texts of
    the tokens of lists, in tags and in other texts (see `word_search`). A row must have all.

    Args:
        texts: the faces of all token ids; None: not known yet.
        ascii_only: words are in the ASCII notation of lists.

    Raises:
        UsageError: the filter cannot be read or used; the message is one line.
    """
    asked = read_filter(text, KNOWN, ascii_only=ascii_only)
    if isinstance(asked, Expression):
        kept, matches = _matching(rows.frame, asked), Matches(tuple(sorted(asked.columns)))
    elif not asked.words:
        return rows
    else:
        kept, matches = having(rows.frame, asked, texts)
    if rows.order is None:
        order = pl.Series(np.flatnonzero(kept), dtype=pl.UInt32)
    else:
        order = rows.order.filter(pl.Series(kept[rows.order.to_numpy()]))
    return Rows(rows.frame, order, matches)


def sorted_by(rows: Rows, keys: Sequence[SortKey], texts: Sequence[str] | None = None) -> Rows:
    """The rows sorted by the first key, ties by the next, and at last by layer and feature.

    Those without a value come last. A list is sorted by its first, best entry; a list of token ids
    by that token's text, if `texts` are given. Text is sorted ignoring case and outer spaces.

    Raises:
        UsageError: there is no such column.
    """
    for key in keys:
        _check_present(key.column, rows.frame)
    numbers = None if rows.order is None else rows.order.sort()
    shown = rows.frame.select(list(dict.fromkeys(key.column for key in keys)))
    shown = shown if numbers is None else shown[numbers]
    values = {str(at): _sort_values(shown[key.column], texts) for at, key in enumerate(keys)}
    order = pl.DataFrame(values).with_row_index(_ROW).sort(
        *values, descending=[key.descending for key in keys], nulls_last=True, maintain_order=True
    )[_ROW]  # fmt: skip
    return replace(rows, order=order if numbers is None else numbers[order])


def _matching(frame: pl.DataFrame, asked: Expression) -> np.ndarray[Any, np.dtype[np.bool_]]:
    for name in sorted(asked.columns):
        _check_present(name, frame)
    kept = answer(frame, asked).to_numpy()
    return kept if len(kept) == frame.height else np.full(frame.height, bool(kept.all()))


def _sort_values(values: pl.Series, texts: Sequence[str] | None) -> pl.Series:
    """Numbers, or texts in lower case, that sort as the column should; null is last."""
    if values.name.endswith("_ids") and texts is not None:
        keys = [text.strip().casefold() or text for text in texts]
        rank = {key: number for number, key in enumerate(sorted(set(keys)))}
        ranks = pl.Series([rank[key] for key in keys], dtype=pl.Int32)
        first = values.list.first()
        return ranks.gather(first.set(first >= len(keys), None))
    if values.dtype == pl.List(pl.String):
        values = values.list.join(", ")
    elif isinstance(values.dtype, pl.List):
        values = values.list.first()
    if values.dtype == pl.String:
        values = values.str.strip_chars().str.to_lowercase().replace("", None)
    return values.fill_nan(None) if values.dtype.is_float() else values


def _check_present(name: str, frame: pl.DataFrame) -> None:
    if name in frame.columns:
        return
    if name == EXPLANATION:
        raise UsageError(NO_EXPLANATIONS)
    if name in KNOWN:
        raise UsageError(
            f"{header(name)} is not known for these features: build the atlas (`qlens build`)"
        )
    raise UsageError(f"no column {name}: the nearest is {nearest_column(name, KNOWN)}")

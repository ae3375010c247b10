"""The columns of the feature table: their content, and which of them fit a width.

A column is data, so that the table need not know any by name. On a narrow screen, columns are
dropped by their rank in `COLUMNS`; on a wide one, lists of tokens take the extra width.

Cost: only for the cells on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from qlens_tui.formats import density
from qlens_tui.text import cells, fit, token_label, visible
from qlens_tui.triage.marks import Mark

Values = Mapping[str, Any]
"""The values of one feature by the frame's columns; unknown ones are null or missing."""

_NO_MARK = Mark()
_SHORTEST_PIECE = 4
_NEEDED = 6
_MOST_LABELS = 8192


@dataclass(frozen=True, eq=False)
class Writing:
    """What is needed to write a cell besides the values.

    `texts` are the raw strings of all token ids (None: unknown yet, ids are shown), `marks` the
    marked features by layer.
    """

    texts: Sequence[str] | None = None
    marks: Mapping[int, Mapping[int, Mark]] = field(default_factory=dict)
    ascii_only: bool = False
    with_layer: bool = False
    _labels: dict[int, str] = field(default_factory=dict)

    def label(self, token: int) -> str:
        """A token as lists show it, or `#31` if its text is unknown."""
        known = self._labels.get(token)
        if known is None:
            if len(self._labels) >= _MOST_LABELS:
                self._labels.clear()
            there = self.texts is not None and 0 <= token < len(self.texts)
            known = (
                token_label(self.texts[token], ascii_only=self.ascii_only)
                if there and self.texts is not None
                else f"#{token}"
            )
            self._labels[token] = known
        return known

    def fit(self, text: str, width: int) -> str:
        return fit(text, width, ellipsis=self.ellipsis)

    @property
    def ellipsis(self) -> str:
        return "..." if self.ascii_only else "…"

    def edge(self, placed: Placed) -> str:
        return " " if not placed.edge else "|" if self.ascii_only else "│"

    def mark(self, values: Values) -> Mark:
        return self.marks.get(values["layer"], {}).get(values["feature"], _NO_MARK)


@dataclass(frozen=True)
class Placed:
    """A column that fits: its width, and whether a line or a space follows."""

    column: Column
    width: int
    edge: bool


@dataclass(frozen=True)
class Column:
    """One column; it is sorted by `source`, and dropped before those of a lower `rank`.

    `write` returns the cell's text, at most `width` columns wide. A column is `least` to `most`
    wide, and gets `ample` before columns of a rank over `_NEEDED` are added. `is_baseline`: others
    are compared with it; `has_edge`: it has a line to its left.
    """

    title: str
    source: str
    rank: int
    least: int
    ample: int
    most: int
    write: Callable[[Writing, Values, int], str]
    is_right: bool = False
    is_baseline: bool = False
    has_edge: bool = False

    @property
    def is_computed(self) -> bool:
        """Whether it needs an atlas."""
        return self.source in SOURCES[3:]

    def cell(self, writing: Writing, values: Values, width: int) -> str:
        """Exactly `width` columns."""
        text = self.write(writing, values, width)
        return " " * (width - cells(text)) + text if self.is_right else fit(text, width)

    def heading(self, width: int, arrow: str, edge: str) -> str:
        """The title in `width` columns, and the edge after it, which an arrow may replace."""
        if self.is_right:
            return self.title.rjust(width) + (arrow or edge)
        return fit(self.title + arrow, width) + edge


def _feature(writing: Writing, values: Values, width: int) -> str:
    feature = str(values["feature"])
    return f"{values['layer']}:{feature}" if writing.with_layer else feature


def _marks(writing: Writing, values: Values, width: int) -> str:
    mark = writing.mark(values)
    return f"{'*' if mark.star else ' '}{'x' if mark.reject else ' '}{'m' if mark.note else ' '}"


def _tags(writing: Writing, values: Values, width: int) -> str:
    tags = writing.mark(values).tags
    return writing.fit(",".join(visible(tag, ascii_only=writing.ascii_only) for tag in tags), width)


def _tokens(source: str) -> Callable[[Writing, Values, int], str]:
    def write(writing: Writing, values: Values, width: int) -> str:
        text, room = "", width
        for token in values.get(source) or ():
            label = writing.label(token)
            needed = cells(label)
            if needed > room:
                # Part of a token may look like another token: cut only if enough of it is visible.
                if not text or room >= _SHORTEST_PIECE + len(writing.ellipsis):
                    text += writing.fit(label, room)
                break
            text += label + " "
            room -= needed + 1
            if room <= 0:
                break
        return text.rstrip(" ")

    return write


def _number(source: str, form: str) -> Callable[[Writing, Values, int], str]:
    def write(writing: Writing, values: Values, width: int) -> str:
        value = values.get(source)
        return "" if value is None or not math.isfinite(value) else format(value, form)

    return write


def _density(writing: Writing, values: Values, width: int) -> str:
    if values.get("silent"):
        return "silent"
    value = values.get("density")
    return "" if value is None or not math.isfinite(value) else density(value)


def _tokens_column(title: str, source: str, rank: int, least: int, **more: bool) -> Column:
    return Column(
        title, source, rank, least, least + 8, 1000, _tokens(source), has_edge=True, **more
    )


def _number_column(title: str, source: str, rank: int, form: str) -> Column:
    return Column(title, source, rank, 6, 6, 6, _number(source, form), is_right=True)


COLUMNS = (
    Column("id", "feature", 0, 4, 4, 4, _feature, is_right=True),
    Column("*xm", "star", 1, 3, 3, 3, _marks),
    Column("tags", "tags", 6, 8, 8, 14, _tags),
    _tokens_column("LL value", "value_logit_ids", 4, 14, is_baseline=True),
    _tokens_column("QL value", "value_query_ids", 2, 16),
    _tokens_column("QL key", "key_query_ids", 3, 16),
    _number_column("gain v", "value_gain", 5, "+.2f"),
    _number_column("gain k", "key_gain", 9, "+.2f"),
    _number_column("stab v", "value_stability", 7, ".2f"),
    _number_column("stab k", "key_stability", 10, ".2f"),
    Column("dens", "density", 8, 6, 6, 6, _density, is_right=True),
)
SOURCES = ("layer", "feature", "silent", *(column.source for column in COLUMNS[3:]))
"""The frame's columns that the table reads."""


@lru_cache(maxsize=8)
def fitted_columns(id_width: int, width: int, sorted_by: str | None = None) -> tuple[Placed, ...]:
    """The columns that fit, each with a cell for its edge; the sort column is dropped last."""
    wide = max(4, id_width)
    kept = [replace(COLUMNS[0], least=wide, ample=wide, most=wide), *COLUMNS[1:]]

    def rank(column: Column) -> int:
        return 1 if column.source == sorted_by else column.rank

    while len(kept) > 1 and _room(kept) > width:
        kept.remove(max(kept, key=rank))
    widths = {column.title: column.least for column in kept}
    spare = max(0, width - sum(column.least + 1 for column in kept))
    while spare and (growing := [c for c in kept if widths[c.title] < c.most]):
        for column in sorted(growing, key=lambda column: column.rank)[:spare]:
            widths[column.title] += 1
            spare -= 1
    edges = [column.has_edge for column in kept[1:]]
    return tuple(
        Placed(column, widths[column.title], edge)
        for column, edge in zip(kept, [*edges, False], strict=True)
    )


def _room(kept: Sequence[Column]) -> int:
    """How many cells these columns need, including edges."""
    ample = any(column.rank > _NEEDED for column in kept)
    return sum((column.ample if ample else column.least) + 1 for column in kept)

"""The columns of the feature table: their content, and which of them fit a width.

A column is data, so that the table need not know any by name. On a narrow screen, columns are
dropped by their rank in `COLUMNS`; on a wide one, lists of tokens take the extra width. Columns
that the rows are sorted by, or that a filter looked in, are dropped last, and are added where the
table does not have them. What a filter found is in sight: a cell begins later if it must.

Cost: only for the cells on the screen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from qlens_tui.formats import density
from qlens_tui.table.column_names import EXPLANATION, header
from qlens_tui.table.matches import NO_MATCHES, Matches
from qlens_tui.text import cells, fit, token_label, visible
from qlens_tui.triage.marks import Mark

Values = Mapping[str, Any]
"""The values of one feature by the frame's columns; unknown ones are null or missing."""
Piece = tuple[str, bool]
"""Text of a cell, and whether a filter looked for it."""

_NO_MARK = Mark()
_SHORTEST_PIECE = 4
_NEEDED = 6
_LAST = 12  # the rank of other columns of the frame
_LONGEST_TITLE = 14
_NOT_SHOWN = ("_scores", "_moved", "_samples", "_positions", "_activations")
_MOST_LABELS = 8192
_MOST_PER_CELL = 8  # characters; few have no width


@dataclass(frozen=True, eq=False)
class Writing:
    """What is needed to write a cell besides the values.

    `texts` are the raw strings of all token ids (None: unknown yet, ids are shown), `marks` the
    marked features by layer, `matches` what a filter looked for.
    """

    texts: Sequence[str] | None = None
    marks: Mapping[int, Mapping[int, Mark]] = field(default_factory=dict)
    ascii_only: bool = False
    with_layer: bool = False
    matches: Matches = NO_MATCHES
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

    `write` returns the cell's text, which is cropped to the column's width. A column is `least` to
    `most` wide, and gets `ample` before columns of a rank over `_NEEDED` are added. `is_baseline`:
    others are compared with it; `has_edge`: it has a line to its left; `covers`: other columns of
    the frame that it shows.
    """

    title: str
    source: str
    rank: float
    least: int
    ample: int
    most: int
    write: Callable[[Writing, Values, int], Sequence[Piece]]
    is_right: bool = False
    is_baseline: bool = False
    has_edge: bool = False
    covers: tuple[str, ...] = ()

    @property
    def is_computed(self) -> bool:
        """Whether it needs an atlas."""
        return self.source not in _WITHOUT_ATLAS

    def pieces(self, writing: Writing, values: Values, width: int) -> Sequence[Piece]:
        """The cell in exactly `width` columns."""
        written = self.write(writing, values, width)
        blank = width - sum(cells(text) for text, _ in written)
        if blank < 0:
            return _cropped(writing, written, width)
        return (
            [(" " * blank, False), *written] if self.is_right else [*written, (" " * blank, False)]
        )

    def cell(self, writing: Writing, values: Values, width: int) -> str:
        """The cell's text in exactly `width` columns."""
        return "".join(text for text, _ in self.pieces(writing, values, width))

    @property
    def sources(self) -> tuple[str, ...]:
        """The columns of the frame that it shows."""
        return self.source, *self.covers

    def heading(self, width: int, arrow: str, edge: str) -> str:
        """The title in `width` columns, and the edge after it, which a bare arrow may replace."""
        room = width + (self.is_right and len(arrow) == 1)
        title = self.title[: max(0, room - len(arrow))] + arrow
        return (
            title.rjust(room) + edge[room - width :] if self.is_right else fit(title, width) + edge
        )


def _cropped(writing: Writing, pieces: Sequence[Piece], width: int) -> list[Piece]:
    kept: list[Piece] = []
    room = width
    for text, matched in pieces:
        taken = cells(text)
        if taken > room:
            return [*kept, (writing.fit(text, room), matched)]
        kept.append((text, matched))
        room -= taken
    return kept


def _feature(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
    feature = str(values["feature"])
    return [(f"{values['layer']}:{feature}" if writing.with_layer else feature, False)]


def _marks(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
    mark = writing.mark(values)
    signs = f"{'*' if mark.star else ' '}{'x' if mark.reject else ' '}{'m' if mark.note else ' '}"
    return [(signs, False)]


def _tags(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
    words = writing.matches.words.get("tags", ())
    tags = writing.mark(values).tags
    folded = [tag.casefold() for tag in tags]
    found = [[at for at, tag in enumerate(folded) if word in tag] for word in words]

    def label(at: int) -> str:
        return visible(tags[at], ascii_only=writing.ascii_only)

    return _listed(writing, label, len(tags), found, width, ",")


def _text(
    source: Literal["label", "note", "explanation"],
) -> Callable[[Writing, Values, int], Sequence[Piece]]:
    def write(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
        text: str = (
            values.get(source) or ""
            if source == EXPLANATION
            else getattr(writing.mark(values), source)
        )
        words = writing.matches.words.get(source, ())
        found = re.search("|".join(map(re.escape, words)), text, re.IGNORECASE) if words else None
        room = _MOST_PER_CELL * width  # a text may be very long
        if found is None:
            return [(visible(text[:room], ascii_only=writing.ascii_only), False)]
        parts = (text[: found.start()][:room], found[0], text[found.end() :][:room])
        before, hit, after = (visible(f"|{p}|", ascii_only=writing.ascii_only)[1:-1] for p in parts)
        if cells(before) + cells(hit) > width:
            before = writing.ellipsis
        return [(before, False), (hit, True), (after, False)]

    return write


def _tokens(source: str) -> Callable[[Writing, Values, int], Sequence[Piece]]:
    def write(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
        tokens = values.get(source) or ()
        words = writing.matches.tokens.get(source, ())
        found = [[at for at, token in enumerate(tokens) if token in ids] for ids in words]
        return _listed(
            writing, lambda at: writing.label(tokens[at]), len(tokens), found, width, " "
        )

    return write


def _listed(
    writing: Writing,
    label: Callable[[int], str],
    count: int,
    found: Sequence[Sequence[int]],
    width: int,
    separator: str,
) -> list[Piece]:
    """The entries of a list that fit, from the best on.

    `found` has the entries that match each word of a filter. If the best of each would not all be
    whole, the cell begins with these, and an ellipsis stands for what is left out before one.
    """
    matched = {at for entries in found for at in entries}

    def laid_out(entries: Sequence[int]) -> tuple[list[Piece], int]:
        pieces: list[Piece] = []
        room, last = width, -1
        for number, at in enumerate(entries):
            left_out = writing.ellipsis + separator if at > last + 1 else ""
            between = (separator if number else "") + left_out
            text, last = label(at), at
            needed = len(between) + cells(text)
            if needed > room:
                # Part of a token may look like another token: cut only if enough of it is visible.
                if not number or room - len(between) >= _SHORTEST_PIECE + len(writing.ellipsis):
                    cut = writing.fit(text, max(0, room - len(between)))
                    pieces += [(between, False), (cut, at in matched)]
                return pieces, number
            pieces += [(between, False), (text, at in matched)]
            room -= needed
        return pieces, len(entries)

    pieces, whole = laid_out(range(count))
    firsts = sorted({entries[0] for entries in found if entries})
    if not firsts or firsts[-1] < whole:
        return pieces
    return laid_out([*firsts, *range(firsts[-1] + 1, count)])[0]


def _number(source: str, form: str) -> Callable[[Writing, Values, int], Sequence[Piece]]:
    def write(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
        value = values.get(source)
        return [("" if value is None or not math.isfinite(value) else format(value, form), False)]

    return write


def _density(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
    if values.get("silent"):
        return [("silent", False)]
    value = values.get("density")
    return [("" if value is None or not math.isfinite(value) else density(value), False)]


def _tokens_column(source: str, rank: int, least: int, *, is_baseline: bool = False) -> Column:
    return Column(
        header(source),
        source,
        rank,
        least,
        least + 8,
        1000,
        _tokens(source),
        is_baseline=is_baseline,
        has_edge=True,
    )


def _number_column(source: str, rank: int, form: str) -> Column:
    title = header(source)
    width = max(6, min(len(title), _LONGEST_TITLE))
    return Column(title, source, rank, width, width, width, _number(source, form), is_right=True)


COLUMNS = (
    Column(header("feature"), "feature", 0, 4, 4, 4, _feature, is_right=True, covers=("layer",)),
    Column("*xm", "star", 1, 3, 3, 3, _marks, covers=("reject",)),
    Column(header("tags"), "tags", 6, 8, 8, 14, _tags),
    _tokens_column("value_logit_ids", 4, 14, is_baseline=True),
    _tokens_column("value_query_ids", 2, 16),
    _tokens_column("key_query_ids", 3, 16),
    _number_column("value_gain", 5, "+.2f"),
    _number_column("key_gain", 9, "+.2f"),
    _number_column("value_stability", 7, ".2f"),
    _number_column("key_stability", 10, ".2f"),
    Column(header("density"), "density", 8, 6, 6, 6, _density, is_right=True, covers=("silent",)),
)
"""The columns that a table has if there is room."""
_LABEL = Column(header("label"), "label", 11, 10, 16, 40, _text("label"), has_edge=True)
_NOTE = Column(header("note"), "note", 11, 12, 20, 40, _text("note"), has_edge=True)
_EXPLANATION = Column(
    header(EXPLANATION), EXPLANATION, 11, 16, 24, 60, _text("explanation"), has_edge=True
)
_LL_KEY = _tokens_column("key_logit_ids", 11, 14, is_baseline=True)
_BEFORE = {"value_logit_ids": (_LABEL, _NOTE, _EXPLANATION), "key_query_ids": (_LL_KEY,)}
"""Columns that a table has if they are asked for, by the one that they stand before."""
_OF_MARKS = ("star", "reject", "label", "tags", "note")
_WITHOUT_ATLAS = ("layer", "feature", *_OF_MARKS, EXPLANATION)


def sources_of(columns: Sequence[Placed]) -> list[str]:
    """The frame's columns that are needed to write these."""
    sources = (placed.column.source for placed in columns)
    needed = (source for source in sources if source not in _OF_MARKS)
    return list(dict.fromkeys(("layer", "feature", "silent", *needed)))


def value_text(source: str, writing: Writing, values: Values) -> str:
    """The value of one feature in a column of the frame, as the table would say it."""
    mark = writing.mark(values)
    flags = {"star": mark.star, "reject": mark.reject, "silent": values.get("silent")}
    if source in flags:
        return {None: "", True: "yes", False: "no"}[flags[source]]
    if source == "layer":
        return str(values["layer"])
    column = next(each for each in _offered((source,)) if each.source == source)
    return "".join(text for text, _ in column.write(writing, values, column.least + 8)).rstrip()


@lru_cache(maxsize=8)
def fitted_columns(
    id_width: int, width: int, sorted_by: tuple[str, ...] = (), wanted: tuple[str, ...] = ()
) -> tuple[Placed, ...]:
    """The columns that fit, each with a cell for its edge.

    Those that show columns of the frame that the rows are sorted by, and after these `wanted`, are
    dropped last, and added if they are none of the table's own.
    """
    wanted = (*sorted_by, *wanted)
    wide = max(4, id_width)
    first = {name: number for number, name in reversed(list(enumerate(wanted, 1)))}
    kept = []
    for column in _offered(wanted):
        numbers = [first[name] for name in column.sources if name in first]
        rank = min(column.rank, 1 + min(numbers) / 100) if numbers else column.rank
        kept.append(replace(column, rank=rank))
        if len(sorted_by) > 1 and column.is_right and set(sorted_by) & {*column.sources}:
            arrow = 2  # it has a number
            wider = max(column.least, min(len(column.title), column.least) + arrow)
            kept[-1] = replace(kept[-1], least=wider, ample=wider, most=wider)
    kept[0] = replace(kept[0], least=wide, ample=wide, most=wide)
    while len(kept) > 1 and _room(kept) > width:
        kept.remove(max(kept, key=lambda column: column.rank))
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


def _offered(wanted: Sequence[str]) -> list[Column]:
    """The table's columns, and those that `wanted` adds, from left to right."""
    columns = []
    for column in COLUMNS:
        columns += [each for each in _BEFORE.get(column.source, ()) if each.source in wanted]
        columns.append(column)
    shown = {name for column in columns for name in column.sources}
    others = [name for name in wanted if name not in shown and not name.endswith(_NOT_SHOWN)]
    return columns + [
        _tokens_column(name, _LAST, 14)
        if name.endswith("_ids")
        else _number_column(name, _LAST, ".3g")
        for name in dict.fromkeys(others)
    ]


def _room(kept: Sequence[Column]) -> int:
    """How many cells these columns need, including edges."""
    ample = any(column.rank > _NEEDED for column in kept)
    return sum((column.ample if ample else column.least) + 1 for column in kept)

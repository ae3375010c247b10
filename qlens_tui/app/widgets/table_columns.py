"""The columns of the feature table: what each shows, and which a table has.

A column is data, so that the table need not know any by name. `column_fit` decides which of them
fit a width. The usual columns are in the order of their importance: lists of Query Lens, small
bars, what they are compared with, numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from qlens_tui.app.widgets.table_cells import (
    Piece,
    Values,
    Writer,
    Writing,
    bars_cell,
    density_bar,
    density_cell,
    feature_cell,
    gain_bar,
    marks_cell,
    number_cell,
    share_bar,
    tags_cell,
    text_cell,
    tokens_cell,
)
from qlens_tui.table.chosen_columns import ChosenColumn
from qlens_tui.table.column_names import EXPLANATION, header
from qlens_tui.text import cells, fit

Bar = Callable[..., str]
"""Draws a value as a character: see `table_cells`."""

_LONGEST_TITLE = 14
_NOT_SHOWN = ("_scores", "_moved", "_samples", "_positions", "_activations")
_OF_MARKS = ("star", "reject", "label", "tags", "note")
_WITHOUT_ATLAS = ("layer", "feature", *_OF_MARKS, EXPLANATION)


@dataclass(frozen=True)
class Column:
    """One column; a click on its title sorts by `source`.

    `write` returns the cell's text, which is cropped to the column's width. A column is `least` to
    `most` wide, and gets `ample` before a column that `is_extra` is added. `is_fixed`: it stays
    when others scroll; `is_baseline`: others are compared with it; `has_edge`: it has a line to its
    left; `covers`: other columns of the frame that it shows. Bars show none, as they are no
    numbers, and read `reads`. `given` is the name in a saved choice, if not `source`.
    """

    title: str
    source: str
    least: int
    ample: int
    most: int
    write: Writer
    is_right: bool = False
    is_fixed: bool = False
    is_baseline: bool = False
    is_extra: bool = False
    has_edge: bool = False
    covers: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    given: str = ""

    @property
    def name(self) -> str:
        return self.given or self.source

    @property
    def is_computed(self) -> bool:
        """Whether it needs an atlas."""
        return self.source not in _WITHOUT_ATLAS

    @property
    def sources(self) -> tuple[str, ...]:
        """The columns of the frame that it shows."""
        return () if self.reads else (self.source, *self.covers)

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

    def heading(self, width: int, arrow: str, edge: str) -> str:
        """The title in `width` columns, and the edge after it, which a bare arrow may replace."""
        room = width + (self.is_right and len(arrow) == 1)
        title = self.title[: max(0, room - len(arrow))] + arrow
        return (
            title.rjust(room) + edge[room - width :] if self.is_right else fit(title, width) + edge
        )

    def of_width(self, width: int) -> Column:
        """The same, always this wide."""
        return replace(self, least=width, ample=width, most=width)


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


def _tokens(
    source: str, least: int, *, is_baseline: bool = False, is_extra: bool = False
) -> Column:
    return Column(
        header(source), source, least, least + 8, 1000, tokens_cell(source),
        is_baseline=is_baseline, is_extra=is_extra, has_edge=True,
    )  # fmt: skip


def _number(source: str, form: str) -> Column:
    title = header(source)
    width = max(6, min(len(title), _LONGEST_TITLE))
    return Column(
        title, source, width, width, width, number_cell(source, form), is_right=True, is_extra=True
    )


def _bars(name: str, title: str, bar: Bar, *sources: str) -> Column:
    return Column(
        title, sources[-1], 4, 4, 4, bars_cell(sources, bar),
        is_right=True, reads=sources, given=name,
    )  # fmt: skip


FEATURE = Column(
    header("feature"), "feature", 4, 4, 4, feature_cell,
    is_right=True, is_fixed=True, covers=("layer",),
)  # fmt: skip
COLUMNS = (
    FEATURE,
    Column("*xm", "star", 3, 3, 3, marks_cell, is_fixed=True, covers=("reject",)),
    Column(header("label"), "label", 10, 16, 40, text_cell("label"), has_edge=True),
    Column(
        header(EXPLANATION), EXPLANATION, 16, 24, 60, text_cell("explanation"), has_edge=True
    ),
    _tokens("key_query_ids", 15),
    _tokens("value_query_ids", 15),
    _bars("gain bars", "gain", gain_bar, "key_gain", "value_gain"),
    _bars("stability bars", "stab", share_bar, "key_stability", "value_stability"),
    _bars("density bar", "dens", density_bar, "density"),
    Column(header("tags"), "tags", 8, 8, 14, tags_cell),
    _tokens("key_logit_ids", 14, is_baseline=True, is_extra=True),
    _tokens("value_logit_ids", 14, is_baseline=True, is_extra=True),
    _number("key_gain", "+.2f"),
    _number("value_gain", "+.2f"),
    _number("key_stability", ".2f"),
    _number("value_stability", ".2f"),
    Column(
        header("density"), "density", 6, 6, 6, density_cell,
        is_right=True, is_extra=True, covers=("silent",),
    ),
    Column(header("note"), "note", 12, 20, 40, text_cell("note"), is_extra=True, has_edge=True),
)  # fmt: skip
"""The usual columns, the most important first; labels and explanations only if there are any."""
_IF_ANY = ("label", EXPLANATION)


def sources_of(columns: Sequence[Column]) -> list[str]:
    """The frame's columns that are needed to write these."""
    sources = (source for column in columns for source in column.reads or (column.source,))
    needed = (source for source in sources if source not in _OF_MARKS)
    return list(dict.fromkeys(["layer", "feature", "silent", *needed]))


def arranged(chosen: Sequence[ChosenColumn], needed: Sequence[str]) -> list[Column]:
    """The chosen columns, or the usual ones, and those that show `needed` ones of the frame."""
    if chosen:
        columns = [FEATURE]
        for each in chosen:
            column = _named(each.name)
            columns.append(column if each.width is None else column.of_width(each.width))
    else:
        columns = [each for each in COLUMNS if each.source not in _IF_ANY or each.source in needed]
    shown = {name for column in columns for name in column.sources}
    others = [name for name in needed if name not in shown and not name.endswith(_NOT_SHOWN)]
    return [*columns, *(_showing(name) for name in dict.fromkeys(others))]


def choosable(frame: Collection[str]) -> list[Column]:
    """The columns that a table of this frame can have besides the feature's id."""
    table = [
        column
        for column in COLUMNS[1:]
        if column.source in _OF_MARKS or {*(column.reads or (column.source,))} <= {*frame}
    ]
    shown = {name for column in COLUMNS for name in column.sources}
    hidden = ("layer", "silent")
    others = [
        name
        for name in frame
        if name not in shown
        and name not in hidden
        and not name.startswith("context_")
        and not name.endswith(_NOT_SHOWN)
    ]
    return [*table, *map(_showing, others)]


def _text(source: str, writing: Writing, values: Values) -> str:
    """The value of one feature in a column of the frame, as the table would say it."""
    mark = writing.mark(values)
    flags = {"star": mark.star, "reject": mark.reject, "silent": values.get("silent")}
    if source in flags:
        return {None: "", True: "yes", False: "no"}[flags[source]]
    if source == "layer":
        return str(values["layer"])
    column = _showing(source)
    return "".join(text for text, _ in column.write(writing, values, column.least + 8)).rstrip()


def texts(sources: Sequence[str], writing: Writing, values: Values) -> dict[str, str]:
    """What the table says of one feature in these columns of the frame; empty without values."""
    return {name: _text(name, writing, values) for name in sources} if values else {}


def samples(
    columns: Sequence[Column], writing: Writing, values: Values
) -> dict[str, tuple[Column, str]]:
    """Columns by name with their cells for one feature, which are empty without values."""
    return {
        each.name: (each, each.cell(writing, values, each.ample).strip() if values else "")
        for each in columns
    }


def _named(name: str) -> Column:
    """The column of this name in a saved choice."""
    return next((column for column in COLUMNS if column.name == name), None) or _showing(name)


def _showing(source: str) -> Column:
    """The column that shows one of the frame."""
    for column in COLUMNS:
        if source in column.sources:
            return column
    return _tokens(source, 14, is_extra=True) if source.endswith("_ids") else _number(source, ".3g")

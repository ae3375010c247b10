"""The table of features, as fast with a million rows as with a hundred.

The rows stay in their frame; the visible ones are read by slicing, and unchanged lines are not
painted again (see `line_pane`). A cursor move repaints two lines. When the cursor leaves the
window, the window jumps so that the cursor is in its middle: scrolling by a line would send every
line at every key, a jump does so only once in half a window.

`>` marks the cursor, `|` a selected range, `*`, `x` and `m` a star, a rejection and a note, and
what a filter found is underlined: nothing depends on colour.

Cost of a key: some dozen rows are read if the window moves, else two lines of text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.message import Message

from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.app.widgets.table_columns import (
    Column,
    Placed,
    Writing,
    fitted_columns,
    sources_of,
    value_text,
)
from qlens_tui.table.column_names import EXPLANATION
from qlens_tui.table.sort_key import SortKey
from qlens_tui.text import visible
from qlens_tui.triage.marks import Mark

if TYPE_CHECKING:
    from qlens_tui.table.rows import Rows

_WHEEL = 3
_MATCH, _CURSOR = "feature-table--match", "feature-table--cursor"
_ON_CURSOR = {_MATCH: "feature-table--cursor-match"}


class FeatureTable(LinePane):
    """The table; set its content with `set_rows`, `set_marks`, `set_texts`, `set_sort`."""

    DEFAULT_CSS = """
    FeatureTable > .feature-table--head { text-style: bold; }
    FeatureTable > .feature-table--baseline { color: $foreground 65%; }
    FeatureTable > .feature-table--match { color: $text-success; text-style: bold underline; }
    FeatureTable > .feature-table--chosen { text-style: bold; }
    FeatureTable > .feature-table--cursor { text-style: bold; background: $foreground 10%; }
    FeatureTable > .feature-table--cursor-match {
        text-style: bold underline; background: $foreground 10%;
    }
    FeatureTable:focus > .feature-table--cursor { background: $success 35%; }
    FeatureTable:focus > .feature-table--cursor-match { background: $success 35%; }
    FeatureTable:focus:ansi > .feature-table--cursor { text-style: bold reverse; }
    FeatureTable:focus:ansi > .feature-table--cursor-match { text-style: bold reverse underline; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "feature-table--head",
        "feature-table--baseline",
        "feature-table--match",
        "feature-table--chosen",
        "feature-table--cursor",
        "feature-table--cursor-match",
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "Next feature", show=False),
        Binding("k,up", "move(-1)", "Previous feature", show=False),
        Binding("ctrl+d", "turn(0.5)", "Half a page down", show=False),
        Binding("ctrl+u", "turn(-0.5)", "Half a page up", show=False),
        Binding("pagedown", "turn(1)", "Page down", show=False),
        Binding("pageup", "turn(-1)", "Page up", show=False),
        Binding("g,home", "first", "First feature", show=False),
        Binding("G,end", "last", "Last feature", show=False),
        Binding("J,shift+down", "move(1, True)", "Select down", show=False),
        Binding("K,shift+up", "move(-1, True)", "Select up", show=False),
        Binding("shift+pagedown", "turn(1, True)", "Select a page down", show=False),
        Binding("shift+pageup", "turn(-1, True)", "Select a page up", show=False),
        Binding("shift+home", "first(True)", "Select to the first", show=False),
        Binding("shift+end", "last(True)", "Select to the last", show=False),
        Binding("A", "select_all", "Select all rows", show=False),
        Binding("escape", "deselect", "Deselect", show=False, tooltip="Clear the selection"),
        Binding(
            "o", "sort", "Sort", show=False, tooltip="Sort the table's rows; again: by one more"
        ),
    ]

    class FeatureFocused(Message):
        """The cursor is on this feature, `row` (from 0) of `of`; `layer` is None without rows."""

        def __init__(self, layer: int | None, feature: int | None, row: int, of: int) -> None:
            super().__init__()
            self.layer, self.feature, self.row, self.of = layer, feature, row, of

    class SelectionChanged(Message):
        """The selected range of rows changed, possibly to none."""

        def __init__(self, rows: range | None) -> None:
            super().__init__()
            self.rows = rows

    class SortRequested(Message):
        """The user wants the rows sorted by this column of the frame; None: asks for a column."""

        def __init__(self, column: str | None) -> None:
            super().__init__()
            self.column = column

    def __init__(
        self,
        *,
        ascii_only: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(ascii_only=ascii_only, name=name, id=id, classes=classes)
        self._rows: Rows | None = None
        self._writing = Writing(ascii_only=ascii_only)
        self._has_labels = False
        self._sorted: tuple[SortKey, ...] = ()
        self._nothing = "no features"
        self._lacking = ""
        self._cursor = 0
        self._way = 1
        self._anchor: int | None = None
        self._all = False
        self._first = 0
        self._id_width = 0
        self._columns: tuple[Placed, ...] = ()
        self._page: tuple[object, Sequence[Line]] = (None, ())
        self._said: tuple[object, ...] = ()
        self._said_range: range | None = None

    @property
    def rows(self) -> Rows | None:
        return self._rows

    @property
    def row(self) -> int:
        """The cursor's row, from 0."""
        return self._cursor

    @property
    def chosen(self) -> range:
        """The selected rows; without a selection, the cursor's row."""
        if self._all or not self._count:
            return range(self._count)
        other = self._cursor if self._anchor is None else self._anchor
        return range(min(self._cursor, other), max(self._cursor, other) + 1)

    @property
    def feature(self) -> tuple[int, int] | None:
        """Layer and feature under the cursor."""
        return self._rows.feature(self._cursor) if self._rows is not None and self._count else None

    @property
    def ahead(self) -> tuple[int, int] | None:
        """The feature that the cursor comes to next if it moves on as it did."""
        row = self._cursor + self._way
        return (
            self._rows.feature(row) if self._rows is not None and 0 <= row < self._count else None
        )

    def set_rows(self, rows: Rows, nothing: str = "no features") -> None:
        """Show these rows; the cursor stays on its feature and on its line if possible.

        A selection stays if the rows are the same in the same order, and is cleared otherwise.
        `nothing` is the text of an empty table.
        """
        before, line_before = self._rows, self._cursor - self._first
        if self._selects and before is not None and not rows.same_as(before):
            self._anchor, self._all = None, False
        self._rows, self._nothing = rows, self._printable(nothing)
        self._cursor = rows.follow(before, self._cursor) if before is not None else 0
        self._first = self._cursor - line_before
        self._writing = replace(self._writing, with_layer=rows.spans_layers, matches=rows.matches)
        self._id_width = rows.widest_feature + 3 * rows.spans_layers
        self._show()

    def set_lacking(self, why: str) -> None:
        """The head's text if no row has columns."""
        said = self._printable(why)
        if said != self._lacking:
            self._lacking = said
            self._show()

    def set_marks(
        self, marks: Mapping[int, Mapping[int, Mark]], *, has_labels: bool = False
    ) -> None:
        """Show these marks, by layer and feature; unchanged lines are not repainted.

        `has_labels`: some have labels, so that there is a column for them.
        """
        self._has_labels = has_labels
        self._writing = replace(self._writing, marks=marks)
        self._show()

    def set_texts(self, texts: Sequence[str] | None) -> None:
        """The raw strings of all token ids; None shows ids."""
        self._writing = replace(self._writing, texts=texts, _labels={})
        self._show()

    def set_sort(self, keys: Sequence[SortKey]) -> None:
        """The order of the rows, as shown in the head."""
        self._sorted = tuple(keys)
        self._show()

    def values_of(self, columns: Sequence[str]) -> dict[str, str]:
        """What the table says of the feature under the cursor in each column of the frame."""
        if self._rows is None or not self._count:
            return {}
        needed = dict.fromkeys(("layer", "feature", "silent", *columns))
        (values,) = self._rows.page(self._cursor, 1, list(needed))
        return {name: value_text(name, self._writing, values) for name in columns}

    def move_to(self, layer: int, feature: int) -> bool:
        """Put the cursor on a feature; False if it has no row."""
        place = self._rows.find(layer, feature) if self._rows is not None else None
        if place is not None:
            self._go(place)
        return place is not None

    def action_move(self, by: int, extend: bool = False) -> None:
        self._go(self._cursor + by, extend=extend)

    def action_turn(self, pages: float, extend: bool = False) -> None:
        by = int(pages * self._window) or (1 if pages > 0 else -1)
        self._go(self._cursor + by, extend=extend, roll=by)

    def action_first(self, extend: bool = False) -> None:
        self._go(0, extend=extend)

    def action_last(self, extend: bool = False) -> None:
        self._go(self._count - 1, extend=extend)

    def action_select_all(self) -> None:
        self._anchor, self._all = None, self._count > 1
        self._show()

    def action_deselect(self) -> None:
        if not self._selects:
            raise SkipAction
        self._go(self._cursor)

    def action_sort(self) -> None:
        self.post_message(self.SortRequested(None))

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None:
            return
        if place.y == 0:
            end = 1
            for placed in self._columns:
                end += placed.width + 1
                if place.x < end:
                    self.post_message(self.SortRequested(placed.column.source))
                    break
        elif self._first + place.y - 1 < self._count:
            self._go(self._first + place.y - 1, extend=event.shift)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._go(self._cursor + _WHEEL)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._go(self._cursor - _WHEEL)

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        sorted_by = tuple(key.column for key in self._sorted)
        wanted = self._writing.matches.columns
        if self._has_labels:
            wanted = (*wanted, "label")
        if self._rows is not None and EXPLANATION in self._rows.frame.columns:
            wanted = (*wanted, EXPLANATION)
        self._columns = fitted_columns(self._id_width, width - 1, sorted_by, wanted)
        head = fitted(line((self._heading(), "feature-table--head")), width)
        if not self._count:
            return [head], [line("", (f"  {self._nothing}", "pane--quiet"))]
        window = self._window
        if not self._first <= self._cursor < self._first + window:
            self._first = self._cursor - window // 2
        self._first = max(0, min(self._first, self._count - window))
        chosen = self.chosen if self._selects else range(0)
        body = []
        for position, text in enumerate(self._texts(window), self._first):
            if position == self._cursor:
                styled = ((part, _ON_CURSOR.get(style, _CURSOR)) for part, style in text)
                body.append(line((">", _CURSOR), *styled))
            elif position in chosen:
                parts = ((part, style or "feature-table--chosen") for part, style in text)
                body.append(line(("|", "feature-table--chosen"), *parts))
            else:
                body.append(line(" ", *text))
        return [head], body

    def _printable(self, text: str) -> str:
        return visible(text, ascii_only=self.ascii_only)

    @property
    def _selects(self) -> bool:
        return self._all or self._anchor is not None

    @property
    def _count(self) -> int:
        return 0 if self._rows is None else len(self._rows)

    @property
    def _window(self) -> int:
        return max(1, self.content_size.height - 1)

    def _texts(self, window: int) -> Sequence[Line]:
        """The rows in the window as text, without the signs of cursor and selection."""
        assert self._rows is not None
        key = self._rows, self._first, window, self._columns, self._writing
        if self._page[0] != key:
            page = self._rows.page(self._first, window, sources_of(self._columns))
            self._page = key, [self._text(values) for values in page]
        return self._page[1]

    def _text(self, values: Mapping[str, object]) -> Line:
        runs = []
        for placed in self._columns:
            style = "feature-table--baseline" if placed.column.is_baseline else ""
            pieces = placed.column.pieces(self._writing, values, placed.width)
            runs += [(text, _MATCH if matched else style) for text, matched in pieces]
            runs.append((self._writing.edge(placed), ""))
        return line(*runs)

    def _heading(self) -> str:
        text = " "
        for placed in self._columns:
            if self._lacking and placed.column.is_computed:
                return text + self._lacking
            text += placed.column.heading(
                placed.width, self._arrow(placed.column), self._writing.edge(placed)
            )
        return text

    def _arrow(self, column: Column) -> str:
        """The sign of a column that the rows are sorted by, with a number if others are too."""
        down, up = ("\\", "/") if self.ascii_only else ("▼", "▲")
        for number, key in enumerate(self._sorted, 1):
            if key.column in column.sources:
                return (down if key.descending else up) + (str(number) if self._sorted[1:] else "")
        return ""

    def _go(self, to: int, *, extend: bool = False, roll: int = 0) -> None:
        self._all = False
        if extend and self._anchor is None:
            self._anchor = self._cursor
        elif not extend:
            self._anchor = None
        before, self._cursor = self._cursor, max(0, min(to, self._count - 1))
        if self._cursor != before:
            self._way = 1 if self._cursor > before else -1
        self._first += roll
        self._show()

    def _show(self) -> None:
        self.redraw()
        if self._rows is None:
            return
        feature = self.feature
        said = (feature, self._cursor, self._count)
        if said != self._said:
            self._said = said
            layer, number = feature or (None, None)
            self.post_message(self.FeatureFocused(layer, number, self._cursor, self._count))
        selected = self.chosen if self._selects and self._count else None
        if selected != self._said_range:
            self._said_range = selected
            self.post_message(self.SelectionChanged(selected))

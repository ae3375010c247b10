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

from qlens_tui.app.widgets import table_columns
from qlens_tui.app.widgets.column_fit import Fitted, fitted_columns
from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.app.widgets.table_cells import Writing
from qlens_tui.app.widgets.table_lines import MATCH, TableLines
from qlens_tui.table.chosen_columns import ChosenColumn
from qlens_tui.table.column_names import EXPLANATION
from qlens_tui.table.sort_key import SortKey
from qlens_tui.text import visible
from qlens_tui.triage.marks import Mark

if TYPE_CHECKING:
    from qlens_tui.table.rows import Rows

_WHEEL = 3
_CURSOR = "feature-table--cursor"
_ON_CURSOR = {MATCH: "feature-table--cursor-match"}


class FeatureTable(LinePane):
    """The table; set its content with `set_rows`, `set_marks`, `set_texts`, `set_sort`."""

    DEFAULT_CSS = """
    FeatureTable > .feature-table--head { text-style: bold; }
    FeatureTable > .feature-table--baseline { color: $foreground-muted; }
    FeatureTable > .feature-table--bars { color: $text-success; }
    FeatureTable > .feature-table--match { color: $text-success; text-style: bold underline; }
    FeatureTable > .feature-table--chosen { text-style: bold; }
    FeatureTable > .feature-table--cursor { text-style: bold; background: $foreground 10%; }
    FeatureTable > .feature-table--cursor-match {
        text-style: bold underline; background: $foreground 10%;
    }
    FeatureTable:focus > .feature-table--cursor { background: $success 35%; }
    FeatureTable:focus > .feature-table--cursor-match { background: $success 35%; }
    FeatureTable:ansi > .feature-table--baseline { text-style: dim; }
    FeatureTable:ansi > .feature-table--cursor,
    FeatureTable:ansi > .feature-table--cursor-match { background: $background; }
    FeatureTable:focus:ansi > .feature-table--cursor { text-style: bold reverse; }
    FeatureTable:focus:ansi > .feature-table--cursor-match { text-style: bold reverse underline; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "feature-table--head",
        "feature-table--baseline",
        "feature-table--bars",
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
        Binding("greater_than_sign", "scroll_columns(1)", "Columns to the right", show=False),
        Binding("less_than_sign", "scroll_columns(-1)", "Columns to the left", show=False),
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

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
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
        self._chosen: tuple[ChosenColumn, ...] = ()
        self._left = 0
        self._fitted = Fitted((), 0, 0)
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

    def set_columns(self, chosen: Sequence[ChosenColumn]) -> None:
        """Show these columns, from the first one on; none: the usual ones."""
        self._chosen, self._left = tuple(chosen), 0
        self._show()

    @property
    def chosen_columns(self) -> tuple[ChosenColumn, ...]:
        """The columns that the user chose; empty for the usual ones."""
        return self._chosen

    @property
    def usual_columns(self) -> tuple[ChosenColumn, ...]:
        """The columns of a table for which none were chosen."""
        usual = table_columns.arranged((), self._texts_there)
        return tuple(ChosenColumn(column.name) for column in usual[1:])

    def offered_columns(self) -> dict[str, tuple[table_columns.Column, str]]:
        """All columns that can be chosen, by name, with the cells of the feature in sight."""
        columns = table_columns.choosable(() if self._rows is None else self._rows.frame.columns)
        values = self._values(table_columns.sources_of(columns))
        return table_columns.samples(columns, self._writing, values)

    def values_of(self, columns: Sequence[str]) -> dict[str, str]:
        """What the table says of the feature under the cursor in each column of the frame."""
        return table_columns.texts(columns, self._writing, self._values(columns))

    def _values(self, columns: Sequence[str]) -> Mapping[str, object]:
        """The values of the feature under the cursor; empty if there is none."""
        if self._rows is None or not self._count:
            return {}
        needed = dict.fromkeys(("layer", "feature", "silent", *columns))
        return self._rows.page(self._cursor, 1, list(needed))[0]

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

    def action_scroll_columns(self, by: int) -> None:
        """Scroll by a column, if there are more on that side."""
        if self._fitted.right if by > 0 else self._left:
            self._left += by
            self._show()

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
            for placed in self._fitted.placed:
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
        if not self._chosen:
            wanted = (*wanted, *self._texts_there)
        self._fitted = fitted_columns(
            self._id_width, width - 1, sorted_by, wanted, self._chosen, self._left
        )
        self._left = self._fitted.left
        heading = self._lines.heading(self._sorted, self._lacking)
        head = fitted(line((heading, "feature-table--head")), width)
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
    def _texts_there(self) -> tuple[str, ...]:
        """The columns of text that the table has only if there is any in them."""
        explained = self._rows is not None and EXPLANATION in self._rows.frame.columns
        return (*(["label"] if self._has_labels else []), *([EXPLANATION] if explained else []))

    @property
    def _selects(self) -> bool:
        return self._all or self._anchor is not None

    @property
    def _count(self) -> int:
        return 0 if self._rows is None else len(self._rows)

    @property
    def _window(self) -> int:
        return max(1, self.content_size.height - 1)

    @property
    def _lines(self) -> TableLines:
        return TableLines(self._fitted, self._writing, self.content_size.width)

    def _texts(self, window: int) -> Sequence[Line]:
        """The rows in the window as text, without the signs of cursor and selection."""
        assert self._rows is not None
        key = self._rows, self._first, window, self._fitted.placed, self._writing
        if self._page[0] != key:
            columns = table_columns.sources_of([placed.column for placed in self._fitted.placed])
            page = self._rows.page(self._first, window, columns)
            self._page = key, [self._lines.row(values) for values in page]
        return self._page[1]

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

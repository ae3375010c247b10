"""Prompts about the table's rows: jump, sort, filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.screens.choice import Choice
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.app.widgets.table_columns import COLUMNS
from qlens_tui.text import as_typed

_MARKS = ("star", "reject", "tags", "note")


class RowPrompts:
    """Asks, and changes the rows accordingly."""

    def __init__(
        self,
        state: State,
        *,
        rows: TableRows,
        table: FeatureTable,
        screen: Screen[Any],
        ascii_only: bool,
    ) -> None:
        self._state = state
        self._rows = rows
        self._table = table
        self._screen = screen
        self._ascii = ascii_only

    def jump(self) -> None:
        """Ask for `layer:feature`, or a feature of the layer in sight."""
        opened, layer = self._state.opened, self._state.layer

        def check(text: str) -> str | None:
            found = _jump(text, layer)
            if found is None:
                return "write LAYER:FEATURE, such as 8:1279, or a feature of this layer"
            if found[0] not in opened.layers:
                return f"no layer {found[0]}: layers are {', '.join(map(str, opened.layers))}"
            known = opened.known.get(found[0])
            if known is not None and found[1] >= known.n_features:
                return f"layer {found[0]} has features 0 to {known.n_features - 1}"
            return None

        def go(answer: Answer | None) -> None:
            found = _jump(answer.text, layer) if answer is not None else None
            if found is not None:
                self._rows.go(*found)

        prompt = Prompt("jump to layer:feature", check=check, ascii_only=self._ascii)
        self._screen.app.push_screen(prompt, go)

    def sort(self) -> None:
        """Ask for a column to sort by; choosing the current column reverses the order."""
        rows, by = self._table.rows, self._rows.sort
        columns = sortable(rows.frame.columns if rows is not None else ())
        way = "down" if self._rows.descending else "up"

        def sort(index: int | None) -> None:
            if index is not None:
                self._rows.sort_by(columns[index])

        choice = Choice(
            "sort by (the same column again: reverse)",
            [f"{column:<28}{way if column == by else ''}" for column in columns],
            cursor=columns.index(by) if by in columns else 0,
            ascii_only=self._ascii,
        )
        self._screen.app.push_screen(choice, sort)

    def filter(self) -> None:
        """Ask for words, or SQL over the columns."""
        from qlens_tui.table.filter_sql import read_filter
        from qlens_tui.table.filter_words import RULE
        from qlens_tui.table.rows import KNOWN

        def check(text: str) -> str | None:
            try:
                read_filter(text, KNOWN, ascii_only=self._ascii)
            except LensError as error:
                return str(error)
            return None

        def earlier(prompt: Prompt, text: str) -> None:
            part = "" if text == self._rows.filter else text.casefold()
            found = (f for f in self._rows.filters if f != text and part in f.casefold())
            offers = [Suggestion(as_typed(f, ascii_only=self._ascii), f) for f in found]
            prompt.offer(offers, from_last=True)

        def keep(answer: Answer | None) -> None:
            if answer is not None:
                self._rows.filter_by(answer.text.strip())

        prompt = Prompt(
            "filter features (empty: none; up: earlier filters)",
            value=self._rows.filter,
            hint=RULE,
            check=check,
            typed=earlier,
            ascii_only=self._ascii,
        )
        self._screen.app.push_screen(prompt, keep)


def sortable(columns: Sequence[str]) -> list[str]:
    """The columns of a frame that can be sorted by, the table's own first."""
    shown = [column.source for column in COLUMNS if column.source in (*columns, *_MARKS)]
    hidden = ("_ids", "_scores", "_moved")
    others = [
        name for name in columns if not name.endswith(hidden) and not name.startswith("context_")
    ]
    return list(dict.fromkeys([*shown, *_MARKS, *others]))


def _jump(text: str, layer: int | None) -> Feature | None:
    """The typed feature, in `layer` unless it names one; `None` if it is invalid."""
    first, colon, second = text.strip().partition(":")
    if not colon:
        first, second = ("" if layer is None else str(layer)), first
    if first.isdecimal() and second.isdecimal() and len(text) < 20:
        return int(first), int(second)
    return None

"""Prompts about the table's rows: jump, sort, filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.app.screens.sort_prompt import NONE, SortPrompt
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.app.widgets.table_columns import COLUMNS
from qlens_tui.table.row_reader import MARKS_SHOWN
from qlens_tui.text import as_typed


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
        """Ask for a column to sort by, alone or after the others."""
        rows, keys = self._table.rows, self._rows.sort
        columns = sortable(rows.frame.columns if rows is not None else ())
        prompt = SortPrompt(columns, keys, self._table.values_of(columns), ascii_only=self._ascii)

        def sort(answer: Answer | None) -> None:
            if answer is None or answer.number is None:
                return
            if answer.number == NONE:
                self._rows.order(())
            else:
                self._rows.sort_by(columns[answer.number], adds=bool(keys) and not prompt.is_alone)

        self._screen.app.push_screen(prompt, sort)

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
            prompt.offer(offers, at=max(0, len(offers) - 1))

        def keep(answer: Answer | None) -> None:
            if answer is not None:
                self._rows.filter_by(answer.text.strip())

        prompt = Prompt(
            "filter features (empty: none; up: earlier filters)",
            value=self._rows.filter,
            is_selected=True,
            hint=RULE,
            check=check,
            typed=earlier,
            ascii_only=self._ascii,
        )
        self._screen.app.push_screen(prompt, keep)


def sortable(columns: Sequence[str]) -> list[str]:
    """The columns of a frame that can be sorted by: first the table's numbers, then marks."""
    shown = [column for column in COLUMNS if not column.reads]  # bars are no numbers
    table = [column for column in shown if column.source in (*columns, *MARKS_SHOWN)]
    numbers = [column.source for column in table if column.is_right and column.is_computed]
    hidden = ("_ids", "_scores", "_moved")
    others = [
        name for name in columns if not name.endswith(hidden) and not name.startswith("context_")
    ]
    return list(
        dict.fromkeys([*numbers, *MARKS_SHOWN, *(column.source for column in table), *others])
    )


def _jump(text: str, layer: int | None) -> Feature | None:
    """The typed feature, in `layer` unless it names one; `None` if it is invalid."""
    first, colon, second = text.strip().partition(":")
    if not colon:
        first, second = ("" if layer is None else str(layer)), first
    if first.isdecimal() and second.isdecimal() and len(text) < 20:
        return int(first), int(second)
    return None

"""The screens that a key opens over the workbench, to look at something.

They are the overview of the layers, the columns of the table, jobs, provenance, a context, and
the help.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.screen import Screen

from lens_core.errors import StoreError
from qlens_tui.app.chosen_columns_file import chosen_columns, keep_columns
from qlens_tui.app.notices import LONG
from qlens_tui.app.provenance import provenance
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.columns import Columns
from qlens_tui.app.screens.context import ContextScreen
from qlens_tui.app.screens.help import Help
from qlens_tui.app.screens.jobs import Jobs
from qlens_tui.app.screens.key_sections import in_help, title_of
from qlens_tui.app.screens.marking import Marking
from qlens_tui.app.screens.overview import OverviewScreen
from qlens_tui.app.screens.terms import Terms
from qlens_tui.app.state import State
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.app.widgets.term_list import Section
from qlens_tui.engine import messages as m
from qlens_tui.table.chosen_columns import ChosenColumn
from qlens_tui.text import visible


class SideScreens:
    """Opens each of them over `screen`; `go` shows a layer."""

    def __init__(
        self,
        state: State,
        requests: Requests,
        marking: Marking,
        *,
        table: FeatureTable,
        config: Path,
        go: Callable[[int | None], None],
        screen: Screen[Any],
        ascii_only: bool,
    ) -> None:
        self._state = state
        self._requests = requests
        self._marking = marking
        self._table = table
        self._config = config
        self._go = go
        self._screen = screen
        self._ascii = ascii_only

    def overview(self) -> None:
        overview = OverviewScreen(
            self._state.opened, self._state.layer, self._marking.triage, ascii_only=self._ascii
        )

        def go(index: int | None) -> None:
            if index is not None:
                self._go(overview.rows[index])

        self._screen.app.push_screen(overview, go)

    def jobs(self) -> None:
        self._screen.app.push_screen(Jobs(self._state, self._requests, ascii_only=self._ascii))

    def columns(self) -> None:
        def changed(chosen: tuple[ChosenColumn, ...]) -> None:
            self._table.set_columns(chosen)
            try:
                keep_columns(self._config, chosen)
            except (StoreError, OSError) as error:
                self._screen.notify(f"columns not saved: {error}", severity="error", timeout=LONG)

        table = self._table
        offered = table.offered_columns()
        screen = Columns(
            table.chosen_columns, table.usual_columns, offered, changed, ascii_only=self._ascii
        )
        self._screen.app.push_screen(screen)

    def use_saved_columns(self) -> None:
        """Show the columns that were chosen before, or say why they cannot be read."""
        try:
            self._table.set_columns(chosen_columns(self._config))
        except StoreError as error:
            self._screen.notify(str(error), severity="error", timeout=LONG)

    def provenance(self) -> None:
        def printable(text: str) -> str:
            return visible(text, ascii_only=self._ascii)

        sections = [
            Section(about.title, [(name, printable(text)) for name, text in about.facts])
            for about in provenance(self._state)
        ]
        title = "where the numbers come from"
        self._screen.app.push_screen(Terms(title, sections, ascii_only=self._ascii))

    def context(self, of: m.Evidence, context: m.Context) -> None:
        """Open one of a feature's contexts."""
        screen = ContextScreen(of, context, self._state, self._requests, ascii_only=self._ascii)
        self._screen.app.push_screen(screen)

    def help(self) -> None:
        focused = self._screen.focused
        sections = [(each.title, each.bindings) for each in in_help()]
        begin = title_of(focused.id if focused is not None else None)
        self._screen.app.push_screen(Help(sections, begin=begin, ascii_only=self._ascii))

"""The screens that a key opens over the workbench, to look at something.

They are the overview of the layers, jobs, provenance, and the help.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.screen import Screen

from qlens_tui.app.provenance import provenance
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.help import Help
from qlens_tui.app.screens.jobs import Jobs
from qlens_tui.app.screens.key_sections import in_help, title_of
from qlens_tui.app.screens.marking import Marking
from qlens_tui.app.screens.overview import OverviewScreen
from qlens_tui.app.screens.terms import Terms
from qlens_tui.app.state import State
from qlens_tui.app.widgets.term_list import Section
from qlens_tui.text import visible


class SideScreens:
    """Opens each of them over `screen`; `go` shows a layer."""

    def __init__(
        self,
        state: State,
        requests: Requests,
        marking: Marking,
        *,
        go: Callable[[int | None], None],
        screen: Screen[Any],
        ascii_only: bool,
    ) -> None:
        self._state = state
        self._requests = requests
        self._marking = marking
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

    def provenance(self) -> None:
        def printable(text: str) -> str:
            return visible(text, ascii_only=self._ascii)

        sections = [
            Section(about.title, [(name, printable(text)) for name, text in about.facts])
            for about in provenance(self._state)
        ]
        title = "where the numbers come from"
        self._screen.app.push_screen(Terms(title, sections, ascii_only=self._ascii))

    def help(self) -> None:
        focused = self._screen.focused
        sections = [(each.title, each.bindings) for each in in_help()]
        begin = title_of(focused.id if focused is not None else None)
        self._screen.app.push_screen(Help(sections, begin=begin, ascii_only=self._ascii))

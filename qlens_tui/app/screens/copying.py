"""What the keys for copying copy."""

from __future__ import annotations

from typing import Any

from textual.screen import Screen

from qlens_tui.app.clipboard import copy
from qlens_tui.app.screens.pane_layout import PaneLayout
from qlens_tui.app.screens.panes import COMPARISON
from qlens_tui.app.state import State
from qlens_tui.app.views import SIDES, Feature
from qlens_tui.app.widgets.feature_table import FeatureTable


class Copying:
    """Copies text about the feature under the cursor, one method for each key."""

    def __init__(
        self, state: State, panes: PaneLayout, *, table: FeatureTable, screen: Screen[Any]
    ) -> None:
        self._state = state
        self._panes = panes
        self._table = table
        self._screen = screen

    def pane(self) -> None:
        """The focused pane's text; for the table, the row's lists; the comparison, if any."""
        lines = getattr(self._screen.focused, "lines", [])
        if self._state.pinned is not None:
            lines = self._panes.panes[COMPARISON.name].all_lines
        elif self._table.has_focus:
            lines = [line for side in SIDES for line in self._panes.panes[side].lines]
        if self._table.feature is not None and lines:
            copy(self._screen.app, "\n".join(line.rstrip() for line in lines) + "\n")

    def address(self) -> None:
        """The address on Neuronpedia of the feature under the cursor."""
        if self._table.feature is not None:
            self.address_of(self._table.feature)

    def address_of(self, feature: Feature) -> None:
        """A feature's address on Neuronpedia, if the dictionary names one."""
        layer, number = feature
        known = self._state.opened.known.get(layer)
        address = None if known is None else known.address(number)
        if address is not None:
            copy(self._screen.app, address + "\n")
            return
        self._screen.notify(
            f"the metadata of layer {layer}'s dictionary names no page on Neuronpedia",
            severity="warning",
        )

"""Pinning a feature, with which the one under the cursor is then compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.screen import Screen

from qlens_tui.app.screens.pane_layout import PaneLayout
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature
from qlens_tui.app.widgets.feature_table import FeatureTable


class Pinning:
    """Pins and unpins; while a feature is pinned, the comparison stands in place of the panes."""

    def __init__(
        self,
        state: State,
        panes: PaneLayout,
        *,
        table: FeatureTable,
        screen: Screen[Any],
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when a feature was pinned or unpinned."""
        self._state = state
        self._panes = panes
        self._table = table
        self._screen = screen
        self._changed = changed

    def toggle(self) -> None:
        """Pin the feature under the cursor; or unpin the one that is pinned."""
        if not self.unpin() and self._table.feature is not None:
            self._pin(self._table.feature)

    def of_result(self, feature: Feature) -> None:
        """Pin a feature of a list over the panes, which stays open; or unpin that feature."""
        if feature == self._state.pinned:
            self.unpin()
            said = "unpinned"
        else:
            self._pin(feature)
            said = "pinned: compared with the feature in sight when this list is closed"
        self._screen.notify("{}:{} {}".format(*feature, said))

    def _pin(self, feature: Feature) -> None:
        self._state.pinned = feature
        self.show()

    def unpin(self) -> bool:
        """End the comparison; False if there is none."""
        if self._state.pinned is None:
            return False
        self._state.pinned = None
        self.show()
        return True

    def show(self) -> None:
        """Show the comparison, or else the panes."""
        focused = self._screen.focused
        if focused is not None and focused.id not in self._panes.names:
            self._table.focus()
        self._panes.show_comparison()
        self._changed()

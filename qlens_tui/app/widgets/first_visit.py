"""A line for a first visit: the keys that matter most, until escape hides it."""

from __future__ import annotations

from qlens_tui.app.widgets.text_line import TextLine

_SAID = "first visit: j/k other features, / search by token, ? all keys (esc: hide)"
"""Fits in 80 columns."""


class FirstVisit(TextLine):
    """Shown if `is_first`, until it is told to leave."""

    def __init__(self, *, is_first: bool, ascii_only: bool) -> None:
        super().__init__(_SAID, "pane--strong", ascii_only=ascii_only)
        self.display = is_first

    def leave(self) -> bool:
        """Hide the line; whether it was shown."""
        was_shown, self.display = self.display, False
        return was_shown

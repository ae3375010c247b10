"""A threshold between 0 and 1 on a scale, and what it selects."""

from __future__ import annotations

from collections.abc import Sequence

from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.text import cells

_LEAST = 8  # columns of a scale


class ThresholdLine(LinePane, can_focus=False):
    """One line: `0 ----o-- 1  text`."""

    DEFAULT_CSS = "ThresholdLine { height: 1; }"

    def __init__(self, *, ascii_only: bool, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._threshold, self._text = 0.0, ""

    def tell(self, threshold: float, text: str) -> None:
        """Show a threshold, and printable text."""
        self._threshold, self._text = threshold, text
        self.redraw()

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        room = width - cells(self._text) - len(" 0  1  ")
        if room < _LEAST:
            return [fitted(line((f" {self._text}", "pane--strong")), width, self.ellipsis)], []
        at = round(self._threshold * (room - 1))
        rail, knob, beyond = ("-", "o", "=") if self.ascii_only else ("─", "●", "━")
        scale = (rail * at, "pane--quiet"), (knob + beyond * (room - 1 - at), "pane--strong")
        ends = (" 0 ", "pane--quiet"), (" 1  ", "pane--quiet")
        text = self._text, "pane--strong"
        return [fitted(line(ends[0], *scale, ends[1], text), width, self.ellipsis)], []

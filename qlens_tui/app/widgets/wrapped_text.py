"""A hint or a problem in full, wrapped over as many lines as needed."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Size

from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.text import fit, visible, wrapped

_MOST = 4  # lines at most; a path may be longer than a screen


class WrappedText(LinePane, can_focus=False):
    """Shows a text on as many lines as it needs."""

    DEFAULT_CSS = "WrappedText { height: auto; }"

    def __init__(self, *, ascii_only: bool, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._text, self._style = "", "pane--quiet"

    def tell(self, text: str, style: str, *, printable: bool = False) -> None:
        """Show `text` in a component class of `LinePane`.

        `printable`: it is the app's own text, shown unchanged, with its backslashes.
        """
        self._text = text if printable else visible(text, ascii_only=self.ascii_only)
        self._style = style
        self.refresh(layout=True)
        self.redraw()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._wrapped(width))

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        return [
            fitted(line((f" {text}", self._style)), width, self.ellipsis)
            for text in self._wrapped(width)
        ], []

    def _wrapped(self, width: int) -> list[str]:
        room = max(1, width - 1)
        lines = wrapped(self._text, room)
        if len(lines) <= _MOST:
            return lines
        last = fit(" ".join(lines[_MOST - 1 :]), room, ellipsis=self.ellipsis)
        return [*lines[: _MOST - 1], last]

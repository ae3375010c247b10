"""One line of text: a title, a hint, or a problem."""

from __future__ import annotations

from collections.abc import Sequence

from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.text import visible


class TextLine(LinePane, can_focus=False):
    """Shows one line of text."""

    DEFAULT_CSS = "TextLine { height: 1; }"

    def __init__(
        self,
        text: str = "",
        style: str = "pane--title",
        *,
        ascii_only: bool,
        id: str | None = None,
    ) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._text, self._style = visible(text, ascii_only=ascii_only), style

    @property
    def text(self) -> str:
        """The text as shown."""
        return self._text

    def tell(self, text: str, style: str | None = None, *, printable: bool = False) -> None:
        """Show `text` in a component class of `LinePane`: the current one unless one is given.

        `printable`: it already went through `qlens_tui.text` and may hold that notation's marks.
        """
        self._text = text if printable else visible(text, ascii_only=self.ascii_only)
        self._style = style if style is not None else self._style
        self.redraw()

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        return [fitted(line((f" {self._text}", self._style)), width, self.ellipsis)], []

"""A line of facts, each in several wordings, as much as fits."""

from __future__ import annotations

from collections.abc import Sequence

from qlens_tui.app.widgets.line_pane import Line, LinePane, facts, fitted, line
from qlens_tui.text import as_typed


class FactLine(LinePane, can_focus=False):
    """The facts that fit, the most important first."""

    DEFAULT_CSS = "FactLine { height: 1; }"

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._facts: tuple[tuple[str, ...], ...] = ()

    def tell(self, said: Sequence[Sequence[str]]) -> None:
        """Show these, each in several wordings, longest first; a filter as it was typed."""
        printable = tuple(
            tuple(as_typed(words, ascii_only=self.ascii_only) for words in fact) for fact in said
        )
        if printable != self._facts:
            self._facts = printable
            self.redraw()

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        said = facts(self._facts, width - 2, "  ")
        return [fitted(line((f" {said}", "pane--quiet")), width, self.ellipsis)], []

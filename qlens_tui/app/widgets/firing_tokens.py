"""A text's tokens in a column, and how strongly one feature fires on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.engine.messages import PromptFirings
from qlens_tui.formats import number
from qlens_tui.text import cells, fit, token_label

_CURSOR, _NUMBER = 2, 8  # columns
_SHORTEST_BAR = 3


class FiringTokens(LinePane, can_focus=False):
    """The tokens with a cursor; a number and a bar show the activation, if there is any."""

    DEFAULT_CSS = """
    FiringTokens > .firing--fires { text-style: bold; color: $text-success; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"firing--fires"}

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._probed: PromptFirings | None = None
        self._labels: list[str] = []
        self._cursor = 0

    @property
    def cursor(self) -> int:
        """The token under the cursor."""
        return self._cursor

    def tell(self, probed: PromptFirings | None) -> None:
        """Show these tokens; for another text, start where the feature fires most."""
        before, self._probed = self._probed, probed
        if probed is not None and (before is None or before.ids != probed.ids):
            found = probed.activations or (0.0,)
            self._cursor = found.index(max(found))
            plain = self.ascii_only
            self._labels = [token_label(token, ascii_only=plain) for token in probed.tokens]
        self._follow()

    def move(self, by: int) -> None:
        """Move the cursor by `by` tokens."""
        last = len(self._probed.ids) - 1 if self._probed is not None else 0
        self._cursor = max(0, min(self._cursor + by, last))
        self._follow()

    def seek(self, by: int) -> None:
        """Go to the next (`by` 1) or previous (-1) token on which the feature fires."""
        found = self._probed.activations if self._probed is not None else None
        fired = [at for at, activation in enumerate(found or ()) if activation > 0]
        beyond = [at for at in fired if (at - self._cursor) * by > 0]
        if beyond:
            self.move((beyond[0] if by > 0 else beyond[-1]) - self._cursor)

    def _follow(self) -> None:
        self.redraw()
        self.show_line(self._cursor)

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        if self._probed is None:
            return [], []
        of = self._probed
        labels = self._labels
        if of.activations is None:
            token = width - _CURSOR
        else:
            room = width - _CURSOR - _NUMBER - _SHORTEST_BAR - 2
            token = max(1, min(max(map(cells, labels)), room))
        bar = width - _CURSOR - token - _NUMBER - 2
        most = max(of.activations or (), default=0.0)
        name = "" if of.feature is None else str(of.feature)
        head = f"{'':{_CURSOR}}{fit('token', token, ellipsis='')} {name:>{_NUMBER}}"
        body = []
        for at, label in enumerate(labels):
            here = at == self._cursor
            start = f"{'>' if here else ' '} {fit(label, token, ellipsis=self.ellipsis)}"
            activation = of.activations[at] if of.activations is not None else 0.0
            fires = ""
            if activation > 0:
                length = max(1, round(bar * activation / most))
                fires = (
                    f" {number(activation):>{_NUMBER}} {('#' if self.ascii_only else '█') * length}"
                )
            styles = ("pane--cursor",) * 2 if here else ("", "firing--fires")
            body.append(fitted(line((start, styles[0]), (fires, styles[1])), width, ""))
        return [fitted(line((head, "pane--quiet")), width, "")], body

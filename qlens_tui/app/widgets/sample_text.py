"""A whole sample of a text, wrapped, with every token shaded by a feature's activation.

A cursor stands on one token; the last line says what that token is and how strongly the feature
fires on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from qlens_tui.app.widgets.line_pane import Line, LinePane, Run, facts, fitted, line
from qlens_tui.engine.messages import SampleActivations
from qlens_tui.formats import number
from qlens_tui.shading import SHADES, Piece, has_no_colour, pieces
from qlens_tui.text import cells, fit, token_label

_FOOT = 2  # lines below the sample


class SampleText(LinePane, can_focus=False):
    """The sample, the cursor, and the activation under it."""

    DEFAULT_CSS = "SampleText { padding: 0 1; height: 1; }"

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._digits = ascii_only or has_no_colour()
        self._of: SampleActivations | None = None
        self._largest = 0.0
        self._pieces: list[Piece] = []
        self._cursor = 0
        self._rows: list[list[int]] = []

    def tell(self, of: SampleActivations, largest: float, at: int) -> None:
        """Show this sample; `largest` is the feature's largest activation, `at` a position."""
        self._of, self._largest = of, largest
        shown = pieces(
            of.tokens, of.activations, largest, ascii_only=self.ascii_only, digits=self._digits,
            peak=at,
        )  # fmt: skip
        self._pieces = list(shown)
        self._cursor = next(k for k, piece in enumerate(self._pieces) if piece.is_peak)
        self._follow()

    def needed(self, width: int) -> int:
        """The lines that the sample and the last line take at this width."""
        return len(_wrapped([cells(piece.text) for piece in self._pieces], width)) + _FOOT

    @property
    def position(self) -> int:
        """The position of the (first) token under the cursor."""
        return self._pieces[self._cursor].tokens.start if self._pieces else 0

    def move(self, by: int) -> None:
        """Move the cursor by so many tokens."""
        self._cursor = max(0, min(self._cursor + by, len(self._pieces) - 1))
        self._follow()

    def move_line(self, by: int) -> None:
        """Move the cursor by so many lines, to about the same column."""
        if not self._rows:
            return
        row = next(k for k, each in enumerate(self._rows) if self._cursor in each)
        column = self._column(row)
        there = max(0, min(row + by, len(self._rows) - 1))
        if there != row:
            starts = {piece: self._start(there, piece) for piece in self._rows[there]}
            self._cursor = min(starts, key=lambda piece: abs(starts[piece] - column))
        self._follow()

    def seek(self, by: int) -> None:
        """Go to the next (`by` 1) or previous (-1) token on which the feature fires."""
        fired = [k for k, piece in enumerate(self._pieces) if piece.shade]
        beyond = [k for k in fired if (k - self._cursor) * by > 0]
        if beyond:
            self.move((beyond[0] if by > 0 else beyond[-1]) - self._cursor)

    def _follow(self) -> None:
        self.redraw()
        rows = (k for k, each in enumerate(self._rows) if self._cursor in each)
        self.show_line(next(rows, 0))

    def _column(self, row: int) -> int:
        return self._start(row, self._cursor)

    def _start(self, row: int, piece: int) -> int:
        before = self._rows[row][: self._rows[row].index(piece)]
        return sum(cells(self._pieces[each].text) for each in before)

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        self._rows = _wrapped([cells(piece.text) for piece in self._pieces], width)
        body = [
            fitted(line(*(self._run(piece, width) for piece in row)), width, "")
            for row in self._rows
        ]
        return [], body

    def _run(self, index: int, width: int) -> Run:
        piece = self._pieces[index]
        text = fit(piece.text, width, ellipsis=self.ellipsis).rstrip() or piece.text[:width]
        text = text if cells(piece.text) > width else piece.text
        if index == self._cursor:
            return text, "pane--cursor"
        if piece.shade:
            return text, f"pane--shade-{piece.shade}"
        return text, "" if self._counts(piece) else "pane--quiet"

    def _counts(self, piece: Piece) -> bool:
        of = self._of
        return of is not None and any(of.activations[at] is not None for at in piece.tokens)

    def foot(self, width: int, height: int) -> Sequence[Line]:
        of = self._of
        if of is None:
            return ()
        piece = self._pieces[self._cursor]
        at = piece.tokens.start
        name = " ".join(
            token_label(of.tokens[each], ascii_only=self.ascii_only) for each in piece.tokens
        )
        fired = [of.activations[each] for each in piece.tokens]
        strongest = max((each for each in fired if each is not None), default=None)
        if strongest is None:
            said = "does not count: left out of samples of this reference"
        elif strongest > 0:
            said = f"{number(strongest)}, quarter {piece.shade} of {SHADES}"
        else:
            said = "silent"
        where = f"token {at + 1} of {len(of.tokens)}"
        text = facts([[f"{name}  {said}", said], [where], [f"id {of.ids[at]}"]], width, "   ")
        return [(), fitted(line((text, "pane--strong")), width, self.ellipsis)]


def _wrapped(widths: Sequence[int], room: int) -> list[list[int]]:
    """The indices of pieces, line by line; a piece that is wider than a line has its own."""
    rows: list[list[int]] = []
    taken = room + 1
    for index, width in enumerate(widths):
        if taken + width > room:
            rows.append([])
            taken = 0
        rows[-1].append(index)
        taken += width
    return rows

"""The first line: where the user is, and what is going on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qlens_tui.app.widgets.line_pane import Line, LinePane, facts, fitted, line
from qlens_tui.text import as_typed, cells, fit, visible

_PLACE = 48  # least columns for `where`, if `now` has a shorter wording


@dataclass(frozen=True)
class Now:
    """What is going on: words, before them a number that changes, at the right of `room` columns.

    The words stand still while the number changes.
    """

    words: str
    number: str = ""
    room: int = 0

    def printable(self, *, ascii_only: bool) -> str:
        words, number = (visible(t, ascii_only=ascii_only) for t in (self.words, self.number))
        return f"{number:>{self.room}}  {words}" if number else words


class StatusLine(LinePane, can_focus=False):
    """`where` on the left, as much as fits; `now` on the right, always."""

    DEFAULT_CSS = """
    StatusLine { height: 1; }
    StatusLine > .status--name { text-style: bold reverse; }
    StatusLine > .status--now { text-style: bold; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"status--name", "status--now"}

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._where: tuple[tuple[str, ...], ...] = ()
        self._now: tuple[str, ...] = ("",)

    def tell(self, where: Sequence[Sequence[str]], now: Sequence[Now]) -> None:
        """`where`: facts, each in several wordings, longest first; `now`: the same for one fact.

        A filter in `where` is shown as it was typed.
        """
        said = tuple(
            tuple(as_typed(words, ascii_only=self.ascii_only) for words in fact)
            for fact in where
            if any(fact)
        )
        doing = tuple(each.printable(ascii_only=self.ascii_only) for each in now)
        if (said, doing) != (self._where, self._now):
            self._where, self._now = said, doing
            self.redraw()

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        name = " qlens "
        fitting = [words for words in self._now if cells(words) <= width - _PLACE]
        doing = fitting[0] if fitting else self._now[-1]
        now = fit(doing, min(cells(doing), max(0, width - 30)), ellipsis=self.ellipsis)
        room = max(0, width - cells(name) - cells(now) - 4)
        where = facts(self._where, room, "  ")
        gap = " " * (room - cells(where) + 2)
        text = line((name, "status--name"), f" {where}{gap}", (now, "status--now"), " ")
        return [fitted(text, width, self.ellipsis)], []

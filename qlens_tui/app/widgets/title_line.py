"""The title of a list of results, which can be chosen as a line above the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from qlens_tui.app.widgets.line_pane import Line, fitted, line
from qlens_tui.app.widgets.text_line import TextLine


class TitleLine(TextLine, can_focus=True):
    """One line of text with a cursor when it has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "leave", "To the list", show=False),
        Binding("k,up", "stay", "Stay", show=False),
        Binding("enter", "take", "As table", show=False),
    ]

    class Taken(Message):
        """The user chose the title."""

    class Left(Message):
        """The user goes down to the list."""

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        if not self.has_focus:
            return super().lay_out(width, height)
        return [fitted(line((f">{self.text}", "pane--cursor")), width, self.ellipsis)], []

    def action_leave(self) -> None:
        self.post_message(self.Left())

    def action_stay(self) -> None:
        """Nothing is above the title."""

    def action_take(self) -> None:
        self.post_message(self.Taken())

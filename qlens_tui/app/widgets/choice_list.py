"""A list to choose a line from: completions, columns, hits, jobs, tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message

from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.text import wrapped

_MARGIN = 3  # of an empty list's text


class ChoiceList(LinePane):
    """Lines with a cursor. The lines must already be printable."""

    DEFAULT_CSS = """
    ChoiceList { height: auto; max-height: 16; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "Next", show=False),
        Binding("k,up", "move(-1)", "Previous", show=False),
        Binding("pagedown,ctrl+d", "move(10)", "Ten down", show=False),
        Binding("pageup,ctrl+u", "move(-10)", "Ten up", show=False),
        Binding("home,g", "move(-1000000)", "First", show=False),
        Binding("end,G", "move(1000000)", "Last", show=False),
        Binding("enter", "take", "Take", show=False),
    ]

    class Taken(Message):
        """The user chose the line with this number."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    class Moved(Message):
        """The cursor is on the line with this number."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    class Selected(Message):
        """Lines are selected now, or no more."""

    class Left(Message):
        """The user wants to go up from the first line."""

    def __init__(
        self, *, ascii_only: bool = False, id: str | None = None, nothing: str = "nothing"
    ) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._choices: tuple[str, ...] = ()
        self._heading = ""
        self._nothing = nothing
        self._cursor = 0
        self._is_marked = True
        self._anchor: int | None = None
        self._all = False

    @property
    def chosen(self) -> range:
        """The selected lines; without a selection, the line under the cursor."""
        if self._all or not self._choices:
            return range(len(self._choices))
        other = self._cursor if self._anchor is None else self._anchor
        return range(min(self._cursor, other), max(self._cursor, other) + 1)

    @property
    def has_selection(self) -> bool:
        """Whether lines are selected, not only the one under the cursor."""
        return self._all or self._anchor is not None

    @property
    def cursor(self) -> int | None:
        """The line under the cursor; `None` if there are no lines."""
        return self._cursor if self._choices else None

    def set_choices(
        self, choices: Sequence[str], *, heading: str = "", cursor: int | None = 0
    ) -> None:
        """Show these lines; `cursor` `None` leaves the cursor, and the selection, as they are."""
        if cursor is not None:
            self._select(None)
        self._choices = tuple(choices)
        self._heading = heading
        kept = self._cursor if cursor is None else cursor
        self._cursor = max(0, min(kept, len(self._choices) - 1))
        self.styles.height = len(self._choices) + bool(heading) if self._choices else "auto"
        self._follow()

    def mark(self, shown: bool) -> None:
        """Whether the line under the cursor is marked: not if enter chooses something else."""
        self._is_marked = shown
        self.redraw()

    def say_nothing(self, nothing: str) -> None:
        """The text of an empty list, shown in full."""
        self._nothing = nothing
        self.refresh(layout=True)
        self.redraw()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return sum(map(len, self.lay_out(width, viewport.height)))

    def extend(self, by: int) -> None:
        """Select from the line under the cursor on, or extend the selection."""
        anchor = self._cursor if self._anchor is None else self._anchor
        if 0 <= self._cursor + by < len(self._choices):
            self._move(by)
            self._select(anchor)

    def select_all(self) -> None:
        """Select every line."""
        self._select(None, every=len(self._choices) > 1)

    def deselect(self) -> bool:
        """Clear the selection; False if there is none."""
        had = self.has_selection
        self._select(None)
        return had

    def _select(self, anchor: int | None, *, every: bool = False) -> None:
        """Select from this line to the one under the cursor, or `every` line."""
        had = self.has_selection
        self._anchor, self._all = anchor, every
        self.redraw()
        if self.has_selection != had:
            self.post_message(self.Selected())

    def action_move(self, by: int) -> None:
        self._select(None)
        self._move(by)

    def _move(self, by: int) -> None:
        before = self._cursor
        self._cursor = max(0, min(self._cursor + by, len(self._choices) - 1))
        self._follow()
        if self._cursor != before:
            self.post_message(self.Moved(self._cursor))
        elif by == -1 and self._choices:
            self.post_message(self.Left())

    def action_take(self) -> None:
        if self._choices:
            self.post_message(self.Taken(self._cursor))

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is not None:
            index = place.y - bool(self._heading) + self.top
            if 0 <= index < len(self._choices):
                self._cursor = index
                self.redraw()
                self.post_message(self.Taken(index))

    def on_resize(self, event: events.Resize) -> None:
        self._follow()

    def _follow(self) -> None:
        self.redraw()
        if self.body_height:  # a list without a size yet would scroll to the cursor's line
            self.show_line(self._cursor)

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        head = [fitted(line((f"  {self._heading}", "pane--quiet")), width)] if self._heading else []
        body = []
        selected = self.chosen if self.has_selection else range(0)
        for index, choice in enumerate(self._choices):
            here = self._is_marked and index == self._cursor
            text = f"{'>' if here else '|' if index in selected else ' '} {choice}"
            style = "pane--cursor" if here else ""
            body.append(fitted(line((text, style)), width, self.ellipsis))
        if not body:
            lines = wrapped(self._nothing, max(1, width - _MARGIN)) or [""]
            body = [fitted(line((f"  {each}", "pane--quiet")), width) for each in lines]
        return head, body

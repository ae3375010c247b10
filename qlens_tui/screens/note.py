"""A note on a feature: several lines, any text, kept when the user says so."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import TextArea

from qlens_tui.text import visible
from qlens_tui.widgets.key_line import KeyLine
from qlens_tui.widgets.line_pane import Line, LinePane, fitted, line


class _Title(LinePane, can_focus=False):
    DEFAULT_CSS = "_Title { height: 1; }"

    def __init__(self, text: str, *, ascii_only: bool) -> None:
        super().__init__(ascii_only=ascii_only)
        self.text = text

    def lay_out(self, width: int, height: int) -> tuple[list[Line], list[Line]]:
        return [fitted(line((f" {self.text}", "pane--title")), width, self.ellipsis)], []


class NoteEditor(ModalScreen[str | None]):
    """Edits a note; ctrl+s keeps it, escape leaves it as it was, and asks first if it changed.

    Characters that would reach the terminal raw are shown escaped; a note that holds some is
    kept as it was unless it is edited.
    """

    DEFAULT_CSS = """
    NoteEditor { align: center middle; background: transparent; }
    NoteEditor > Vertical {
        width: 90%; max-width: 100; height: 70%; background: $surface;
        border: round $foreground 40%;
    }
    NoteEditor TextArea, NoteEditor TextArea:focus { border: none; height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "keep", "Keep", priority=True),
        Binding("escape", "leave", "Leave", priority=True),
    ]

    def __init__(self, title: str, note: str, *, ascii_only: bool = False) -> None:
        super().__init__()
        self._title = title
        self._before = "\n".join(visible(part) for part in note.split("\n"))
        self._ascii = ascii_only
        self._asked = False

    def compose(self) -> ComposeResult:
        with Vertical():
            yield _Title(self._title, ascii_only=self._ascii)
            yield TextArea(self._before, show_line_numbers=False)
            yield KeyLine(ascii_only=self._ascii)

    def on_mount(self) -> None:
        area = self.query_one(TextArea)
        area.focus()
        area.move_cursor(area.document.end)
        self._tell("leave as it was")

    def _tell(self, leave: str) -> None:
        self.query_one(KeyLine).tell([("ctrl+s", "keep"), ("esc", leave)])

    def action_keep(self) -> None:
        text = self.query_one(TextArea).text
        self.dismiss(text if text != self._before else None)

    def action_leave(self) -> None:
        if self.query_one(TextArea).text != self._before and not self._asked:
            self._asked = True
            self._tell("again: throw the change away")
            return
        self.dismiss(None)

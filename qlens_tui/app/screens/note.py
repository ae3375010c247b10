"""The editor for a feature's note: several lines of any text, saved with ctrl+s.

It lies over the table, so that the feature's lists can be read while one writes about them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.geometry import Region, Size
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import TextArea
from textual.widgets.text_area import EditResult

from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.text_line import TextLine
from qlens_tui.text import has_shape, visible

_LEAST = Size(40, 6)


def shown(text: str) -> str:
    """A line for editing: spaces, tabs and backslashes unchanged, invisible characters escaped."""
    return "".join(
        character
        if character == "\t" or unicodedata.category(character) == "Zs" or has_shape(character)
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


class _Area(TextArea):
    """A text area into which only printable text can be pasted."""

    def _replace_via_keyboard(
        self, insert: str, start: tuple[int, int], end: tuple[int, int]
    ) -> EditResult | None:
        lines = insert.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return super()._replace_via_keyboard("\n".join(map(shown, lines)), start, end)


class NoteEditor(ModalScreen[None]):
    """Edits a note; ctrl+s saves it, escape discards the changes, after asking if there are any.

    Control and format characters are shown as escapes, never raw; an unchanged line is saved
    unchanged, whatever it contains.
    """

    DEFAULT_CSS = """
    NoteEditor { background: transparent; }
    NoteEditor > Vertical { background: $surface; border: round $border-blurred; }
    NoteEditor TextArea, NoteEditor TextArea:focus { border: none; height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "keep", "Save", priority=True, tooltip="Save the note"),
        Binding("escape", "leave", "Discard", priority=True, tooltip="Discard the changes"),
    ]

    def __init__(
        self,
        title: str,
        note: str,
        keep: Callable[[str], str | None],
        *,
        typed: str = "",
        over: Widget | None = None,
        ascii_only: bool = False,
    ) -> None:
        """`keep` saves a note, or returns in one line why it cannot: the editor then stays open.

        `typed`: what was typed at its end already.
        `over`: the widget that it covers, if that is large enough; else the lower half of the
        screen.
        """
        super().__init__()
        self._keep = keep
        self._typed = typed
        self._over = over
        self._title = title
        self._raw = {shown(part): part for part in note.split("\n")}
        self._before = "\n".join(map(shown, note.split("\n")))
        self._ascii = ascii_only
        self._asked = False

    def compose(self) -> ComposeResult:
        with Vertical():
            yield TextLine(self._title, ascii_only=self._ascii)
            yield _Area(self._before, show_line_numbers=False)
            yield KeyLine(ascii_only=self._ascii)

    def on_mount(self) -> None:
        area = self.query_one(TextArea)
        area.focus()
        area.move_cursor(area.document.end)
        area.insert(shown(self._typed))
        self._tell("discard")
        self._place()

    def on_resize(self) -> None:
        self.call_after_refresh(self._place)  # what it covers gets its new size first

    def _place(self) -> None:
        width, height = self.size
        below = Region(0, height // 2, width, height - height // 2 - 1)
        region = below if self._over is None else self._over.region
        if region.width < _LEAST.width or region.height < _LEAST.height:
            region = below
        box = self.query_one(Vertical)
        box.styles.offset = region.offset
        box.styles.width, box.styles.height = region.size

    def _tell(self, leave: str) -> None:
        self.query_one(KeyLine).tell([("ctrl+s", "save"), ("esc", leave)])

    def action_keep(self) -> None:
        if self.keep_now():
            self.dismiss()

    def keep_now(self) -> bool:
        """Save a changed note; False, after a notice with the reason, if that failed."""
        text = self.edited
        problem = None if text is None else self._keep(text)
        if problem is not None:
            self.notify(
                visible(problem, ascii_only=self._ascii), severity="error", timeout=12, markup=False
            )
        return problem is None

    @property
    def edited(self) -> str | None:
        """The edited note; `None` if it is unchanged."""
        text = self.query_one(TextArea).text
        if text == self._before:
            return None
        return "\n".join(self._raw.get(part, part) for part in text.split("\n"))

    def action_leave(self) -> None:
        if self.query_one(TextArea).text != self._before and not self._asked:
            self._asked = True
            self._tell("again: discard the changes")
            return
        self.dismiss()

"""A list of terms and their meanings over the workbench, to read, to search and to close.

`/` narrows it to the entries that contain every word that is typed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from qlens_tui.app.widgets.key_line import Key, KeyLine
from qlens_tui.app.widgets.line_input import LineInput
from qlens_tui.app.widgets.term_list import Section, TermList


class _Search(LineInput):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "screen.keys('scroll', -1)", show=False),
        Binding("down", "screen.keys('scroll', 1)", show=False),
        Binding("pageup", "screen.keys('page', -1)", show=False),
        Binding("pagedown", "screen.keys('page', 1)", show=False),
    ]


class Terms(ModalScreen[None]):
    """Sections of terms, to be searched; escape ends the search, then closes it."""

    DEFAULT_CSS = """
    Terms { align: center middle; background: transparent; }
    Terms > Vertical {
        width: 76; max-width: 95%; height: 90%; background: $surface;
        border: round $border-blurred;
    }
    Terms.-ascii > Vertical { border: ascii $border-blurred; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("q", "leave", "Back"),
        Binding("slash", "search", "Search"),
        Binding("j", "keys('scroll', 1)", "Down", show=False),
        Binding("k", "keys('scroll', -1)", "Up", show=False),
        Binding("ctrl+d", "keys('half_page', 1)", "Half a page down", show=False),
        Binding("ctrl+u", "keys('half_page', -1)", "Half a page up", show=False),
        Binding("g", "keys('scroll', -1000000)", "First line", show=False),
        Binding("G", "keys('scroll', 1000000)", "Last line", show=False),
        Binding("tab", "keys('section', 1)", "Next section"),
        Binding("shift+tab", "keys('section', -1)", "Previous section", show=False),
    ]

    def __init__(
        self,
        title: str,
        sections: Sequence[Section],
        *,
        keys: Sequence[Key] = (),
        begin: str = "",
        ascii_only: bool = False,
    ) -> None:
        """`keys` are those of the subclass; `begin` is the section to open at."""
        super().__init__()
        self._list = TermList(title, sections, begin=begin, ascii_only=ascii_only)
        self._own = tuple(keys)
        self._ascii = ascii_only
        self.set_class(ascii_only, "-ascii")

    def compose(self) -> ComposeResult:
        with Vertical():
            yield self._list
            yield _Search(placeholder="words to search for", select_on_focus=False)
            yield KeyLine(ascii_only=self._ascii)

    def on_mount(self) -> None:
        self.query_one(_Search).display = False
        self._to_keys()

    def _to_keys(self) -> None:
        """Give the keys of the app to the text, and say which work."""
        self._list.focus()
        self.query_one(KeyLine).tell(
            [("/", "search"), ("j/k", "line"), ("ctrl+d/u", "half page"), ("tab", "next section"),
             *self._own, ("esc", "all" if self._list.is_narrowed else "back")]
        )  # fmt: skip

    def action_keys(self, what: str, *by: int | str) -> None:
        getattr(self._list, f"action_{what}")(*by)

    def action_search(self) -> None:
        search = self.query_one(_Search)
        search.display = True
        search.focus()
        self.query_one(KeyLine).tell([("up/down", "line"), ("enter", "keep"), ("esc", "all")])

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._list.seek(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if event.value.strip():
            self._to_keys()
        else:
            self.action_back()

    def action_back(self) -> None:
        """End the search; without one, leave."""
        search = self.query_one(_Search)
        if not search.display:
            self.dismiss()
            return
        search.display = False
        search.value = ""
        self._list.seek("")
        self._to_keys()

    def action_leave(self) -> None:
        self.dismiss()

"""A list that opens over the workbench: columns to sort by, hits, jobs, exports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import Key, KeyLine
from qlens_tui.app.widgets.text_line import TextLine


class Choice(ModalScreen[int | None]):
    """Choose a line with enter, close with escape; other keys may act on the line."""

    DEFAULT_CSS = """
    Choice { align: center middle; background: transparent; }
    Choice > Vertical {
        width: 90%; max-width: 110; height: auto; max-height: 90%;
        background: $surface; border: round $border-blurred;
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", "Back")]

    def __init__(
        self,
        title: str,
        lines: Sequence[str],
        *,
        heading: str = "",
        cursor: int = 0,
        nothing: str = "nothing",
        keys: Sequence[tuple[str, str, Callable[[Choice, int | None], None]]] = (),
        ascii_only: bool = False,
    ) -> None:
        """Offer `lines`; `keys` are a key, its name, and a function of the line's number."""
        super().__init__()
        self._title, self._heading, self._cursor = title, heading, cursor
        self._lines, self._nothing, self._ascii = tuple(lines), nothing, ascii_only
        self._extra = {key: act for key, _, act in keys}
        self._told: tuple[Key, ...] = (
            ("enter", "take"), *((key, words) for key, words, _ in keys), ("esc", "back"),
        )  # fmt: skip

    def compose(self) -> ComposeResult:
        with Vertical():
            yield TextLine(ascii_only=self._ascii)
            yield ChoiceList(ascii_only=self._ascii, nothing=self._nothing)
            yield KeyLine(ascii_only=self._ascii)

    def on_resize(self, event: events.Resize) -> None:
        # Title, keys and border stay visible, however long the list is.
        room = event.size.height * 9 // 10 - 4
        self.query_one(ChoiceList).styles.max_height = max(3, room)

    def on_mount(self) -> None:
        self.query_one(KeyLine).tell(self._told)
        self.show(self._lines, title=self._title, heading=self._heading, cursor=self._cursor)
        self.query_one(ChoiceList).focus()

    def show(
        self,
        lines: Sequence[str],
        *,
        title: str | None = None,
        heading: str | None = None,
        cursor: int | None = None,
        nothing: str | None = None,
    ) -> None:
        """Offer other lines; the cursor stays unless `cursor` is given."""
        if not self.is_attached:
            return
        if title is not None:
            self._title = title
        if heading is not None:
            self._heading = heading
        chosen = self.query_one(ChoiceList)
        if nothing is not None:
            chosen.say_nothing(nothing)
        self.query_one(TextLine).tell(self._title)
        chosen.set_choices(lines, heading=self._heading, cursor=cursor)

    @property
    def cursor(self) -> int | None:
        """The line under the cursor."""
        return self.query_one(ChoiceList).cursor

    def on_key(self, event: events.Key) -> None:
        act = self._extra.get(event.character or "") or self._extra.get(event.key)
        if act is not None:
            event.stop()
            event.prevent_default()
            act(self, self.cursor)

    def on_choice_list_taken(self, event: ChoiceList.Taken) -> None:
        event.stop()
        self.dismiss(event.index)

    def action_leave(self) -> None:
        self.dismiss(None)

"""A one-line prompt at the bottom of the screen, with suggestions and a check while typing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.line_input import LineInput
from qlens_tui.app.widgets.text_line import TextLine
from qlens_tui.app.widgets.wrapped_text import WrappedText


@dataclass(frozen=True)
class Suggestion:
    """A suggestion: printable text, and its value."""

    shown: str
    value: str
    number: int | None = None


@dataclass(frozen=True)
class Answer:
    """The typed text, or the chosen suggestion."""

    text: str
    number: int | None = None


class Prompt(ModalScreen[Answer | None]):
    """Asks for a line. Enter accepts it, escape cancels; up and down choose a suggestion."""

    DEFAULT_CSS = """
    Prompt { align: left bottom; background: transparent; }
    Prompt > Vertical { height: auto; width: 100%; background: $surface; }
    Prompt ChoiceList { max-height: 8; }
    Prompt ToastRack { dock: top; align: right top; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("up", "choose(-1)", "Previous suggestion", priority=True, show=False),
        Binding("down", "choose(1)", "Next suggestion", priority=True, show=False),
        Binding("tab", "complete", "Complete", priority=True, show=False),
    ]

    def __init__(
        self,
        title: str,
        *,
        value: str = "",
        is_selected: bool = False,
        hint: str = "",
        check: Callable[[str], str | None] | None = None,
        confirm: Callable[[str], str | None] | None = None,
        typed: Callable[[Prompt, str], None] | None = None,
        must_choose: bool = False,
        refusal: str = "no such token: choose one from the list",
        ascii_only: bool = False,
    ) -> None:
        """Ask for `title`.

        Args:
            is_selected: what is typed first replaces `value`.
            hint: shown under the line, unchanged: the app's own text, in ASCII.
            check: returns in one line what is wrong with a text, `None` if nothing is.
            confirm: returns in one line why a second enter is needed, `None` if it is not.
            typed: called at every change; may call `offer`, now or later.
            must_choose: only a suggestion is accepted; else `refusal` is told.
        """
        super().__init__()
        self._title, self._value, self._hint = title, value, hint
        self._is_selected = is_selected
        self._check, self._confirm, self._typed = check, confirm, typed
        self._asked: str | None = None
        self._must_choose, self._refusal = must_choose, refusal
        self._ascii = ascii_only
        self._offered: tuple[Suggestion, ...] = ()
        self._chosen: int | None = None

    def compose(self) -> ComposeResult:
        with Vertical():
            yield TextLine(self._title, "pane--quiet", ascii_only=self._ascii)
            yield ChoiceList(ascii_only=self._ascii, id="offered")
            yield LineInput(self._value, select_on_focus=self._is_selected, id="typed")
            yield WrappedText(ascii_only=self._ascii, id="told")

    def on_mount(self) -> None:
        offered = self.query_one("#offered", ChoiceList)
        offered.can_focus = False
        offered.display = False
        self.query_one(LineInput).focus()
        self._ask()

    def offer(
        self,
        suggestions: Sequence[Suggestion],
        *,
        take_first: bool = False,
        at: int = 0,
    ) -> None:
        """Show these suggestions; up and down begin at number `at`.

        `take_first`: enter accepts that one before any other is chosen.
        """
        if not self.is_attached:
            return
        self._offered = tuple(suggestions)
        self._chosen = at if take_first and suggestions else None
        offered = self.query_one("#offered", ChoiceList)
        offered.display = bool(suggestions)
        offered.set_choices([each.shown for each in suggestions], cursor=at)
        offered.mark(self._chosen is not None)

    def ask_again(self) -> None:
        """Check the typed text and offer suggestions again, unless one is chosen already."""
        if self.is_attached and self._chosen is None:
            self._ask()

    def tell(self, text: str, *, problem: bool = False, printable: bool = False) -> None:
        """Show text under the line; `printable` as in `WrappedText`."""
        if self.is_attached:
            told = self.query_one("#told", WrappedText)
            style = "pane--problem" if problem else "pane--quiet"
            told.tell(text, style, printable=printable)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._ask()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._take()

    def on_choice_list_taken(self, event: ChoiceList.Taken) -> None:
        event.stop()
        self._chosen = event.index
        self._take()

    def action_choose(self, by: int) -> None:
        offered = self.query_one("#offered", ChoiceList)
        if not self._offered:
            return
        if self._chosen is None:
            self._chosen = offered.cursor
            offered.mark(True)
        else:
            offered.action_move(by)
            self._chosen = offered.cursor

    def action_complete(self) -> None:
        if self._offered:
            chosen = self._offered[self._chosen or 0]
            typed = self.query_one(LineInput)
            typed.value = chosen.value
            typed.cursor_position = len(chosen.value)

    def action_leave(self) -> None:
        self.dismiss(None)

    def _ask(self) -> None:
        text = self.query_one(LineInput).value
        problem = self._check(text) if self._check is not None and text else None
        if problem is not None:
            self.tell(problem, problem=True)
        else:
            self.query_one("#told", WrappedText).tell(self._hint, "pane--quiet", printable=True)
        self._offered, self._chosen = (), None
        if self._typed is not None:
            self._typed(self, text)

    def _take(self) -> None:
        if self._chosen is not None and self._offered:
            chosen = self._offered[self._chosen]
            self.dismiss(Answer(chosen.value, chosen.number))
            return
        text = self.query_one(LineInput).value
        problem = self._check(text) if self._check is not None else None
        if problem is None and self._must_choose:
            problem = self._refusal
        if problem is None and self._confirm is not None and text != self._asked:
            problem, self._asked = self._confirm(text), text
        if problem is not None:
            self.tell(problem, problem=True)
            return
        self.dismiss(Answer(text))

"""A prompt in place of one that cannot open yet.

If the key of that one were only refused, the letters typed after it would act as keys: `/war`
would reject a feature. Here they wait, and stand in the prompt once it opens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.await_complete import AwaitComplete
from textual.screen import Screen

from qlens_tui.app.key_order import KeysInOrder
from qlens_tui.app.screens.prompt import Answer, Prompt
from qlens_tui.app.widgets.line_input import LineInput

_LOOK = 0.1  # seconds


class WaitingPrompt(Prompt):
    """Takes a text, and closes with it as soon as there is no reason to wait any more."""

    def __init__(self, title: str, why: Callable[[], str], *, ascii_only: bool) -> None:
        """`why` returns in one line why the prompt cannot open, nothing if it can."""
        super().__init__(
            title, check=lambda _text: self._told(), typed=self._tell_why, ascii_only=ascii_only
        )
        self._why = why

    def on_mount(self) -> None:
        super().on_mount()
        self.set_interval(_LOOK, self._look)

    def _told(self) -> str | None:
        why = self._why()
        return f"{why} (esc: back)" if why else None

    def _tell_why(self, _prompt: Prompt, _text: str) -> None:
        self.tell(self._told() or "", problem=True)

    def _look(self) -> None:
        typed = self.query_one(LineInput)
        # A key that was sent on is in the line first; later ones are for the next screen.
        if self.is_current and not self._why() and not typed.message_queue_size:
            self.dismiss(Answer(typed.value))

    def dismiss(self, result: Answer | None = None) -> AwaitComplete:
        _hold_keys(self, result is not None)
        return super().dismiss(result)


def open_when_possible(
    screen: Screen[Any],
    title: str,
    why: Callable[[], str],
    then: Callable[[str], None],
    *,
    ascii_only: bool,
) -> None:
    """Call `then` with an empty text or, if `why` gives a reason, later with what was typed."""

    def go(answer: Answer | None) -> None:
        try:
            if answer is not None:
                then(answer.text)
        finally:
            _hold_keys(screen, False)

    if why():
        screen.app.push_screen(WaitingPrompt(title, why, ascii_only=ascii_only), go)
    else:
        then("")


def _hold_keys(screen: Screen[Any], held: bool) -> None:
    if isinstance(screen.app, KeysInOrder):
        screen.app.holds_keys = held

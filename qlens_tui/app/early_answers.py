"""Answers of earlier sessions, read from disk while the engine loads the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from qlens_tui.app.state import State
from qlens_tui.engine import messages as m

if TYPE_CHECKING:
    from qlens_tui.engine.kept_sessions import KeptSession


class EarlyAnswers:
    """Reads what the panes lack, each answer once, off the UI thread."""

    def __init__(
        self,
        state: State,
        run: Callable[[Coroutine[Any, Any, None]], object],
        answered: Callable[[], None],
    ) -> None:
        """`run` runs a coroutine; `answered` is called when the state has another answer."""
        self._state = state
        self._run = run
        self._answered = answered
        self._kept: KeptSession | None = None
        self._asked: set[m.Request] = set()

    def ask(self, question: m.Request) -> None:
        """Look for an answer, unless it was looked for, or the table shows another dictionary."""
        opened = self._state.opened
        kept = opened.kept
        if kept is None or not isinstance(question, m.OfFeature):
            return
        if kept is not self._kept:
            self._kept, self._asked = kept, set()
        for layer in question.layers:
            shown, found = opened.known.get(layer), kept.layers.get(layer)
            if found is None or (shown is not None and shown.sha256 != found.sha256):
                return
        if question not in self._asked:
            self._asked.add(question)
            self._run(self._read(kept, question))

    async def _read(self, kept: KeptSession, question: m.Request) -> None:
        event = await asyncio.to_thread(kept.answer, question)
        opened = self._state.opened
        if event is None or opened.session is not None or opened.kept is not kept:
            return  # nothing is kept, or the engine answers by now
        self._state.keep_answer(question, event)
        self._answered()

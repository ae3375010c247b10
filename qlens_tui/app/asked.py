"""The request of a screen over the workbench: sent once, as soon as the engine has a model.

A screen may open before that, and then waits. If the engine dies meanwhile the request has failed,
and is not sent again: it may be what the engine died of.
"""

from __future__ import annotations

from collections.abc import Callable

from qlens_tui.app.requests import Requests
from qlens_tui.app.state import State
from qlens_tui.engine import messages as m


class Asked:
    """The last request of a screen, and what became of it."""

    def __init__(
        self,
        state: State,
        requests: Requests,
        *,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_send`: whether a request can be sent by now, besides that there is a model."""
        self._state = state
        self._requests = requests
        self._may_send = may_send
        self._is_sent = False
        self.question: m.Request | None = None
        """`None`: nothing is asked."""
        self.problem = ""
        """Why it failed; empty if it did not."""

    def put(self, question: m.Request | None) -> None:
        """Ask this instead."""
        self.question, self._is_sent, self.problem = question, False, ""
        self.follow()

    def follow(self) -> None:
        """The state may have changed: send the request if it was not, or note that it failed."""
        question = self.question
        if question is None or self.answer is not None:
            return
        if self._is_sent:
            self.problem = self.problem or self._state.problem(question)
        elif self._may_send():
            self._is_sent = self._requests.ask(question)

    @property
    def answer(self) -> object:
        """The answer, or `None`."""
        return self._state.answer(self.question)

    def doing(self, idle: str = "computing") -> str:
        """Progress towards the answer."""
        return self._state.doing(self.question, idle)

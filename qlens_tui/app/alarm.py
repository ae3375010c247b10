"""A delayed call that can be postponed and repeated requests for which are merged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Stoppable(Protocol):
    """What `After` returns, such as a Textual timer."""

    def stop(self) -> None: ...


After = Callable[[float, Callable[[], None]], Stoppable]
"""Calls a function after a number of seconds, like a screen's `set_timer`."""


class Alarm:
    """Calls a function once, a while after the last `put_off` or the first `within`."""

    def __init__(self, after: After, act: Callable[[], None]) -> None:
        self._after = after
        self._act = act
        self._timer: Stoppable | None = None

    @property
    def is_set(self) -> bool:
        return self._timer is not None

    def put_off(self, seconds: float) -> None:
        """Call in this many seconds, and not earlier."""
        self.stop()
        self._timer = self._after(seconds, self._ring)

    def within(self, seconds: float) -> None:
        """Call in this many seconds, unless a call is already planned."""
        if self._timer is None:
            self._timer = self._after(seconds, self._ring)

    def stop(self) -> None:
        """Cancel the planned call."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._act()

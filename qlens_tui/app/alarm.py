"""Something to be done in a moment: once, however often it is put off or asked for again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Stoppable(Protocol):
    """What `After` gives, such as a timer of Textual's."""

    def stop(self) -> None: ...


After = Callable[[float, Callable[[], None]], Stoppable]
"""Calls a function after so many seconds, as a screen's `set_timer` does."""


class Alarm:
    """Does one thing after a while, from the last `put_off` or the first `within`."""

    def __init__(self, after: After, act: Callable[[], None]) -> None:
        self._after = after
        self._act = act
        self._timer: Stoppable | None = None

    @property
    def is_set(self) -> bool:
        return self._timer is not None

    def put_off(self, seconds: float) -> None:
        """Act so many seconds from now, and not before."""
        self.stop()
        self._timer = self._after(seconds, self._ring)

    def within(self, seconds: float) -> None:
        """Act in so many seconds, unless that is to happen anyway."""
        if self._timer is None:
            self._timer = self._after(seconds, self._ring)

    def stop(self) -> None:
        """Do not act."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._act()

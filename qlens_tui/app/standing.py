"""What stands in a pane: the asked numbers, or others for a moment, and then grey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from qlens_tui.app.views import Feature

GRACE = 0.15
"""Seconds that numbers of another feature or setting stay as they are before they turn grey."""

Numbers = TypeVar("Numbers")


class Standing(Generic[Numbers]):
    """The numbers of one pane, the feature that they are of, and since when others are awaited."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None
        self.of: Feature | None = None
        self.numbers: Numbers | None = None

    def put(self, of: Feature | None, numbers: Numbers | None) -> None:
        """These are what is asked for; `None`: there are none, and it is known why."""
        self.of, self.numbers, self._since = of, numbers, None

    def expire(self) -> None:
        """Some of these are known not to be what is asked for, so that they wait for no grace."""
        self._since = self._clock() - GRACE

    def keep(self, *, is_asked: bool) -> None:
        """Go on with what stands there, which is not what is wanted; `is_asked`: something is."""
        if self.numbers is not None and self._since is None:
            self._since = self._clock()
        if self.numbers is None or (self.is_late and not is_asked):
            self.put(None, None)

    @property
    def is_late(self) -> bool:
        """Whether it has waited for so long that what stands there is to be grey."""
        return self._since is not None and self._clock() >= self._since + GRACE

    @property
    def grace(self) -> float | None:
        """The seconds until it is late; `None` where it is, or nothing is awaited."""
        if self._since is None or self.is_late:
            return None
        return self._since + GRACE - self._clock()

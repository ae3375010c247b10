"""The numbers shown in a pane: the requested ones, or old ones, which turn grey after a moment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

from qlens_tui.app.views import Feature

GRACE = 0.15
"""Seconds before numbers of another feature or setting turn grey."""

Numbers = TypeVar("Numbers")


class Standing(Generic[Numbers]):
    """The numbers of one pane, their feature, and since when newer ones are awaited."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None
        self.of: Feature | None = None
        self.numbers: Numbers | None = None

    def put(self, of: Feature | None, numbers: Numbers | None) -> None:
        """Show the requested numbers; `None`: the request failed."""
        self.of, self.numbers, self._since = of, numbers, None

    def expire(self) -> None:
        """Turn grey at once, without a grace period."""
        self._since = -math.inf

    def keep(self, *, is_asked: bool) -> None:
        """Keep showing old numbers; `is_asked`: there is a feature whose numbers are awaited."""
        if self.numbers is not None and self._since is None:
            self._since = self._clock()
        if self.numbers is None or (self.is_late and not is_asked):
            self.put(None, None)

    @property
    def is_late(self) -> bool:
        """Whether the numbers are to be grey."""
        return self._since is not None and self._clock() >= self._since + GRACE

    @property
    def grace(self) -> float | None:
        """Seconds until the numbers turn grey; `None` if they are grey or nothing is awaited."""
        if self._since is None or self.is_late:
            return None
        return self._since + GRACE - self._clock()

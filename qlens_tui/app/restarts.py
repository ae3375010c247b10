"""When an engine that crashed is started again: soon, and later each time that it crashes anew."""

from __future__ import annotations

from qlens_tui.formats import duration

_FIRST, _LONGEST = 0.5, 60.0  # seconds
_GROWS = 4
_FEW = 2  # crashes in a row that may happen to anybody
_LONG = 900.0  # seconds of life after which a crash begins a new row


class Restarts:
    """Counts the crashes in a row."""

    def __init__(self) -> None:
        self._crashes = 0

    def crashed(self, lived: float) -> float:
        """An engine crashed that lived for so many seconds; how many to wait until the next."""
        # One that lived for long crashed for another reason.
        self._crashes = 1 if lived > _LONG else self._crashes + 1
        return float(min(_FIRST * _GROWS ** (self._crashes - 1), _LONGEST))

    def said(self, reason: str, pause: float) -> str:
        """What to tell the user of the last crash."""
        if self._crashes <= _FEW:
            return f"{reason}; restarting"
        return f"engine keeps crashing: {reason}; next try in {duration(pause)}, or press B"

    def phase(self, pause: float) -> str:
        """What is being done about it."""
        if self._crashes <= _FEW:
            return "restarting the engine"
        return f"engine keeps crashing: next try in {duration(pause)}, or press B"

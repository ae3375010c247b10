"""When to restart a crashed engine: soon, and later after each further crash."""

from __future__ import annotations

from qlens_tui.formats import duration

_FIRST, _LONGEST = 0.5, 60.0  # seconds
_GROWS = 4
_FEW = 2  # consecutive crashes that are treated as accidents
_LONG = 900.0  # seconds of running after which the count starts again


class Restarts:
    """Counts consecutive crashes."""

    def __init__(self) -> None:
        self._crashes = 0

    def crashed(self, lived: float) -> float:
        """An engine crashed after `lived` seconds; returns the seconds to wait before a restart."""
        # After a long run the cause is probably another one.
        self._crashes = 1 if lived > _LONG else self._crashes + 1
        return float(min(_FIRST * _GROWS ** (self._crashes - 1), _LONGEST))

    def said(self, reason: str, pause: float) -> str:
        """The message to the user about the last crash."""
        if self._crashes <= _FEW:
            return f"{reason}; restarting"
        return f"engine keeps crashing: {reason}; next try in {duration(pause)}, or press B"

    def phase(self, pause: float) -> str:
        """What the app is doing about it."""
        if self._crashes <= _FEW:
            return "restarting the engine"
        return f"engine keeps crashing: next try in {duration(pause)}, or press B"

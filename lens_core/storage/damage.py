"""Damage to a stored file or entry, and what was done about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """One damaged file or entry.

    `outcome` is what a repair did, such as "removed" or "rewritten", and "" if nothing. `fix` is
    what a user can do that a repair cannot, and "" if there is nothing to do: what was removed
    from the cache is computed again when needed.
    """

    path: Path
    reason: str
    outcome: str = ""
    fix: str = ""

    @property
    def remains(self) -> bool:
        """Whether the damage is still there."""
        return not self.outcome

"""What is wrong with something that is kept, and what was done about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was written.

    `outcome` is what a repair did, such as "removed" or "rewritten", and "" if nothing; `fix`
    what a user can do that a repair cannot, and "" where that is nothing: what was removed from
    the cache is computed again when it is needed.
    """

    path: Path
    reason: str
    outcome: str = ""
    fix: str = ""

    @property
    def remains(self) -> bool:
        """Whether it is still there."""
        return not self.outcome

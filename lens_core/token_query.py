"""Which tokens a search is for, and how it orders the features that it finds. No torch.

war             features that have `war` in front
war, battle     ... both: a feature counts with that of the two that it ranks worse
war -star       ... `war`, but not `star`: left out if `star` is among the feature's best `k`
                tokens, or in front of `war`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lens_core.errors import UsageError

By = Literal["rank", "score"]
"""By the token's rank in each feature's own list, then by score; or by score alone."""

MOST_TOKENS = 8


@dataclass(frozen=True)
class TokenQuery:
    """The ids of the tokens that a feature must rank well, and of those that it must not."""

    wanted: tuple[int, ...]
    unwanted: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """All of them, the wanted ones first."""
        return (*self.wanted, *self.unwanted)

    def check(self) -> None:
        """Refuse a query that no search can answer.

        Raises:
            UsageError: no token is wanted, one is there twice, or there are too many.
        """
        if not self.wanted:
            raise UsageError('no token to look for: name one, as in "war -star"')
        for token in self.ids:
            if self.ids.count(token) > 1:
                raise UsageError(f"token #{token} is there twice: name each token once")
        if len(self.ids) > MOST_TOKENS:
            raise UsageError(
                f"{len(self.ids)} tokens are too many: search for at most {MOST_TOKENS} at once"
            )

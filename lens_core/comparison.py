"""What switching blocks off changed in a feature's lists, as plain data; no torch.

    moved     rank with all blocks on - rank with these off, of each token of a list
    came in   in the best k with blocks off, not in the best k with all on; left: the reverse
    lost      (S_on - S_off) / S_on,  S: summed score of the k tokens that are best with all on

`k` is the configuration's, however long the lists are. `lens_core.switches` computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lens_core.terms import OperatorSource, Settings, Side, Switch


@dataclass(frozen=True)
class RankedToken:
    """A token, and its ranks (1 is best of all tokens) with blocks off and with all on."""

    id: int
    token: str
    rank: int
    all_on_rank: int


@dataclass(frozen=True)
class ListChange:
    """One list with blocks off, against the same list with all blocks on.

    `moved` is how many ranks each of `ids`, the list's tokens, rose. `came_in` is in the order of
    the list, `left` in the order of the list with all on. `score` is the summed score, with the
    blocks off, of the `k` tokens of the list with all on; `all_on_score` is that with all on. A
    key's scores are those of the carried key as it is, not at length one.
    """

    ids: tuple[int, ...]
    moved: tuple[int, ...]
    came_in: tuple[RankedToken, ...]
    left: tuple[RankedToken, ...]
    score: float
    all_on_score: float

    @property
    def lost(self) -> float | None:
        """The part of the score that is lost, negative for a gain.

        `None` if the score with all on is zero, or of the wrong sign for best tokens, so that it
        has no parts.
        """
        if self.all_on_score <= 0:
            return None
        return (self.all_on_score - self.score) / self.all_on_score


@dataclass(frozen=True)
class SideComparison:
    """One side with the blocks and heads `off` of its path, against all of them on.

    Both are over `n_tokens` tokens of the reference. `operators` are those that answered with all
    on (`none` for walks). `top` and `bottom` hold a change for each lens that carries the vector,
    by the lens's name; without any, `reason` says why.
    """

    off: tuple[Switch, ...]
    k: int
    n_tokens: int
    operators: OperatorSource
    top: Mapping[str, ListChange]
    bottom: Mapping[str, ListChange]
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """What the switches of `settings` changed; `None` for a side whose blocks are all on.

    Also `None` with the identity transition, where blocks have no effect.
    """

    layer: int
    feature: int
    settings: Settings
    value: SideComparison | None
    key: SideComparison | None

    def side(self, side: Side) -> SideComparison | None:
        """The comparison of one side."""
        return self.value if side == "value" else self.key

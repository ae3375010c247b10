"""Shares by block: on which side of the feature a block is, and its row.

A block before the feature is on the key's path, a block after it on the value's; the feature's
own block is on neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from qlens_tui.app.views import SIDES, PathsView
from qlens_tui.engine.messages import PathShare, Side

ENDS = ("direct", "bias")
"""Rows that do not belong to a block."""


@dataclass(frozen=True)
class BlockShares:
    """The rows of blocks, by the block's index (2l: attention, 2l+1: MLP of layer l).

    `sides` are those whose paths are known.
    """

    rows: Mapping[int, tuple[Side, PathShare]] = field(default_factory=dict)
    sides: frozenset[Side] = frozenset()

    @classmethod
    def of(cls, view: PathsView) -> BlockShares:
        """The rows of both sides, if they have arrived."""
        there = {
            side: shares.paths for side, shares in view.sides.items() if shares.paths is not None
        }
        rows = {
            _index(row.block): (side, row)
            for side, paths in there.items()
            for row in paths.rows
            if row.block not in ENDS
        }
        return cls(rows, frozenset(there))

    def __contains__(self, block: int) -> bool:
        return block in self.rows

    def side(self, block: int) -> Side | None:
        """The side whose path the block is on."""
        return self.rows[block][0] if block in self.rows else None

    def on_side(self, side: Side | None) -> frozenset[int]:
        """The blocks on a side's path."""
        return frozenset(block for block, (of, _) in self.rows.items() if of == side)

    def is_own(self, block: int) -> bool:
        """Whether the block is between the paths: the feature's own block."""
        if len(self.sides) < len(SIDES) or not self.rows:
            return False
        into, out = self.on_side("key"), self.on_side("value")
        return max(into, default=block) < block < min(out, default=block + 1)

    def largest(self, side: Side) -> float:
        """The largest absolute share of a side."""
        shares = (abs(self.rows[block][1].share) for block in self.on_side(side))
        return max(filter(math.isfinite, shares), default=0.0)

    def nearest(self, block: int) -> int | None:
        """The nearest block that has a row; `None` if there is none."""
        return min(self.rows, key=lambda other: abs(other - block), default=None)


def _index(name: str) -> int:
    kind, _, layer = name.partition(".")
    return 2 * int(layer) + (kind == "mlp")

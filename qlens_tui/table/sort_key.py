"""What the rows of the table are sorted by; polars is not imported."""

from __future__ import annotations

from typing import NamedTuple

_RISING = ("feature", "layer", "label", "tags", "note", "explanation")
_RISING_ENDS = ("_ids", "_overlap")


class SortKey(NamedTuple):
    """A column of the frame, and whether its largest values come first."""

    column: str
    descending: bool

    @property
    def reversed(self) -> SortKey:
        return SortKey(self.column, not self.descending)


def useful_end_first(column: str) -> SortKey:
    """The order that shows what one looks for first.

    Large numbers and marked features; but texts and tokens by the alphabet, and the lists that have
    least in common with Logit Lens's.
    """
    return SortKey(column, column not in _RISING and not column.endswith(_RISING_ENDS))

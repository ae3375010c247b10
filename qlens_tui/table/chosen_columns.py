"""The columns that a user chose for the feature table, in their order, with their widths."""

from __future__ import annotations

from dataclasses import dataclass

NARROWEST, WIDEST = 3, 200
"""Limits of a chosen width."""


@dataclass(frozen=True)
class ChosenColumn:
    """A column by its name; `width` is `None` where it takes the room there is."""

    name: str
    width: int | None = None

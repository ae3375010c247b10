"""What setting a feature to a strength raises, as plain data. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Steered:
    """The tokens that rise most when a feature is set to a strength (docs/evidence.md).

    Behind `prefixes` neutral prefixes, at `strengths` that reach these `divergences` (KL, nats).
    `lists`: each lens's value list, cut to as many tokens, as ids; `agreement`: the part of it that
    is among those that rise; `ceiling` is what one half of the prefixes says of the other. Nothing,
    and the `reason`, where there is none.
    """

    prefixes: int
    strengths: tuple[float, ...] = ()
    divergences: tuple[float, ...] = ()
    ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    agreement: Mapping[str, float] | None = None
    lists: Mapping[str, tuple[int, ...]] | None = None
    ceiling: float | None = None
    reason: str = ""

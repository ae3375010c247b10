"""The features that resemble one, and how alike two are, as plain data; no torch.

`lens_core.near_duplicates` and `lens_core.pair_cosines` compute it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lens_core.terms import Settings

Likeness = Literal["both", "value", "key"]
"""What is compared: carried values, carried keys, or both, of which the lesser cosine counts."""


@dataclass(frozen=True)
class Resembling:
    """The other features of a layer by the cosine of their carried vectors with one feature's.

    The most alike first, equal ones in order of features; at most as many as were asked for, of
    `of` that have a cosine. `value` and `key` are the two cosines, `None` for a vector of length
    zero. If the feature has no direction itself, `reason` says so and there are none.
    """

    layer: int
    feature: int
    likeness: Likeness
    features: tuple[int, ...]
    value: tuple[float | None, ...]
    key: tuple[float | None, ...]
    of: int
    reason: str = ""

    @property
    def cosines(self) -> tuple[float, ...]:
        """The cosines that count, largest first."""
        if self.likeness == "both":
            return tuple(map(_lesser, self.value, self.key))
        return tuple(map(_known, self.value if self.likeness == "value" else self.key))


@dataclass(frozen=True)
class SideCosines:
    """The cosines of two features' keys, or values: as they are, and carried.

    `None` where one of the two vectors has length zero.
    """

    raw: float | None
    carried: float | None


@dataclass(frozen=True)
class PairCosines:
    """How alike two features are, which may be of different layers.

    Carried with `settings`, each over the same `n_tokens` of the reference.
    """

    layer: int
    feature: int
    other_layer: int
    other_feature: int
    settings: Settings
    n_tokens: int
    value: SideCosines
    key: SideCosines


def _known(cosine: float | None) -> float:
    assert cosine is not None  # features without one are not listed
    return cosine


def _lesser(one: float | None, other: float | None) -> float:
    return min(_known(one), _known(other))

"""The features that resemble one, as plain data; no torch.

`lens_core.near_duplicates` computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


def _known(cosine: float | None) -> float:
    assert cosine is not None  # features without one are not listed
    return cosine


def _lesser(one: float | None, other: float | None) -> float:
    return min(_known(one), _known(other))

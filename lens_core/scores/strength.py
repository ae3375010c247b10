"""The strength at which steering changes the next-token distribution by a given amount.

`KL(clean || steered)` grows about as the square of the strength and need not be monotone, so the
root is bracketed, and looked for by secant steps in logarithms within the bracket, or by bisection
(geometric) where these do not shrink it. A value that is not finite counts as too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

TOLERANCE = 0.02
"""A strength is found when the KL divergence is within this part of the target."""
_MOST = 60  # evaluations; a bracket of 1e-3 to 1e6 shrinks to a part in 1e12 by bisection alone
_STEP = 4.0


@dataclass(frozen=True)
class Strength:
    """A strength and the divergence that it reaches."""

    strength: float
    divergence: float


def find_strength(
    divergence: Callable[[float], float],
    target: float,
    guess: float,
    limit: float,
    known: dict[float, float] | None = None,
) -> Strength | None:
    """A strength in `(0, limit]` with a divergence near `target`; `None` if none was found.

    `known` holds divergences by strength, and gets those that are computed.
    """
    known = {} if known is None else known

    def at(strength: float) -> float:
        if strength not in known:
            found = divergence(strength)
            known[strength] = found if math.isfinite(found) else math.inf
        return known[strength]

    low, high = 0.0, math.inf
    for strength, found in known.items():  # a bracket from what is known, if it is one
        if found < target:
            low = max(low, strength)
    for strength, found in known.items():
        if found >= target and strength > low:
            high = min(high, strength)
    strength = _between(guess, low, high, limit)
    for _ in range(_MOST):
        found = at(strength)
        if abs(found - target) <= TOLERANCE * target:
            return Strength(strength, found)
        if found < target:
            if strength >= limit:
                return None
            low = strength
        else:
            high = strength
        if high < math.inf and high - low <= 1e-9 * high:
            return None  # a jump over the target
        strength = _between(_next(known, strength, found, target, low, high), low, high, limit)
    return None


def _next(
    known: dict[float, float], strength: float, found: float, target: float, low: float, high: float
) -> float:
    """A secant step in logarithms between the ends of the bracket, else as if KL grew by s^2."""
    if low > 0 and high < math.inf:
        at_low, at_high = known[low], known[high]
        if 0 < at_low < at_high < math.inf:
            slope = math.log(at_high / at_low) / math.log(high / low)
            return low * math.exp(math.log(target / at_low) / slope)
        return math.sqrt(low * high)
    if not 0 < found < math.inf:
        return strength * (_STEP if found <= 0 else 1 / _STEP)
    factor = math.sqrt(target / found)
    return strength * min(max(factor, 1 / _STEP), _STEP)


def _between(strength: float, low: float, high: float, limit: float) -> float:
    """The strength, or if it is at or outside an end of the bracket, the middle."""
    strength = min(strength, limit)
    if low < strength < high:
        return strength
    if high < math.inf:
        return math.sqrt(low * high) if low > 0 else high / 2
    return min(limit, _STEP * low)

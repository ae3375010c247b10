"""Means of scores with 95% intervals: of a layer's features, and of layers with equal weight.

    mean of a layer     SE = s_l / sqrt(n_l)                  s_l with n_l - 1
    mean of L layers    SE = (1 / L) sqrt(sum_l s_l^2 / n_l)  stratified by layer

(docs/method.md, section 5.) The interval is normal, 1.96 standard errors to both sides. Scores are
shares, so that it is cut to [0, 1]. Of a single feature nothing is known about the spread: the
interval is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_QUANTILE = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` features and its interval; NaN where there is none."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Half the width of the interval, before it was cut to [0, 1]."""
        return max(self.high - self.mean, self.mean - self.low)


NONE = Estimate(0, math.nan, math.nan, math.nan)


def of_features(scores: Sequence[float]) -> Estimate:
    """The mean of the features of one layer."""
    n = len(scores)
    if n == 0:
        return NONE
    mean = math.fsum(scores) / n
    return _estimate(n, mean, _variance_of_mean(scores, mean))


def of_layers(scores: Sequence[Sequence[float]]) -> Estimate:
    """The mean of the layers' means, those without a feature left out."""
    strata = [each for each in scores if each]
    if not strata:
        return NONE
    means = [math.fsum(each) / len(each) for each in strata]
    variances = map(_variance_of_mean, strata, means)
    return _estimate(
        sum(map(len, strata)),
        math.fsum(means) / len(means),
        math.fsum(variances) / len(strata) ** 2,
    )


def _variance_of_mean(scores: Sequence[float], mean: float) -> float:
    n = len(scores)
    if n == 1:
        return math.nan
    return math.fsum((score - mean) ** 2 for score in scores) / (n - 1) / n


def _estimate(n: int, mean: float, variance: float) -> Estimate:
    error = _QUANTILE * math.sqrt(variance)
    if math.isnan(error):
        return Estimate(n, mean, math.nan, math.nan)
    return Estimate(n, mean, max(0.0, mean - error), min(1.0, mean + error))

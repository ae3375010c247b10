"""Intervals: formulae by hand, and how often they hold the truth."""

from __future__ import annotations

import math

import pytest
import torch

from lens_core.scores.intervals import of_features, of_layers


def test_a_mean_and_its_interval():
    found = of_features([0.0, 1.0, 1.0, 0.0])
    # s^2 = 1/3, SE = sqrt(1/12)
    assert (found.n, found.mean) == (4, 0.5)
    error = 1.959963984540054 * math.sqrt(1 / 12)
    assert found.low == pytest.approx(max(0, 0.5 - error))
    assert found.high == pytest.approx(min(1, 0.5 + error))


def test_layers_have_equal_weight_however_many_features_they_have():
    found = of_layers([[0.2] * 50, [0.6, 0.8]])
    assert found.n == 52
    assert found.mean == pytest.approx(0.45)
    # Only the second varies: s^2 = 0.02, of the mean 0.01, a quarter of that for two layers.
    assert found.high - found.mean == pytest.approx(1.959963984540054 * 0.05)


def test_degenerate_scores_have_defined_answers():
    nothing = of_features([])
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    one = of_features([0.4])
    assert one.mean == 0.4
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    constant = of_features([0.3] * 7)
    assert (constant.low, constant.high) == (pytest.approx(0.3), pytest.approx(0.3))
    assert of_layers([[], [0.5, 0.5]]).mean == 0.5
    assert math.isnan(of_layers([[], []]).mean)
    assert math.isnan(of_layers([[0.1], [0.5, 0.5]]).low)


@pytest.mark.parametrize("layers", [1, 3])
def test_intervals_hold_the_truth_about_as_often_as_they_say(layers):
    """Skewed shares of 20, 60 features a layer: 2,000 draws, in which 95% has an error of 0.5%.

    The normal interval of so few features is a little short: seen here 93 to 95%.
    """
    generator = torch.Generator().manual_seed(1)
    chances = torch.tensor([0.05, 0.3, 0.6])[:layers]
    held = 0
    for _ in range(2000):
        drawn = [
            (torch.rand(60, 20, generator=generator) < chance).double().mean(1).tolist()
            for chance in chances
        ]
        found = of_layers(drawn)
        held += found.low <= float(chances.mean()) <= found.high
    assert 0.93 <= held / 2000 <= 0.965

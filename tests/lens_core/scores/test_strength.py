"""The strength that reaches a divergence, for functions that behave and that do not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_core.scores.strength import TOLERANCE, find_strength


def counted(function):
    asked = []

    def divergence(strength):
        assert strength > 0
        asked.append(strength)
        return function(strength)

    return divergence, asked


@given(
    st.floats(1e-6, 1e4),
    st.floats(1.2, 3.5),
    st.floats(1e-4, 1e4),
    st.sampled_from([0.25, 0.5]),
)
def test_powers_are_found_in_few_evaluations(factor, power, guess, target):
    divergence, asked = counted(lambda s: factor * s**power)
    limit = 1e9
    found = find_strength(divergence, target, guess, limit)
    assert found is not None
    assert found.divergence == factor * found.strength**power
    assert abs(found.divergence - target) <= TOLERANCE * target
    assert len(asked) == len(set(asked)) <= 30


def test_a_good_guess_takes_few_evaluations():
    divergence, asked = counted(lambda s: 1.4e-4 * s**2 / (1 + 0.002 * s))
    assert find_strength(divergence, 0.25, 30.0, 1e4) is not None
    assert len(asked) <= 4


@pytest.mark.parametrize(
    "function",
    [
        lambda s: 0.0,  # nothing happens
        lambda s: 0.2 * math.tanh(s),  # saturates below the target
        lambda s: 0.0 if s < 50 else 9.0,  # jumps over it
        lambda s: math.nan,
        lambda s: math.inf,
        lambda s: -1.0,
    ],
    ids=["zero", "saturates", "jumps", "nan", "infinite", "negative"],
)
def test_what_is_never_reached_is_none(function):
    divergence, asked = counted(function)
    assert find_strength(divergence, 0.25, 10.0, 1e4) is None
    assert len(asked) <= 60


def test_one_that_is_not_monotone_or_not_finite_further_on_is_still_found():
    def wavy(s):
        return 0.01 * s * (1.2 + math.sin(s))

    for function in (wavy, lambda s: s**2 / 400 if s < 15 else math.nan):
        found = find_strength(function, 0.25, 40.0, 1e4)
        assert found is not None
        assert function(found.strength) == pytest.approx(0.25, rel=TOLERANCE)


def test_what_is_known_is_not_asked_again():
    divergence, asked = counted(lambda s: s**2 / 400)
    known: dict[float, float] = {}
    first = find_strength(divergence, 0.25, 3.0, 1e4, known)
    before = len(asked)
    assert first is not None
    second = find_strength(divergence, 0.5, first.strength * 2**0.5, 1e4, known)
    assert second is not None
    assert len(asked) - before <= 2
    assert set(known) == set(asked)


def test_the_limit_is_an_answer_if_it_reaches_the_target():
    found = find_strength(lambda s: s / 400, 0.25, 7.0, 100.0)
    assert found is not None
    assert found.strength == pytest.approx(100, rel=TOLERANCE)
    assert find_strength(lambda s: s / 500, 0.25, 7.0, 100.0) is None

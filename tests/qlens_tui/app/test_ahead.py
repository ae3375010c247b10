"""What is computed for a feature before the user comes to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qlens_tui.app.views import SIDES
from qlens_tui.engine import messages as m
from qlens_tui.engine.handlers import Answers
from tests.qlens_tui.app.desk import run, settled


def test_the_first_shares_of_the_next_feature_are_there_before_the_cursor_is(place):
    async def act(terminal, bench):
        await settled(terminal.pilot)
        for keys, ahead in ((("j",), 1), (("j",), 1), (("k",), -1)):
            await settled(terminal.pilot, *keys)
            layer, feature = bench.state.feature
            assert bench.table.ahead == (layer, feature + ahead)
            for side in SIDES:
                asked = bench.state.shares_of((layer, feature + ahead), side)
                assert isinstance(bench.state.answer(asked), m.Paths)

    run(place, act)


def test_nothing_is_asked_ahead_beyond_the_ends_of_the_table(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "G")
        assert bench.table.ahead is None
        await settled(terminal.pilot, "k", "g")
        assert bench.table.ahead is None

    run(place, act)


@pytest.mark.parametrize("side", SIDES)
def test_ahead_is_the_first_stage_alone_and_the_rest_follows_when_asked(place, side):
    answers = Answers(lambda _event: None, lambda *_: None)
    answers.to(m.Open(config=place.config, offline=True))
    settings = m.Settings(method="direct")
    asked = m.ComputePaths(layer=1, feature=2, side=side, settings=settings)
    first = answers.to(m.ComputePaths(layer=1, feature=2, side=side, settings=settings, ahead=True))
    assert isinstance(first, m.PathsReady)
    assert not first.is_last
    stages = [answers.to(replace(asked, stage=stage)) for stage in range(3)]
    assert [each.is_last for each in stages] == [False, False, True]
    assert stages[0].paths == first.paths
    counted = [each.paths.n_tokens for each in stages]
    assert counted == sorted(set(counted))


def test_it_comes_after_everything_else():
    ahead = m.ComputePaths(layer=1, feature=2, side="value", ahead=True)
    usual = m.ComputePaths(layer=1, feature=2, side="value")
    assert ahead == usual
    assert ahead.place != usual.place
    assert ahead.urgency == m.BACKGROUND > usual.urgency

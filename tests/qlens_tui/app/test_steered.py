"""What setting a feature raises, from the keyboard."""

from __future__ import annotations

import pytest

from lens_core import steered_report
from lens_core.lenses import LENSES
from lens_core.scores.output_score import Observed
from qlens_tui.app.screens.steered import SteeredScreen
from qlens_tui.engine import messages as m
from qlens_tui.text import token_label
from tests.qlens_tui.app.desk import SIZES, run, settled, told

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize("size", SIZES)
def test_the_tokens_that_rise_are_listed_with_the_lenses_that_have_them(place, size):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "r")
        screen = terminal.pilot.app.screen
        assert isinstance(screen, SteeredScreen)
        found = bench.app.engine.answer(m.Steer(layer=0, feature=1)).found
        assert found.reason == ""
        assert screen.query_one("TitleLine").text == "observed: tokens that rise when 0:1 is set"
        heading, *lines = (line for line in screen.query_one("ChoiceList").lines if line.strip())
        assert all(lens.short in heading for lens in LENSES)
        assert len(lines) >= 10
        for rank, (id, line) in enumerate(zip(found.ids, lines, strict=False)):
            assert line.rstrip().endswith(token_label(found.tokens[rank], ascii_only=False))
            lists = sum(id in found.lists[lens.name] for lens in LENSES)
            assert line[: heading.index("token")].count("+") == lists
        facts = " ".join(" ".join(screen.query_one("#told").lines).split())
        for lens in LENSES:
            assert f"{lens.title} {found.agreement[lens.name]:.0%}" in facts
        assert "at most about" in facts
        assert "behind 100 neutral prefixes (KL 0." in facts
        await settled(terminal.pilot, "escape")
        assert terminal.pilot.app.screen is bench

    run(place, act, size=size)


def test_lists_are_those_of_the_signature_and_agreement_counts_them(place):
    async def act(terminal, bench):
        found = bench.app.engine.answer(m.Steer(layer=0, feature=1)).found
        lists = bench.app.engine.answer(m.ComputeSignature(layer=0, feature=1)).signature
        for lens in LENSES:
            ids = lists.value.top[lens.name].ids[: len(found.lists[lens.name])]
            assert found.lists[lens.name] == ids
            k = len(ids)
            both = set(found.ids[:k]) & set(ids)
            assert found.agreement[lens.name] == pytest.approx(len(both) / k)

    run(place, act)


def test_a_feature_that_changes_nothing_says_so(place, monkeypatch):
    observe = steered_report.observe

    def nothing(*args: object, **options: object) -> Observed:
        return observe(*args, **options).only(slice(0, 0))

    monkeypatch.setattr(steered_report, "observe", nothing)

    async def act(terminal, bench):
        await settled(terminal.pilot, "r")
        lines = " ".join(terminal.pilot.app.screen.query_one("ChoiceList").lines)
        assert "none: no strength changes what the model says" in " ".join(lines.split())
        await settled(terminal.pilot, "r")
        assert terminal.pilot.app.screen is bench

    run(place, act)


def test_a_second_look_steers_nothing_again(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "r", "escape")
        asked = len(bench.app.engine.requests)
        await settled(terminal.pilot, "r")
        assert not any(isinstance(each, m.Steer) for each in bench.app.engine.requests[asked:])
        assert (
            "observed: tokens that rise when 0:0 is set"
            in terminal.pilot.app.screen.query_one("TitleLine").text
        )

    run(place, act)


def test_without_a_feature_there_is_nothing_to_set(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "f", *"note:nothing", "enter", "r")
        assert terminal.pilot.app.screen is bench
        assert "there is no feature under the cursor" in told(bench.app)

    run(place, act)

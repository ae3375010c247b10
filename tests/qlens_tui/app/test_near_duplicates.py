"""Near-duplicates chosen by a threshold and marked as one, from the keyboard."""

from __future__ import annotations

import pytest

from qlens_tui.app.screens import near_duplicates
from qlens_tui.app.screens.near_duplicates import NearDuplicates, starting_at
from qlens_tui.engine import messages as m
from qlens_tui.triage.marks import Mark
from tests.qlens_tui.app.desk import NARROW, run, settled, told

pytestmark = pytest.mark.usefixtures("place")

STAR = Mark(star=True)


def cosines(bench, likeness: m.Likeness, feature: int = 0) -> list[tuple[int, float]]:
    """The features like 0:`feature`, from the core."""
    found = bench.app.engine.answer(
        m.FindResembling(layer=0, feature=feature, likeness=likeness)
    ).found
    return list(zip(found.features, found.cosines, strict=True))


def said(terminal) -> str:
    return terminal.pilot.app.screen.query_one("ThresholdLine").lines[0]


async def lowered_to(terminal, least: float) -> None:
    """Press h until the threshold is so low."""
    screen = terminal.pilot.app.screen
    while screen.least > least + 1e-9:
        await terminal.pilot.press("h")
    await settled(terminal.pilot)


def test_what_is_over_the_threshold_is_counted_listed_and_marked_in_one_edit(place):
    async def act(terminal, bench):
        known = cosines(bench, "both")
        least = (int(known[2][1] * 100)) / 100
        over = [feature for feature, cosine in known if cosine >= least]
        await settled(terminal.pilot, "d")
        screen = terminal.pilot.app.screen
        assert isinstance(screen, NearDuplicates)
        assert [at for _, at in screen.listed().features] == [at for at, _ in known]
        await lowered_to(terminal, least)
        assert f"at least {least:.3f}: {len(over)} of 23" in said(terminal)
        lines = [line for line in screen.query_one("ChoiceList").lines[1:] if line.strip()]
        assert sum(line[2] == "+" for line in lines) == min(len(over), len(lines))
        await settled(terminal.pilot, "x")
        rejected = dict.fromkeys(sorted(over), Mark(reject=True))
        assert bench.marking.marks[0] == rejected
        assert " x" in screen.query_one("ChoiceList").lines[1]
        await settled(terminal.pilot, "u")
        assert bench.marking.marks[0] == {}
        await settled(terminal.pilot, "ctrl+r", "x", "a", "s", "escape")
        assert bench.marking.marks[0] == dict.fromkeys(sorted([0, *over]), STAR)
        assert terminal.pilot.app.screen is bench
        await settled(terminal.pilot, "d")  # as it was left
        assert terminal.pilot.app.screen.least == pytest.approx(least)

    run(place, act, size=NARROW)


def test_the_threshold_is_cut_at_a_line_and_moves_by_hundredths_between_0_and_1(place):
    async def act(terminal, bench):
        known = cosines(bench, "both")
        await settled(terminal.pilot, "d", "down", "space")
        assert said(terminal).rstrip().endswith(f"at least {known[1][1]:.3f}: 2 of 23")
        hundredths = known[1][1] * 100
        await settled(terminal.pilot, "l")
        assert f"at least {(int(hundredths) + 1) / 100:.3f}" in said(terminal)
        await settled(terminal.pilot, "up", "down", "space", "left")
        assert f"at least {int(hundredths) / 100:.3f}" in said(terminal)
        await settled(terminal.pilot, *["right"] * 110)
        assert "at least 1.000: 0 of 23" in said(terminal)
        await settled(terminal.pilot, "s", "T")
        assert "no feature is over the threshold" in told(bench.app)
        await settled(terminal.pilot, *["h"] * 110)
        count = sum(cosine >= 0 for _, cosine in known)
        assert f"at least 0.000: {count} of 23" in said(terminal)
        await settled(terminal.pilot, "escape")
        assert bench.marking.marks[0] == {}

    run(place, act, size=NARROW)


def test_keys_and_values_are_compared_alone_too(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "d")
        screen = terminal.pilot.app.screen
        for likeness in ("key", "value", "both"):
            await settled(terminal.pilot, "tab")
            known = cosines(bench, likeness, 1)
            assert [at for _, at in screen.listed().features] == [at for at, _ in known]
            assert screen.threshold.likeness == likeness
        await settled(terminal.pilot, "escape", "j", "d")
        title = terminal.pilot.app.screen.query_one("TitleLine").text
        assert title == "features like 0:2: fire on and promote the same"

    run(place, act)


def test_many_are_marked_only_when_asked_twice_and_a_change_asks_again(place, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_UNASKED", 2)

    async def act(terminal, bench):
        await settled(terminal.pilot, "d", "down", "down", "space", "s")
        asked = terminal.pilot.app.screen.query_one("#told")
        assert "star 3 features? The same key again does it" in asked.lines[0]
        assert bench.marking.marks[0] == {}
        await settled(terminal.pilot, "x")
        assert "reject 3 features?" in asked.lines[0]
        await settled(terminal.pilot, "a", "x")
        assert "reject 4 features?" in asked.lines[0]
        assert bench.marking.marks[0] == {}
        await settled(terminal.pilot, "x")
        assert len(bench.marking.marks[0]) == 4
        assert not "".join(asked.lines).strip()

    run(place, act)


def test_duplicates_get_the_tag_and_the_label_that_are_typed_for_them(place):
    async def act(terminal, bench):
        over = {feature for feature, _ in cosines(bench, "both")[:2]}
        await settled(terminal.pilot, "d", "down", "space", "t", *"alike", "enter")
        await settled(terminal.pilot, "L", *"one", "enter")
        assert bench.marking.marks[0] == dict.fromkeys(over, Mark(label="one", tags=("alike",)))
        await settled(terminal.pilot, "u", "u")
        assert bench.marking.marks[0] == {}

    run(place, act)


def test_duplicates_become_the_table_and_one_of_them_the_feature_in_sight(place):
    async def act(terminal, bench):
        known = [feature for feature, _ in cosines(bench, "both")]
        await settled(terminal.pilot, "d", "down", "space", "a", "T")
        assert bench.table.rows.features()["feature"].to_list() == [0, *known[:2]]
        assert "what is like 0:0" in bench.rows.listed.words
        await settled(terminal.pilot, "escape", "d", "down", "enter")
        assert bench.table.feature == (0, known[1])

    run(place, act)


def test_without_operators_the_key_says_what_is_missing(place, monkeypatch):
    async def act(terminal, bench):
        monkeypatch.setattr(bench.state.opened, "operators", lambda _layer: "none")
        await settled(terminal.pilot, "d")
        assert terminal.pilot.app.screen is bench
        assert "operators, which are not built: B builds them" in told(bench.app)

    run(place, act)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_hostile_tokens_and_a_failure_are_shown_and_never_run(place, ascii_only):
    async def act(terminal, bench):
        answers = bench.app.engine._answers

        def fail(_request):
            raise near_duplicates_error()

        for feature in range(4):
            await settled(terminal.pilot, "d", "tab", "tab", "escape", "j")
            assert feature == bench.table.feature[1] - 1
        answers._resembling = fail
        await settled(terminal.pilot, "d")
        lines = "".join(terminal.pilot.app.screen.query_one("ChoiceList").lines)
        assert "\\x1b[2J no operators" in lines
        await settled(terminal.pilot, "s", "space", "T", "escape")
        assert not terminal.leaks()
        assert terminal.written.isascii() or not ascii_only

    run(place, act, ascii_only=ascii_only)


def near_duplicates_error():
    from lens_core.errors import OperatorError

    return OperatorError("\x1b[2J no operators")


def test_one_of_them_is_pinned(place):
    async def act(terminal, bench):
        known = [feature for feature, _ in cosines(bench, "both")]
        await settled(terminal.pilot, "d", "down", "P", "escape")
        assert bench.state.pinned == (0, known[1])

    run(place, act)


@pytest.mark.parametrize(
    ("cosines", "least"),
    [
        ((), 0.7),
        ((0.91, 0.4), 0.7),
        ((0.5, 0.41, 0.336, 0.33, 0.1), 0.33),
        ((0.69, 0.2), 0.2),
        ((0.3, -0.1), 0.0),
        ((-0.2,), 0.0),
    ],
)
def test_the_threshold_starts_where_some_are_over_it(cosines, least):
    assert starting_at(cosines) == pytest.approx(least)


def test_the_start_is_each_features_own_until_it_is_set(place):
    async def act(terminal, bench):
        for feature in range(3):
            await settled(terminal.pilot, "d")
            found = [cosine for _, cosine in cosines(bench, "both", feature)]
            screen = terminal.pilot.app.screen
            assert screen.least == starting_at(found)
            assert len(screen.selected) >= 1
            why = "(the nearest few: none has 0.70)"
            assert (why in said(terminal)) == (screen.least < 0.7)
            await settled(terminal.pilot, "escape", "j")
        await settled(terminal.pilot, "d", "l")
        least = terminal.pilot.app.screen.least
        await settled(terminal.pilot, "escape", "j", "d")
        assert terminal.pilot.app.screen.least == least
        assert "nearest few" not in said(terminal)

    run(place, act)

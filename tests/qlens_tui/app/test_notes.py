"""Notes from the keyboard: written beside the lists, and never lost."""

from __future__ import annotations

import pytest

from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.triage.marks import Mark
from qlens_tui.triage.triage import Triage
from tests.qlens_tui.app.desk import SIZES, run, settled, told

STAR = Mark(star=True)


pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize("size", [*SIZES, (120, 36)])
def test_a_note_is_written_beside_the_lists_of_its_feature(place, size):
    async def act(terminal, bench):
        lists = bench.pane("key")
        await settled(terminal.pilot, "m", *"seen")
        box = terminal.pilot.app.screen.query_one("Vertical").region
        panes = [pane for pane in bench.query(FeaturePane) if pane.region.area]
        assert lists in panes
        assert not any(box.overlaps(pane.region) for pane in panes)
        assert bench.table.region.contains_region(box)
        assert "KEY" in "".join(lists.lines)
        await terminal.pilot.resize_terminal(100, 30)
        await settled(terminal.pilot)
        box = terminal.pilot.app.screen.query_one("Vertical").region
        assert bench.table.region.contains_region(box)
        assert terminal.pilot.app.screen.query_one("TextArea").region.height >= 2
        await settled(terminal.pilot, "ctrl+s")
        assert bench.marking.marks[0][0].note == "seen"

    run(place, act, size=size)


def test_a_note_written_from_results_leaves_the_upper_half_of_them(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "slash", *"o", "enter", "m", *"hot")
        box = terminal.pilot.app.screen.query_one("Vertical").region
        assert (box.y, box.right, box.bottom) == (12, 80, 23)
        await settled(terminal.pilot, "ctrl+s", "escape")

    run(place, act, size=(80, 24))


def test_a_line_of_a_note_that_is_not_edited_is_kept_whatever_it_holds(place):
    hostile = "  - indented\n\\nu is not mu\n\ttab\n\x1b[31mred\u202e"

    async def act(terminal, bench):
        dictionary = bench.marking.name_of(0)
        bench.marking.triage.apply({dictionary: [0]}, note=hostile)
        await settled(terminal.pilot, "m", "enter", *"more", "ctrl+s")
        assert bench.marking.triage.mark(dictionary.sha256, 0).note == hostile + "\nmore"
        assert not terminal.leaks()

    run(place, act)


def test_a_note_that_cannot_be_kept_stays_in_the_editor(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "m", *"word")
        editor = terminal.pilot.app.screen
        editor._keep = lambda _text: "no space left"
        await settled(terminal.pilot, "ctrl+s")
        assert terminal.pilot.app.screen is editor
        assert "no space left" in told(bench.app)
        assert editor.edited == "word"
        await settled(terminal.pilot, "escape", "escape")

    run(place, act)


@pytest.mark.parametrize("decides", [True, False])
def test_a_note_that_another_session_changed_meanwhile_is_not_lost_unasked(place, decides):
    async def act(terminal, bench):
        dictionary = bench.marking.name_of(0)
        await settled(terminal.pilot, "m", *"mine")
        with Triage() as other:
            other.apply({dictionary: [0]}, note="theirs")
        if decides:
            await settled(terminal.pilot, "ctrl+s")
            assert "another session changed this note" in told(bench.app)
            assert bench.marking.triage.mark(dictionary.sha256, 0).note == "theirs"
            await settled(terminal.pilot, "ctrl+s")
        else:
            bench.app.finish()  # the line dropped
        assert bench.marking.triage.mark(dictionary.sha256, 0).note == "mine"

    run(place, act)


def test_quitting_in_a_note_keeps_it(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "m", *"half")
        bench.app.finish()
        sha = bench.state.opened.known[0].sha256
        assert bench.marking.triage.mark(sha, 0).note == "half"

    run(place, act)


def test_escape_in_a_changed_note_asks_before_it_throws_it_away(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "m", "a", "escape")
        assert isinstance(terminal.pilot.app.screen, NoteEditor)
        await settled(terminal.pilot, "escape")
        assert terminal.pilot.app.screen is bench
        assert 0 not in bench.marking.marks.get(0, {})

    run(place, act)

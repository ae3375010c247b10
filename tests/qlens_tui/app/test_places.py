"""Where the cursor is after a sort, a filter or `back`, and whose numbers the panes show."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from qlens_tui.app.widgets.first_visit import FirstVisit
from qlens_tui.app.widgets.status_line import StatusLine
from qlens_tui.engine import messages as m
from qlens_tui.table.sort_key import SortKey
from tests.qlens_tui.app.desk import NARROW, SIZES, run, settled, status, told
from tests.qlens_tui.app.terminal import HOSTILE

pytestmark = pytest.mark.usefixtures("place")


def test_a_sort_shows_what_was_sorted_for_and_escape_goes_back(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "colon", *"0:7", "enter")
        bench.rows.sort_by("key_gain")
        await settled(terminal.pilot)
        assert bench.table.row == 0
        gains = bench.table.rows.page(0, 24, ["key_gain"])
        assert gains[0]["key_gain"] == max(row["key_gain"] for row in gains)
        assert "sort gain k down" in status(bench)
        assert "gain k" in bench.table.lines[0]  # also where it would not fit
        await settled(terminal.pilot, "escape")
        assert bench.table.feature == (0, 7)
        assert "sorted as before, back at 0:7" in told(bench.app)
        assert bench.rows.sort == ()
        assert bench.table.row == 7

    run(place, act, size=NARROW)


def test_a_filter_that_nothing_passes_does_not_lose_the_place(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "colon", *"0:7", "enter", "f", *"zzqq", "enter")
        assert bench.table.feature is None
        await settled(terminal.pilot, "escape")
        assert bench.rows.filter == ""
        assert bench.table.feature == (0, 7)
        assert "filter cleared" in told(bench.app)
        await settled(terminal.pilot, "f", *"feature < 3", "enter")
        assert bench.table.feature is not None

    run(place, act)


def test_escape_clears_a_filter_and_the_cursor_stays_on_its_feature(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "colon", *"0:7", "enter", "colon", *"0:2", "enter")
        await settled(terminal.pilot, "f", *"id < 5", "enter", "j")
        assert bench.table.feature == (0, 3)
        await settled(terminal.pilot, "f", "end", *"0", "enter")
        assert bench.rows.filter == "id < 50"
        assert bench.table.feature == (0, 3)
        assert "filter id < 50" in status(bench)
        await settled(terminal.pilot, "escape")
        assert bench.rows.filter == ""
        assert len(bench.table.rows) == 24
        assert bench.table.feature == (0, 3)
        assert "filter cleared" in told(bench.app)
        await settled(terminal.pilot, "escape")
        assert bench.table.feature == (0, 7)
        await settled(terminal.pilot, "escape", "escape")
        assert bench.table.feature == (0, 0)
        assert not bench.query_one(FirstVisit).display
        assert "nothing to go back to" not in told(bench.app)
        await settled(terminal.pilot, "escape")
        assert "nothing to go back to" in told(bench.app)

    run(place, act)


def test_what_is_typed_replaces_the_filter_that_stands_and_end_adds_to_it(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "f", *"id < 5", "enter", "f", *"id < 9", "enter")
        assert bench.rows.filter == "id < 9"
        await settled(terminal.pilot, "f", "end", *"0", "enter")
        assert bench.rows.filter == "id < 90"

    run(place, act)


def test_escape_goes_back_through_jumps_sorts_and_filters_one_by_one(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "f", *"id < 9", "enter", "G")
        bench.rows.sort_by("key_gain")
        await settled(terminal.pilot, "colon", *"0:20", "enter")
        assert bench.table.feature == (0, 20)
        assert bench.rows.filter == ""  # it hid that feature
        await settled(terminal.pilot, "escape")
        assert (bench.rows.filter, bench.rows.sort) == ("id < 9", (SortKey("key_gain", True),))
        assert bench.table.row == 0
        await settled(terminal.pilot, "escape")
        assert (bench.rows.filter, bench.rows.sort) == ("id < 9", ())
        assert bench.table.feature == (0, 8)
        await settled(terminal.pilot, "escape")
        assert bench.rows.filter == ""
        assert bench.table.feature == (0, 8)

    run(place, act)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_filter_stands_in_the_status_line_as_typed_and_finds_a_space(place, ascii_only):
    async def act(terminal, bench):
        await settled(terminal.pilot, "m", *"a dry kiln", "ctrl+s", "j", "m", *"dry", "ctrl+s")
        shown = f"note:{'_' if ascii_only else '␣'}dry"
        await settled(terminal.pilot, "f")
        terminal.pilot.app.screen.query_one("#typed").value = shown
        await settled(terminal.pilot, "enter")
        assert f"filter {shown} " in status(bench)
        assert bench.table.rows.features().rows() == [(0, 0)]
        assert "a dry kiln" in bench.table.lines[1]

    run(place, act, ascii_only=ascii_only)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_filter_of_a_saved_visit_reaches_the_terminal_raw(place, ascii_only):
    async def act(terminal, bench):
        bench.rows.filters = tuple(HOSTILE.values())
        await settled(terminal.pilot, "f", "up", "up", "escape")
        for text in HOSTILE.values():
            bench.rows.filter_by(text)
            await settled(terminal.pilot)
        await settled(terminal.pilot, "o", "down", "escape")
        assert not terminal.leaks()
        assert terminal.written.isascii() or not ascii_only

    run(place, act, size=(80, 24), ascii_only=ascii_only)


def test_up_offers_earlier_filters_also_after_a_restart(place):
    async def leave(terminal, bench):
        for text in ("id < 5", "silent", "id < 9", "id < 5"):
            bench.rows.filter_by(text)
            await settled(terminal.pilot)
        await settled(terminal.pilot, "escape", "escape")

    async def come_back(terminal, bench):
        assert bench.rows.filters == ("silent", "id < 9", "id < 5")
        await settled(terminal.pilot, "f", "up", "up", "enter")
        assert bench.rows.filter == "id < 9"
        assert len(bench.table.rows) == 9
        await settled(terminal.pilot, "f", "ctrl+u", *"il", "up", "tab")
        assert terminal.pilot.app.screen.query_one("#typed").value == "silent"

    run(place, leave, size=NARROW)
    run(place, come_back, size=NARROW)


def test_words_wait_for_an_atlas_and_do_not_say_that_nothing_has_them(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "f", "e", "enter")
        layers, bench.layer_requests.tabulate = bench.state.opened.known, lambda _layer: None
        layers[1] = replace(layers[1], atlas=None)
        bench.reader.forget(1)
        bench.rows.go(1)
        await settled(terminal.pilot)
        assert "filter not applied yet" in "".join(bench.table.lines)
        assert "no feature passes" not in "".join(bench.table.lines)

    run(place, act)


def test_another_length_of_lists_asks_nothing_and_changes_no_number(place):
    async def act(terminal, bench):
        k = bench.app.engine.session.lens.k

        def ranks() -> list[str]:
            return [line.split()[0] for line in bench.pane("value").lines if line.strip()]

        asked = len(bench.app.engine.requests)
        shares, title = bench.paths.lines, bench.pane("value").lines[0]
        await settled(terminal.pilot, "z", *["plus"] * 9)
        assert bench.pane("value").look.length == 100 > k
        assert len(bench.pane("value").view.shown.answer.value.query_lens.ids) >= 100
        await settled(terminal.pilot, "z")
        assert (bench.paths.lines, bench.pane("value").lines[0]) == (shares, title)
        for length in (50, 25, 10, k, 5):
            await settled(terminal.pilot, "minus")
            assert bench.pane("value").look.length == length
        assert ranks()[-1] == "5"
        assert (bench.paths.lines, bench.pane("value").lines[0]) == (shares, title)
        assert not bench.paths.shown.awaits
        assert len(bench.app.engine.requests) == asked

    run(place, act)


def test_a_feature_that_is_at_hand_does_not_wait_for_the_one_before(place):
    async def act(terminal, bench):
        engine = bench.app.engine
        engine.alive = False  # it computes, and computes
        await settled(terminal.pilot, "j")
        late = max(bench.state.work)
        bench.hear(m.Status(id=late, text="reading the reference", done=1, total=9))
        assert bench.table.feature == (0, 1)
        assert bench.pane("evidence").shown.awaits
        await settled(terminal.pilot, "k")
        bench.hear(m.Status(id=late, text="reading the reference", done=2, total=9))
        for pane in bench.pane_layout.panes.values():
            assert pane.shown.of == (0, 0)
            assert not pane.shown.awaits
            assert not pane.is_grey
        assert "reading" not in "".join(bench.paths.lines)

    run(place, act)


def test_passes_are_jobs_that_can_be_stopped_and_the_pane_says_so(place):
    async def act(terminal, bench):
        bench.app.engine.alive = False
        await settled(terminal.pilot, "b", "j")  # an atlas has no bottom lists
        asked = bench.state.under_way
        (number,) = (each.id for each in asked if isinstance(each.request, m.ComputeSignature))
        bench.hear(m.Status(id=number, text="reading the reference", done=3, total=9))
        assert "33%  lists of 0:1" in status(bench)
        assert "reading the reference 3" in "".join(bench.pane("value").lines)
        await settled(terminal.pilot, "w", "d")
        (cancelled,) = (r for r in bench.app.engine.requests if isinstance(r, m.Cancel))
        assert cancelled.target == number
        bench.hear(m.Cancelled(id=number))
        await settled(terminal.pilot, "escape")
        assert "cancelled" in "".join(bench.pane("value").lines)
        assert "lists of" not in status(bench)

    run(place, act)


@pytest.mark.parametrize("size", SIZES)
def test_while_a_job_goes_on_only_its_number_changes_in_the_first_line(place, size):
    async def act(terminal, bench):
        bench.app.engine.alive = False
        await settled(terminal.pilot, "b", "j")
        numbers = {type(each.request): each.id for each in bench.state.under_way}
        number = numbers[m.ComputeSignature]
        found = set()
        for now in (
            {"done": 0, "total": 800, "eta": None},
            {"done": 8, "total": 800, "eta": 754.0},
            {"done": 400, "total": 800, "eta": 59.6},
            {"done": 799, "total": 800, "eta": 0.2},
        ):
            bench.hear(m.Status(id=number, text="a text that changes " * now["done"], **now))
            # What is asked in between is soon done, and does not take the job's place.
            bench.hear(m.Status(id=numbers[m.ComputeEvidence], text="reading"))
            await settled(terminal.pilot)
            line = bench.query_one(StatusLine).lines[0]
            assert f"{100 * now['done'] // 800}%  lists of 0:1" in line
            number_in_it = re.search(r"([\d:]+ (min|s) left, )?\d+%  (?=lists of 0:1)", line)
            found.add((line[: number_in_it.start()].rstrip(), number_in_it.end()))
        assert len(found) == 1

    run(place, act, size=size)


def test_the_lists_of_the_next_feature_begin_at_their_top(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "plus", "plus", "plus", "tab", "end")
        before = bench.pane("key").top
        bench.action_feature(1)
        await settled(terminal.pilot)
        assert bench.pane("key").shown.answer.feature == 1
        assert before > 0
        assert bench.pane("key").top == 0

    run(place, act, size=(80, 24))

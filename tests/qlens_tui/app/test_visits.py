"""The start of a visit: what is shown at once, what is waited for, what is restored."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from textual import events

from qlens_tui.app.last_visit import LastVisit, recall, remember
from qlens_tui.app.widgets.first_visit import FirstVisit
from qlens_tui.engine import messages as m
from qlens_tui.table.sort_key import SortKey
from tests.qlens_tui.app.desk import MOMENT, Desk, engine_dies, run, settled, status, told
from tests.qlens_tui.app.held_reader import HeldReader
from tests.qlens_tui.app.simulated_time import simulate, until
from tests.qlens_tui.app.terminal import in_terminal

pytestmark = pytest.mark.usefixtures("place")


def test_what_was_left_is_found_again_the_next_time(place):
    async def leave(terminal, bench):
        bench.rows.sort_by("value_gain")
        await settled(terminal.pilot, "colon", *"1:5", "enter", "i", "b", "c", "minus")
        await settled(terminal.pilot, "tab", "tab", "2")

    async def come_back(terminal, bench):
        assert bench.table.feature == (1, 5)
        assert bench.rows.sort == (SortKey("value_gain", True),)
        assert bench.pane("key").look.ids
        assert bench.pane("key").look.end == "bottom"
        assert bench.pane("key").look.lenses == ("first-order", "query")
        assert bench.pane("key").look.length == 5
        assert bench.paths.view.transition == "first-order"
        assert bench.focused is bench.pane("value")

    run(place, leave)
    run(place, come_back)


def test_the_cursor_of_the_paths_is_where_it_was_left(place):
    async def leave(terminal, bench):
        bench.focus_pane("paths")
        first = bench.paths.cursor
        await settled(terminal.pilot, "end")
        assert bench.paths.cursor != first
        left.append(bench.paths.cursor)

    async def come_back(terminal, bench):
        assert bench.focused is bench.paths
        assert bench.paths.cursor == bench.state.block == left[0]

    async def come_to_none(terminal, bench):
        assert bench.paths.cursor == min(bench.paths._shares.on_side("value"))

    left: list[int] = []
    run(place, leave)
    assert recall(Path(place.config)).block == left[0]
    run(place, come_back)
    remember(Path(place.config), replace(recall(Path(place.config)), block=999))
    run(place, come_to_none)


def test_a_second_after_a_change_a_kill_loses_nothing_of_it(place):
    """A second later what the next app will read is on disk: no part of the end is needed."""

    def saved() -> LastVisit:
        return recall(Path(place.config))

    async def act(terminal, bench):
        await settled(terminal.pilot, "f", *"id < 9", "enter")
        await asyncio.sleep(1 - MOMENT)
        assert saved().filter == "id < 9"
        bench.rows.sort_by("value_gain")
        await asyncio.sleep(1)
        assert saved().sort == (SortKey("value_gain", True),)
        await settled(terminal.pilot, "j", "j")
        await asyncio.sleep(1 - MOMENT)
        assert (saved().layer, saved().feature) == bench.table.feature
        await settled(terminal.pilot, "l", "2", "n", "i", "M", "tab")
        await asyncio.sleep(1 - MOMENT)
        last = saved()
        assert (last.layer, last.transition, last.ids, last.moves_on) == (
            1,
            "first-order",
            True,
            True,
        )
        assert last.pane == bench.focused.id

    run(place, act)


def test_a_filter_is_saved_before_its_rows_are_read(place, monkeypatch):
    async def act(terminal, bench):
        held = HeldReader(bench.reader, monkeypatch)
        await settled(terminal.pilot, "f")
        terminal.pilot.app.screen.query_one("#typed").value = "id < 9"
        terminal.pilot.app.post_message(events.Key("enter", None))
        await until(held.reading.is_set, "the rows are being read")
        await until(lambda: recall(Path(place.config)).filter == "id < 9", "the filter is saved")
        held.may_read.set()

    run(place, act)


def test_results_in_the_table_are_there_the_next_time_and_escape_shows_all_features(place):
    found = []

    async def leave(terminal, bench):
        await settled(terminal.pilot, "slash", *"o", "enter", "T", "j", "j")
        found.extend(bench.table.rows.features().rows())

    async def come_back(terminal, bench):
        assert bench.table.rows.features().rows() == found
        assert bench.table.feature == found[2]
        assert "what promotes o" in status(bench)
        await settled(terminal.pilot, "escape")
        assert len(bench.table.rows) == 24
        assert bench.table.rows.features()["feature"].to_list() == [*range(24)]

    run(place, leave)
    run(place, come_back)


def test_a_first_visit_says_that_the_features_come_with_the_model(place):
    app = Desk(Path(place.config))
    app.engine.start = lambda: None  # type: ignore[method-assign]

    async def whole() -> None:
        async with in_terminal(app, (80, 24)) as terminal:
            await settled(terminal.pilot)
            assert "features appear once the model is loaded" in "".join(app._bench.table.lines)
            assert "all" not in status(app._bench)
            await settled(terminal.pilot, "j", "s", "e", "escape", "v", "escape")
            assert terminal.pilot.app.screen is app._bench
            app.finish()
        app.end()

    simulate(whole())


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (160, 48)])
def test_a_first_visit_names_three_keys_and_a_second_does_not(place, size):
    async def first(terminal, bench):
        (line,) = bench.query_one(FirstVisit).lines
        assert line.strip().endswith("? all keys (esc: hide)")

    async def second(terminal, bench):
        assert not bench.query_one(FirstVisit).display

    run(place, first, size=size)
    run(place, second, size=size)


def test_the_table_and_the_lists_stand_before_the_model_does(place):
    async def visit(terminal, bench):
        await settled(terminal.pilot, "j")

    run(place, visit)
    app = Desk(Path(place.config))
    app.engine.start = lambda: None  # type: ignore[method-assign]

    async def whole() -> None:
        async with in_terminal(app, (160, 48)) as terminal:
            await settled(terminal.pilot)
            await settled(terminal.pilot, "j")
            bench = app._bench
            assert bench.table.feature == (0, 2)
            assert bench.pane("value").shown.answer.feature == 2
            assert bench.pane("value").shown.answer.value.top.query_lens.ids
            app.finish()
        app.end()

    simulate(whole())


def test_an_engine_that_dies_is_started_again_and_the_user_told(place):
    async def act(terminal, bench):
        await engine_dies(bench)
        await settled(terminal.pilot, "j")
        assert bench.app.engine.alive
        assert "SIGKILL" in told(bench.app)
        assert bench.pane("value").shown.answer.feature == 1

    run(place, act)


def test_a_layer_without_an_atlas_says_what_its_columns_wait_for(place):
    async def act(terminal, bench):
        engine, known = bench.app.engine, bench.state.opened.known
        engine.alive = False  # it takes requests, and is busy
        for layer, found in known.items():
            known[layer] = replace(found, atlas=None)
        engine.requests.clear()
        await settled(terminal.pilot, "l")
        head = bench.table.lines[0]
        assert "columns are being computed (w: jobs)" in head
        assert "LL value" not in head
        await settled(terminal.pilot, "h")
        atlases = [each for each in engine.requests if isinstance(each, m.Tabulate)]
        # That of the layer in sight first; the other may wait from then on.
        assert [(each.layer, each.in_sight) for each in atlases] == [
            (1, True), (0, True), (1, False),
        ]  # fmt: skip
        for each in atlases:
            bench.hear(m.Cancelled(id=each.id))
        assert "cancelled: press B to compute the columns" in bench.table.lines[0]
        await settled(terminal.pilot, "h")
        assert bench.state.layer is None
        assert "columns appear once each layer has been visited" in bench.table.lines[0]
        await settled(terminal.pilot, "l")
        bench.state.opened.session = None
        bench.refresh_lines()
        assert "once the model is loaded" in bench.table.lines[0]
        bench.state.opened.described[0] = replace(bench.state.opened.described[0], operators="none")
        bench.refresh_lines()
        assert "B builds them" in bench.table.lines[0]

    run(place, act)

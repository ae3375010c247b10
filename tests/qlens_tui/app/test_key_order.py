"""Keys that arrive together do what they do one by one."""

from __future__ import annotations

import pytest
from textual import events

from qlens_tui.app import key_order
from qlens_tui.app.screens.prompt import Prompt
from qlens_tui.app.screens.workbench import Workbench
from qlens_tui.app.widgets.line_input import LineInput
from tests.qlens_tui.app.desk import NARROW, run, settled
from tests.qlens_tui.app.held_reader import HeldReader
from tests.qlens_tui.app.simulated_time import until

pytestmark = pytest.mark.usefixtures("place")


def key_event(key: str) -> events.Key:
    character = " " if key == "space" else key if len(key) == 1 else None
    return events.Key({":": "colon", "/": "slash"}.get(key, key), character)


async def at_once(terminal, *keys: str) -> None:
    """All of them, as one read of the terminal gives them."""
    app = terminal.pilot.app
    for key in keys:
        app.post_message(key_event(key))
    # The first key begins a task as soon as the app reads it.
    await terminal.pilot.pause()
    await until(lambda: app.keys_done, "every key has been handed on")
    await settled(terminal.pilot)


def test_a_jump_that_is_pasted_arrives(place):
    async def act(terminal, bench):
        for feature in (3, 17, 5):
            await at_once(terminal, *f":0:{feature}", "enter")
            assert bench.table.feature == (0, feature)
        await at_once(terminal, *":0:2", "enter", "j", "j", "s")
        assert bench.table.feature == (0, 4)
        assert bench.marking.marks[0][4].star
        await at_once(terminal, *":1:2", "enter")
        assert bench.table.feature == (1, 2)

    run(place, act, size=NARROW)


def test_what_is_typed_at_once_with_the_key_of_a_prompt_stands_in_it(place):
    async def act(terminal, bench):
        app = terminal.pilot.app
        await at_once(terminal, "f", *"nonsense = 1")
        assert isinstance(app.screen, Prompt)
        assert app.screen.query_one(LineInput).value == "nonsense = 1"
        # A key that the field itself does not know, then text: in this order.
        await at_once(terminal, "ctrl+u", *"a b", "ctrl+u", *"7:2")
        assert app.screen.query_one(LineInput).value == "7:2"
        await at_once(terminal, "escape", "j", "j")
        assert isinstance(app.screen, Workbench)
        assert bench.table.feature == (0, 2)

    run(place, act)


def test_every_tab_of_several_moves_on(place):
    async def act(terminal, bench):
        order = []
        for _ in range(6):
            await settled(terminal.pilot, "tab")
            order.append(bench.focused.id)
        for presses in (2, 3, 5):
            await settled(terminal.pilot, *["escape"] * 2)
            bench.table.focus()
            await at_once(terminal, *["tab"] * presses)
            assert bench.focused.id == order[presses - 1]

    run(place, act)


def test_a_list_takes_the_keys_that_come_with_the_one_that_opens_it(place):
    async def act(terminal, bench):
        await at_once(terminal, "o", "down", "down", "enter")
        assert isinstance(terminal.pilot.app.screen, Workbench)
        (key,) = bench.rows.sort
        await at_once(terminal, "o", "enter", *"jjjj")
        assert bench.rows.sort == (key.reversed,)

    run(place, act)


def test_a_note_is_written_and_kept_by_keys_that_come_at_once(place):
    async def act(terminal, bench):
        await at_once(terminal, "m", *"two", "enter", *"lines", "ctrl+s", "j", "s")
        assert bench.marking.marks[0][0].note == "two\nlines"
        assert bench.marking.marks[0][1].star

    run(place, act)


def test_keys_after_the_one_that_ends_the_app_are_nobodys(place):
    async def act(terminal, bench):
        await at_once(terminal, "q", "s", "s", ":", "1")
        assert not any(bench.marking.marks.values())

    run(place, act)


def test_keys_that_follow_a_filter_are_for_its_rows(place, monkeypatch):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "j")
        held = HeldReader(bench.reader, monkeypatch)
        for key in ("f", *"id", "space", ">", "space", "9", "enter", "G", "k", "s", "l"):
            terminal.pilot.app.post_message(key_event(key))
        await until(held.reading.is_set, "the rows are being read")
        assert bench.table.feature == (0, 2)
        assert not any(bench.marking.marks.values())
        held.may_read.set()
        await until(lambda: terminal.pilot.app.keys_done, "every key has been handed on")
        await settled(terminal.pilot)
        assert set(bench.marking.marks[0]) == {22}
        assert bench.state.layer == 1

    run(place, act, size=NARROW)


def test_a_key_waits_a_second_for_rows_at_most_and_the_next_layer_for_none(place, monkeypatch):
    async def act(terminal, bench):
        monkeypatch.setattr(key_order, "_UNTIL_SHOWN", 0.2)
        held = HeldReader(bench.reader, monkeypatch)
        for key in ("f", "1", "enter", "j"):
            terminal.pilot.app.post_message(key_event(key))
        await until(lambda: bench.table.feature == (0, 1), "the key was handled all the same")
        assert held.reading.is_set()
        monkeypatch.setattr(key_order, "_UNTIL_SHOWN", 120)
        for key in ("l", "l"):
            terminal.pilot.app.post_message(key_event(key))
        await until(lambda: bench.state.layer == 2, "the layers went by")
        held.may_read.set()
        await settled(terminal.pilot)
        assert bench.table.feature == (2, 0)

    run(place, act)


def test_escape_and_a_letter_typed_soon_after_it_are_two_keys(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "f", "1")
        terminal.pilot.app.post_message(events.Key("alt+j", "j"))
        await settled(terminal.pilot)
        assert terminal.pilot.app.screen is bench
        assert bench.table.feature == (0, 1)
        await settled(terminal.pilot, "f", "1")
        terminal.pilot.app.post_message(events.Key("alt+shift+g", "G"))
        await settled(terminal.pilot)
        assert bench.table.feature == (0, 23)

    run(place, act)

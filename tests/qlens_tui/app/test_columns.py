"""Choosing the table's columns: `C`, what it saves, and files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_core.errors import StoreError
from qlens_tui.app.chosen_columns_file import chosen_columns, keep_columns
from qlens_tui.app.last_visit import state_file
from qlens_tui.app.screens.columns import Columns
from qlens_tui.app.screens.key_sections import in_workbench
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.table_columns import COLUMNS
from qlens_tui.table.chosen_columns import ChosenColumn
from tests.qlens_tui.app.desk import NARROW, SIZES, run, settled, told
from tests.qlens_tui.app.terminal import screen_of

pytestmark = pytest.mark.usefixtures("place")
USUAL = [column.name for column in COLUMNS[1:]]


def names(bench) -> list[str]:
    return [placed.column.name for placed in bench.table._fitted.placed]


def lines(terminal) -> list[str]:
    return [
        line.strip("> ").rstrip() for line in terminal.pilot.app.screen.query_one(ChoiceList).lines
    ]


@pytest.mark.parametrize("size", SIZES)
def test_columns_are_hidden_moved_and_widened_at_once_and_kept(place, size):
    async def act(terminal, bench):
        await settled(terminal.pilot, "C")
        screen = terminal.pilot.app.screen
        assert isinstance(screen, Columns)
        assert lines(terminal)[0].startswith("[x] star, reject, note")
        assert "show/hide" in screen_of(terminal.written, *size)
        await settled(terminal.pilot, "space")  # *xm goes to the others
        assert names(bench)[:2] == ["feature", "key_query_ids"]
        await settled(terminal.pilot, "g", "J")
        assert names(bench)[1:3] == ["value_query_ids", "key_query_ids"]
        assert "QL key" in lines(terminal)[1]
        await settled(terminal.pilot, "+", "minus", "minus")
        (width,) = [each.width for each in screen.shown if each.name == "key_query_ids"]
        placed = next(p for p in bench.table._fitted.placed if p.column.name == "key_query_ids")
        assert placed.width == width
        await settled(terminal.pilot, "K", "enter")  # enter hides too
        assert names(bench)[1] == "value_query_ids"
        assert not terminal.leaks()
        await settled(terminal.pilot, "escape")
        assert terminal.pilot.app.screen is bench

    async def come_back(terminal, bench):
        assert names(bench)[1] == "value_query_ids"
        await settled(terminal.pilot, "C", "0", "r", "escape")
        assert names(bench)[1:3] == ["star", "key_query_ids"]
        assert chosen_columns(Path(place.config)) == ()

    run(place, act, size=size)
    run(place, come_back, size=size)


def test_a_column_that_is_not_usual_can_be_added_and_the_last_one_stays(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "C", "G")
        before = len(bench.table.usual_columns)
        await settled(terminal.pilot, "space", "z", "escape")
        added = bench.table.chosen_columns[before].name
        assert added not in USUAL
        await settled(terminal.pilot, "C", *["g", "space"] * len(bench.table.chosen_columns))
        assert len(bench.table.chosen_columns) == 1
        await settled(terminal.pilot, "g", "-", "0", "J", "K", "escape")
        assert names(bench) == ["feature", bench.table.chosen_columns[0].name]

    run(place, act, size=(160, 48))


def test_a_column_is_found_by_its_name_or_its_head(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "C")
        every = terminal.pilot.app.screen._written()
        full = [line[4:36].strip() for line in every]
        assert len(set(full)) == len(full)
        assert {"density", "density, bar"} <= set(full)
        await settled(terminal.pilot, "slash", *"dens")
        assert "density, bar" in every[terminal.pilot.app.screen.cursor]
        await settled(terminal.pilot, *"e", "backspace", *"x")
        assert "find a column: densx: no column" in screen_of(terminal.written, *NARROW)
        await settled(terminal.pilot, "enter")
        assert "columns of the table" in screen_of(terminal.written, *NARROW)
        before = terminal.pilot.app.screen.shown
        await settled(terminal.pilot, "g", "slash", *"gain_k", "enter")
        at = terminal.pilot.app.screen.cursor
        assert every[at][4:].startswith("key gain ")
        assert terminal.pilot.app.screen.shown == before  # letters are no commands meanwhile
        await settled(terminal.pilot, "slash", *"stab v", "escape", "space", "escape")
        chosen = [each.name for each in bench.table.chosen_columns]
        assert chosen == [name for name in USUAL if name in chosen]
        assert {each.name for each in before} - {*chosen} == {"value_stability"}
        assert not terminal.leaks()

    run(place, act, size=NARROW)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 2, "columns": [["x", 3]]}', "is of another version of qlens"),
        ('{"format": 1, "columns": [{"name": "\\u001b[2J", "width": null}]}', "is damaged"),
        ('{"format": 1, "columns": [{"name": "tags", "width": 2}]}', "is damaged"),
        ('{"format": 1, "columns": [{"name": "tags", "width": true}]}', "is damaged"),
        ('{"format": 1, "columns": [{"name": "tags", "width": 9}, {"name": "tags", "width": 9}]}',
         "is damaged"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line_and_is_not_lost(place, text, why):
    file = state_file(Path(place.config), ".columns.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")

    async def act(terminal, bench):
        said = told(bench.app)
        assert said.startswith("chosen columns not used: ")
        assert why in said
        assert "\n" not in said
        assert file.name in said
        assert names(bench)[1:3] == ["star", "key_query_ids"]
        await settled(terminal.pilot, "C", "space", "escape")

    run(place, act)
    assert chosen_columns(Path(place.config))[0].name == "key_query_ids"
    assert file.with_name(f"{file.name}.1").read_text("utf-8") == text


def test_a_choice_that_cannot_be_saved_says_so_and_shows(place, monkeypatch):
    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    async def act(terminal, bench):
        monkeypatch.setattr("qlens_tui.app.screens.side_screens.keep_columns", full)
        await settled(terminal.pilot, "C", "space")
        assert told(bench.app) == "columns not saved: the disk is full"
        assert names(bench)[1] == "key_query_ids"

    run(place, act)


@given(
    st.lists(
        st.builds(ChosenColumn, st.sampled_from(USUAL), st.none() | st.integers(3, 200)),
        unique_by=lambda chosen: chosen.name,
    )
)
def test_what_was_saved_is_read(chosen):
    config = Path("config.toml")
    keep_columns(config, chosen)
    assert list(chosen_columns(config)) == chosen
    assert json.loads(state_file(config, ".columns.json").read_text("utf-8"))["format"] == 1


def test_columns_are_in_the_help_with_the_keys_that_scroll_them():
    keys = {binding.key for section in in_workbench() for binding in section.bindings}
    assert {"C", "less_than_sign", "greater_than_sign"} <= keys

"""Exports and copies from the keyboard."""

from __future__ import annotations

import polars as pl
import pytest

from qlens_tui.export.write import read_export
from qlens_tui.triage.marks import Mark
from tests.qlens_tui.app.desk import run, settled
from tests.qlens_tui.app.terminal import screen_of

STAR = Mark(star=True)


pytestmark = pytest.mark.usefixtures("place")


def test_an_export_of_the_rows_is_of_those_that_still_pass(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "s", "j", "s", "g", "S", "s", "e")
        assert "the 1 row of the table, in this order" in screen_of(terminal.written, 160, 48)

    run(place, act)


def test_all_tagged_features_can_be_exported_whatever_their_tag_and_the_rows_in_sight(
    place, tmp_path
):
    async def act(terminal, bench):
        await settled(terminal.pilot, "t", *"zeta", "enter", "j", "t", *"body", "enter", "j", "s")
        await settled(terminal.pilot, "f", *"id > 9", "enter", "e")
        lines = terminal.pilot.app.screen.query_one("ChoiceList").lines
        at = next(n for n, line in enumerate(lines) if "with any tag" in line)
        await settled(terminal.pilot, *["down"] * at, "enter")
        terminal.pilot.app.screen.query_one("#typed").value = str(tmp_path / "tagged.csv")
        await settled(terminal.pilot, "enter")

    run(place, act)
    written = read_export(tmp_path / "tagged.csv")
    assert written.select("layer", "feature").rows() == [(0, 0), (0, 1)]


def test_an_export_proposes_a_name_that_is_free_and_says_what_would_be_replaced(place, tmp_path):
    (tmp_path / "features.csv").write_text("mine")

    async def act(terminal, bench):
        await settled(terminal.pilot, "e", "enter")
        prompt = terminal.pilot.app.screen
        assert prompt.query_one("#typed").value == "features-2.csv"
        prompt.query_one("#typed").value = "features.csv"
        await settled(terminal.pilot)
        await settled(terminal.pilot, "enter")
        assert "press enter again to replace it" in prompt.query_one("#told").lines[0]
        await settled(terminal.pilot)
        assert (tmp_path / "features.csv").read_text() == "mine"
        await settled(terminal.pilot, "enter")
        assert terminal.pilot.app.screen is bench
        assert read_export(tmp_path / "features.csv").height == 24

    run(place, act)


def test_an_export_is_exactly_the_rows_on_the_screen_in_their_order(place, tmp_path):
    async def act(terminal, bench):
        await settled(terminal.pilot, "s", "colon", *"0:7", "enter", "s")
        bench.rows.sort_by("value_gain")
        await settled(terminal.pilot)
        for ending in ("csv", "parquet", "ndjson"):
            await settled(terminal.pilot, "e", "enter")
            prompt = terminal.pilot.app.screen
            prompt.query_one("#typed").value = f"out.{ending}"
            await settled(terminal.pilot, "enter")
            expected = bench.table.rows.taken()
            written = read_export(tmp_path / f"out.{ending}")
            assert written["feature"].to_list() == expected["feature"].to_list()
            assert written["value_query_ids"].to_list() == expected["value_query_ids"].to_list()
            assert written.filter(pl.col("star"))["feature"].sort().to_list() == [0, 7]

    run(place, act)


def test_an_export_is_of_the_rows_that_were_on_the_screen_when_it_was_asked(place, tmp_path):
    async def act(terminal, bench):
        await settled(terminal.pilot, "J", "e", "enter")
        bench.rows.sort_by("value_gain")  # as when an atlas arrives meanwhile
        await settled(terminal.pilot, "enter")

    run(place, act)
    written = read_export(tmp_path / "features.csv")
    assert written.select("layer", "feature").rows() == [(0, 0), (0, 1)]


def test_copying_leaves_the_text_in_a_file_too(place, tmp_path):
    async def act(terminal, bench):
        await settled(terminal.pilot, "tab", "y")
        copied = (tmp_path / "state" / "copied.txt").read_text()
        assert "KEY" in copied
        assert copied.startswith(" KEY  0:0")
        assert "\x1b]52;" in terminal.written or bench.app.clipboard == copied

    run(place, act)

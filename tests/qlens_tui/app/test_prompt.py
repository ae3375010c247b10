"""What a prompt says under its line: nothing is cut, and only what the user typed is escaped."""

from __future__ import annotations

import pytest
from textual import events
from textual.widgets.input import Selection

from qlens_tui.app.screens.prompt import Prompt
from qlens_tui.app.widgets.line_input import LineInput
from qlens_tui.table.filter_words import RULE
from tests.qlens_tui.app.desk import run, settled
from tests.qlens_tui.app.terminal import screen_of

pytestmark = pytest.mark.usefixtures("place")


def said(terminal) -> str:
    """The text under the input line."""
    prompt = terminal.pilot.app.screen
    assert isinstance(prompt, Prompt)
    lines = prompt.query_one("#told").lines
    shown = screen_of(terminal.written, 80, 24).split("\n")[-len(lines) :]
    assert [line.rstrip() for line in lines] == shown
    return " ".join(line.strip() for line in lines)


ENDS = ("\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")


async def leave(terminal, bench) -> None:
    """Close all prompts: the first escape clears what was typed."""
    while terminal.pilot.app.screen is not bench:
        await settled(terminal.pilot, "escape")


def test_every_line_of_a_paste_arrives_in_every_prompt(place):
    async def act(terminal, bench):
        for key in ("f", "slash", "t", "p", "colon"):
            await settled(terminal.pilot, key)
            await paste(terminal)
            await leave(terminal, bench)

    async def paste(terminal):
        prompt = terminal.pilot.app.screen
        for end in ENDS:
            typed = prompt.query_one(LineInput)
            typed.value = "()"
            typed.cursor_position = 1
            pasted = f"one{end}two{end}{end}three \x1b{end}"
            terminal.pilot.app.post_message(events.Paste(pasted))
            await settled(terminal.pilot)
            assert prompt.query_one(LineInput).value == "(one two  three )"
        typed.selection = Selection(1, 4)
        terminal.pilot.app.post_message(events.Paste(" "))
        await settled(terminal.pilot)
        assert typed.value == "(  two  three )"

    run(place, act)


def test_a_note_keeps_the_lines_of_a_paste(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "m")
        terminal.pilot.app.post_message(events.Paste("one\r\ntwo\rthree\n\nfive"))
        await settled(terminal.pilot)
        assert terminal.pilot.app.screen.edited == "one\ntwo\nthree\n\nfive"

    run(place, act)


HINTS = {
    ("f",): RULE,
    ("slash",): "a leading space (or ␣) counts; #7 is id 7; a, b: both; a -b: not b",
    ("t",): "down: choose; a tag it has is removed; -tag removes it from all; no commas",
    ("e", "enter"): ".csv (for spreadsheets), .parquet or .ndjson",
    ("p",): r"a leading space counts; \n is a newline, \t a tab, \\ a backslash",
    ("colon", "x"): "write LAYER:FEATURE, such as 8:1279, or a feature of this layer",
    ("f", *"gain >"): "no column gain: the nearest is gain k; to look for words, put them in "
    "double quotes",
    ("e", "enter", *".doc"): "cannot tell the format of features.csv.doc: end its name in .csv, "
    ".parquet, or .ndjson for JSON lines",
}


def test_hints_and_problems_are_whole_at_80_columns(place):
    async def act(terminal, bench):
        for keys, hint in HINTS.items():
            await settled(terminal.pilot, *keys)
            assert said(terminal) == hint
            await leave(terminal, bench)

    run(place, act, size=(80, 24))


def test_a_problem_with_what_was_typed_shows_its_backslashes_escaped(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "e", "enter")
        terminal.pilot.app.screen.query_one("#typed").value = "a\\n.doc"
        await settled(terminal.pilot)
        assert said(terminal).startswith(r"cannot tell the format of a\\n.doc:")

    run(place, act, size=(80, 24))


def test_a_problem_that_would_fill_the_screen_ends_in_an_ellipsis(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "e", "enter")
        terminal.pilot.app.screen.query_one("#typed").value = "漢" * 1000
        await settled(terminal.pilot)
        lines = terminal.pilot.app.screen.query_one("#told").lines
        assert len(lines) == 4
        assert lines[-1].rstrip().endswith("…")

    run(place, act, size=(80, 24))

"""The help and the command palette."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from qlens_tui.app.keymap import keys_of, words_of
from qlens_tui.app.last_visit import recall
from qlens_tui.app.screens.help import Help
from qlens_tui.app.screens.key_sections import in_workbench
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.line_input import LineInput
from qlens_tui.app.widgets.term_list import TermList
from qlens_tui.glossary import GLOSSARY
from tests.qlens_tui.app.desk import NARROW, WIDE, run, settled
from tests.qlens_tui.app.terminal import screen_of

pytestmark = pytest.mark.usefixtures("place")


def shown(screen: Help) -> list[str]:
    """The lines of the help that are on the screen, head first."""
    return [line.rstrip() for line in screen.query_one(TermList).lines]


def whole(screen: Help) -> list[str]:
    """All of its lines below the head."""
    body = screen.query_one(TermList)._body
    return ["".join(text for text, _ in line).rstrip() for line in body]


def squeezed(lines: list[str]) -> str:
    return re.sub(r"\s+", " ", " ".join(lines))


def test_the_help_lists_every_binding_there_is(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "question_mark")
        lines = whole(terminal.pilot.app.screen)
        for section in in_workbench():
            for binding in section.bindings:
                entry = f"   {keys_of(binding):<18} {words_of(binding)}"
                assert entry in lines

    run(place, act, size=(80, 24))


def test_the_help_opens_at_the_keys_of_the_pane_that_has_the_focus(place):
    sections = {
        "table": "everywhere", "value": "token lists", "key": "token lists", "paths": "paths",
        "evidence": "evidence",
    }  # fmt: skip

    async def act(terminal, bench):
        for pane, section in sections.items():
            bench.focus_pane(pane)
            await settled(terminal.pilot, "question_mark")
            lines = shown(terminal.pilot.app.screen)
            assert "keys and glossary" in lines[0]
            assert lines[1] == f" {section}"
            await settled(terminal.pilot, "escape")
            assert terminal.pilot.app.screen is bench

    run(place, act, size=NARROW)


def test_the_head_of_the_help_says_whether_there_is_more_and_the_last_line_how_to_leave(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "question_mark")
        screen = terminal.pilot.app.screen
        count = len(whole(screen))
        assert "▾ 1-" in shown(screen)[0]
        assert "esc back" in screen.query_one(KeyLine).lines[0]
        await settled(terminal.pilot, "j")
        assert "▴▾ 2-" in shown(screen)[0]
        await settled(terminal.pilot, "end")
        assert re.search(rf"▴ \d+-{count} of {count}$", shown(screen)[0])
        await settled(terminal.pilot, "k", "home")
        assert shown(screen)[1] == " everywhere"
        await settled(terminal.pilot, "pagedown", "pageup", "down", "up", "tab")
        assert shown(screen)[1] == " table"
        await settled(terminal.pilot, "shift+tab")
        assert shown(screen)[1] == " everywhere"
        await settled(terminal.pilot, "w")
        assert shown(screen)[1] == " glossary"
        await settled(terminal.pilot, "question_mark")
        assert terminal.pilot.app.screen is bench

    run(place, act, size=(80, 24))


def test_the_help_can_be_searched_by_words_and_escape_goes_back_one_step(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "question_mark")
        screen = terminal.pilot.app.screen
        everything = whole(screen)
        await settled(terminal.pilot, "slash", *"withx", "backspace", "space", *"MARK")
        found = [line for line in whole(screen) if line.startswith("   ")]
        assert found
        assert len(found) < len(everything)
        entries = squeezed(found).casefold()
        assert "next feature without a mark" in entries
        assert "export" not in entries
        await settled(terminal.pilot, "enter", "j", "G", "g")
        assert [line for line in whole(screen) if line.startswith("   ")] == found
        assert "esc all" in screen.query_one(KeyLine).lines[0]
        await settled(terminal.pilot, "escape")
        assert whole(screen) == everything
        await settled(terminal.pilot, "escape")
        assert terminal.pilot.app.screen is bench

    run(place, act, size=NARROW)


def test_a_search_of_the_help_that_finds_nothing_says_so_and_shows_nothing_raw(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "question_mark", "slash")
        screen = terminal.pilot.app.screen
        screen.query_one(LineInput).value = "[red]\x1b[31m\u202e"
        await settled(terminal.pilot)
        assert squeezed(whole(screen)).strip() == ("no entry contains these words")
        assert "\x1b[31m\u202e" not in terminal.written
        assert "\u202e" not in terminal.written
        await settled(terminal.pilot, "escape", "slash", "enter")
        assert not screen.query_one(LineInput).display
        await settled(terminal.pilot, "slash", "down", "pagedown", "up", "pageup", "j")
        assert screen.query_one(LineInput).value == "j"

    run(place, act, size=(80, 24))


def test_the_help_scrolls_by_the_keys_of_the_table(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "question_mark", "ctrl+d")
        screen = terminal.pilot.app.screen
        keys = screen.query_one(TermList)
        assert keys.top == keys.body_height // 2
        await settled(terminal.pilot, "ctrl+u")
        assert keys.top == 0
        await settled(terminal.pilot, "G")
        assert keys.top == len(whole(screen)) - keys.body_height
        await settled(terminal.pilot, "g")
        assert keys.top == 0

    run(place, act, size=(80, 24))


@pytest.mark.parametrize("ascii_only", [False, True])
def test_every_explanation_stands_in_the_help_whole(place, ascii_only):
    async def act(terminal, bench):
        await settled(terminal.pilot, "question_mark")
        screen = terminal.pilot.app.screen
        lines = whole(screen)
        meanings = squeezed([line[22:] for line in lines])
        terms = squeezed([line[:22] for line in lines])
        for _, words in GLOSSARY:
            for word in words:
                assert word.meaning in meanings
                assert word.shown(ascii_only=ascii_only) in terms
        if ascii_only:
            assert all(line.isascii() for line in (*lines, *shown(screen)))
            rows = screen_of(terminal.written, 80, 24).split("\n")[1:-3]
            assert all(row[2:78].isascii() for row in rows)  # the frame too

    run(place, act, size=(80, 24), ascii_only=ascii_only)


def test_the_palette_has_no_name_twice_and_writes_keys_as_the_help_does(place):
    async def act(terminal, bench):
        commands = terminal.pilot.app.commands()
        names = [command.words for command in commands]
        assert len(names) == len(set(names))
        told = {command.words: (command.where, command.keys) for command in commands}
        assert told["All keys and a glossary"] == ("everywhere", "?")
        assert told["All blocks off"] == ("paths", "n")
        keys: dict[str, list[set[str]]] = defaultdict(list)
        for section in in_workbench():
            for binding in section.bindings:
                assert words_of(binding) in told
                keys[words_of(binding)].append(set(binding.key.split(",")))
        # What is named once stands for the same key in two places, not for two things.
        assert all(set.intersection(*places) for places in keys.values())

    run(place, act)


@pytest.mark.parametrize(("size", "ascii_only"), [(NARROW, True), (WIDE, False)])
def test_the_palette_is_a_prompt_that_finds_a_command_by_words_and_runs_it(place, size, ascii_only):
    async def act(terminal, bench):
        app = terminal.pilot.app
        await settled(terminal.pilot, "ctrl+p", *"blocks", "space", *"OFF")
        offered = app.screen.query_one(ChoiceList).lines
        assert any("All blocks off  (paths)" in line for line in offered)
        await settled(terminal.pilot, *["backspace"] * 10, *"all blocks off", "enter")
        assert app.screen is bench
        assert bench.state.settings.off
        assert bench.focused.id == "paths"
        await settled(terminal.pilot, "ctrl+p", *"duplicates")
        assert "like this one" in app.screen.query_one(ChoiceList).lines[0]
        await settled(terminal.pilot, *"zzqq")
        assert "no command has these words" in app.screen.query_one("#told").lines[0]
        await settled(terminal.pilot, "enter")
        assert "no command has these words" in app.screen.query_one("#told").lines[0]
        await settled(terminal.pilot, "escape")
        assert app.screen is bench
        assert terminal.written.isascii() or not ascii_only

    run(place, act, size=size, ascii_only=ascii_only)


def test_the_palette_opens_over_results_and_has_their_keys(place):
    async def act(terminal, bench):
        app = terminal.pilot.app
        await settled(terminal.pilot, "slash", *"o", "enter")
        results = app.screen
        first = results.listed().features[0]
        await settled(terminal.pilot, "ctrl+p", *"paths")
        assert not app.screen.query_one(ChoiceList).lines
        await settled(terminal.pilot, *["backspace"] * 5, *"star", "enter")
        assert app.screen is results
        assert bench.marking.mark(first).star
        await settled(terminal.pilot, "ctrl+p", *"colours", "enter", "escape", "escape")
        assert app.screen is bench

    run(place, act, size=NARROW)


def test_the_palette_offers_the_colours_and_keeps_what_was_chosen(place):
    async def act(terminal, bench):
        app = terminal.pilot.app
        await settled(terminal.pilot, "ctrl+p", *"colours", "enter")
        await settled(terminal.pilot, "g", "enter")
        assert app.theme == min(app.available_themes)
        await settled(terminal.pilot, "ctrl+p", *"colours", "enter", "j", "escape")
        assert app.theme == min(app.available_themes)

    app = run(place, act)
    assert recall(app.bench.config).theme == app.theme


def test_the_footer_keeps_its_short_words(place):
    async def act(terminal, bench):
        bench.focus_pane("paths")
        await settled(terminal.pilot)
        assert "r row  O only this  a all  n none" in bench.query_one(KeyLine).lines[0]

    run(place, act, size=(80, 24))

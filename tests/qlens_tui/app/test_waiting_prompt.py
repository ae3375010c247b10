"""What is typed before the model or the marks are there is kept, and never acts as keys."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from textual import events

from qlens_tui.app.last_visit import keep_vocabulary
from qlens_tui.app.screens import reading_marks
from qlens_tui.app.screens.near_duplicates import NearDuplicates
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.probe import ProbeScreen
from qlens_tui.app.screens.prompt import Prompt
from qlens_tui.app.screens.reverse_search import ReverseSearch
from qlens_tui.app.screens.token_prompt import TokenPrompt
from qlens_tui.app.screens.waiting_prompt import WaitingPrompt
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.line_input import LineInput
from qlens_tui.app.widgets.title_line import TitleLine
from qlens_tui.app.widgets.wrapped_text import WrappedText
from qlens_tui.engine import messages as m
from qlens_tui.triage.marks import Mark
from qlens_tui.triage.triage import Triage
from tests.qlens_tui.app.desk import SIZES, Desk, arrive, reopen, run, settled
from tests.qlens_tui.app.simulated_time import simulate, until
from tests.qlens_tui.app.terminal import in_terminal
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("place")

LETTERS = "wasxtuN"
"""Most of these are keys of the workbench that change something."""


def typed(screen) -> str:
    return screen.query_one(LineInput).value


def told(screen) -> str:
    return " ".join(screen.query_one("#told", WrappedText).lines)


def listed(screen) -> str:
    return " ".join(screen.query_one(ChoiceList).lines)


async def visit(terminal, bench):
    await settled(terminal.pilot, "j")


@pytest.mark.parametrize("size", SIZES)
def test_a_first_search_waits_for_the_tokens_with_what_was_typed(place, size):
    async def act(terminal, bench):
        app = terminal.pilot.app
        before = bench.state.settings, bench.state.look, bench.rows.filter
        await settled(terminal.pilot, "slash", *LETTERS)
        assert isinstance(app.screen, WaitingPrompt)
        assert typed(app.screen) == LETTERS
        assert told(app.screen).strip().startswith("the tokens come with the model: ")
        await settled(terminal.pilot, "enter")
        assert isinstance(app.screen, WaitingPrompt)
        assert (bench.state.settings, bench.state.look, bench.rows.filter) == before
        await arrive(terminal, bench)
        assert isinstance(app.screen, TokenPrompt)
        assert typed(app.screen) == LETTERS
        await settled(terminal.pilot, "ctrl+u", "e", "enter")
        assert app.screen.hits

    reopen(place, act, size=size)


def test_no_letter_is_lost_while_one_prompt_gives_way_to_the_other(place, monkeypatch):
    dismiss = WaitingPrompt.dismiss

    def typed_meanwhile(self, answer):
        for letter in "xyz":
            self.app.post_message(events.Key(letter, letter))
        return dismiss(self, answer)

    async def act(terminal, bench):
        app = terminal.pilot.app
        await settled(terminal.pilot, "slash", "w")
        monkeypatch.setattr(WaitingPrompt, "dismiss", typed_meanwhile)
        await arrive(terminal, bench)
        await until(lambda: app.keys_done, "every key has been handed on")
        await settled(terminal.pilot)
        assert isinstance(app.screen, TokenPrompt)
        assert typed(app.screen) == "wxyz"

    reopen(place, act)


def test_escape_leaves_and_then_keys_are_keys_again(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "slash", "i", "escape", "i")
        assert terminal.pilot.app.screen is bench
        assert bench.state.look.ids

    reopen(place, act)


@pytest.mark.parametrize("size", SIZES)
def test_with_the_tokens_of_the_last_visit_a_search_is_asked_once_the_model_is_there(place, size):
    run(place, visit)

    async def act(terminal, bench):
        app = terminal.pilot.app
        await settled(terminal.pilot, "slash", "e", "enter")
        assert isinstance(app.screen, ReverseSearch)
        assert "waiting for the model" in listed(app.screen)
        assert not [each for each in app.engine.requests if isinstance(each, m.Search)]
        await arrive(terminal, bench)
        assert app.screen.hits
        assert len([each for each in app.engine.requests if isinstance(each, m.Search)]) == 1

    reopen(place, act, size=size)


def test_tokens_that_turn_out_to_be_another_vocabulary_s_are_not_searched(place):
    run(place, visit)
    keep_vocabulary(Path(place.config), ["e", "f"])

    async def act(terminal, bench):
        app = terminal.pilot.app
        await settled(terminal.pilot, "slash", "e", "enter")
        await arrive(terminal, bench)
        assert "the model, or its layers, are other ones" in listed(app.screen)
        assert not [each for each in app.engine.requests if isinstance(each, m.Search)]

    reopen(place, act)


def test_a_text_and_near_duplicates_wait_for_the_model_too(place):
    run(place, visit)

    async def of_a_text(terminal, bench):
        app = terminal.pilot.app
        await settled(terminal.pilot, "p", *"star", "enter")
        assert isinstance(app.screen, ProbeScreen)
        assert "waiting for the model" in app.screen.query_one(TitleLine).lines[0]
        await arrive(terminal, bench)
        assert app.screen.query_one(TitleLine).lines[0].strip().startswith("0:1 ")

    async def of_a_feature(terminal, bench):
        app = terminal.pilot.app
        await settled(terminal.pilot, "d")
        assert isinstance(app.screen, NearDuplicates)
        assert "waiting for the model" in listed(app.screen)
        await arrive(terminal, bench)
        assert app.screen.listed().features

    reopen(place, of_a_text)
    reopen(place, of_a_feature)


def test_a_search_of_which_the_engine_died_is_not_asked_again_by_itself(place):
    async def act(terminal, bench):
        app = terminal.pilot.app
        app.engine.alive = False  # it takes the request, and is busy
        await settled(terminal.pilot, "slash", "e", "enter")
        asked = [each for each in app.engine.requests if isinstance(each, m.Search)]
        app.engine.die()
        await until(lambda: bench.state.opened.session is None, "the app knows of the death")
        await until(lambda: bench.state.opened.session is not None, "another engine has opened")
        await settled(terminal.pilot)
        assert "killed by SIGKILL" in listed(app.screen)
        assert [each for each in app.engine.requests if isinstance(each, m.Search)] == asked
        await settled(terminal.pilot, "o")
        assert app.screen.hits

    run(place, act)


@pytest.mark.parametrize(("key", "field"), [("t", "tags"), ("L", "label"), ("m", "note")])
def test_a_text_for_marks_that_are_still_being_read_waits_for_them(place, monkeypatch, key, field):
    run(place, visit)
    let = threading.Event()

    def held(path: Path | None = None) -> Triage:
        assert let.wait(PATIENCE)
        return Triage(path)

    monkeypatch.setattr(reading_marks, "Triage", held)
    app = Desk(Path(place.config))

    async def whole() -> None:
        async with in_terminal(app, (80, 24)) as terminal:
            await until(lambda: app._bench is not None and app.bench.table.rows, "there are rows")
            await terminal.pilot.press(key, *LETTERS)
            await until(lambda: isinstance(app.screen, WaitingPrompt), "the prompt waits")
            await until(lambda: typed(app.screen) == LETTERS, "it has all letters")
            assert "the marks are still being read" in told(app.screen)
            let.set()
            wanted = NoteEditor if key == "m" else Prompt
            await until(lambda: type(app.screen) is wanted, "the prompt is there")
            await settled(terminal.pilot, *("!", "ctrl+s" if key == "m" else "enter"))
            text = f"{LETTERS}!"
            given = Mark(tags=(text,)) if field == "tags" else Mark(**{field: text})
            assert app.bench.marking.marks[0] == {1: given}
            app.finish()
        app.end()

    simulate(whole())


def test_a_tag_for_no_feature_is_typed_into_a_prompt_that_says_so(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "f", *"feature < 0", "enter", "t", *LETTERS)
        screen = terminal.pilot.app.screen
        assert "there is no feature here" in told(screen)
        assert typed(screen) == LETTERS
        await settled(terminal.pilot, "escape")
        assert terminal.pilot.app.screen is bench

    run(place, act)

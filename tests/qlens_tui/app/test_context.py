"""A context in its whole sample: the cursor, the activation under it, and hostile text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.app import App

from qlens_tui.app.last_visit import LastVisit
from qlens_tui.app.opened import Opened
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.context import ContextScreen
from qlens_tui.app.screens.workbench import Workbench
from qlens_tui.app.state import State
from qlens_tui.app.widgets.sample_text import SampleText
from qlens_tui.engine import messages as m
from qlens_tui.text import cells
from tests.qlens_tui.app.desk import NARROW, run, settled
from tests.qlens_tui.app.features import SIZES, found
from tests.qlens_tui.app.simulated_time import simulate
from tests.qlens_tui.app.terminal import HOSTILE, Terminal, in_terminal
from tests.qlens_tui.workplace import Workplace

WORDS = ("The", " river", " said", " to", " the", " stone", "\n", "nothing")
FIRED: tuple[float | None, ...] = (None, 1.0, 0.0, 5.0, 0.0, 8.0, 0.0, 3.0)
Step = Callable[[App[None], SampleText, Terminal], Awaitable[None]]


def sample(
    words: tuple[str, ...] = WORDS, fired: tuple[float | None, ...] = FIRED
) -> m.SampleActivations:
    ids = tuple(range(100, 100 + len(words)))
    return m.SampleActivations(6, 35, found().text, 3, ids, words, fired)


def foot(text: SampleText) -> str:
    return next(line for line in reversed(text.lines) if line.strip()).strip()


def on_screen(
    walk: Step, size: tuple[int, int] = (80, 24), answer: m.Event | None = None, at: int = 5
) -> list[m.Request]:
    """Open a context in an app whose engine gives `answer`; returns what it was asked."""
    asked: list[m.Request] = []
    given = answer or m.SampleReady(sample=sample())

    async def play() -> None:
        state = State(Opened(LastVisit()))
        # Only whether there is a session matters.
        state.opened.session = object()  # type: ignore[assignment]

        def send(request: m.Request) -> int:
            asked.append(request)
            return len(asked)

        app: App[None] = App()
        context = replace(found().contexts[3], position=at)
        async with in_terminal(app, size) as terminal:
            screen = ContextScreen(found(), context, state, Requests(state, send), ascii_only=False)
            app.push_screen(screen)
            await terminal.pilot.pause()
            state.take(replace(given, id=1))
            screen.answered()
            await terminal.pilot.pause()
            await walk(app, screen.query_one(SampleText), terminal)

    simulate(play())
    return asked


@pytest.mark.parametrize("size", SIZES)
def test_the_sample_opens_at_the_context_and_says_what_is_under_the_cursor(
    size: tuple[int, int],
) -> None:
    async def walk(app: App[None], text: SampleText, terminal: Terminal) -> None:
        assert text.position == 5
        assert foot(text) == "␣stone  8.000, quarter 4 of 4   token 6 of 8   id 105"
        assert "The river said to the[␣stone]⏎nothing" in text.lines[0]
        for keys, position in (
            ("h", 4), ("left", 3), ("l", 4), ("right", 5), ("n", 7), ("n", 7), ("N", 5),
            ("N", 3), ("g", 0), ("G", 7), ("home", 0), ("end", 7),
        ):  # fmt: skip
            await terminal.pilot.press(keys)
            assert text.position == position, keys
        await terminal.pilot.press("g")
        assert foot(text).startswith("The  does not count")
        await terminal.pilot.press("l", "l")
        assert foot(text).startswith("␣said  silent")
        await terminal.pilot.press("escape")
        assert not isinstance(app.screen, ContextScreen)

    (asked,) = on_screen(walk, size)
    assert asked == m.ReadSample(layer=6, feature=35, text="0" * 64, sample=3)


@pytest.mark.parametrize("size", SIZES)
def test_a_long_sample_is_wrapped_scrolls_and_lines_are_steps(size: tuple[int, int]) -> None:
    words = tuple(f" word{at}" for at in range(900))
    fired = tuple(float(at % 10 == 0) for at in range(900))

    async def walk(_app: App[None], text: SampleText, terminal: Terminal) -> None:
        await terminal.pilot.press("g", "j", "j", "j", "k")
        down = text.position
        assert 2 * 8 < down < 2 * 20
        await terminal.pilot.press("pagedown", "pageup")
        assert abs(text.position - down) < 20
        await terminal.pilot.press("G")
        assert any("word899" in line for line in text.lines)
        await terminal.pilot.press("up")
        assert text.position < 899
        await terminal.pilot.press("down", "down")
        assert foot(text).startswith("␣word8")
        assert text.size.height <= size[1] - 4

    on_screen(walk, size, m.SampleReady(sample=sample(words, fired)))


def test_a_failure_takes_the_place_of_the_sample() -> None:
    async def walk(app: App[None], text: SampleText, _terminal: Terminal) -> None:
        assert "! the contexts are gone" in "\n".join(
            line
            for pane in app.screen.query("TextLine")
            for line in pane.lines  # type: ignore[attr-defined]
        )
        assert text.position == 0

    on_screen(walk, answer=m.Failed(text="the contexts are gone"))


@pytest.mark.parametrize("size", SIZES)
def test_no_text_reaches_the_terminal_raw(size: tuple[int, int]) -> None:
    words = tuple(HOSTILE.values())
    fired = tuple(float(at % 3) for at in range(len(words)))

    async def walk(_app: App[None], _text: SampleText, terminal: Terminal) -> None:
        await terminal.pilot.press("g", *["l"] * len(words))
        assert r"\x1b[31m" in terminal.written
        assert terminal.leaks() == set()

    on_screen(walk, size, m.SampleReady(sample=sample(words, fired)), at=0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=[]), max_size=20), min_size=1, max_size=12),
    st.integers(2, 60),
    st.booleans(),
)
def test_every_line_takes_exactly_the_width(words: list[str], width: int, ascii_only: bool) -> None:
    text = SampleText(ascii_only=ascii_only)
    fired = tuple(float(at % 5) for at in range(len(words)))
    text.tell(sample(tuple(words), fired), 4.0, len(words) - 1)
    _, body = text.lay_out(width, 20)
    lines = ["".join(said for said, _ in line) for line in (*body, *text.foot(width, 20)[1:])]

    assert {cells(line) for line in lines} == {width}
    assert text.needed(width) == len(body) + 2
    assert all(line.isascii() for line in lines) or not ascii_only


def test_enter_on_a_context_opens_its_sample_and_escape_goes_back(place: Workplace) -> None:
    async def act(terminal: Terminal, bench: Workbench) -> None:
        bench.focus_pane("evidence")
        await settled(terminal.pilot, "down")
        evidence = bench.pane("evidence").shown.answer
        assert isinstance(evidence, m.Evidence)
        assert evidence.is_whole  # the activations around came after the contexts
        await settled(terminal.pilot, "enter")
        screen = terminal.pilot.app.screen
        assert isinstance(screen, ContextScreen)
        text = screen.query_one(SampleText)
        (question,) = (each for each in bench.app.engine.requests if isinstance(each, m.ReadSample))
        assert question.sample == evidence.contexts[0].sample
        assert text.position == evidence.contexts[0].position
        assert f"  {evidence.max_activation:.3f}, quarter 4 of 4" in foot(text)
        await settled(terminal.pilot, "escape")
        assert terminal.pilot.app.screen is bench
        assert bench.pane("evidence").has_focus
        assert terminal.leaks() == set()

    run(place, act, size=NARROW)

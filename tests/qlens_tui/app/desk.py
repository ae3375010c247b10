"""The whole app on a real tiny model, its engine in this process, for Pilot tests.

`Answers` is what the engine process runs; here it answers at once, on the app's own thread, and
time is simulated, so that a test waits for nothing and sees what a user sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from textual.app import App
from textual.pilot import Pilot

from lens_core.errors import LensError
from lens_core.session import Session
from qlens_tui.app import key_order
from qlens_tui.app.app import QlensApp
from qlens_tui.app.screens.workbench import Workbench
from qlens_tui.app.widgets.fact_line import FactLine
from qlens_tui.app.widgets.status_line import StatusLine
from qlens_tui.engine import messages as m
from qlens_tui.engine.handlers import Answers
from tests.qlens_tui.app.simulated_time import simulate, until
from tests.qlens_tui.app.terminal import Terminal, in_terminal
from tests.qlens_tui.workplace import Workplace

NARROW, WIDE = (80, 24), (160, 48)
SIZES = [NARROW, WIDE]
"""For tests of what a screen shows; what keys do is tested at one size, mostly the narrow one."""
MOMENT = 0.2  # seconds


class AnswersAtOnce:
    """An engine without a process: every request is answered before `send` returns."""

    def __init__(self, on_event: Callable[[m.Event], None]) -> None:
        self._on_event = on_event
        self._sent = 0
        self.requests: list[m.Request] = []
        self.alive = False
        self.log: Path | None = None
        self._answers = Answers(self._on_event, lambda *_: None)

    @property
    def pid(self) -> int | None:
        return 1 if self.alive else None

    def start(self) -> None:
        self.alive = True

    def send(self, request: m.Request) -> int:
        self._sent += 1
        numbered = replace(request, id=self._sent)
        self.requests.append(numbered)
        if self.alive and not isinstance(request, m.Cancel | m.Shutdown):
            self._serve(numbered)
        return self._sent

    def arrive(self) -> None:
        """Be there from now on, after `hold`: answer what was sent meanwhile."""
        self.alive = True
        for request in list(self.requests):
            self._serve(request)

    def _serve(self, request: m.Request) -> None:
        try:
            event = self._answers.to(request)
        except LensError as error:
            self._on_event(m.Failed(id=request.id, text=str(error)))
        else:
            self._on_event(event)
            self._answers.keep(request, event)
            if later := m.next_stage(request, event):
                self._serve(later)

    def answer(self, request: m.Request) -> m.Event:
        """The last answer to a request, without sending it to the app."""
        event = self._answers.to(request)
        later = m.next_stage(request, event)
        return event if later is None else self.answer(later)

    @property
    def session(self) -> Session:
        return self._answers._session

    def close(self, patience: float = 2.0) -> None:
        self.alive = False

    def die(self, text: str = "the engine was killed by SIGKILL") -> None:
        self.alive = False
        self._on_event(m.Died(text=text))


class Desk(QlensApp):
    """The app with such an engine."""

    engine: AnswersAtOnce  # type: ignore[assignment]

    def make_engine(self) -> AnswersAtOnce:  # type: ignore[override]
        return AnswersAtOnce(self.relay)


def run(
    place: Workplace,
    act: Callable[[Terminal, Workbench], Awaitable[None]],
    *,
    size: tuple[int, int] = (160, 48),
    **options: object,
) -> Desk:
    """Run the app on `place`, act once it is ready, quit; returns the app."""
    app = Desk(Path(place.config), **options)  # type: ignore[arg-type]

    async def whole() -> None:
        # A thread that reads rows takes what it takes: only a wait that has no end is bounded.
        with patch.object(key_order, "_UNTIL_SHOWN", 120):
            await in_the_terminal()

    async def in_the_terminal() -> None:
        async with in_terminal(app, size) as terminal:
            bench = await ready(terminal.pilot)
            await act(terminal, bench)
            app.finish()
        app.end()

    simulate(whole())
    return app


def reopen(
    place: Workplace,
    act: Callable[[Terminal, Workbench], Awaitable[None]],
    *,
    size: tuple[int, int] = (160, 48),
    loads: bool = False,
) -> None:
    """Open the app; the model is loaded at once if `loads`, else when `arrive` is called."""
    app = Desk(Path(place.config))
    if not loads:
        app.engine.start = lambda: None  # type: ignore[method-assign]

    async def whole() -> None:
        async with in_terminal(app, size) as terminal:
            await settled(terminal.pilot)
            assert app._bench is not None
            await act(terminal, app._bench)
            app.finish()
        app.end()

    simulate(whole())


async def arrive(terminal: Terminal, bench: Workbench) -> None:
    """The model is there from now on."""
    bench.app.engine.arrive()
    await until(lambda: bench.state.opened.session is not None, "the session is open")
    await settled(terminal.pilot)


async def ready(pilot: Pilot[None]) -> Workbench:
    """The workbench, once the engine has answered for the first feature."""

    def stands() -> bool:
        bench = pilot.app.screen_stack[-1]
        return (
            isinstance(bench, Workbench)
            and not bench.marking.is_opening
            and bench.pane("value").shown.answer is not None
            and bench.pane("evidence").shown.answer is not None
            and bool(bench.table.rows)
            and "value_gain" in bench.table.rows.frame.columns
        )

    await until(stands, "the first feature is shown, and the table's columns")
    bench = pilot.app.screen_stack[-1]
    assert isinstance(bench, Workbench)
    return bench


async def settled(pilot: Pilot[None], *keys: str) -> None:
    """Press keys and wait until the app is at rest: see `at_rest`."""
    for key in keys:
        await pilot.press(key)
    await at_rest(pilot.app)


async def at_rest(app: App[Any]) -> None:
    """Wait until a moment has passed in which nothing was at work.

    The moment is longer than the app waits for the cursor to rest; and as it passes only while
    nothing runs (`simulated_time`), no message, timer of such a length or repaint is left then.
    """
    await asyncio.sleep(MOMENT)
    while app.workers:
        await until(lambda: not app.workers, "no worker is at work")
        await asyncio.sleep(MOMENT)


async def engine_dies(bench: Workbench) -> None:
    """The engine is killed; wait until the one that the app starts in its place has opened."""
    engine = bench.app.engine
    assert isinstance(engine, AnswersAtOnce)
    engine.die()
    await until(lambda: bench.state.opened.session is None, "the app knows of the death")
    await until(lambda: bench.state.opened.session is not None, "another engine has opened")


def status(bench: Workbench) -> str:
    """The first line of the screen, with what a wide screen says above the table."""
    rows = bench.query_one(FactLine)
    return bench.query_one(StatusLine).lines[0] + "".join(rows.lines if rows.display else [])


def told(app: QlensApp) -> str:
    """The text of all toasts."""
    return "\n".join(notification.message for notification in app._notifications)

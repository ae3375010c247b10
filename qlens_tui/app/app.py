"""The app: the workbench, the engine, and everything that outlives either.

The first paint needs Textual and the last visit. The triage file is opened after it, and the
engine started, which is another process (`engine`). A crashed engine is restarted and the user is
notified; if it keeps crashing, each restart waits longer. SIGHUP (a dropped connection) and SIGTERM
end the app in order: the terminal is restored and the visit is saved; marks are already on disk.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.message import Message
from textual.screen import Screen

from qlens_tui.app.alarm import Alarm
from qlens_tui.app.colours import readable
from qlens_tui.app.compact_output import terse_driver
from qlens_tui.app.key_order import KeysInOrder
from qlens_tui.app.keymap import LAYER_KEYS, keys_of, words_of
from qlens_tui.app.last_visit import keep_vocabulary, recall, saved_vocabulary
from qlens_tui.app.notices import LONG
from qlens_tui.app.restarts import Restarts
from qlens_tui.app.screens.choice import Choice
from qlens_tui.app.screens.key_sections import EVERYWHERE, KeySection, on_screen
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.palette import Command, Palette
from qlens_tui.app.screens.prompt import Answer
from qlens_tui.app.screens.workbench import Workbench
from qlens_tui.app.suspending import suspend
from qlens_tui.app.views import Feature
from qlens_tui.engine import messages as m
from qlens_tui.engine.client import Engine
from qlens_tui.text import visible
from qlens_tui.triage.triage import Triage

if TYPE_CHECKING:
    from qlens_tui.engine.kept_sessions import KeptSession

_PATIENCE = 4.0  # seconds for an app to end whose connection dropped


class EngineSaid(Message):
    """Carries an event of the engine to the screen."""

    def __init__(self, event: m.Event) -> None:
        super().__init__()
        self.event = event


class QlensApp(KeysInOrder):
    """Triage of the features of one configuration."""

    TITLE = "qlens"
    ENABLE_COMMAND_PALETTE = False  # Textual's: see `palette`
    CSS = """
    Toast { max-width: 70; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
        Binding("ctrl+c", "quit_hint", "Quit", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", "Suspend", show=False, priority=True),
    ]

    def __init__(
        self,
        config: Path,
        *,
        overrides: Mapping[str, str | int | tuple[int, ...] | None] | None = None,
        offline: bool = False,
        begin_at: Feature | None = None,
        jump_to: Feature | None = None,
        explanations: Path | None = None,
        ascii_only: bool = False,
        ansi: bool = False,
    ) -> None:
        """Open the configuration in file `config`.

        Args:
            overrides: keyword arguments of `lens_core.config.with_overrides`.
            begin_at: the feature that a first visit starts with.
            jump_to: the feature to go to, whatever the last visit was.
            explanations: a file of explanations, or a folder of them, to show.
            ascii_only: write only ASCII characters.
            ansi: use the terminal's own 16 colours.
        """
        self.ascii_only = ascii_only  # the driver is made next
        super().__init__(ansi_color=ansi or None)  # None: the theme decides
        self.config = config
        self.engine = self.make_engine()
        self._triage: Future[Triage | None] = Future()
        self._begin_at, self._jump_to = jump_to or begin_at, jump_to
        self._overrides, self._offline = dict(overrides or {}), offline
        self._explanations = explanations
        self._restarts = Restarts()
        self._restarting = Alarm(self.set_timer, self.restart)
        self._started = 0.0
        self._ended = False
        self._bench: Workbench | None = None

    def get_driver_class(self) -> type[Driver]:
        return terse_driver(super().get_driver_class(), ascii_only=self.ascii_only)

    def get_css_variables(self) -> dict[str, str]:
        is_dark = self.current_theme.dark
        self.theme_variables = readable(super().get_css_variables(), is_dark=is_dark)
        return self.theme_variables

    def make_engine(self) -> Engine:
        """The engine that this app will start."""
        return Engine(self.relay)

    def relay(self, event: m.Event) -> None:
        """Forward an event; called on the engine's reading thread."""
        self.post_message(EngineSaid(event))

    @property
    def bench(self) -> Workbench:
        """The main screen, under all others."""
        assert self._bench is not None, "the app is not running"
        return self._bench

    def on_mount(self) -> None:
        visit = recall(self.config)
        if self._jump_to is not None:
            layer, feature = self._jump_to
            visit = replace(visit, layer=layer, feature=feature, filter="")
        if visit.theme in self.available_themes:
            self.theme = visit.theme
        self._bench = Workbench(
            self.config, visit, self._triage, send=lambda request: self.engine.send(request),
            engine=self, begin_at=self._begin_at, explanations=self._explanations,
            ascii_only=self.ascii_only,
        )  # fmt: skip
        self.push_screen(self._bench)
        for number in (signal.SIGHUP, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._hang_up)
        # After the first paint, because a process and a million marks take a moment.
        self.call_after_refresh(self.restart)
        self.call_after_refresh(
            lambda: self.run_worker(self.bench.marking.open(), group="open marks")
        )
        self.call_after_refresh(
            lambda: self.run_worker(self.bench.explaining.read(), group="explanations")
        )

    # The engine.

    @property
    def has_engine(self) -> bool:
        """Whether an engine process is running."""
        return self.engine.pid is not None

    def restart(self) -> None:
        """Start an engine if none is running, and open the session in it."""
        self._restarting.stop()
        if self._ended or self.has_engine:
            return
        self._started = time.monotonic()
        try:
            self.engine.start()
        except OSError as error:
            self.notify(
                f"cannot start the engine ({error.strerror}): press B to try again",
                severity="error",
            )
            return
        self.reopen()

    def reopen(self) -> None:
        """Open the session, in a new process if necessary."""
        request = m.Open(config=str(self.config), overrides=self._overrides, offline=self._offline)
        self.bench.opening.begin(request)
        self.run_worker(self._read_vocabulary(), exclusive=True, group="vocabulary")
        self.run_worker(self._read_session(request), exclusive=True, group="session")

    def on_engine_said(self, message: EngineSaid) -> None:
        message.stop()
        event, bench = message.event, self._bench
        if bench is None or self._ended:
            return
        if isinstance(event, m.Died):
            self._crashed(event.text)
            return
        if isinstance(event, m.VocabularyReady):
            tokens = event.tokens
            self.run_worker(asyncio.to_thread(keep_vocabulary, self.config, tokens), group="keep")
        bench.hear(event)

    def _crashed(self, text: str) -> None:
        pause = self._restarts.crashed(time.monotonic() - self._started)
        self.bench.opening.lost(text, self._restarts.phase(pause))
        log = self.engine.log
        where = f" (log: {log})" if log is not None else ""
        said = f"{self._restarts.said(text, pause)}{where}"
        self.notify(said, severity="error", timeout=LONG)
        self._restarting.put_off(pause)

    async def _read_vocabulary(self) -> None:
        """Use the token strings of the last visit until the engine sends its own."""
        tokens = await asyncio.to_thread(saved_vocabulary, self.config)
        if tokens and self.bench.state.opened.texts is None:
            self.bench.opening.remember_vocabulary(tokens)

    async def _read_session(self, request: m.Open) -> None:
        """Use the answers of earlier sessions until the engine has opened this one."""

        def read() -> KeptSession | None:
            from qlens_tui.engine.kept_sessions import kept_session

            return kept_session(request)

        kept = await asyncio.to_thread(read)
        if kept is not None:
            self.bench.opening.remember(kept)

    # For every screen.

    def notify(self, message: str, **how: Any) -> None:
        """Show a notice, of any text; a new one replaces earlier ones that are not errors.

        Otherwise a pile of notices would hide the screen. An error that still stands there is not
        shown again.
        """
        shown = visible(message, ascii_only=self.ascii_only)
        if all(each.severity == "information" for each in self._notifications):
            self.clear_notifications()
        standing = [each.message for each in self._notifications if each.severity == "error"]
        if how.get("severity") != "error" or shown not in standing:
            super().notify(shown, **{**how, "markup": False})

    def commands(self) -> list[Command]:
        """For the palette: every action that has a key here, each once, and the colours."""
        found: dict[str, Command] = {}
        for section in on_screen(self.screen):
            for binding in section.bindings:
                act = partial(self._run, section, binding, self.screen)
                words, keys = words_of(binding), keys_of(binding)
                command = Command(binding.description, words, keys, section.title, act)
                # The same key with the same action is in two sections.
                found.setdefault(words, command)
        colours = Command("Theme", "Colours", "", EVERYWHERE, self._choose_colours)
        return [*found.values(), colours]

    def action_palette(self) -> None:
        """Choose a command by its words."""
        commands = self.commands()

        def act(answer: Answer | None) -> None:
            if answer is not None and answer.number is not None:
                commands[answer.number].act()

        self.push_screen(Palette(commands, ascii_only=self.ascii_only), act)

    def _choose_colours(self) -> None:
        names = sorted(self.available_themes)

        def choose(index: int | None) -> None:
            if index is not None:
                self.theme = names[index]

        self.push_screen(
            Choice("colours", names, cursor=names.index(self.theme), ascii_only=self.ascii_only),
            choose,
        )

    def _run(self, section: KeySection, binding: Binding, on: Screen[Any]) -> None:
        node: Any = on
        if section.panes:
            self.bench.focus_pane(section.panes[0])
            node = self.bench.query_one(f"#{section.panes[0]}")
        self.call_later(self.run_action, binding.action, node)

    def is_early(self, event: events.Key | events.Paste) -> bool:
        """A key of the workbench waits for the rows that were asked for; the layer keys do not."""
        if self._bench is None or self.screen is not self._bench:
            return False
        is_of_layers = isinstance(event, events.Key) and event.key in LAYER_KEYS
        return self._bench.rows.is_awaited and not is_of_layers

    def action_quit_hint(self) -> None:
        self.notify("q quits")

    def action_suspend_process(self) -> None:
        """Suspend the app, as `ctrl+z` does everywhere; the shell's `fg` resumes it."""
        suspend(self)

    async def action_quit(self) -> None:
        self.finish()

    def _hang_up(self) -> None:
        # Writing to a lost terminal may block; everything is saved by now.
        last = threading.Timer(_PATIENCE, os._exit, [1])
        last.daemon = True
        self.finish()
        last.start()

    def finish(self) -> None:
        """End the app in order, after any key or signal."""
        if self._ended:
            return
        self._ended = True
        if not self._triage.done():
            self._triage.set_result(None)  # threads wait for it
        # The connection dropped, or ctrl+q was pressed, while a note was edited.
        for screen in self.screen_stack:
            if isinstance(screen, NoteEditor):
                # A first try fails if another session changed it; now the user cannot be asked.
                _ = screen.keep_now() or screen.keep_now()
        if self._bench is not None:
            self._bench.save()
        self.exit()

    def end(self) -> None:
        """After the terminal was restored: end the engine and close the triage file."""
        self.engine.close()
        triage = self._triage.result() if self._triage.done() else None
        if triage is not None:
            triage.close()

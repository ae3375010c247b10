"""The app: one workbench over one engine, and everything that outlives either.

First paint needs Textual, the user's place and the triage file; the engine is another process,
started once the screen stands (`engine`). An engine that dies is started again and the user is
told; one that keeps dying is left until the user asks for it. SIGHUP (a dropped line) and
SIGTERM end the app in order: the terminal is put back and the place is kept; marks are on the
disk already.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.message import Message
from textual.screen import Screen

from lens_core.directories import state_dir
from lens_core.errors import LensError
from lens_core.storage.files import write_text_atomically
from qlens_tui.app.compact_output import terse_driver
from qlens_tui.app.key_order import KeysInOrder
from qlens_tui.app.last_visit import recall
from qlens_tui.app.screens.help import keys_of, words_of
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.workbench import Workbench
from qlens_tui.engine import messages as m
from qlens_tui.engine.client import Engine
from qlens_tui.text import visible
from qlens_tui.triage.triage import Triage

_DEATHS = 3  # in a row are too many
_PATIENCE = 4.0  # seconds for an app whose line was dropped to end
_LONG = 900.0  # seconds of life after which a death starts a new row
_COPY_LIMIT = 74_000  # bytes; terminals drop longer OSC 52 sequences


class EngineSaid(Message):
    """An event of the engine, on its way to the screen."""

    def __init__(self, event: m.Event) -> None:
        super().__init__()
        self.event = event


class QlensApp(KeysInOrder):
    """Triage of the features of one configuration."""

    TITLE = "qlens"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    CSS = """
    Toast { max-width: 70; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
        Binding("ctrl+c", "quit_hint", "Quit", show=False, priority=True),
    ]

    def __init__(
        self,
        config: Path,
        *,
        name: str | None = None,
        overrides: Mapping[str, str | int | tuple[int, ...] | None] | None = None,
        offline: bool = False,
        begin_at: tuple[int, int] | None = None,
        jump_to: tuple[int, int] | None = None,
        ascii_only: bool = False,
        ansi: bool = False,
    ) -> None:
        """Open the configuration in file `config`.

        Args:
            begin_at: the feature that a first visit begins with.
            jump_to: the feature to go to, wherever the user was.
            ascii_only: no character beyond ASCII is written.
            ansi: the terminal's own 16 colours.
        """
        self.ascii_only = ascii_only  # the driver is made next
        super().__init__(ansi_color=ansi or None)  # None: as the theme has it
        self.config = config
        self.config_name = name or str(config)
        self.begin_at = jump_to or begin_at
        self.engine = self.make_engine()
        self._overrides, self._offline = dict(overrides or {}), offline
        self._deaths = 0
        self._started = 0.0
        self._ended = False
        self._bench: Workbench | None = None
        self._jump_to = jump_to
        self.triage: Triage | None = None

    def get_driver_class(self) -> type[Driver]:
        return terse_driver(super().get_driver_class(), ascii_only=self.ascii_only)

    def make_engine(self) -> Engine:
        """The engine that this app will start."""
        return Engine(self.relay)

    def relay(self, event: m.Event) -> None:
        """Pass an event on; called on the engine's reading thread."""
        self.post_message(EngineSaid(event))

    def on_mount(self) -> None:
        place = recall(self.config)
        if self._jump_to is not None:
            from dataclasses import replace

            place = replace(place, layer=self._jump_to[0], feature=self._jump_to[1], filter="")
        problem = None
        try:
            self.triage = Triage()
            problem = self.triage.warning or None
        except LensError as error:
            problem = f"nothing can be marked: {error}"
        if place.theme in self.available_themes:
            self.theme = place.theme
        self._bench = Workbench(self.config, place, self.triage)
        self.push_screen(self._bench)
        for number in (signal.SIGHUP, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._hang_up)
        if problem is not None:
            self.toast(problem, "error", long=True)
        # The screen paints first: a process takes a moment to start.
        self.call_after_refresh(self.restart_engine)

    def restart_engine(self) -> None:
        """Start an engine if none is running, and open the session in it."""
        if self._ended or self.engine.pid is not None:
            return
        self._started = time.monotonic()
        try:
            self.engine.start()
        except OSError as error:
            self.toast(f"the engine cannot be started ({error.strerror}): B tries again", "error")
            return
        self.reopen()

    def reopen(self) -> None:
        """Open the session, in a new process or again."""
        assert self._bench is not None
        self._bench.dialogue.started()
        self._bench.dialogue.inquiry.ask(
            m.Open(config=str(self.config), overrides=self._overrides, offline=self._offline),
        )
        saved = self._vocabulary_file()
        if saved.is_file():
            self.run_worker(self._read_vocabulary(saved), exclusive=True, group="vocabulary")

    def on_engine_said(self, message: EngineSaid) -> None:
        message.stop()
        event, bench = message.event, self._bench
        if bench is None or self._ended:
            return
        if isinstance(event, m.Died):
            # One that lived for long died of something else.
            lived = time.monotonic() - self._started
            self._deaths = 1 if lived > _LONG else self._deaths + 1
            again = self._deaths < _DEATHS
            bench.dialogue.died(event.text, again)
            log = self.engine.log
            where = f"; its log is {log}" if log is not None else ""
            if again:
                self.toast(f"{event.text}; starting it again{where}", "error", long=True)
                self.set_timer(0.5, self.restart_engine)
            else:
                self.toast(f"{event.text}; it keeps dying: B starts it{where}", "error", long=True)
            return
        bench.dialogue.hear(event)

    # What every screen may use.

    def toast(
        self,
        text: str,
        severity: Literal["information", "warning", "error"] = "information",
        *,
        long: bool = False,
    ) -> None:
        """Say something from anywhere, files and models among it."""
        self.notify(
            visible(text, ascii_only=self.ascii_only),
            severity=severity,
            timeout=12 if long else 5,
            markup=False,
        )

    def notify(self, message: str, **how: Any) -> None:
        """As Textual does; but what was only said makes room, so that no pile hides the screen."""
        if all(each.severity == "information" for each in self._notifications):
            self.clear_notifications()
        super().notify(message, **how)

    def copy(self, text: str) -> None:
        """Printable text to the clipboard by OSC 52, and to a file for terminals that refuse it."""
        file = state_dir() / "copied.txt"
        try:
            write_text_atomically(file, text)
        except LensError as error:
            self.toast(str(error), "error")
        if len(text.encode()) <= _COPY_LIMIT:
            self.copy_to_clipboard(text)
        self.toast(f"copied; also in {file}")

    def _vocabulary_file(self) -> Path:
        import hashlib

        name = hashlib.sha256(os.fsencode(os.path.realpath(self.config))).hexdigest()[:24]
        return state_dir() / f"{name}.vocabulary.json"

    def keep_vocabulary(self, tokens: tuple[str, ...]) -> None:
        """Keep the token strings for the next start, when the model is not loaded yet."""
        text = json.dumps({"tokens": tokens})

        def write() -> None:
            try:
                write_text_atomically(self._vocabulary_file(), text)
            except (LensError, OSError):
                return

        self.run_worker(asyncio.to_thread(write), group="keep")

    async def _read_vocabulary(self, file: Path) -> None:
        def read() -> list[str]:
            try:
                tokens = json.loads(file.read_text("utf-8"))["tokens"]
            except (OSError, ValueError, KeyError, TypeError):
                return []
            return [token for token in tokens if isinstance(token, str)]

        tokens = await asyncio.to_thread(read)
        if tokens and self._bench is not None:
            self._bench.dialogue.remember_texts(tokens)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action that has a key, for the palette; themes besides."""
        bench = self._bench
        told: set[str] = set()
        if bench is not None and screen is bench:
            for title, bindings in bench.sections():
                for binding in bindings:
                    words = words_of(binding)
                    # The same key does the same in two places.
                    if words in told:
                        continue
                    told.add(words)
                    yield SystemCommand(
                        words,
                        f"{title}: {keys_of(binding)}",
                        lambda title=title, binding=binding: self._run(title, binding),
                    )
        yield SystemCommand("Theme", "Change the colours", self.action_change_theme)

    def _run(self, title: str, binding: Binding) -> None:
        bench = self._bench
        assert bench is not None
        names = {"table": "table", "token lists": "value", "paths": "paths", "evidence": "evidence"}
        node = bench if title == "everywhere" else bench.query_one(f"#{names[title]}")
        if node is not bench:
            bench.focus_pane(names[title])
        self.call_later(self.run_action, binding.action, node)

    def action_quit_hint(self) -> None:
        self.notify("q quits", title="")

    async def action_quit(self) -> None:
        self.finish()

    def _hang_up(self) -> None:
        # A terminal that is gone may hold up whoever writes to it; everything is kept by then.
        last = threading.Timer(_PATIENCE, os._exit, [1])
        last.daemon = True
        self.finish()
        last.start()

    def finish(self) -> None:
        """End the app in order, from whichever key or signal."""
        if self._ended:
            return
        self._ended = True
        # A line that drops, or ctrl+q, in the middle of a note.
        for screen in self.screen_stack:
            if isinstance(screen, NoteEditor):
                # Not kept at first where another session changed it; nobody is there to decide.
                _ = screen.keep_now() or screen.keep_now()
        if self._bench is not None:
            self._bench.save()
        self.exit()

    def end(self) -> None:
        """After the terminal was put back: the engine goes, the triage file is closed."""
        self.engine.close()
        if self.triage is not None:
            self.triage.close()

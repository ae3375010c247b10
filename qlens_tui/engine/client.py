"""The engine as the app sees it: a process that takes requests and sends events.

    engine = Engine(lambda event: app.post_message(EngineSaid(event)))
    engine.start()
    wanted = engine.send(Open(config="smollm2-neurons"))
    ...
    engine.close()

Two threads per process keep the app's event loop free: one writes, so that an engine that does
not read cannot block a key press, and one reads and checks events. The callback runs on the
reading thread (Textual's `post_message` may be called from any thread). If the process ends
without being closed, the last event is `Died` and `start` starts a new one; the session must
then be opened again, and pending requests are lost.

Needs no torch and imports none.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, cast

from lens_core.directories import LOGS, cache_dir
from lens_core.errors import StoreError
from qlens_tui.engine.messages import Died, Event, Request
from qlens_tui.engine.wire import WireError, messages_of, write_message

# -P: a file in the working directory must not be imported in place of a library.
COMMAND = (sys.executable, "-P", "-m", "qlens_tui.engine.process")
_LOGS_KEPT = 10
_TAIL_BYTES = 4096

OnEvent = Callable[[Event], None]


class Engine:
    """Starts engine processes, sends them requests and ends them, one process at a time."""

    def __init__(self, on_event: OnEvent) -> None:
        """`on_event` is called on another thread."""
        self._on_event = on_event
        self._ids = itertools.count(1)
        self._life: _Life | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running process; `None` if there is none."""
        return self._life.process.pid if self._life is not None and self._life.alive else None

    @property
    def log(self) -> Path | None:
        """The log file of the last process."""
        return None if self._life is None else self._life.log

    def start(self) -> None:
        """Start a process, unless one is running."""
        if self.pid is None:
            if self._life is not None:
                self._life.end()
            self._life = _Life(self._on_event)

    def send(self, request: Request) -> int:
        """Send a request; returns the id that events about it will have. Never blocks.

        If the process died the request is lost, and a `Died` event says or will say so.
        """
        numbered = replace(request, id=next(self._ids))
        if self._life is not None:
            self._life.outbox.put(numbered)
        return numbered.id

    def close(self, patience: float = 2.0) -> None:
        """End the process and the threads, without an event; kill it after `patience` seconds."""
        if self._life is not None:
            self._life.end(patience)
            self._life = None


class _Life:
    """One engine process, from start to end."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._wanted = True
        self.outbox: SimpleQueue[Request | None] = SimpleQueue()
        self.log, log = _new_log()
        with log:
            self.process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        source, sink = cast(BinaryIO, self.process.stdout), cast(BinaryIO, self.process.stdin)
        self._reader = threading.Thread(target=self._read, args=(source,), daemon=True)
        self._writer = threading.Thread(target=self._write, args=(sink,), daemon=True)
        self._reader.start()
        self._writer.start()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self, patience: float = 2.0) -> None:
        self._wanted = False
        self.outbox.put(None)
        for hurry in (self.process.terminate, self.process.kill, None):
            try:
                self.process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                if hurry is not None:
                    hurry()
        for thread in (self._reader, self._writer):
            if thread is not threading.current_thread():
                thread.join(patience)

    def _write(self, sink: BinaryIO) -> None:
        with suppress(OSError), sink:
            while (request := self.outbox.get()) is not None:
                with suppress(WireError):
                    write_message(sink, request)

    def _read(self, source: BinaryIO) -> None:
        garbled = None
        with source:
            for message in messages_of(source, Event):
                if isinstance(message, WireError):
                    garbled = message
                    break
                self._on_event(message)
        if garbled is not None:
            self.process.kill()
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:  # it closed its output but still runs
            self.process.kill()
            self.process.wait()
        self.outbox.put(None)
        if self._wanted:
            why = "sent invalid data" if garbled is not None else _end(self.process.returncode)
            self._on_event(Died(text=f"the engine {why}{_last_line(self.log)}"))


def _end(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    with suppress(ValueError):
        name = signal.Signals(-status).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"was killed by signal {-status}"


def _new_log() -> tuple[Path, BinaryIO]:
    """A file for what the engine prints; the oldest logs are removed."""
    try:
        folder = cache_dir() / LOGS
        folder.mkdir(exist_ok=True)
    except (StoreError, OSError):  # the engine reports this when it opens a session
        folder = Path(tempfile.gettempdir())
    handle, name = tempfile.mkstemp(".log", f"engine-{os.getpid()}-", folder)
    if folder.name == LOGS:
        with suppress(OSError):
            old = sorted(folder.glob("engine-*.log"), key=lambda path: path.stat().st_mtime)
            for path in old[:-_LOGS_KEPT]:
                path.unlink()
    return Path(name), os.fdopen(handle, "wb")


def _last_line(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").split("\n")
        said = [" ".join(line.split()) for line in lines if line.strip()]
        return f": {said[-1]}" if said else ""
    return ""

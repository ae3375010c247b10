"""The engine: `lens_core` in a process of its own, `python -m qlens_tui.engine.process`.

torch takes seconds to import and holds Python's lock; here neither reaches the app. Requests
come in on standard input and events go out on standard output, framed (`wire`). One thread
reads, so that a cancel and the end of the app are seen at any moment; the main thread works
on one request after another and owns the device (`engine_desk` says on which, `engine_answers`
what is done). Long work is cut by the progress callbacks of `lens_core`: between two of them
whatever is more urgent is answered, on the same thread and stack. When nobody asks for a while
the model is given back (`engine_session`).

The frames get descriptors of their own, and 0, 1 and 2 lead to nowhere and to the log: no
library can garble the stream, and no child keeps it open. When the input ends, however the
app ended, the process is gone `_GRACE` seconds later, whatever it was doing.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from typing import BinaryIO, NoReturn

from lens_core.errors import one_line
from qlens_tui.engine.handlers import Answers
from qlens_tui.engine.messages import Event, Failed, Notice, Request, Shutdown, Status
from qlens_tui.engine.scheduler import Closed, Desk, Halted
from qlens_tui.engine.wire import WireError, messages_of, write_message
from qlens_tui.failures import explained

_GRACE = 2.0  # seconds for the main thread to come to its next tick
_LONGEST = 2000  # characters of a message
_STREAM_LOST = 3  # exit status: the app's frames could not be read
# Nothing is said of what takes no time, and no more often than an eye can follow.
_SILENT_SECONDS, _SECONDS_BETWEEN = 0.2, 0.1


class Worker:
    """Works on the requests of a desk, one at a time, on the thread that runs it."""

    def __init__(self, desk: Desk, tell: Teller) -> None:
        self._desk = desk
        self._tell = tell
        self._answers = Answers(tell, self.tick)
        self._reports: list[_Report] = []

    def run(self) -> None:
        """Until the desk is closed."""
        with suppress(Closed):
            while True:
                request = self._desk.take(self._answers.idle_seconds)
                if request is None:
                    self._tell(self._answers.release())
                else:
                    self._serve(request)

    def tick(self, text: str, done: int, total: int) -> None:
        """Report progress of what runs, and serve what is more urgent; may end what runs."""
        report = self._reports[-1]
        status = report.status(text, done, total)
        if status is not None:
            self._tell(status)
        self._desk.check(report.request)
        began = time.monotonic()
        while (urgent := self._desk.take_meanwhile()) is not None:
            # As at the top of the stack, whatever mode the interrupted work is in.
            import torch

            with torch.enable_grad():
                self._serve(urgent)
            self._desk.check(report.request)
        report.rested(time.monotonic() - began)

    def _serve(self, request: Request) -> None:
        with self._desk.running(request):
            self._reports.append(_Report(request))
            try:
                self._tell(self._answers.to(request))
            except Halted as halted:
                self._tell(halted.event)
            except Exception as error:
                self._tell(_failure(request, error))
            finally:
                self._reports.pop()


class _Report:
    """How far a request is; the rate counts only what was done since its first tick."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._said = time.monotonic() - _SECONDS_BETWEEN + _SILENT_SECONDS
        self._text = ""
        self._first, self._start = 0, 0.0

    def status(self, text: str, done: int, total: int) -> Status | None:
        """What to say now, if anything."""
        now = time.monotonic()
        if text != self._text:
            self._text, self._first, self._start = text, done, now
        if now - self._said < _SECONDS_BETWEEN:
            return None
        self._said = now
        rate = (done - self._first) / (now - self._start) if now > self._start else 0.0
        eta = max(0, total - done) / rate if rate > 0 else None
        return Status(id=self.request.id, text=text, done=done, total=total, eta=eta)

    def rested(self, seconds: float) -> None:
        """Something else was done meanwhile, which the rate does not count."""
        self._start += seconds


class Teller:
    """Writes events, whole, from either thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        try:
            with self._lock:
                write_message(self._stream, event)
        except WireError as error:
            self(Failed(id=event.id, text=str(error), defect=True))
        except OSError:
            _end(0)  # nobody reads any more


def _failure(request: Request, error: Exception) -> Failed:
    known = explained(error)
    if known is not None:
        return Failed(id=request.id, text=one_line(known[0], _LONGEST))
    print(f"{type(request).__name__} failed:", file=sys.stderr)
    traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}"
    return Failed(id=request.id, text=one_line(text, _LONGEST), defect=True)


def main() -> NoReturn:
    """Serve until standard input ends."""
    source, sink = _own_streams()
    # The terminal's keys are the app's business.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    tell, desk = Teller(sink), Desk()
    tell(Status(text="starting"))
    threading.Thread(target=_listen, args=(source, desk, tell), daemon=True).start()
    try:
        _report_warnings(tell)
        Worker(desk, tell).run()
    except BaseException:
        traceback.print_exc()
        _end(1)
    _end(0)


def _listen(source: BinaryIO, desk: Desk, tell: Teller) -> NoReturn:
    try:
        for message in messages_of(source, Request):
            if isinstance(message, Shutdown):
                break
            if isinstance(message, WireError):
                tell(Failed(text=f"the engine cannot read a request: {message}", defect=True))
                if message.lost:
                    _end(_STREAM_LOST)
                continue
            for event in desk.put(message):
                tell(event)
    except BaseException:
        traceback.print_exc()
        _end(1)
    desk.close()
    time.sleep(_GRACE)
    _end(0)


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """The app's pipes under descriptors that nobody else knows or inherits."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    return source, sink


def _report_warnings(tell: Teller) -> None:
    """What only the user can judge goes to the app; other warnings go to the log."""
    to_log = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        if category.__name__ == "QlensWarning":
            tell(Notice(text=one_line(str(message), _LONGEST)))
        else:
            to_log(message, category, *where)  # type: ignore[arg-type]

    warnings.showwarning = show  # type: ignore[assignment]


def _end(status: int) -> NoReturn:
    """At once: torch's threads and a call that never returns are not waited for."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()

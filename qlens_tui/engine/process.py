"""The engine: `lens_core` in a process of its own, `python -m qlens_tui.engine.process`.

torch takes seconds to import and holds the interpreter lock; in its own process it cannot slow
the app. Requests come in on standard input and events go out on standard output, framed
(`wire`). One thread reads, so that a cancel and the end of the app are noticed at once. The
main thread works on one request at a time and owns the device (`scheduler` chooses the
request, `handlers` answers it). Long work is interrupted at the progress callbacks of
`lens_core`, where more urgent requests are answered on the same thread and stack. After a
while without requests the model is released (`session`).

The frames get their own descriptors; descriptor 0 reads from /dev/null, 1 and 2 write to the
log. So no library can write into the stream, and no child process keeps it open. When the
input ends, however the app ended, the process exits within `_GRACE` seconds.
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

_GRACE = 2.0  # seconds for the main thread to reach its next tick
_LONGEST = 2000  # characters of a message
_STREAM_LOST = 3  # exit status: the app's frames could not be read
# Short requests report no progress, long ones at most ten times a second.
_SILENT_SECONDS, _SECONDS_BETWEEN = 0.2, 0.1


class Worker:
    """Works on the requests of a `Desk`, one at a time, on the calling thread."""

    def __init__(self, desk: Desk, tell: Teller) -> None:
        self._desk = desk
        self._tell = tell
        self._answers = Answers(tell, self.tick)
        self._reports: list[_Report] = []

    def run(self) -> None:
        """Work until the desk is closed."""
        with suppress(Closed):
            while True:
                request = self._desk.take(self._answers.idle_seconds)
                if request is None:
                    self._tell(self._answers.release())
                else:
                    self._serve(request)

    def tick(self, text: str, done: int, total: int) -> None:
        """Report progress of the running request and serve more urgent ones; may end it."""
        report = self._reports[-1]
        status = report.status(text, done, total)
        if status is not None:
            self._tell(status)
        self._desk.check(report.request)
        began = time.monotonic()
        while (urgent := self._desk.take_meanwhile()) is not None:
            # Gradients on, as at the top of the stack, whatever the interrupted work set.
            import torch

            with torch.enable_grad():
                self._serve(urgent)
            self._desk.check(report.request)
        report.rested(time.monotonic() - began)

    def _serve(self, request: Request) -> None:
        with self._desk.running(request):
            self._reports.append(_Report(request))
            try:
                event = self._answers.to(request)
                self._tell(event)
                self._answers.keep(request, event)
                for other in self._desk.put_back(request, event):
                    self._tell(other)
            except Halted as halted:
                self._tell(halted.event)
            except Exception as error:
                self._tell(_failure(request, error))
            finally:
                self._reports.pop()


class _Report:
    """The progress of a request; the rate counts only work since its first tick."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._said = time.monotonic() - _SECONDS_BETWEEN + _SILENT_SECONDS
        self._text = ""
        self._first, self._start = 0, 0.0

    def status(self, text: str, done: int, total: int) -> Status | None:
        """The status to send now, if any."""
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
        """Leave out `seconds` spent on other requests from the rate."""
        self._start += seconds


class Teller:
    """Writes events, one at a time, from either thread."""

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
            _end(0)  # the app is gone


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
                tell(Failed(text=f"the engine could not read a request: {message}", defect=True))
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
    """The app's pipes under new descriptors, which libraries and children do not use."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    return source, sink


def _report_warnings(tell: Teller) -> None:
    """Send `QlensWarning`s to the app; other warnings go to the log."""
    to_log = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        if category.__name__ == "QlensWarning":
            tell(Notice(text=one_line(str(message), _LONGEST)))
        else:
            to_log(message, category, *where)  # type: ignore[arg-type]

    warnings.showwarning = show  # type: ignore[assignment]


def _end(status: int) -> NoReturn:
    """Exit at once, without waiting for torch's threads or a call that never returns."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()

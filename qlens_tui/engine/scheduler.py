"""Which request the engine takes next, and which it drops: no computation, no torch.

Two threads share a `Desk`. One reads requests from the pipe and puts them there; the other
works on them, one at a time, and at each progress report of the running request calls `check`,
then `take_meanwhile`, so that a cursor move is served in the middle of a build.

- Of the waiting requests with the same place the newest stays, the others are dropped.
- A newer request stops the running one with its place at the next tick, unless that one does
  work that the newer one also needs (`Request.keeps`): then the newer one waits.
- A running request gives way to what the user waits for, and to everything more urgent than
  itself: a feature's lists give way to a search, but not to the feature's own paths. The urgent
  request may give way in turn, but never to its own place, so that at most one request of a
  place is under way.
- A request in stages waits again after each stage, less urgent than first stages: what changed is
  shown everywhere over some tokens before it is shown anywhere over all.
- A new session drops all waiting requests and stops all running ones.
- A request counts as running from the moment it is taken, so that neither thread can miss it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

from qlens_tui.engine.messages import (
    NEXT,
    SESSION,
    Cancel,
    Cancelled,
    Dropped,
    Event,
    Open,
    Request,
    next_stage,
)


class Halted(BaseException):
    """Raised to end the running request; `event` is its answer."""

    def __init__(self, event: Event) -> None:
        super().__init__(repr(event))
        self.event = event


class Closed(BaseException):
    """Raised when no more requests will come."""


class Desk:
    """Waiting and running requests; every method may be called from any thread."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: list[Request] = []
        self._running: list[Request] = []  # each one interrupts the one before it
        self._halted: dict[int, Event] = {}
        self._closed = False

    def put(self, request: Request) -> list[Event]:
        """Add a request; returns the events about other requests that this causes."""
        with self._changed:
            if isinstance(request, Cancel):
                return self._cancel(request.target)
            everything = isinstance(request, Open)

            def gives_way(other: Request) -> bool:
                return everything or other.place == request.place

            dropped = [other for other in self._waiting if gives_way(other)]
            self._waiting = [other for other in self._waiting if not gives_way(other)]
            for other in self._running:
                if gives_way(other) and not request.keeps(other):
                    self._halted.setdefault(other.id, Dropped(id=other.id))
            self._waiting.append(request)
            self._changed.notify_all()
            return [Dropped(id=other.id) for other in dropped]

    def put_back(self, request: Request, event: Event) -> list[Event]:
        """Let a running request wait for its next stage, if `event` answered one before the last.

        Returns the event with which it ends instead, if it was cancelled or replaced meanwhile.
        """
        later = next_stage(request, event)
        if later is None:
            return []
        with self._changed:
            if request.id in self._halted:
                return [self._halted[request.id]]
            if any(isinstance(o, Open) or o.place == request.place for o in self._waiting):
                return [Dropped(id=request.id)]
            self._waiting.append(later)
            self._changed.notify_all()
            return []

    def close(self) -> None:
        """No more requests will come: `take` and `check` raise `Closed`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, patience: float | None = None) -> Request | None:
        """Wait for the next request, to be worked on inside `running`.

        `None` if none comes within `patience` seconds.

        Raises:
            Closed: the desk is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting, patience)
            if self._closed:
                raise Closed
            return self._next(lambda _request: True)

    def take_meanwhile(self) -> Request | None:
        """The next request that may interrupt the running one, to be worked on in `running`."""
        with self._changed:
            busy = {request.place for request in self._running}
            if any(request.urgency == SESSION for request in self._running):
                return None  # no session to answer with yet
            least = max([NEXT, *(request.urgency for request in self._running[-1:])])
            return self._next(
                lambda request: SESSION < request.urgency < least and request.place not in busy
            )

    @contextmanager
    def running(self, request: Request) -> Iterator[None]:
        """Mark `request` as running for the duration of the block."""
        with self._changed:
            if request not in self._running:
                self._running.append(request)
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(request)
                self._halted.pop(request.id, None)

    def check(self, request: Request) -> None:
        """Return if the running request should go on.

        Raises:
            Halted: it was cancelled, or replaced by a newer one.
            Closed: the desk is closed.
        """
        with self._changed:
            if self._closed:
                raise Closed
            if request.id in self._halted:
                raise Halted(self._halted[request.id])

    def _next(self, may: Callable[[Request], bool]) -> Request | None:
        """The most urgent waiting request that `may` be taken; the oldest of equal ones."""
        found = min(filter(may, self._waiting), key=lambda each: each.urgency, default=None)
        if found is not None:
            self._waiting.remove(found)
            self._running.append(found)
        return found

    def _cancel(self, target: int) -> list[Event]:
        waited = [request for request in self._waiting if request.id == target]
        self._waiting = [request for request in self._waiting if request.id != target]
        if any(request.id == target for request in self._running):
            self._halted[target] = Cancelled(id=target)
        return [Cancelled(id=request.id) for request in waited]

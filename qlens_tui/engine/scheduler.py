"""Which request the engine takes next, and which it gives up: no computation, no torch.

Two threads meet here. One reads requests from the pipe and puts them down; the other works
on them, one at a time, and looks in whenever what it runs reports progress (`check`, then
`take_meanwhile`), so that a cursor move is served between two slices of a build.

- Of the requests that wait for one place the newest stays, the others are dropped.
- A newer request stops the running one of its place at its next tick, unless that one does
  work that it needs too (`Request.keeps`): then it waits for it.
- A running request gives way to what the user waits for, and to all that is more urgent than
  itself: a feature's lists to a search, but not to the feature's own paths. What runs meanwhile
  may itself give way, but never to its own place, so that at most one request of a place is
  under way.
- A new session drops whatever waits and stops whatever runs.
- A request runs from the moment it is taken, so that none slips through between two threads.
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
)


class Halted(BaseException):
    """The running request is to end now; `event` is its answer."""

    def __init__(self, event: Event) -> None:
        super().__init__(repr(event))
        self.event = event


class Closed(BaseException):
    """Nobody asks any more."""


class Desk:
    """Waiting and running requests; every method may be called from any thread."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: list[Request] = []
        self._running: list[Request] = []  # each but the first runs meanwhile the one before
        self._halted: dict[int, Event] = {}
        self._closed = False

    def put(self, request: Request) -> list[Event]:
        """Take note of a request; what is to be told about others because of it."""
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

    def close(self) -> None:
        """Nothing more will come: whoever takes or checks gets `Closed`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, patience: float | None = None) -> Request | None:
        """The next request, to be worked on inside `running`; waits for one.

        `None` if none comes for `patience` seconds.

        Raises:
            Closed: there will be none.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting, patience)
            if self._closed:
                raise Closed
            return self._next(lambda _request: True)

    def take_meanwhile(self) -> Request | None:
        """The next request that the running one gives way to, to be worked on inside `running`."""
        with self._changed:
            busy = {request.place for request in self._running}
            if any(request.urgency == SESSION for request in self._running):
                return None  # nothing could be answered yet
            least = max([NEXT, *(request.urgency for request in self._running[-1:])])
            return self._next(
                lambda request: SESSION < request.urgency < least and request.place not in busy
            )

    @contextmanager
    def running(self, request: Request) -> Iterator[None]:
        """While `request` is worked on."""
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
        """Go on with a running request, or not.

        Raises:
            Halted: it was cancelled, or a newer one makes it useless.
            Closed: nobody is there to read the answer.
        """
        with self._changed:
            if self._closed:
                raise Closed
            if request.id in self._halted:
                raise Halted(self._halted[request.id])

    def _next(self, may: Callable[[Request], bool]) -> Request | None:
        """The most urgent one, of equal ones the first."""
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

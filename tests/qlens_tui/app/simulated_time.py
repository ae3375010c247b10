"""Time for tests of the app: it stands still while anything runs and jumps ahead when nothing does.

A test that waits for real time is right or wrong by how fast the machine is. In this loop a wait
of half a second takes as long as the app has work to do in it, and no timer is due before the
work in front of it is done: `asyncio.sleep(0.5)`, and all that is built on it, means "what the app
does in half a second on a machine that computes in no time".

While a thread of the loop's is at work time flows as it really does, so that a test may hold the
thread up and look at what the app does meanwhile.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar
from unittest.mock import patch

from textual import _time

Result = TypeVar("Result")

_real = time.monotonic


class Clock:
    """Seconds, as `time.monotonic` counts them, that pass only when they are let."""

    def __init__(self) -> None:
        self._now = _real()
        self._flows_since: float | None = None

    def __call__(self) -> float:
        since = self._flows_since
        return self._now if since is None else self._now + _real() - since

    def jump(self, seconds: float) -> None:
        self._now += seconds

    def flow(self) -> None:
        self._flows_since = _real()

    def stop(self) -> None:
        now = self()
        self._now, self._flows_since = now, None


class _Selector(selectors.DefaultSelector):
    """Waits for files and threads, not for time: with nothing else to wait for, time has passed."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.threads = 0
        """How many are at work."""

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and (timeout <= 0 or not self.threads):
            ready = super().select(0)
            if not ready and timeout > 0:
                self._clock.jump(timeout)
            return ready
        self._clock.flow()
        try:
            return super().select(timeout)
        finally:
            self._clock.stop()


class SimulatedTime(asyncio.SelectorEventLoop):
    """An event loop by such a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._waits = _Selector(self.clock)
        super().__init__(self._waits)
        self._pool = ThreadPoolExecutor(thread_name_prefix="simulated")
        self.set_default_executor(self._pool)

    def time(self) -> float:
        return self.clock()

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        in_thread = (executor or self._pool).submit(func, *args)
        self._waits.threads += 1
        future = asyncio.wrap_future(in_thread, loop=self)
        # After the future's own: time stands still until what waits for the thread goes on. A
        # cancelled future is done before its thread is.
        in_thread.add_done_callback(lambda _: self.call_soon_threadsafe(self._left_thread))
        return future

    def _left_thread(self) -> None:
        self._waits.threads -= 1


async def _idle(min_sleep: float = 0, max_sleep: float = 1) -> None:
    """In place of Textual's wait until the process takes little time of the processor."""
    await asyncio.sleep(max(min_sleep, 0.01))


def simulate(main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` in simulated time, as `asyncio.run` does in real time."""
    loop = SimulatedTime()
    with (
        patch("time.monotonic", loop.clock),
        patch.object(_time, "get_time", loop.clock),
        patch("textual.app.wait_for_idle", _idle),
        patch("textual.pilot.wait_for_idle", _idle),
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        return runner.run(main)


async def until(condition: Callable[[], object], what: str, *, limit: float = 120) -> None:
    """Wait until a condition holds; the limit, in seconds, only bounds a wait that has no end."""
    clock = asyncio.get_running_loop().time
    end = clock() + limit
    while not condition():
        assert clock() < end, f"waited {limit} seconds in vain until {what}"
        await asyncio.sleep(0.01)

"""Simulated time stands still while anything runs; all other tests of the app rely on this."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from textual.app import App

from tests.qlens_tui.app.simulated_time import simulate, until


def compute(seconds: float) -> None:
    """As a slow machine would: nothing else gets a turn."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_a_wait_takes_no_time_and_every_clock_agrees_on_how_long_it_was():
    async def wait() -> tuple[float, float]:
        loop, by_time = asyncio.get_running_loop().time(), time.monotonic()
        await asyncio.sleep(1000)
        return asyncio.get_running_loop().time() - loop, time.monotonic() - by_time

    began = time.perf_counter()
    passed = simulate(wait())
    assert passed == pytest.approx((1000, 1000))
    assert time.perf_counter() - began < 100


def test_no_timer_is_due_before_the_work_in_front_of_it_is_done():
    told = []

    class Slow(App[None]):
        def on_mount(self) -> None:
            self.set_timer(0.01, lambda: told.append("later"))
            self.set_interval(0.02, lambda: told.append("again"))
            compute(0.1)
            self.call_later(told.append, "sooner")

    async def act() -> None:
        async with Slow().run_test():
            await asyncio.sleep(0.05)

    simulate(act())
    assert told == ["sooner", "later", "again", "again"]


def test_a_thread_is_waited_for_before_time_goes_on_and_holds_nothing_else_up():
    told = []

    async def work(seconds: float, name: str) -> None:
        await asyncio.to_thread(time.sleep, seconds)
        told.append(name)

    async def act() -> None:
        tasks = [asyncio.create_task(work(0.05, "first")), asyncio.create_task(work(0.5, "last"))]
        await asyncio.sleep(0.2)  # really: there are threads
        told.append("between")
        await tasks[1]
        await asyncio.sleep(1000)

    began = time.perf_counter()
    simulate(act())
    assert told[-1] == "last"
    assert set(told) == {"first", "between", "last"}
    assert time.perf_counter() - began < 100


def test_a_thread_whose_result_nobody_waits_for_counts_until_it_ends():
    may_end, ended = threading.Event(), []

    def work() -> None:
        may_end.wait()
        ended.append(True)

    async def act() -> None:
        task = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.sleep(0)
        task.cancel()
        before = time.monotonic()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
        await asyncio.sleep(0.1)
        assert time.monotonic() - before < 50  # time flowed, it did not jump
        await until(lambda: ended, "the thread has ended")

    simulate(act())


def test_what_never_comes_is_named():
    with pytest.raises(AssertionError, match="waited 120 seconds in vain until pigs fly"):
        simulate(until(lambda: False, "pigs fly"))

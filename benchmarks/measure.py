"""Comparable times, and the table in which they are printed.

The two parts of a ratio are timed in turns (A B A B ...), so that a slow machine affects both; the
smallest of several times is the cost, and the largest divided by it shows how quiet the machine
was.
"""

from __future__ import annotations

import datetime
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch

_NAME = 62


@dataclass(frozen=True)
class Times:
    """Seconds of several runs of one thing."""

    seconds: tuple[float, ...]

    @property
    def smallest(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> str:
        """The largest over the smallest."""
        return f"up to {max(self.seconds) / self.smallest:.2f}x of {len(self.seconds)}"


@dataclass(frozen=True)
class Row:
    """One line of the table; `target` is the bound and `at_least` its direction."""

    name: str
    value: float
    unit: str = ""
    spread: str = ""
    target: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        asked = ""
        if self.target is not None:
            bound = "at least" if self.at_least else "at most"
            asked = f"  {bound} {self.target:g} {self.unit}".rstrip()
            asked += "  ok" if self.met else "  MISSED"
        figure = f"{_number(self.value)} {self.unit}"
        return f"  {self.name:{_NAME}} {figure:>14}{asked:24}  {self.spread}".rstrip()


@dataclass(frozen=True)
class Report:
    """The report of one part: what was done, in words, and the figures."""

    title: str
    said: tuple[str, ...]
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {line}" for line in self.said), *map(str, self.rows)])


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def timed(run: Callable[[], object]) -> float:
    """Seconds of one run, including work queued on a GPU."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Time each of `runs` once per round, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            took = timed(run)
            if turn:
                seconds[name].append(took)
    return {name: Times(tuple(each)) for name, each in seconds.items()}


def peak_memory() -> Row:
    """The peak memory of this process, including mapped files."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Row("peak memory of this part's process", peak / 2**30, "GiB")


def machine() -> str:
    """The machine and versions that the figures are for."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (
        f"{datetime.datetime.now():%Y-%m-%d %H:%M}; {_processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, float32\n"
        f"Python {platform.python_version()}, {versions}; load before: {load}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def progress(text: str) -> None:
    """Print progress on standard error."""
    print(f"  ... {text}", file=sys.stderr, flush=True)

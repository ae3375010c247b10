"""Waiting for another process: for a state that is named, never for a time.

How long a process takes depends on the machine and on what else runs there, so that every limit
here only bounds a wait that has no end.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

Found = TypeVar("Found")

PATIENCE = 300.0  # seconds

_HELD = """
import importlib, pathlib, time
module, name = {name!r}.rsplit(".", 1)
module = importlib.import_module(module)
function, calls = getattr(module, name), []
def held(*args, **options):
    calls.append(1)
    if len(calls) > {after}:
        pathlib.Path({marker!r}).touch()
        time.sleep({patience})
    return function(*args, **options)
setattr(module, name, held)
"""


def until(
    condition: Callable[[], Found], what: str, process: subprocess.Popen[Any] | None = None
) -> Found:
    """What the condition says once it says anything; `process` must live until then."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended before {what}: {process.communicate()}")
        assert time.monotonic() < end, f"waited {PATIENCE} seconds in vain until {what}"
        time.sleep(0.02)
    return found


def gone(*processes: psutil.Process) -> bool:
    """Whether these processes end."""
    return not psutil.wait_procs(processes, timeout=PATIENCE)[1]


def held(name: str, marker: Path, *, after: int = 0) -> str:
    """The beginning of a program in which the function of that dotted name is never done.

    Its first calls, `after` of them, are as always; the next touches `marker` and stays, until a
    signal comes.
    """
    return _HELD.format(name=name, marker=str(marker), after=after, patience=PATIENCE)

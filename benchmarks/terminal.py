"""Runs a program in its own pseudo terminal, and records what it wrote and when.

Answers Textual's one query that changes its output: yes, synchronised updates are supported (16
bytes per paint), as in recent terminals. Uses true colour, whose escape sequences are the longest.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

PATIENCE = 120.0
_PLACED = re.compile(rb"\x1b\[(\d+)(;\d+)?H((?:(?!\x1b\[\d+(?:;\d+)?H).)*)", re.DOTALL)
_ASKED, _ANSWERED = b"\x1b[?2026$p", b"\x1b[?2026;2$y"


@dataclass(frozen=True)
class Presses:
    """Key presses of one kind: seconds to the first paint, and what was sent, of each."""

    seconds: tuple[float, ...]
    sent: tuple[bytes, ...]

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.seconds, share))

    @property
    def sizes(self) -> list[int]:
        return list(map(len, self.sent))

    @property
    def mean_size(self) -> float:
        return sum(self.sizes) / len(self.sent)


def lines_of(written: bytes) -> dict[int, bytes]:
    """What was sent to each line of the screen (from 1), sequences included."""
    found: dict[int, bytes] = {}
    for place in _PLACED.finditer(written):
        for below, part in enumerate(place[3].split(b"\r\n")):
            line = int(place[1]) + below
            found[line] = found.get(line, b"") + part
    return found


class Terminal:
    """The running program; `started` is its start time."""

    def __init__(
        self, command: list[str], size: tuple[int, int], environment: Mapping[str, str]
    ) -> None:
        """`size` is columns and rows."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        kind = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._written = b""
        self._arrived = time.perf_counter()
        self._change = threading.Condition()
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env=inherited | kind | dict(environment),
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 1 << 16)
            except OSError:
                return
            if not part:
                return
            with self._change:
                self._arrived = time.perf_counter()
                self._written += part
                self._change.notify_all()
            if _ASKED in part:
                os.write(self._master, _ANSWERED)

    def until(self, holds: Callable[[bytes], bool]) -> float:
        """Seconds from the start until the output first contained this.

        Raises:
            RuntimeError: it never did, or the program ended.
        """
        end = time.perf_counter() + PATIENCE
        with self._change:
            while not holds(self._written):
                if time.perf_counter() > end or self.process.poll() is not None:
                    tail = self._written[-2000:].decode("utf-8", "replace")
                    raise RuntimeError(f"the program did not paint what it should:\n{tail!r}")
                self._change.wait(0.2)
            return self._arrived - self.started

    def rests(self, quiet: float) -> None:
        """Wait until nothing has been written for `quiet` seconds."""
        while (left := self._arrived + quiet - time.perf_counter()) > 0:
            time.sleep(left)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    @property
    def written(self) -> bytes:
        """All that was sent until now."""
        return self._written

    def press(self, key: str, quiet: float) -> tuple[float, bytes]:
        """Seconds to the first bytes and all bytes until `quiet` seconds of rest; 0: none."""
        with self._change:
            before, start = len(self._written), time.perf_counter()
            self.type(key)
            self._change.wait_for(lambda: len(self._written) > before, quiet)
            if len(self._written) == before:
                return 0.0, b""
            took = self._arrived - start
        self.rests(quiet)
        return took, self._written[before:]

    def presses(self, *keys: str, quiet: float) -> Presses:
        seconds, sent = zip(*(self.press(key, quiet) for key in keys), strict=True)
        return Presses(seconds, sent)

    def held(self, key: str, times: int, rate: float, quiet: float) -> float:
        """Bytes a key where a key is held, `rate` a second."""
        before = len(self._written)
        for _ in range(times):
            self.type(key)
            time.sleep(1 / rate)
        self.rests(quiet)
        return (len(self._written) - before) / times

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(
    *arguments: str, size: tuple[int, int], environment: Mapping[str, str]
) -> Iterator[Terminal]:
    """This Python with these arguments, in a terminal."""
    running = Terminal([sys.executable, *arguments], size, environment)
    try:
        yield running
    finally:
        running.close()

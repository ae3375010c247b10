"""A terminal that records what an app writes to it, for Pilot tests.

`App.run_test` writes nothing at all; here the app believes in a real terminal and sends what
it would send over SSH, of which a test can ask what arrived, how much, and whether anything
in it was not ours to send.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.color import ColorSystem
from textual.app import App
from textual.driver import Driver
from textual.drivers.headless_driver import HeadlessDriver
from textual.pilot import Pilot

from qlens_tui.app.app import QlensApp
from qlens_tui.app.compact_output import terse_driver

# All that Textual itself sends while an app runs: styles, places, synchronised updates, and the
# shape of the mouse's pointer.
_OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\d+;\d+H|\x1b\[\?2026[hl]|\x1b\]22;[a-z-]+\x07|\n")
_SEQUENCE = re.compile(
    r"\x1b\[(?P<place>\d+(?:;\d+)?)H|\x1b\[[0-9;?<>=]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b."
)
_UNSHOWN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_JOINERS = frozenset("\u200d\ufe0e\ufe0f\u034f\u115f\u1160\u3164\uffa0")

HOSTILE = {
    "escape": "\x1b[2J\x1b[H",
    "colour": "\x1b[31mred",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "title": "\x1b]0;pwned\x1b\\",
    "one-byte CSI": "\x9b2J",
    "one-byte OSC": "\x9d52;c;QQ==\x9c",
    "NUL": "a\x00b",
    "delete": "\x7f\x08\x08",
    "lines": "one\r\ntwo\x85three\u2028four",
    "tab": "a\tb",
    "bidi override": "\u202eevil\u202c",
    "bidi isolate": "\u2066x\u2069",
    "joined": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "zero width": "a\u200bb\ufeffc",
    "variation": "\u2764\ufe0f",
    "marks": "z\u0351\u0352\u0353a\u0300",
    "lonely mark": "\u0301",
    "closing tag": "[/",
    "tag": "[bold]x[/bold]",
    "link": "[@click=app.quit]x[/]",
    "long": "w" * 300,
    "wide and long": "\u6f22" * 150,
    "wide": "\u5bff\u53f8",
    "right to left": "\u05e9\u05dc\u05d5\u05dd",
    "low surrogate": "\udc00",
    "high surrogate": "x\ud800",
    "empty": "",
    "spaces": "   ",
    "soft hyphen": "a\xadb",
    "private": "\ue000",
    "tag characters": "\U000e0041\U000e0042",
}  # fmt: skip
"""Strings that would control a terminal, hide text or mislead, by kind."""


@dataclass
class Terminal:
    """An app in a terminal: `pilot` presses its keys, `record` is all that it wrote, in order."""

    pilot: Pilot[Any]
    record: list[str] = field(default_factory=list)

    @property
    def written(self) -> str:
        return "".join(self.record)

    async def written_for(self, *keys: str) -> str:
        """What is sent when these keys are pressed, until the app is at rest."""
        await self.pilot.pause()
        start = len(self.record)
        await self.pilot.press(*keys)
        await self.pilot.pause()
        return "".join(self.record[start:])

    def leaks(self) -> set[str]:
        """What was sent that is neither ours nor something with a shape."""
        return leaks(self.written)


def screen_of(written: str, columns: int, rows: int) -> str:
    """What a terminal of this size shows after these bytes, of the few sequences that Textual
    sends."""
    shown = [[" "] * columns for _ in range(rows)]
    y = x = at = 0

    def put(run: str) -> None:
        nonlocal x, y
        for piece in re.split("([\n\r])", run):
            if piece == "\n":
                y, x = y + 1, 0
            elif piece == "\r":
                x = 0
            elif 0 <= y < rows and 0 <= x < columns:
                fits = piece[: columns - x]
                shown[y][x : x + len(fits)] = fits
                x += len(fits)

    for found in _SEQUENCE.finditer(written):
        put(written[at : found.start()])
        at = found.end()
        if found["place"]:
            numbers = [int(number) - 1 for number in found["place"].split(";")]
            y, x = numbers[0], numbers[1] if len(numbers) > 1 else 0
    put(written[at:])
    return "\n".join("".join(row).rstrip() for row in shown)


def leaks(written: str) -> set[str]:
    """Characters of a terminal's input that a text must not bring there."""
    return {
        character
        for character in set(_OURS.sub("", written))
        if unicodedata.category(character) in _UNSHOWN or character in _JOINERS
    }


@asynccontextmanager
async def in_terminal(app: App[Any], size: tuple[int, int] = (80, 24)) -> AsyncIterator[Terminal]:
    """Run an app in such a terminal, of true colour: rich keeps what a style is in bytes, so
    that one process cannot have terminals of several kinds."""
    record: list[str] = []

    class Recorder(HeadlessDriver):
        @property
        def is_headless(self) -> bool:
            return False

        def write(self, data: str) -> None:
            record.append(data)

    driver: type[Driver] = Recorder
    if isinstance(app, QlensApp):  # what it would send through its own driver
        driver = terse_driver(Recorder, ascii_only=app.ascii_only)
    app.driver_class = driver
    app.console._color_system = ColorSystem.TRUECOLOR
    async with app.run_test(headless=False, size=size) as pilot:
        await pilot.pause()
        yield Terminal(pilot, record)

"""Every screen, compared with a reviewed copy of it.

    QLENS_UPDATE_LAYOUTS=1 pytest -n 0 tests/qlens_tui/app/test_layout.py     writes them anew

Digits are written as 0 and words of the model as they are: what is compared is the layout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.qlens_tui.app.desk import run, settled
from tests.qlens_tui.app.terminal import screen_of

SIZES = [(80, 24), (120, 36), (160, 48)]
LAYOUTS = Path(__file__).parent / "layouts"
SCREENS = {
    "table": (),
    "zoomed": ("escape", "z"),
    "key-zoomed": ("tab",),
    "value": ("z", "tab"),
    "paths": ("tab",),
    "switched": ("2", "space", "shift+tab", "shift+tab"),
    "evidence": ("a", "3", "tab", "tab", "tab"),
    "context": ("down", "enter"),
    "bottom-ids": ("escape", "escape", "tab", "b", "i"),
    "back": ("b", "i", "escape"),
    "help": ("question_mark",),
    "sort": ("escape", "o"),
    "jump": ("escape", "colon", *"2:9999"),
    "filter": ("escape", "f", *"gain >"),
    "token": ("escape", "slash", "o"),
    "search": ("enter",),
    "tag": ("escape", "t", *"keep"),
    "starred": ("enter", "s", "J", "J"),
    "export": ("e",),
    "note": ("escape", "escape", "m", *"a note"),
    "overview": ("escape", "escape", "v"),
    "prompt": ("escape", "p", *"some words"),
    "fires": ("enter",),
    "jobs": ("escape", "w"),
    "compared": ("escape", "P", "j"),
}  # fmt: skip
"""Screens by name, and the keys that lead there from the one before."""


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_screen_stands_as_it_was_found_good(place, size):
    seen: dict[str, str] = {}

    async def act(terminal, bench):
        for name, keys in SCREENS.items():
            await settled(terminal.pilot, *keys)
            screen = screen_of(terminal.written, *size)
            seen[name] = re.sub(r"[0-9]", "0", screen) + "\n"
            assert terminal.leaks() == set(), name  # the vocabulary is a hostile one

    run(place, act, size=size)
    folder = LAYOUTS / f"{size[0]}x{size[1]}"
    if os.environ.get("QLENS_UPDATE_LAYOUTS"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, screen in seen.items():
            (folder / f"{name}.txt").write_text(screen, "utf-8")
    expected = {name: (folder / f"{name}.txt").read_text("utf-8") for name in SCREENS}
    assert seen == expected

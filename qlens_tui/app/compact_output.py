"""Compact terminal output: the same screen in fewer bytes.

Textual starts every run of text with its whole style and ends it with a reset, and writes cursor
moves that the next move overrides. Over SSH that is half of the bytes of a cursor move. `terse`
rewrites one update: between two texts it writes only the change of style (none before spaces
that look the same), and of several moves only the last. Nothing is remembered from one update to
the next, and each ends without a style, so other programs may write between them.

Cost: one regular expression over the update, some hundred microseconds for a whole screen.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any

from textual.driver import Driver

from qlens_tui.text import cells

_PIECES = re.compile(
    r"\x1b\[(?P<style>[0-9;]*)m"
    r"|(?P<place>\x1b\[\d+;\d+H)"
    r"|(?P<step>[\r\n]+)"
    r"|[^\x1b\r\n]+|\x1b",
)

# An attribute, the codes that set it, and the one that resets it, shared by bold and dim.
_OFF = {
    "bold": 22, "dim": 22, "italic": 23, "underline": 24, "blink": 25, "reverse": 27,
    "conceal": 28, "strike": 29, "frame": 54, "overline": 55, "text": 39, "ground": 49,
}  # fmt: skip
_ON = {
    1: "bold", 2: "dim", 3: "italic", 4: "underline", 5: "blink", 6: "blink", 7: "reverse",
    8: "conceal", 9: "strike", 21: "underline", 51: "frame", 52: "frame", 53: "overline",
}  # fmt: skip
_COLOURS = {38: "text", 48: "ground"}
_OPERANDS = {"5": 1, "2": 3}
"""How many numbers follow 38 or 48 and the kind of the colour."""

Style = dict[str, str]
"""The current style: each attribute that is set, and the codes that set it."""


def terse(data: str) -> str:
    """An update that paints the same cells in the same styles; escape sequences other than
    styles and absolute cursor moves are left unchanged."""
    written: list[str] = []
    moves: list[str] = []
    wanted = painted = ""
    for piece in _PIECES.finditer(data):
        if (codes := piece["style"]) is not None:
            wanted = codes if codes in ("", "0") else f"{wanted};{codes}"
        elif piece["place"]:
            moves = [piece[0]]
        elif piece["step"]:
            moves.append(piece[0])
        else:
            text = piece[0]
            style = painted if not text.strip(" ") and _blank_alike(painted, wanted) else wanted
            written += [*moves, _change(painted, style), text]
            moves, painted = [], style
    return "".join((*written, *moves, _change(painted, "")))


class _Ascii(dict[int, str]):
    """For `str.translate`: lines and blocks as similar ASCII, others as `?`, cell by cell."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if code < 128 else "?" * cells(character)
        return self[code]


_ASCII = _Ascii(
    {
        **dict.fromkeys(map(ord, "─━═╌╍┄┅┈┉╴╶╸╺▔▀‾"), "-"),
        **dict.fromkeys(map(ord, "│┃║╎╏┆┇┊┋╵╷╹╻▌▐▏▎▍▕▊▋"), "|"),
        **dict.fromkeys(map(ord, "╭╮╰╯┌┐└┘├┤┬┴┼╒╓╔╕╖╗╘╙╚╛╜╝╞╟╠╡╢╣╤╥╦╧╨╩╪╫╬"), "+"),
        **dict.fromkeys(map(ord, "▁▂▃▄"), "_"),
        **dict.fromkeys(map(ord, "▅▆▇█▓▒░■"), "#"),
        **dict.fromkeys(map(ord, "•·●"), "*"),
        ord("…"): ".",
        ord("🔎"): "> ",
    }
)


def in_ascii(data: str) -> str:
    """An update with the same number of cells and only ASCII characters.

    The text of qlens itself is already ASCII; this is for borders, toasts and the palette.
    """
    return data if data.isascii() else data.translate(_ASCII)


def terse_driver(base: type[Driver], *, ascii_only: bool = False) -> type[Driver]:
    """A driver like `base` that writes compactly to standard output, and in ASCII if asked."""

    class TerseDriver(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            # Textual draws on standard error (`LinuxDriver._file`, textual 8) but takes the size of
            # standard output: if errors went to a file, the screen would stay empty.
            if hasattr(self, "_file"):
                self._file = sys.__stdout__

        def write(self, data: str) -> None:
            super().write(terse(in_ascii(data) if ascii_only else data))

    return TerseDriver


@lru_cache(maxsize=4096)
def _change(before: str, after: str) -> str:
    """The shortest sequence from one style to another, each given by its codes."""
    old, new = _style(before), _style(after)
    if old == new:
        return ""
    if not new:
        return "\x1b[0m"
    fresh = ";".join(["0", *new.values()] if old else new.values())
    lost = {_OFF[name] for name in old if name not in new}
    codes = list(map(str, sorted(lost)))
    codes += [
        set_by for name, set_by in new.items() if old.get(name) != set_by or _OFF[name] in lost
    ]
    return f"\x1b[{min(';'.join(codes), fresh, key=len)}m"


@lru_cache(maxsize=4096)
def _blank_alike(one: str, other: str) -> bool:
    """Whether spaces look the same in both styles."""
    old, new = _style(one), _style(other)
    drawn = ("reverse", "underline", "strike", "frame", "overline")
    return old == new or (
        old.get("ground") == new.get("ground")
        and not any(name in style for name in drawn for style in (old, new))
    )


def _style(codes: str) -> Style:
    """The style after a sequence of codes."""
    found: Style = {}
    parts = iter(codes.split(";"))
    for part in parts:
        code = int(part or 0)
        if code == 0:
            found = {}
        elif code in _COLOURS:
            kind = next(parts, "")
            operands = [next(parts, "") for _ in range(_OPERANDS.get(kind, 0))]
            found[_COLOURS[code]] = ";".join((part, kind, *operands))
        elif 30 <= code <= 37 or 90 <= code <= 97:
            found["text"] = part
        elif 40 <= code <= 47 or 100 <= code <= 107:
            found["ground"] = part
        elif code in _ON:
            found[_ON[code]] = part
        else:
            found = {name: set_by for name, set_by in found.items() if _OFF[name] != code}
    return found

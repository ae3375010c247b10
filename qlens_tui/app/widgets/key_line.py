"""The footer: the keys that work now, from the real bindings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.text import cells

Key = tuple[str, str]


class KeyLine(LinePane, can_focus=False):
    """As many keys as fit, and always the last one, which shows all others."""

    DEFAULT_CSS = """
    KeyLine { height: 1; }
    KeyLine > .keys--key { text-style: bold; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"keys--key"}

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._keys: tuple[Key, ...] = ()

    def tell(self, keys: Sequence[Key]) -> None:
        """Show these keys and their names, the most important first."""
        if tuple(keys) != self._keys:
            self._keys = tuple(keys)
            self.redraw()

    def reword(self, key: str, words: str) -> None:
        """Name what a key does otherwise than told."""
        self.tell([(each, words if each == key else before) for each, before in self._keys])

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        if not self._keys:
            return [()], []
        *others, last = self._keys
        room = width - _width(last) - 1
        kept = []
        for key in others:
            if _width(key) > room:
                break
            kept.append(key)
            room -= _width(key)
        runs = [
            run
            for key, words in (*kept, last)
            for run in ((f" {key}", "keys--key"), (f" {words} ", "pane--quiet"))
        ]
        return [fitted(line(*runs), width, self.ellipsis)], []


def _width(key: Key) -> int:
    return cells(key[0]) + cells(key[1]) + 3

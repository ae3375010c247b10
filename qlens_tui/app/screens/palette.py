"""The command palette: every action that has a key, found by its words, and the choice of colours.

Textual's own palette has a look and keys of its own; this one is a prompt like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qlens_tui.app.screens.prompt import Prompt, Suggestion
from qlens_tui.text import cells

_KEYS = 14  # columns
_NONE = "no command has these words"


@dataclass(frozen=True)
class Command:
    """What a command does, its keys as the help writes them, where they work, and its action.

    `name` is what the footer calls it; it can be found by this too.
    """

    name: str
    words: str
    keys: str
    where: str
    act: Callable[[], None]

    def contains(self, words: Sequence[str]) -> bool:
        """Whether all of these words, in lower case, are in what is shown of it."""
        text = f"{self.name} {self.words} {self.keys} {self.where}".casefold()
        return all(word in text for word in words)


class Palette(Prompt):
    """Asks for one of the commands; the answer's number is its place among them."""

    DEFAULT_CSS = "Palette ChoiceList { max-height: 14; }"

    def __init__(self, commands: Sequence[Command], *, ascii_only: bool) -> None:
        super().__init__(
            "command",
            hint="type words of it to narrow; up, down and enter choose",
            typed=self._narrow,
            must_choose=True,
            refusal=_NONE,
            ascii_only=ascii_only,
        )
        self._commands = commands

    def _narrow(self, _prompt: Prompt, text: str) -> None:
        words = text.casefold().split()
        found = [at for at, each in enumerate(self._commands) if each.contains(words)]
        # What begins with the words is meant more often than what contains them.
        begins = text.casefold().strip()
        found.sort(key=lambda at: not self._commands[at].words.casefold().startswith(begins))
        self.offer([self._suggestion(at) for at in found], take_first=True)
        if not found:
            self.tell(_NONE, problem=True)

    def _suggestion(self, at: int) -> Suggestion:
        command = self._commands[at]
        blank = " " * max(1, _KEYS - cells(command.keys))
        shown = f"{command.keys}{blank}{command.words}  ({command.where})"
        return Suggestion(shown, command.words, at)

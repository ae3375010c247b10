"""A screen over the workbench that draws an answer of the engine."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from textual.screen import ModalScreen

Result = TypeVar("Result")


class AnswerScreen(ModalScreen[Result]):
    """A screen that looks for its answer in the state whenever the engine has sent something."""

    @abstractmethod
    def answered(self) -> None:
        """The state may have changed: draw again."""

    def move_on(self) -> None:
        """A feature here was marked, and the cursor is to move on."""

    def marks_changed(self) -> None:
        """Marks may have changed: draw again if any are shown."""

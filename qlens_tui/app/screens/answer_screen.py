"""A screen over the workbench that draws an answer of the engine's."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from textual.screen import ModalScreen

Result = TypeVar("Result")


class AnswerScreen(ModalScreen[Result]):
    """It is told when the engine said something, and looks in the state for what it asked."""

    @abstractmethod
    def answered(self) -> None:
        """The state may hold more than it did."""

"""A screen that lists features which something found: they can be marked there, or listed in the
table.

Enter goes to the feature under the cursor. The title is a line of its own above the list: `up`
from the first feature reaches it, and enter there does what `T` does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from textual.binding import Binding

from qlens_tui.app.screens.answer_screen import AnswerScreen
from qlens_tui.app.screens.marking import Marking
from qlens_tui.app.views import Feature, Listed
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.title_line import TitleLine

KEYS = (
    Binding("T", "tabulate", "As table", tooltip="Show these features in the table (title: enter)"),
    Binding("s", "toggle_mark('star')", "Star", tooltip="Star the feature, or unstar it"),
    Binding("x", "toggle_mark('reject')", "Reject", tooltip="Reject the feature, or undo that"),
    Binding("t", "mark('tag')", "Tag", tooltip="Tag the feature, or remove a tag"),
    Binding("m", "mark('note')", "Note", tooltip="Write a note on the feature"),
    Binding("u", "again('undo')", "Undo", tooltip="Undo the last change of marks"),
    Binding("ctrl+r", "again('redo')", "Redo", tooltip="Redo what was undone"),
)
"""Keys of every list of results."""

SIGNS = 4
"""The columns of `ResultsScreen.signs`."""


class ResultsScreen(AnswerScreen[Feature | Listed | None]):
    """Lists features; dismissed with the chosen one, all of them for the table, or `None`.

    A subclass has a `TitleLine` and a `ChoiceList`, one line for each of `listed`.
    """

    DEFAULT_CSS = """
    ResultsScreen { align: center middle; background: transparent; }
    ResultsScreen ChoiceList { height: 1fr; max-height: 100%; }
    """

    marking: Marking

    @abstractmethod
    def listed(self) -> Listed:
        """The features in the list, in the order of its lines."""

    @abstractmethod
    def marks_changed(self) -> None:
        """Draw the lines again, leaving the cursor where it is."""

    @property
    def chosen(self) -> Feature | None:
        """The feature under the cursor; `None` on the title, or without features."""
        chosen, features = self.query_one(ChoiceList), self.listed().features
        at = chosen.cursor
        if at is None or at >= len(features) or self.query_one(TitleLine).has_focus:
            return None
        return features[at]

    def signs(self, features: Sequence[Feature]) -> list[str]:
        """The marks of features, as in the table, and `t` for tags: `SIGNS` columns each."""
        found = []
        for feature in features:
            mark = self.marking.mark(feature)
            there = (mark.star, "*"), (mark.reject, "x"), (mark.note, "m"), (mark.tags, "t")
            found.append("".join(sign if has else " " for has, sign in there))
        return found

    def leave(self, found: Feature | Listed | None) -> None:
        """Close the screen."""
        self.dismiss(found)

    def on_choice_list_left(self, event: ChoiceList.Left) -> None:
        event.stop()
        self.query_one(ChoiceList).mark(False)
        self.query_one(TitleLine).focus()

    def on_title_line_left(self, event: TitleLine.Left) -> None:
        event.stop()
        self.query_one(ChoiceList).mark(True)
        self.query_one(ChoiceList).focus()

    def on_title_line_taken(self, event: TitleLine.Taken) -> None:
        event.stop()
        self.action_tabulate()

    def on_choice_list_taken(self, event: ChoiceList.Taken) -> None:
        event.stop()
        chosen = self.chosen
        if chosen is not None:
            self.leave(chosen)

    def action_tabulate(self) -> None:
        if self.listed().features:
            self.leave(self.listed())

    def action_toggle_mark(self, kind: Literal["star", "reject"]) -> None:
        if self.chosen is not None:
            self.marking.toggle(kind, self.chosen)

    def action_mark(self, what: Literal["tag", "note"]) -> None:
        if self.chosen is not None:
            getattr(self.marking, what)(self.chosen)

    def action_again(self, what: Literal["undo", "redo"]) -> None:
        getattr(self.marking, what)()

    def action_leave(self) -> None:
        self.leave(None)

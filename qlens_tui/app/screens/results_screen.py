"""A screen that lists features which something found: they can be marked there, or listed in the
table.

Enter goes to the feature under the cursor. The title is a line of its own above the list: `up`
from the first feature reaches it, and enter there does what `T` does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding

from qlens_tui.app.screens.answer_screen import AnswerScreen
from qlens_tui.app.screens.mark_keys import MarkKeys
from qlens_tui.app.views import Feature, Listed
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.title_line import TitleLine

TABULATE = Binding(
    "T", "tabulate", "As table", tooltip="Show these features in the table (title: enter)"
)
REPLAY = (
    Binding("u", "replay('undo')", "Undo", tooltip="Undo the last change of marks"),
    Binding("ctrl+r", "replay('redo')", "Redo", tooltip="Redo what was undone"),
)
OF_ONE = (
    Binding("P", "pin", "Pin", tooltip="Pin the feature under the cursor, or unpin it"),
    Binding("Y", "copy_address", "Copy address", tooltip="Copy its Neuronpedia address"),
)
PALETTE = Binding(
    "ctrl+p", "app.palette", "Commands", show=False, tooltip="Find a command by its words"
)
KEYS = (
    TABULATE,
    Binding("s", "mark('star')", "Star", tooltip="Star the selection, or unstar it"),
    Binding("x", "mark('reject')", "Reject", tooltip="Reject the selection, or undo that"),
    Binding("t", "mark('tag')", "Tag", tooltip="Tag the selection, or remove a tag"),
    Binding("L", "mark('label')", "Label", tooltip="Write a label for the selection"),
    Binding("m", "mark('note')", "Note", tooltip="Write a note on the feature"),
    Binding("J,shift+down", "extend(1)", "Select down"),
    Binding("K,shift+up", "extend(-1)", "Select up"),
    Binding("A", "select_all", "Select all"),
    *OF_ONE,
    *REPLAY,
    PALETTE,
)
"""Keys of every list of results."""

SIGNS = 5
"""The columns of `ResultsScreen.signs`."""


@dataclass(frozen=True)
class ActsOnOne:
    """What the keys for the feature under the cursor alone do, besides marks."""

    pin: Callable[[Feature], None]
    copy_address: Callable[[Feature], None]


class ResultsScreen(AnswerScreen[Feature | Listed | None]):
    """Lists features; dismissed with the chosen one, all of them for the table, or `None`.

    A subclass has a `TitleLine`, a `ChoiceList`, one line for each of `listed`, and a `KeyLine`.
    """

    DEFAULT_CSS = """
    ResultsScreen { align: center middle; background: transparent; }
    ResultsScreen ChoiceList { height: 1fr; max-height: 100%; }
    """

    mark_keys: MarkKeys
    acts: ActsOnOne

    @abstractmethod
    def listed(self) -> Listed:
        """The features in the list, in the order of its lines."""

    @abstractmethod
    def marks_changed(self) -> None:
        """Draw the lines again, leaving the cursor where it is."""

    @property
    def chosen(self) -> Feature | None:
        """The feature under the cursor; `None` on the title, or without features."""
        return self._feature_at(self.query_one(ChoiceList).cursor)

    @property
    def selected(self) -> tuple[Feature, ...]:
        """The selected features, or the one under the cursor; none on the title."""
        found = map(self._feature_at, self.query_one(ChoiceList).chosen)
        return tuple(feature for feature in found if feature is not None)

    def _feature_at(self, line: int | None) -> Feature | None:
        features = self.listed().features
        if line is None or line >= len(features) or self.query_one(TitleLine).has_focus:
            return None
        return features[line]

    def signs(self, features: Sequence[Feature]) -> list[str]:
        """The marks of features, as in the table, `t` for tags and `l` for a label."""
        found = []
        for feature in features:
            mark = self.mark_keys.marking.mark(feature)
            there = (
                (mark.star, "*"), (mark.reject, "x"), (mark.note, "m"), (mark.tags, "t"),
                (mark.label, "l"),
            )  # fmt: skip
            found.append("".join(sign if has else " " for has, sign in there))
        return found

    def move_on(self) -> None:
        self.query_one(ChoiceList).action_move(1)

    def leave(self, found: Feature | Listed | None) -> None:
        """Close the screen."""
        self.dismiss(found)

    def on_choice_list_selected(self, event: ChoiceList.Selected) -> None:
        event.stop()
        selects = self.query_one(ChoiceList).has_selection
        self.query_one(KeyLine).reword("esc", "deselect" if selects else "back")

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

    def action_mark(self, what: str) -> None:
        if self.selected:
            getattr(self.mark_keys, what)(self.selected)

    def action_pin(self) -> None:
        if self.chosen is not None:
            self.acts.pin(self.chosen)

    def action_copy_address(self) -> None:
        if self.chosen is not None:
            self.acts.copy_address(self.chosen)

    def action_replay(self, what: Literal["undo", "redo"]) -> None:
        getattr(self.mark_keys, what)()

    def action_extend(self, by: int) -> None:
        self.query_one(ChoiceList).extend(by)

    def action_select_all(self) -> None:
        self.query_one(ChoiceList).select_all()

    def action_leave(self) -> None:
        if self.query_one(ChoiceList).deselect():
            return
        self.leave(None)

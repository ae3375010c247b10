"""What the keys for marks do: to a feature, to a range, or to all filtered rows.

With `at`, to that feature, which a list of results has under its cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.screens.answer_screen import AnswerScreen
from qlens_tui.app.screens.marking import Marking, count_of
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.app.views import Feature
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.text import visible
from qlens_tui.triage.marks import DictionaryName, Step, label_text, tag_name

_FILTERS = {"starred": "star", "tagged": "tags <> ''", "unmarked": "not marked"}


class MarkKeys:
    """One method for each key; those for texts ask first."""

    def __init__(
        self,
        marking: Marking,
        *,
        rows: TableRows,
        table: FeatureTable,
        screen: Screen[Any],
        changed: Callable[[], None],
        moves_on: bool,
        ascii_only: bool,
    ) -> None:
        """`changed` is called when the setting `moves_on` changed."""
        self.marking = marking
        self.moves_on = moves_on
        """Whether the cursor moves on to the next feature when one feature was marked."""
        self._rows = rows
        self._changed = changed
        self._table = table
        self._screen = screen
        self._ascii = ascii_only

    def star(self, at: Feature | None = None) -> None:
        """Star, or remove the stars if all have one."""
        self._toggle("star", at)

    def reject(self, at: Feature | None = None) -> None:
        """Reject, or undo that if all are rejected."""
        self._toggle("reject", at)

    def _toggle(self, kind: Literal["star", "reject"], at: Feature | None) -> None:
        selection = self.marking.selection(at)
        if selection and (triage := self.marking.usable()) is not None:
            self._edit(lambda: triage.toggle(selection, kind), selection)

    def undo(self) -> None:
        """Undo this session's last edit."""
        self.marking.undo()

    def redo(self) -> None:
        """Redo the last undone edit."""
        self.marking.redo()

    def tag(self, at: Feature | None = None) -> None:
        """Ask for a tag and add it; a tag that the feature has is removed."""
        selection = self.marking.selection(at)
        if not selection or (triage := self.marking.usable()) is None:
            return
        count = count_of(selection)
        here: frozenset[str] = frozenset()
        try:
            tags = triage.tags()
            if count == 1:
                ((dictionary, (feature,)),) = selection.items()
                here = frozenset(triage.mark(dictionary.sha256, feature).tags)
        except LensError as error:
            self.marking.say(error)
            return

        def typed(prompt: Prompt, text: str) -> None:
            sign = "-" if text.strip().startswith("-") else ""
            wanted = text.strip().removeprefix("-").casefold()
            matching = [tag for tag in tags if wanted in tag.casefold()][:50]
            prompt.offer(
                [
                    Suggestion(
                        f"{sign}{self._shown(tag)}{'  (remove)' if sign or tag in here else ''}",
                        f"{sign}{tag}",
                    )
                    for tag in matching
                ]
            )

        def check(text: str) -> str | None:
            if not text.strip():
                return None
            try:
                tag, off = meant(text)
            except LensError as error:
                return str(error)
            known = not off or tag in tags
            return None if known else f"there is no tag {self._shown(tag)} to remove"

        def meant(text: str) -> tuple[str, bool]:
            """The normalised tag, and whether it is to be removed."""
            tag = tag_name(text)
            if tag not in tags and tag.startswith("-"):
                return tag_name(tag[1:]), True
            return tag, tag in here

        def apply(answer: Answer | None) -> None:
            if answer is None or not answer.text.strip():
                return
            tag, off = meant(answer.text)
            if off:
                self._edit(lambda: triage.apply(selection, remove=[tag]), selection)
            else:
                self._edit(lambda: triage.apply(selection, add=[tag]), selection)

        hint = "a tag it has is removed; -tag removes it from all; no commas"
        prompt = Prompt(
            f"tag {_words(count)}", hint=hint, typed=typed, check=check, ascii_only=self._ascii
        )
        self._screen.app.push_screen(prompt, apply)

    def label(self, at: Feature | None = None) -> None:
        """Ask for the label of the selection; an empty one is removed."""
        selection = self.marking.selection(at)
        if not selection or (triage := self.marking.usable()) is None:
            return
        count, before = count_of(selection), ""
        try:
            if count == 1:
                ((dictionary, (feature,)),) = selection.items()
                before = triage.mark(dictionary.sha256, feature).label
        except LensError as error:
            self.marking.say(error)
            return

        def check(text: str) -> str | None:
            try:
                label_text(text)
            except LensError as error:
                return str(error)
            return None

        def confirm(text: str) -> str | None:
            if text.strip() or count == 1:
                return None
            return f"empty: press enter again to remove the labels of {_words(count)}"

        def apply(answer: Answer | None) -> None:
            if answer is not None:
                self._edit(lambda: triage.apply(selection, label=answer.text), selection)

        prompt = Prompt(
            f"label {_words(count)}",
            value=before,
            hint="a line of your own words; empty: no label",
            check=check,
            confirm=confirm,
            ascii_only=self._ascii,
        )
        self._screen.app.push_screen(prompt, apply)

    def note(self, at: Feature | None = None) -> None:
        """Open the note of the feature under the cursor."""
        feature = at or self._table.feature
        if feature is None or not self.marking.is_known(feature):
            return
        if (triage := self.marking.usable()) is None:
            return
        layer, number = feature
        dictionary = self.marking.name_of(layer)
        try:
            before = triage.mark(dictionary.sha256, number).note
        except LensError as error:
            self.marking.say(error)
            return

        def keep(note: str) -> str | None:
            nonlocal before
            try:
                there = triage.mark(dictionary.sha256, number).note
                if there != before:
                    before = there
                    return (
                        "another session changed this note: "
                        "ctrl+s again replaces it, escape twice keeps theirs"
                    )
                selection = {dictionary: [number]}
                step = triage.apply(selection, note=note)
                self.marking.tell(step, selection)
                self._move_on_after(step)
            except LensError as error:
                return str(error)
            return None

        title = f"note on {layer}:{number}"
        self._screen.app.push_screen(NoteEditor(title, before, keep, ascii_only=self._ascii))

    def next_unmarked(self) -> None:
        """Move to the next row without a mark; after the last row, on from the first."""
        from qlens_tui.table.unmarked import next_unmarked

        rows, row = self._table.rows, self._table.row
        if rows is None or not len(rows) or self.marking.usable() is None:
            return
        found = next_unmarked(rows, row, self.marking.marks)
        if found is None:
            self._screen.notify("every other feature here has a mark")
            return
        if found < row:
            self._screen.notify("from the first feature again")
        self._table.move_to(*rows.feature(found))

    def only(self, which: str) -> None:
        """Filter starred, tagged or unmarked features; again: no filter."""
        text = _FILTERS[which]
        self._rows.filter_by("" if self._rows.filter == text else text)

    def switch_moving_on(self) -> None:
        """Switch whether the cursor moves on after a mark."""
        self.moves_on = not self.moves_on
        self._screen.notify(
            "a mark moves on to the next feature" if self.moves_on else "marks do not move on"
        )
        self._changed()

    def _edit(
        self, act: Callable[[], Step | None], selection: Mapping[DictionaryName, list[int]]
    ) -> None:
        is_one = count_of(selection) == 1
        self.marking.edit(act, selection, self._move_on_after if is_one else lambda _: None)

    def _move_on_after(self, step: Step | None) -> None:
        """Move on if a mark was made, not if one was removed."""
        if not self.moves_on or step is None or step.only_removes:
            return
        for screen in reversed(self._screen.app.screen_stack):
            if isinstance(screen, AnswerScreen):
                screen.move_on()
                return
        self._table.action_move(1)

    def _shown(self, text: str) -> str:
        return visible(text, ascii_only=self._ascii)


def _words(count: int) -> str:
    return f"{count:,} features" if count > 1 else "this feature"

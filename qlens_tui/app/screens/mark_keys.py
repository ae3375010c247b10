"""What the keys for marks do: to a feature, to a range, or to all filtered rows.

With `at`, to that feature, which a list of results has under its cursor.
"""

from __future__ import annotations

from typing import Any

from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.screens.marking import Marking, count_of
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.app.views import Feature
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.text import visible
from qlens_tui.triage.marks import label_text, tag_name


class MarkKeys:
    """One method for each key; those for texts ask first."""

    def __init__(
        self, marking: Marking, *, table: FeatureTable, screen: Screen[Any], ascii_only: bool
    ) -> None:
        self.marking = marking
        self._table = table
        self._screen = screen
        self._ascii = ascii_only

    def star(self, at: Feature | None = None) -> None:
        """Star, or remove the stars if all have one."""
        self.marking.toggle("star", at)

    def reject(self, at: Feature | None = None) -> None:
        """Reject, or undo that if all are rejected."""
        self.marking.toggle("reject", at)

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
                self.marking.edit(lambda: triage.apply(selection, remove=[tag]), selection)
            else:
                self.marking.edit(lambda: triage.apply(selection, add=[tag]), selection)

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
                self.marking.edit(lambda: triage.apply(selection, label=answer.text), selection)

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
                self.marking.tell(triage.apply(selection, note=note), selection)
            except LensError as error:
                return str(error)
            return None

        title = f"note on {layer}:{number}"
        self._screen.app.push_screen(NoteEditor(title, before, keep, ascii_only=self._ascii))

    def _shown(self, text: str) -> str:
        return visible(text, ascii_only=self._ascii)


def _words(count: int) -> str:
    return f"{count:,} features" if count > 1 else "this feature"

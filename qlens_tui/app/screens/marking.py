"""Stars, rejections, tags and notes by key: for a feature, a range, or all filtered rows.

An edit of a few features is on disk before the key press is over; one of many thousands takes
seconds and is made off the UI thread, in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.opened import Opened
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.text import visible
from qlens_tui.triage.marks import DictionaryName, Mark, Step, tag_name
from qlens_tui.triage.triage import Triage

_AT_ONCE = 20_000  # features


class Marking:
    """The marks of the known layers, and the actions that change them."""

    def __init__(
        self,
        triage: Triage | None,
        opened: Opened,
        *,
        table: FeatureTable,
        screen: Screen[Any],
        changed: Callable[[], None],
        ascii_only: bool,
    ) -> None:
        """`changed` is called when marks changed; `triage` `None`: marks cannot be kept."""
        self.triage = triage
        self.marks: dict[int, dict[int, Mark]] = {}
        self._opened = opened
        self._table = table
        self._screen = screen
        self._changed = changed
        self._ascii = ascii_only
        self._problem = ""

    def toggle(self, kind: Literal["star", "reject"]) -> None:
        """Mark the selection, or remove the mark if all of the selection has it."""
        selection, triage = self._selection(), self.triage
        if selection and triage is not None:
            self._edit(lambda: triage.toggle(selection, kind), selection)

    def tag(self) -> None:
        """Ask for a tag and add it; a tag that the feature has is removed."""
        selection, triage = self._selection(), self.triage
        if not selection or triage is None:
            return
        count = _count(selection)
        try:
            tags = triage.tags()
            here = self._tags_of(selection) if count == 1 else frozenset()
        except LensError as error:
            self._say(error)
            return

        def typed(prompt: Prompt, text: str) -> None:
            sign = "-" if text.strip().startswith("-") else ""
            wanted = text.strip().removeprefix("-").casefold()
            matching = [tag for tag in tags if wanted in tag.casefold()][:50]
            prompt.offer(
                [
                    Suggestion(
                        f"{sign}{shown(tag)}{'  (remove)' if sign or tag in here else ''}",
                        f"{sign}{tag}",
                    )
                    for tag in matching
                ]
            )

        def shown(tag: str) -> str:
            return visible(tag, ascii_only=self._ascii)

        def check(text: str) -> str | None:
            if not text.strip():
                return None
            try:
                tag, off = meant(text)
            except LensError as error:
                return str(error)
            return f"there is no tag {shown(tag)} to remove" if off and tag not in tags else None

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

        what = f"{count:,} features" if count > 1 else "this feature"
        hint = "a tag it has is removed; -tag removes it from all; no commas"
        prompt = Prompt(f"tag {what}", hint=hint, typed=typed, check=check, ascii_only=self._ascii)
        self._screen.app.push_screen(prompt, apply)

    def note(self) -> None:
        """Open the note of the feature under the cursor."""
        feature, triage = self._table.feature, self.triage
        if feature is None or triage is None:
            return
        layer, number = feature
        dictionary = self._name(layer)
        try:
            before = triage.mark(dictionary.sha256, number).note
        except LensError as error:
            self._say(error)
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
                self._tell(triage.apply({dictionary: [number]}, note=note), [layer])
            except LensError as error:
                return str(error)
            return None

        title = f"note on {layer}:{number}"
        self._screen.app.push_screen(NoteEditor(title, before, keep, ascii_only=self._ascii))

    def undo(self) -> None:
        """Undo this session's last edit."""
        if self.triage is not None:
            self._replay(self.triage.undo, self.triage.next_undo, "undone", "undo")

    def redo(self) -> None:
        """Redo the last undone edit."""
        if self.triage is not None:
            self._replay(self.triage.redo, self.triage.next_redo, "redone", "redo")

    def read(self, *layers: int) -> None:
        """Read the marks of known layers."""
        known, triage = self._opened.known, self.triage
        if triage is None:
            return
        try:
            for layer in known.keys() & set(layers):
                self.marks[layer] = triage.marks(known[layer].sha256)
        except LensError as error:
            self._say_once(str(error))

    def read_all(self) -> None:
        """Read the marks of every layer, and show them."""
        self.read(*self._opened.known)
        self._changed()

    def keep_only(self, layers: Sequence[int]) -> None:
        """Forget the marks of layers that the configuration no longer has; they stay on disk."""
        self.marks = {layer: marks for layer, marks in self.marks.items() if layer in layers}

    def watch(self) -> None:
        """Show what another session changed since the last call."""
        try:
            if self.triage is not None and self.triage.changed_elsewhere():
                self.read_all()
        except LensError as error:
            self._say_once(str(error))
        else:
            self._problem = ""

    def _say_once(self, problem: str) -> None:
        """Report a file that cannot be read once, not at every look."""
        if problem != self._problem:
            self._problem = problem
            self._screen.notify(problem, severity="error")

    def _say(self, error: LensError) -> None:
        self._screen.notify(str(error), severity="error")

    @property
    def stars(self) -> dict[int, int]:
        """How many features of each layer are starred."""
        return {
            layer: sum(mark.star for mark in marks.values()) for layer, marks in self.marks.items()
        }

    def _name(self, layer: int) -> DictionaryName:
        known = self._opened.known[layer]
        model = self._opened.model_name
        return DictionaryName(known.sha256, known.name, model, layer)

    def _selection(self) -> dict[DictionaryName, list[int]]:
        table = self._table
        if table.rows is None or not len(table.rows):
            return {}
        chosen = table.chosen
        features = table.rows[chosen.start : chosen.stop].features()
        found: dict[DictionaryName, list[int]] = {}
        for (layer,), rows in features.group_by("layer", maintain_order=True):
            found[self._name(int(str(layer)))] = rows["feature"].to_list()
        return found

    def _tags_of(self, selection: Mapping[DictionaryName, list[int]]) -> frozenset[str]:
        assert self.triage is not None
        ((dictionary, (feature,)),) = selection.items()
        return frozenset(self.triage.mark(dictionary.sha256, feature).tags)

    def _edit(
        self, act: Callable[[], Step | None], selection: Mapping[DictionaryName, list[int]]
    ) -> None:
        touched = [dictionary.layer for dictionary in selection]
        self._do(act, _count(selection), lambda step: self._tell(step, touched))

    def _replay(self, act: Callable[[], Step | None], count: int, verb: str, name: str) -> None:
        def tell(step: Step | None) -> None:
            if step is None:
                self._screen.notify(f"nothing to {name}")
            else:
                self._tell(step, list(self._opened.known), verb)

        self._do(act, count, tell)

    def _do(
        self, act: Callable[[], Step | None], count: int, tell: Callable[[Step | None], None]
    ) -> None:
        """Make an edit, which is on disk when this returns, and show a notice."""
        if count <= _AT_ONCE:
            try:
                tell(act())
            except LensError as error:
                self._say(error)
            return

        async def off_this_thread() -> None:
            try:
                tell(await asyncio.to_thread(act))
            except LensError as error:
                self._say(error)

        self._screen.notify(f"marking {count:,} features")
        self._screen.run_worker(off_this_thread(), group="marking")

    def _tell(self, step: Step | None, layers: Sequence[int], verb: str = "") -> None:
        if step is None:
            return
        if verb or step.changed > 1:
            left = f", {step.left_alone:,} skipped: changed elsewhere" if step.left_alone else ""
            said = f"{verb + ': ' if verb else ''}{step.what} ({step.changed:,}){left}"
            self._screen.notify(said)
        self.read(*layers)
        self._changed()


def _count(selection: Mapping[DictionaryName, list[int]]) -> int:
    return sum(map(len, selection.values()))

"""Stars, rejections, tags and notes from the keyboard: on a feature, a range, what is filtered.

An edit of a few features is on the disk before the key press is over; one of many thousands
takes seconds and is done off the UI's thread, in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from lens_core.errors import LensError
from qlens_tui.marks import DictionaryName, Mark, Step
from qlens_tui.screens.note import NoteEditor
from qlens_tui.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.text import visible
from qlens_tui.triage import Triage

if TYPE_CHECKING:
    from qlens_tui.screens.workbench import Workbench

_AT_ONCE = 20_000  # features


class Marking:
    """The marks that the workbench shows, and the keys that change them."""

    def __init__(self, bench: Workbench, triage: Triage | None) -> None:
        self._bench = bench
        self.triage = triage
        self.marks: dict[int, dict[int, Mark]] = {}

    def toggle(self, kind: Literal["star", "reject"]) -> None:
        """Mark what is selected, or take the mark off where all of it has it."""
        selection, triage = self._selection(), self.triage
        if selection and triage is not None:
            self._edit(lambda: triage.toggle(selection, kind), _count(selection))

    def tag(self) -> None:
        """Ask for a tag; one that the feature has is taken off."""
        selection, triage = self._selection(), self.triage
        if not selection or triage is None:
            return
        tags, count = triage.tags(), _count(selection)
        here = self._tags_of(selection) if count == 1 else frozenset()

        def typed(prompt: Prompt, text: str) -> None:
            wanted = text.strip().casefold()
            matching = [tag for tag in tags if wanted in tag.casefold()][:50]
            prompt.offer(
                [
                    Suggestion(f"{visible(tag)}{'  (take off)' if tag in here else ''}", tag)
                    for tag in matching
                ]
            )

        def apply(answer: Answer | None) -> None:
            tag = answer.text.strip() if answer is not None else ""
            if tag.startswith("-") and tag[1:].strip() in tags:
                self._edit(lambda: triage.apply(selection, remove=[tag[1:].strip()]), count)
            elif tag in here:
                self._edit(lambda: triage.apply(selection, remove=[tag]), count)
            elif tag:
                self._edit(lambda: triage.apply(selection, add=[tag]), count)

        what = f"{count:,} features" if count > 1 else "this feature"
        hint = "a tag it has is taken off; -tag takes it off all; no commas"
        prompt = Prompt(f"tag {what}", hint=hint, typed=typed, ascii_only=self._bench.ascii)
        self._bench.app.push_screen(prompt, apply)

    def note(self) -> None:
        """Open the note of the feature under the cursor."""
        feature, triage = self._bench.table.feature, self.triage
        if feature is None or triage is None:
            return
        layer, number = feature
        dictionary = self._name(layer)

        def keep(note: str) -> str | None:
            try:
                self._tell(triage.apply({dictionary: [number]}, note=note), "", "")
            except LensError as error:
                return str(error)
            return None

        before = triage.mark(dictionary.sha256, number).note
        title = f"note on {layer}:{number}"
        self._bench.app.push_screen(NoteEditor(title, before, keep, ascii_only=self._bench.ascii))

    def undo(self) -> None:
        """Take back this session's last edit."""
        if self.triage is not None:
            self._edit(self.triage.undo, self.triage.next_undo, "undone", "nothing to undo")

    def redo(self) -> None:
        """Do it again."""
        if self.triage is not None:
            self._edit(self.triage.redo, self.triage.next_redo, "done again", "nothing to do again")

    def read(self, layer: int) -> None:
        """Read the marks of a layer."""
        if self.triage is not None and layer in self._bench.known:
            try:
                self.marks[layer] = self.triage.marks(self._bench.known[layer].sha256)
            except LensError as error:
                self._bench.qlens.toast(str(error), "error")

    def watch(self) -> None:
        """Show what another session changed since this was last asked."""
        try:
            changed = self.triage is not None and self.triage.changed_elsewhere()
        except LensError as error:
            self._bench.qlens.toast(str(error), "error")
            return
        if changed:
            self._read_all()

    @property
    def stars(self) -> dict[int, int]:
        """How many features of each layer are starred."""
        return {
            layer: sum(mark.star for mark in marks.values()) for layer, marks in self.marks.items()
        }

    def _read_all(self) -> None:
        for layer in self._bench.layers_at_hand:
            self.read(layer)
        self._bench.show_marks()

    def _name(self, layer: int) -> DictionaryName:
        known = self._bench.known[layer]
        return DictionaryName(known.sha256, known.name, self._bench.model_name, layer)

    def _selection(self) -> dict[DictionaryName, list[int]]:
        table = self._bench.table
        if table.rows is None or not len(table.rows):
            return {}
        chosen = table.chosen
        part = table.rows[chosen.start : chosen.stop].taken().select("layer", "feature")
        found: dict[DictionaryName, list[int]] = {}
        for (layer,), rows in part.group_by("layer", maintain_order=True):
            found[self._name(int(str(layer)))] = rows["feature"].to_list()
        return found

    def _tags_of(self, selection: Mapping[DictionaryName, list[int]]) -> frozenset[str]:
        assert self.triage is not None
        ((dictionary, (feature,)),) = selection.items()
        return frozenset(self.triage.mark(dictionary.sha256, feature).tags)

    def _edit(
        self, act: Callable[[], Step | None], count: int, verb: str = "", nothing: str = ""
    ) -> None:
        """Do an edit that is on the disk when it returns, and show it."""
        if count <= _AT_ONCE:
            try:
                self._tell(act(), verb, nothing)
            except LensError as error:
                self._bench.qlens.toast(str(error), "error")
            return

        async def off_this_thread() -> None:
            try:
                self._tell(await asyncio.to_thread(act), verb, nothing)
            except LensError as error:
                self._bench.qlens.toast(str(error), "error")

        self._bench.notify(f"marking {count:,} features")
        self._bench.run_worker(off_this_thread(), group="marking")

    def _tell(self, step: Step | None, verb: str, nothing: str) -> None:
        if step is None:
            if nothing:
                self._bench.notify(nothing)
            return
        if verb or step.changed > 1:
            left = f", {step.left_alone:,} left alone: changed elsewhere" if step.left_alone else ""
            said = f"{verb + ': ' if verb else ''}{step.what} ({step.changed:,}){left}"
            self._bench.qlens.toast(said)
        self._read_all()


def _count(selection: Mapping[DictionaryName, list[int]]) -> int:
    return sum(map(len, selection.values()))

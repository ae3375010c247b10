"""Stars, rejections, tags and notes from the keyboard: on a feature, a range, what is filtered.

An edit of a few features is on the disk before the key press is over; one of many thousands
takes seconds and is done off the UI's thread, in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from lens_core.errors import LensError
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.text import visible
from qlens_tui.triage.marks import DictionaryName, Mark, Step, tag_name
from qlens_tui.triage.triage import Triage

if TYPE_CHECKING:
    from qlens_tui.app.screens.workbench import Workbench

_AT_ONCE = 20_000  # features


class Marking:
    """The marks that the workbench shows, and the keys that change them."""

    def __init__(self, bench: Workbench, triage: Triage | None) -> None:
        self._bench = bench
        self.triage = triage
        self.marks: dict[int, dict[int, Mark]] = {}
        self._problem = ""

    def toggle(self, kind: Literal["star", "reject"]) -> None:
        """Mark what is selected, or take the mark off where all of it has it."""
        selection, triage = self._selection(), self.triage
        if selection and triage is not None:
            self._edit(lambda: triage.toggle(selection, kind), selection)

    def tag(self) -> None:
        """Ask for a tag; one that the feature has is taken off."""
        selection, triage = self._selection(), self.triage
        if not selection or triage is None:
            return
        count = _count(selection)
        try:
            tags = triage.tags()
            here = self._tags_of(selection) if count == 1 else frozenset()
        except LensError as error:
            self._bench.qlens.toast(str(error), "error")
            return

        def typed(prompt: Prompt, text: str) -> None:
            sign = "-" if text.strip().startswith("-") else ""
            wanted = text.strip().removeprefix("-").casefold()
            matching = [tag for tag in tags if wanted in tag.casefold()][:50]
            prompt.offer(
                [
                    Suggestion(
                        f"{sign}{shown(tag)}{'  (take off)' if sign or tag in here else ''}",
                        f"{sign}{tag}",
                    )
                    for tag in matching
                ]
            )

        def shown(tag: str) -> str:
            return visible(tag, ascii_only=self._bench.ascii)

        def check(text: str) -> str | None:
            if not text.strip():
                return None
            try:
                tag, off = meant(text)
            except LensError as error:
                return str(error)
            return f"there is no tag {shown(tag)} to take off" if off and tag not in tags else None

        def meant(text: str) -> tuple[str, bool]:
            """The tag as it is kept, and whether it is to be taken off."""
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
        hint = "a tag it has is taken off; -tag takes it off all; no commas"
        prompt = Prompt(
            f"tag {what}", hint=hint, typed=typed, check=check, ascii_only=self._bench.ascii
        )
        self._bench.app.push_screen(prompt, apply)

    def note(self) -> None:
        """Open the note of the feature under the cursor."""
        feature, triage = self._bench.table.feature, self.triage
        if feature is None or triage is None:
            return
        layer, number = feature
        dictionary = self._name(layer)
        try:
            before = triage.mark(dictionary.sha256, number).note
        except LensError as error:
            self._bench.qlens.toast(str(error), "error")
            return

        def keep(note: str) -> str | None:
            nonlocal before
            try:
                there = triage.mark(dictionary.sha256, number).note
                if there != before:
                    before = there
                    return (
                        "another session changed this note meanwhile: "
                        "again replaces it, escape twice leaves that one"
                    )
                self._tell(triage.apply({dictionary: [number]}, note=note), [layer])
            except LensError as error:
                return str(error)
            return None

        title = f"note on {layer}:{number}"
        self._bench.app.push_screen(NoteEditor(title, before, keep, ascii_only=self._bench.ascii))

    def undo(self) -> None:
        """Take back this session's last edit."""
        if self.triage is not None:
            self._replay(self.triage.undo, self.triage.next_undo, "undone", "undo")

    def redo(self) -> None:
        """Do it again."""
        if self.triage is not None:
            self._replay(self.triage.redo, self.triage.next_redo, "done again", "redo")

    def read(self, *layers: int) -> None:
        """Read the marks of layers that are known."""
        known, triage = self._bench.browsing.known, self.triage
        if triage is None:
            return
        try:
            for layer in known.keys() & set(layers):
                self.marks[layer] = triage.marks(known[layer].sha256)
        except LensError as error:
            self._say_once(str(error))

    def read_all(self) -> None:
        """Read the marks of every layer, and show them."""
        self.read(*self._bench.browsing.known)
        self._bench.show_marks()

    def keep_only(self, layers: Sequence[int]) -> None:
        """Forget those of layers that the configuration has no more; they stay on the disk."""
        self.marks = {layer: marks for layer, marks in self.marks.items() if layer in layers}

    def watch(self) -> None:
        """Show what another session changed since this was last asked."""
        try:
            if self.triage is not None and self.triage.changed_elsewhere():
                self.read_all()
        except LensError as error:
            self._say_once(str(error))
        else:
            self._problem = ""

    def _say_once(self, problem: str) -> None:
        """A file that cannot be read stays so: told once, not at every look."""
        if problem != self._problem:
            self._problem = problem
            self._bench.qlens.toast(problem, "error")

    @property
    def stars(self) -> dict[int, int]:
        """How many features of each layer are starred."""
        return {
            layer: sum(mark.star for mark in marks.values()) for layer, marks in self.marks.items()
        }

    def _name(self, layer: int) -> DictionaryName:
        known = self._bench.browsing.known[layer]
        model = self._bench.dialogue.model_name
        return DictionaryName(known.sha256, known.name, model, layer)

    def _selection(self) -> dict[DictionaryName, list[int]]:
        table = self._bench.table
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
                self._bench.notify(f"nothing to {name}")
            else:
                self._tell(step, list(self._bench.browsing.known), verb)

        self._do(act, count, tell)

    def _do(
        self, act: Callable[[], Step | None], count: int, tell: Callable[[Step | None], None]
    ) -> None:
        """Do an edit that is on the disk when it returns, and tell of it."""
        if count <= _AT_ONCE:
            try:
                tell(act())
            except LensError as error:
                self._bench.qlens.toast(str(error), "error")
            return

        async def off_this_thread() -> None:
            try:
                tell(await asyncio.to_thread(act))
            except LensError as error:
                self._bench.qlens.toast(str(error), "error")

        self._bench.notify(f"marking {count:,} features")
        self._bench.run_worker(off_this_thread(), group="marking")

    def _tell(self, step: Step | None, layers: Sequence[int], verb: str = "") -> None:
        if step is None:
            return
        if verb or step.changed > 1:
            left = f", {step.left_alone:,} left alone: changed elsewhere" if step.left_alone else ""
            said = f"{verb + ': ' if verb else ''}{step.what} ({step.changed:,}){left}"
            self._bench.qlens.toast(said)
        self.read(*layers)
        self._bench.show_marks()


def _count(selection: Mapping[DictionaryName, list[int]]) -> int:
    return sum(map(len, selection.values()))

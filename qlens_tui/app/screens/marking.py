"""Marks of the known layers, and edits of them: of a feature, a range, or all filtered rows.

An edit of a few features is on disk before the key press is over; one of many thousands takes
seconds and is made off the UI thread, in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.notices import LONG
from qlens_tui.app.opened import Opened
from qlens_tui.app.screens.reading_marks import marks_of, opened_with_marks, summary_of
from qlens_tui.app.views import Feature
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.triage.marks import DictionaryName, Mark, Step
from qlens_tui.triage.triage import Triage

_AT_ONCE = 20_000  # features
_FEW = 1000  # features that are read one by one
_READING = "the marks are still being read"
_AGAIN = "try again in a moment"
_SEEN = ("star", "unstar", "reject", "unreject")
"""Edits that the sign beside a feature shows."""


class Marking:
    """The marks of the known layers, and the actions that change them."""

    def __init__(
        self,
        triage: Future[Triage | None],
        opened: Opened,
        *,
        table: FeatureTable,
        screen: Screen[Any],
        changed: Callable[[], None],
    ) -> None:
        """`open` sets `triage`; `changed` is called when marks changed."""
        self._file = triage
        self.marks: dict[int, dict[int, Mark]] = {}
        self._shas: dict[int, str] = {}
        """The dictionary whose marks were read, by layer."""
        self.stars: dict[int, int] = {}
        """How many features of each layer are starred."""
        self.has_labels = False
        """Whether any of these has or had a label since all were read."""
        self._edits = 0
        self._features: dict[int, str] = {}
        """What each edit of this session was of, in words."""
        self._refusal = _READING
        self._opened = opened
        self._table = table
        self._screen = screen
        self._changed = changed
        self._problem = ""

    @property
    def triage(self) -> Triage | None:
        """The triage file; `None` until it is open, and if it cannot be opened."""
        return self._file.result() if self._file.done() else None

    @property
    def is_opening(self) -> bool:
        """Whether the marks are still being read for the first time."""
        return self._refusal == _READING

    async def open(self) -> None:
        """Open the triage file and read the marks of the known layers, off the UI thread."""
        try:
            known = {layer: each.sha256 for layer, each in self._opened.known.items()}
            triage, marks, problem = await asyncio.to_thread(opened_with_marks, known)
            summary = await asyncio.to_thread(summary_of, marks)
            if self._file.done():  # the app has ended
                triage.close()
                return
            self._file.set_result(triage)
            self.marks, self._shas, self._refusal = marks, known, ""
            self.stars, self.has_labels = summary
            if problem:
                self._screen.notify(problem, severity="error", timeout=LONG)
            for layer in self._opened.known:  # others may have become known meanwhile
                self.learn(layer)
        except LensError as error:
            self._refusal = f"nothing can be marked: {error}"
            self._screen.notify(self._refusal, severity="error", timeout=LONG)
        finally:
            if not self._file.done():
                self._file.set_result(None)  # others wait for it
        self._changed()

    def usable(self) -> Triage | None:
        """The triage file; `None`, and the user is told why, if it cannot be used."""
        if self._refusal:
            if self.is_opening:
                self._screen.notify(f"{self._refusal}: {_AGAIN}")
            else:
                self._screen.notify(self._refusal, severity="error")
            return None
        return self.triage

    def undo(self) -> None:
        """Undo this session's last edit."""
        if (triage := self.usable()) is not None:
            self._replay(triage.undo, triage.next_undo, "undone", "undo")

    def redo(self) -> None:
        """Redo the last undone edit."""
        if (triage := self.usable()) is not None:
            self._replay(triage.redo, triage.next_redo, "redone", "redo")

    def read(self, *layers: int) -> None:
        """Read the marks of known layers."""
        known, triage = self._opened.known, self.triage
        if triage is None:
            return
        try:
            for layer in known.keys() & set(layers):
                sha256 = known[layer].sha256
                self.marks[layer], self._shas[layer] = triage.marks(sha256), sha256
                stars, has_labels = summary_of({layer: self.marks[layer]})
                self.stars |= stars
                self.has_labels |= has_labels
        except LensError as error:
            self._say_once(str(error))

    def learn(self, layer: int) -> None:
        """Read the marks of a layer if they are not those of its dictionary."""
        if self._opened.known[layer].sha256 != self._shas.get(layer):
            self.read(layer)

    def read_all(self) -> None:
        """Read the marks of every layer, and show them."""
        self.read(*self._opened.known)
        self._changed()

    def keep_only(self, layers: Sequence[int]) -> None:
        """Forget the marks of layers that the configuration no longer has; they stay on disk."""
        self.marks = {layer: marks for layer, marks in self.marks.items() if layer in layers}
        self._shas = {layer: sha256 for layer, sha256 in self._shas.items() if layer in layers}
        self.stars = {layer: count for layer, count in self.stars.items() if layer in layers}

    def watch(self) -> None:
        """Show what another session changed since the last call."""
        try:
            if self.triage is not None and self.triage.changed_elsewhere():
                self._read_again()
        except LensError as error:
            self._say_once(str(error))
        else:
            self._problem = ""

    def _say_once(self, problem: str) -> None:
        """Report a file that cannot be read once, not at every look."""
        if problem != self._problem:
            self._problem = problem
            self._screen.notify(problem, severity="error")

    def say(self, error: LensError) -> None:
        """Tell the user about a failure."""
        self._screen.notify(str(error), severity="error")

    def counts(self, layers: Collection[int]) -> tuple[int, int]:
        """How many features of known layers have a mark, and how many have none."""
        known = self._opened.known
        marked = sum(len(self.marks.get(layer, ())) for layer in layers)
        return marked, sum(known[layer].n_features for layer in layers) - marked

    def name_of(self, layer: int) -> DictionaryName:
        """A layer's dictionary."""
        known = self._opened.known[layer]
        model = self._opened.model_name
        return DictionaryName(known.sha256, known.name, model, layer)

    def why_not(self, at: Sequence[Feature]) -> str:
        """Why the features `at`, or without any the table's, cannot be marked now; empty: they can.

        Printable only through `text.visible`.
        """
        if self._refusal:
            return self._refusal
        if at:
            unknown = {layer for layer, _ in at} - self._opened.known.keys()
            return f"layer {min(unknown)} is still being read" if unknown else ""
        if self._table.rows is None:
            return "the features are not there yet"
        return "" if len(self._table.rows) else "there is no feature here"

    def mark(self, feature: Feature) -> Mark:
        """The marks of one feature, as last read."""
        return self.marks.get(feature[0], {}).get(feature[1], Mark())

    def selection(self, at: Sequence[Feature]) -> dict[DictionaryName, list[int]]:
        """The features `at`, or without any the table's; `why_not` said nothing."""
        found: dict[DictionaryName, list[int]] = {}
        for layer, feature in at:
            found.setdefault(self.name_of(layer), []).append(feature)
        table = self._table
        if at or table.rows is None:
            return found
        chosen = table.chosen
        features = table.rows[chosen.start : chosen.stop].features()
        for (layer,), rows in features.group_by("layer", maintain_order=True):
            found[self.name_of(int(str(layer)))] = rows["feature"].to_list()
        return found

    def edit(
        self,
        act: Callable[[], Step | None],
        selection: Mapping[DictionaryName, list[int]],
        then: Callable[[Step | None], None],
    ) -> None:
        """Make an edit of a selection, and show it; then call `then`."""

        def tell(step: Step | None) -> None:
            self.tell(step, selection)
            then(step)

        self._do(act, count_of(selection), tell)

    def _replay(self, act: Callable[[], Step | None], count: int, verb: str, name: str) -> None:
        def tell(step: Step | None) -> None:
            if step is None:
                self._screen.notify(f"nothing to {name}")
            else:
                self.tell(step, None, verb)

        self._do(act, count, tell)

    def _do(
        self, act: Callable[[], Step | None], count: int, tell: Callable[[Step | None], None]
    ) -> None:
        """Make an edit, which is on disk when this returns, and show a notice."""
        if count <= _AT_ONCE:
            try:
                tell(act())
            except LensError as error:
                self.say(error)
            return

        async def off_this_thread() -> None:
            try:
                tell(await asyncio.to_thread(act))
            except LensError as error:
                self.say(error)

        self._screen.notify(f"marking {count:,} features")
        self._screen.run_worker(off_this_thread(), group="marking")

    def tell(
        self,
        step: Step | None,
        selection: Mapping[DictionaryName, Sequence[int]] | None,
        verb: str = "",
    ) -> None:
        """Show an edit of a selection (`None`: of any features)."""
        if step is None:
            return
        if selection is not None:
            self._features[step.edit] = in_words(selection, step.changed)
        if verb or step.changed > 1 or step.what not in _SEEN:
            of = self._features.get(step.edit, f"{step.changed:,} features")
            self._screen.notify(_said(step, of, verb))
        self._edits += 1
        if selection is None or count_of(selection) > _FEW:
            self._read_again()
            return
        for dictionary, features in selection.items():
            self._read_features(dictionary, features)
        self._changed()

    def _read_features(self, dictionary: DictionaryName, features: Sequence[int]) -> None:
        """Read the marks of some features, which is quick however many others have marks."""
        layer, sha256, triage = dictionary.layer, dictionary.sha256, self.triage
        if triage is None or self._shas.get(layer) != sha256:
            self.read(layer)
            return
        marks = self.marks[layer]  # changed in place, because a copy of a million takes 40 ms
        try:
            for feature in features:
                mark, before = triage.mark(sha256, feature), marks.pop(feature, Mark())
                self.stars[layer] += mark.star - before.star
                self.has_labels |= bool(mark.label)
                if mark != Mark():
                    marks[feature] = mark
        except LensError as error:
            self._say_once(str(error))

    def _read_again(self) -> None:
        """Read the marks of all layers, off this thread if they are many."""
        if sum(map(len, self.marks.values())) <= _AT_ONCE:
            self.read_all()
        else:
            self._screen.run_worker(self._read_off_this_thread(), group="read", exclusive=True)

    async def _read_off_this_thread(self) -> None:
        triage, edits = self.triage, -1
        if triage is None:
            return
        while edits != self._edits:  # an edit came in between
            edits = self._edits
            known = {layer: each.sha256 for layer, each in self._opened.known.items()}
            try:
                marks = await asyncio.to_thread(marks_of, triage, known)
                summary = await asyncio.to_thread(summary_of, marks)
            except LensError as error:
                self._say_once(str(error))
                return
        self.marks |= marks
        self._shas |= known
        self.stars |= summary.stars
        self.has_labels |= summary.has_labels
        self._changed()


def in_words(selection: Mapping[DictionaryName, Sequence[int]], count: int) -> str:
    """The feature of a selection or, if there are more, so many features."""
    if count_of(selection) != 1:
        return f"{count:,} feature{'' if count == 1 else 's'}"
    ((dictionary, (feature,)),) = selection.items()
    return f"{dictionary.layer}:{feature}"


def _said(step: Step, of: str, verb: str) -> str:
    """What an edit, or with `verb` its undo or redo, did."""
    done = f"{of} {step.in_words}"
    if not step.changed:
        return f"not {verb}: {done}, but changed elsewhere since"
    left = f", {step.left_alone:,} skipped: changed elsewhere" if step.left_alone else ""
    return f"{verb}: {done}{left}" if verb else f"{done}{left}"


def count_of(selection: Mapping[DictionaryName, Sequence[int]]) -> int:
    """How many features a selection has."""
    return sum(map(len, selection.values()))

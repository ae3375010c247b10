"""What the keys for marks do: to a feature, to a range, or to all filtered rows.

With `at`, to these features, which a list of results has under its cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.feature_words import FeatureWords, Words
from qlens_tui.app.screens.answer_screen import AnswerScreen
from qlens_tui.app.screens.marking import Marking, count_of, in_words
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.app.screens.waiting_prompt import open_when_possible
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.proposals import Proposal, labels_from, tags_from
from qlens_tui.table.row_reader import RowReader
from qlens_tui.text import visible
from qlens_tui.triage.marks import DictionaryName, Step, label_text, tag_name
from qlens_tui.triage.triage import Triage

_MOST_OFFERED = 50


class MarkKeys:
    """One method for each key; those for texts ask first."""

    def __init__(
        self,
        marking: Marking,
        state: State,
        reader: RowReader,
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
        self._last_tag = ""
        self._words = FeatureWords(state, reader)
        self._rows = rows
        self._changed = changed
        self._table = table
        self._screen = screen
        self._ascii = ascii_only

    def star(self, at: Sequence[Feature] = ()) -> None:
        """Star, or remove the stars if all have one."""
        self._toggle("star", at)

    def reject(self, at: Sequence[Feature] = ()) -> None:
        """Reject, or undo that if all are rejected."""
        self._toggle("reject", at)

    def _toggle(self, kind: Literal["star", "reject"], at: Sequence[Feature]) -> None:
        if (triage := self.marking.usable()) is None:
            return
        if why := self.marking.why_not(at):
            self._screen.notify(why)
            return
        selection = self.marking.selection(at)
        self._edit(lambda: triage.toggle(selection, kind), selection)

    def undo(self) -> None:
        """Undo this session's last edit."""
        self.marking.undo()

    def redo(self) -> None:
        """Redo the last undone edit."""
        self.marking.redo()

    def tag(self, at: Sequence[Feature] = (), like: Feature | None = None) -> None:
        """Ask for a tag and add it; a tag that the feature has is removed.

        `like`: the feature whose tokens are proposed; a single one's own without it.
        """
        self._ask("tag", at, lambda triage, typed: self._tag(triage, at, like, typed))

    def _tag(self, triage: Triage, at: Sequence[Feature], like: Feature | None, text: str) -> None:
        """`tag`, with this text typed already."""
        selection = self.marking.selection(at)
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
            proposed = {} if sign else {
                tag_name(spelled.get(each.text.casefold(), each.text)): each.origin
                for each in proposals()
            }  # fmt: skip
            last = {self._last_tag: "last used"} if not sign and self._last_tag in tags else {}
            reasons = last | proposed | last
            offered = [tag for tag in reasons if tag not in here]
            offered += [tag for tag in tags if tag not in offered]

            def why(tag: str) -> str:
                return "remove" if sign or tag in here else reasons.get(tag, "")

            matching = [tag for tag in offered if wanted in tag.casefold()][:_MOST_OFFERED]
            prompt.offer([self._suggestion(f"{sign}{tag}", why(tag)) for tag in matching])

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
                self._last_tag = tag
                self._edit(lambda: triage.apply(selection, add=[tag]), selection)

        hint = "down: choose; a tag it has is removed; -tag removes it from all; no commas"
        prompt = Prompt(
            f"tag {in_words(selection, count)}",
            value=text,
            hint=hint,
            typed=typed,
            check=check,
            ascii_only=self._ascii,
        )
        spelled = {tag.casefold(): tag for tag in reversed(tags)}
        proposals = self._proposals(selection, like, prompt, tags_from)
        self._screen.app.push_screen(prompt, apply)

    def label(self, at: Sequence[Feature] = (), like: Feature | None = None) -> None:
        """Ask for the label of the selection, with proposals as `tag`; an empty one is removed."""
        self._ask("label", at, lambda triage, typed: self._label(triage, at, like, typed))

    def _label(
        self, triage: Triage, at: Sequence[Feature], like: Feature | None, text: str
    ) -> None:
        """`label`, with this text typed already."""
        selection = self.marking.selection(at)
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
            return f"empty: press enter again to remove the labels of {count:,} features"

        def apply(answer: Answer | None) -> None:
            if answer is not None:
                self._edit(lambda: triage.apply(selection, label=answer.text), selection)

        def typed(prompt: Prompt, text: str) -> None:
            wanted = "" if text == before else text.strip().casefold()
            fitting = [each for each in proposals() if wanted in each.text.casefold()]
            prompt.offer([self._suggestion(each.text, each.origin) for each in fitting])

        prompt = Prompt(
            f"label {in_words(selection, count)}",
            value=text or before,
            hint="a line of your own words; down: choose, tab: choose and edit; empty: no label",
            check=check,
            confirm=confirm,
            typed=typed,
            ascii_only=self._ascii,
        )
        proposals = self._proposals(selection, like, prompt, labels_from)
        self._screen.app.push_screen(prompt, apply)

    def note(self, at: Sequence[Feature] = ()) -> None:
        """Open the note of the feature under the cursor, or of the first of `at`."""
        self._ask("note", at, lambda triage, typed: self._note(triage, at, typed))

    def _note(self, triage: Triage, at: Sequence[Feature], text: str) -> None:
        """`note`, with this text typed already."""
        feature = at[0] if at else self._table.feature
        if feature is None:
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
        over = None if at else self._table
        editor = NoteEditor(title, before, keep, typed=text, over=over, ascii_only=self._ascii)
        self._screen.app.push_screen(editor)

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
        """Of the rows that pass the filter only those starred, tagged or unmarked; again: all."""
        from qlens_tui.table.filter_words import with_state
        from qlens_tui.table.rows import KNOWN

        self._rows.filter_by(with_state(self._rows.filter, which, KNOWN))

    def switch_moving_on(self) -> None:
        """Switch whether the cursor moves on after a mark."""
        self.moves_on = not self.moves_on
        self._screen.notify(
            "a mark moves on to the next feature" if self.moves_on else "marks do not move on"
        )
        self._changed()

    def _ask(self, what: str, at: Sequence[Feature], then: Callable[[Triage, str], None]) -> None:
        """Call `then` with what was typed already, once these features can be marked."""

        def ask(typed: str) -> None:
            if (triage := self.marking.usable()) is not None:
                then(triage, typed)

        open_when_possible(
            self._screen, what, lambda: self.marking.why_not(at), ask, ascii_only=self._ascii
        )

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

    def _proposals(
        self,
        selection: Mapping[DictionaryName, Sequence[int]],
        like: Feature | None,
        prompt: Prompt,
        propose: Callable[[Sequence[str], Sequence[str]], list[Proposal]],
    ) -> Callable[[], list[Proposal]]:
        """What is proposed for one feature, now or as soon as its words are read."""
        found: list[Proposal] = []

        def keep(words: Words) -> None:
            found.extend(propose(*words))

        async def read(feature: Feature) -> None:
            keep(await asyncio.to_thread(self._words.on_disk, feature))
            prompt.ask_again()

        if like is None and count_of(selection) == 1:
            ((dictionary, (number,)),) = selection.items()
            like = dictionary.layer, number
        words = None if like is None else self._words.at_hand(like)
        if words is not None:
            keep(words)
        elif like is not None:
            self._screen.run_worker(read(like), group="words")
        return lambda: found

    def _suggestion(self, text: str, why: str) -> Suggestion:
        return Suggestion(f"{self._shown(text)}{f'  ({why})' if why else ''}", text)

    def _shown(self, text: str) -> str:
        return visible(text, ascii_only=self._ascii)

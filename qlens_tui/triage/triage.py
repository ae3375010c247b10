"""Stars, rejections, tags and notes: what a person decided about features, never lost.

A mark belongs to (sha256 of the dictionary, feature), so that it is found again however the
dictionary is called. Every method that changes something is one transaction, on the disk
when it returns (`database`); sessions on one file see each other's marks, and keep both
where they touched different fields of one feature. What is read is checked (`seals`): a
damaged mark is named, and no other is shown in its place.

Cost: a few milliseconds for one feature, a few seconds for a million. Neither torch nor
polars is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import index
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from lens_core.errors import DamagedError, StoreError
from qlens_tui.triage.backups import back_up, keep_copy
from qlens_tui.triage.database import RESTORE, connect, explained, transaction, triage_path
from qlens_tui.triage.edits import (
    CHOSEN,
    CHOSEN_TABLE,
    Wanted,
    choose,
    dictionaries_of_edit,
    field_of,
    replay,
    set_chosen,
)
from qlens_tui.triage.marks import Mark, Selection, Step, note_text, tag_name
from qlens_tui.triage.seals import (
    Dictionary,
    Field,
    damage_of_marks,
    dictionaries_of,
    fields_of,
    has_all_dictionaries,
    mark_rows,
)


class Triage:
    """One session on one triage file. Safe to call from several threads, one at a time.

    `warning` is what a user should know of the file as it was opened, "" for nothing: that it
    is damaged, that no backup was made, or that it can only be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Open the file, made if missing, and back it up if it was edited since the last time.

        Raises:
            StoreError: it cannot be made or read.
        """
        self.path = triage_path() if path is None else path
        self._lock = RLock()
        self._done: list[Step] = []
        self._undone: list[Step] = []
        self._open()

    def _open(self) -> None:
        self._file = connect(self.path, lambda database: back_up(database, self.path))
        self._database = self._file.database
        self._place = os.stat(self.path)
        self._seen = self._data_version()
        # Dictionaries whose marks were all checked, and the state of the file they were in.
        self._checked: dict[int, int] = {}
        self.warning = self._file.refusal or keep_copy(self._file, self.path)
        with self._locked():
            self._database.execute(CHOSEN_TABLE)

    def __enter__(self) -> Triage:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing needs to be saved: everything is on the disk already."""
        with self._lock:
            self._database.close()

    def apply(
        self,
        selection: Selection,
        *,
        star: bool | None = None,
        reject: bool | None = None,
        note: str | None = None,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
    ) -> Step | None:
        """Set marks of every feature in `selection`, `None` leaving a mark as it is.

        Returns `None` where everything was so already: there is nothing to undo.

        Args:
            note: replaces the note; "" takes it away.
            add, remove: tags.

        Raises:
            UsageError: a tag or the note cannot be kept.
            StoreError: the file cannot be written, or is damaged; nothing was changed.
        """
        wanted: Wanted = {}
        if star is not None:
            wanted["star", ""] = star or None
        if reject is not None:
            wanted["reject", ""] = reject or None
        if note is not None:
            wanted["note", ""] = note_text(note) or None
        wanted |= {("tag", tag_name(tag)): True for tag in add}
        wanted |= {("tag", tag_name(tag)): None for tag in remove}
        return self._edit(selection, lambda: wanted)

    def toggle(self, selection: Selection, kind: Literal["star", "reject"]) -> Step | None:
        """Take the mark off if all features of `selection` have it, else give it to all."""

        def wanted() -> Wanted:
            without = self._database.execute(
                f"SELECT 1 FROM {CHOSEN} WHERE m.value IS NULL LIMIT 1",
                {"field": field_of(self._database, kind, "")},
            )
            return {(kind, ""): True if without.fetchone() else None}

        return self._edit(selection, wanted)

    def undo(self) -> Step | None:
        """Take back this session's last edit where it still stands; `None`: there is none."""
        return self._replay("undo", self._done, self._undone)

    def redo(self) -> Step | None:
        """Do again what was undone last, where nobody came in between; `None`: nothing was."""
        return self._replay("redo", self._undone, self._done)

    @property
    def next_undo(self) -> int:
        """How many marks an undo would change."""
        return self._done[-1].changed if self._done else 0

    @property
    def next_redo(self) -> int:
        """How many marks a redo would change."""
        return self._undone[-1].changed if self._undone else 0

    def mark(self, sha256: str, feature: int) -> Mark:
        """The marks of one feature."""
        return self._marks(sha256, index(feature)).get(feature, Mark())

    def marks(self, sha256: str) -> dict[int, Mark]:
        """The marked features of a dictionary, in order; equal marks are one object."""
        return self._marks(sha256)

    def columns(self, sha256: str) -> dict[str, list[Any]]:
        """The same as columns: feature, star, reject, tags (in alphabetical order), note."""
        found = self._marks(sha256)
        return {
            "feature": list(found),
            "star": [mark.star for mark in found.values()],
            "reject": [mark.reject for mark in found.values()],
            "tags": [list(mark.tags) for mark in found.values()],
            "note": [mark.note for mark in found.values()],
        }

    def tags(self) -> list[str]:
        """The tags in use, most used first."""
        with self._locked():
            fields = fields_of(self._database, sealed=self._file.sealed)
            counted = self._database.execute(
                "SELECT field, COUNT(*) FROM marks WHERE value IS NOT NULL GROUP BY field"
            )
            used = []
            for number, count in counted:
                if number not in fields or fields[number].damaged:
                    raise self._damaged("the name of a tag is damaged or missing")
                if fields[number].kind == "tag":
                    used.append((-count, fields[number].tag))
        return [tag for _, tag in sorted(used)]

    def changed_elsewhere(self) -> bool:
        """Whether another session changed something since this was last asked; reads nothing.

        Never waits: while this session is writing, the answer comes the next time.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            before, self._seen = self._seen, self._data_version()
            return before != self._seen
        finally:
            self._lock.release()

    def _data_version(self) -> int:
        with explained(self.path):
            return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock, explained(self.path):
            yield

    def _marks(self, sha256: str, feature: int | None = None) -> dict[int, Mark]:
        """Marked features of a dictionary, or only one; every cell of it was checked before."""
        with self._locked():
            number = self._checked_number(sha256)
            if number is None:
                return {}
            fields = fields_of(self._database, sealed=self._file.sealed)
            cells: dict[int, list[tuple[int, Any]]] = {}
            for at, field, value, damaged, _ in mark_rows(
                self._database, number, feature, sealed=self._file.sealed
            ):
                known = fields.get(field)
                if damaged or (value is not None and (known is None or known.damaged)):
                    raise self._damaged(f"a mark of feature {at} is damaged")
                if value is not None:
                    cells.setdefault(at, []).append((field, value))
        alike: dict[tuple[tuple[int, Any], ...], Mark] = {}
        return {
            at: alike.get(key) or alike.setdefault(key, _mark(key, fields))
            for at, found in cells.items()
            for key in [tuple(found)]
        }

    def _checked_number(self, sha256: str) -> int | None:
        """The number of a dictionary whose marks are all there and whole; `None`: it has none.

        Raises:
            DamagedError: they are not; names one.
        """
        dictionaries = dictionaries_of(self._database, sealed=self._file.sealed)
        for each in dictionaries:
            if each.sha256 == sha256 and not each.damaged:
                self._demand_whole(each)
                return each.number
        if self._file.sealed and not has_all_dictionaries(self._database):
            raise self._damaged("the entry of a dictionary is damaged or missing")
        return None

    def _demand_whole(self, dictionary: Dictionary) -> None:
        """Check all marks of a dictionary, once for each state that others left the file in."""
        version = self._data_version()
        if not self._file.sealed or self._checked.get(dictionary.number) == version:
            return
        fields = fields_of(self._database, sealed=True)
        damage = damage_of_marks(self._database, dictionary, fields)
        if damage:
            more = f", and {len(damage) - 1} more" if len(damage) > 1 else ""
            raise self._damaged(f"{damage[0]}{more}")
        self._checked[dictionary.number] = version

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(f"{self.path} is damaged: {what}: {RESTORE}")

    def _edit(self, selection: Selection, wanted: Callable[[], Wanted]) -> Step | None:
        """One transaction; `wanted` is asked inside it, when nobody else can write."""
        with self._locked():
            self._demand_place()
            for dictionary in selection:
                self._checked_number(dictionary.sha256)
            try:
                choose(self._database, selection)
                with transaction(self._database):
                    step = set_chosen(self._database, wanted())
                    if step is None:
                        raise _NothingToDoError
            except _NothingToDoError:
                return None
            finally:
                self._database.execute("DELETE FROM chosen")
            self._done.append(step)
            self._undone.clear()
            return step

    def _replay(
        self, verb: Literal["undo", "redo"], taken: list[Step], given: list[Step]
    ) -> Step | None:
        """Move the last step of one stack to the other, and its cells to the other state."""
        if not taken:
            return None
        with self._locked():
            self._demand_place()
            touched = dictionaries_of_edit(self._database, taken[-1].edit)
            for dictionary in dictionaries_of(self._database, sealed=True):
                if dictionary.number in touched:
                    self._demand_whole(dictionary)
            with transaction(self._database):
                step = replay(self._database, verb, taken[-1])
            given.append(taken.pop())
        return step

    def _demand_place(self) -> None:
        """Refuse to write where it is not possible, or to a file that nobody will find again.

        Raises:
            StoreError: it is so.
        """
        if self._file.refusal:
            self.close()
            self._open()  # there may be space by now
            if self._file.refusal:
                raise StoreError(self._file.refusal)
        there = False
        with suppress(OSError):
            there = os.path.samestat(self._place, os.stat(self.path))
        if not there:
            raise StoreError(
                f"{self.path} was moved or replaced while open: nothing was changed; "
                "put it back, or start qlens again"
            )


class _NothingToDoError(Exception):
    pass


def _mark(cells: Iterable[tuple[int, Any]], fields: Mapping[int, Field]) -> Mark:
    kinds = {fields[field].kind: value for field, value in cells}
    tags = sorted(fields[field].tag for field, _ in cells if fields[field].kind == "tag")
    return Mark("star" in kinds, "reject" in kinds, tuple(tags), str(kinds.get("note", "")))

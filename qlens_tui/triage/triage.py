"""Marks: stars, rejections, labels, tags and notes on features.

A mark belongs to (sha256 of the dictionary, feature), so that it is found whatever the dictionary
is called. Every method that changes something is one transaction and is on disk when it returns
(`database`). Sessions on one file see each other's marks; changes of different fields of one
feature are both kept.

Everything read is checked (`seals`). Damage found when the file is opened is reported then
(`Triage.warning`), and damaged marks are left out, so that the others stay usable; damage found
later is an error. A damaged mark is never shown as another one.

Cost: a few milliseconds for one feature, two or three seconds for a million, also to open the file.
Neither torch nor polars is imported here; only `marks_frame` uses polars.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import index, itemgetter
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal

from lens_core.errors import DamagedError, LensError, StoreError
from qlens_tui.triage.backups import back_up, why_missing
from qlens_tui.triage.database import RESTORE, connect, explained, transaction, triage_path
from qlens_tui.triage.edits import (
    CHOSEN,
    CHOSEN_TABLE,
    Wanted,
    choose,
    field_of,
    replay,
    set_chosen,
)
from qlens_tui.triage.marks import Mark, Selection, Step, label_text, note_text, tag_name
from qlens_tui.triage.seals import (
    SEAL,
    Field,
    cells_of,
    damage_of,
    dictionaries_of,
    fields_of,
)

if TYPE_CHECKING:
    import polars as pl


class Triage:
    """One session on one triage file. Safe to call from several threads, one at a time.

    `warning` is what the user should know about the opened file, "" for nothing: that it is
    damaged, that no backup was made, or that it is read-only.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Open the file, created if missing, and back it up if it was edited since the last backup.

        Raises:
            StoreError: it cannot be created or read, or it is missing and has backups.
        """
        self.path = triage_path() if path is None else path
        self._lock = RLock()
        self._done: list[Step] = []
        self._undone: list[Step] = []
        self._open()

    def _open(self) -> None:
        if missing := why_missing(self.path):
            raise DamagedError(missing)
        self._file = connect(self.path, lambda database: back_up(database, self.path))
        self._database = self._file.database
        self._place = os.stat(self.path)
        self._seen = self._data_version()
        with self._locked():
            self._database.execute(CHOSEN_TABLE)
            self._damage = damage_of(self._database, sealed=self._file.sealed)
        self.warning = self._told() or self._file.refusal or self._keep_copy()

    def _told(self) -> str:
        if not self._damage:
            return ""
        more = f", and {len(self._damage) - 1:,} more" if len(self._damage) > 1 else ""
        return f"{self.path} is damaged: {self._damage[0]}{more}: {RESTORE}"

    def _keep_copy(self) -> str:
        """Back up, but only an undamaged file, so that damage never replaces a good copy."""
        try:
            with self._locked():
                back_up(self._database, self.path)
        except LensError as error:
            return f"no backup of the marks was made: {error}"
        return ""

    def __enter__(self) -> Triage:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Everything is already on disk."""
        with self._lock:
            self._database.close()

    def apply(
        self,
        selection: Selection,
        *,
        star: bool | None = None,
        reject: bool | None = None,
        label: str | None = None,
        note: str | None = None,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
    ) -> Step | None:
        """Set marks of every feature in `selection`; `None` leaves a mark unchanged.

        Returns `None` if nothing changed, so that there is nothing to undo.

        Args:
            label, note: replaces it; "" removes it.
            add, remove: tags.

        Raises:
            UsageError: a tag, the label or the note cannot be kept.
            StoreError: the file cannot be written, or is damaged; nothing was changed.
        """
        wanted: Wanted = {}
        if star is not None:
            wanted["star", ""] = star or None
        if reject is not None:
            wanted["reject", ""] = reject or None
        if label is not None:
            wanted["label", ""] = label_text(label) or None
        if note is not None:
            wanted["note", ""] = note_text(note) or None
        wanted |= {("tag", tag_name(tag)): True for tag in add}
        wanted |= {("tag", tag_name(tag)): None for tag in remove}
        return self._edit(selection, lambda: wanted)

    def toggle(self, selection: Selection, kind: Literal["star", "reject"]) -> Step | None:
        """Remove the mark if all features of `selection` have it, else add it to all."""

        def wanted() -> Wanted:
            without = self._database.execute(
                f"SELECT 1 FROM {CHOSEN} WHERE m.value IS NULL LIMIT 1",
                {"field": field_of(self._database, kind, "")},
            )
            return {(kind, ""): True if without.fetchone() else None}

        return self._edit(selection, wanted)

    def undo(self) -> Step | None:
        """Undo this session's last edit, except cells changed since; `None`: nothing to undo."""
        return self._replay("undo", self._done, self._undone)

    def redo(self) -> Step | None:
        """Redo the last undone edit, except cells changed since; `None`: nothing to redo."""
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
        """The marked features of a dictionary, in order; equal marks share one object."""
        return self._marks(sha256)

    def columns(self, sha256: str) -> dict[str, list[Any]]:
        """The same as columns: feature, star, reject, label, tags (by alphabet), note."""
        found = self._marks(sha256)
        return {
            "feature": list(found),
            "star": [mark.star for mark in found.values()],
            "reject": [mark.reject for mark in found.values()],
            "label": [mark.label for mark in found.values()],
            "tags": [list(mark.tags) for mark in found.values()],
            "note": [mark.note for mark in found.values()],
        }

    def tags(self) -> list[str]:
        """The tags in use, the most frequent first."""
        whole = f"m.seal = {SEAL}" if self._file.sealed else "TRUE"
        with self._locked():
            rows = self._database.execute(
                "SELECT f.tag FROM marks m JOIN fields f ON f.id = m.field"
                " JOIN dictionaries d ON d.id = m.dictionary"
                f" WHERE f.kind = 'tag' AND m.value IS NOT NULL AND {whole}"
                " GROUP BY f.id ORDER BY COUNT(*) DESC, f.tag"
            )
            return [tag for (tag,) in rows]

    def changed_elsewhere(self) -> bool:
        """Whether another session changed something since the last call; reads nothing.

        Never blocks: while this session is writing, a change is reported by the next call.
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
        """Marked features of a dictionary, or only one.

        Raises:
            DamagedError: a mark is damaged that was not when the file was opened.
        """
        with self._locked():
            known = {each.sha256: each for each in dictionaries_of(self._database)}
            if sha256 not in known:
                return {}
            fields = fields_of(self._database)
            cells = cells_of(
                self._database, known[sha256], fields, feature, sealed=self._file.sealed
            )
            found: dict[int, Mark] = {}
            alike: dict[tuple[tuple[int, Any], ...], Mark] = {}
            for at, those in groupby(cells, itemgetter(0)):
                key: tuple[tuple[int, Any], ...] = ()
                for _, field, value, damage in those:
                    if damage and damage not in self._damage:
                        raise DamagedError(f"{self.path} is damaged: {damage}: {RESTORE}")
                    if value is not None and not damage:
                        key += ((field, value),)
                if key:
                    found[at] = alike.get(key) or alike.setdefault(key, _mark(key, fields))
        return found

    def _edit(self, selection: Selection, wanted: Callable[[], Wanted]) -> Step | None:
        """One transaction; `wanted` is called inside it, when no other session can write."""
        with self._locked():
            self._demand_place()
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
        """Undo or redo the last step of one stack, and move it to the other."""
        if not taken:
            return None
        with self._locked():
            self._demand_place()
            with transaction(self._database):
                step = replay(self._database, verb, taken[-1])
            given.append(taken.pop())
        return step

    def _demand_place(self) -> None:
        """Refuse to write to a read-only file, or to one that was moved or replaced.

        Raises:
            StoreError: the file cannot be written.
        """
        if self._file.refusal:
            before = self._database
            self._open()  # there may be space now
            before.close()
            if self._file.refusal:
                raise StoreError(self._file.refusal)
        there = False
        with suppress(OSError):
            there = os.path.samestat(self._place, os.stat(self.path))
        if not there:
            raise StoreError(
                f"{self.path} was moved or replaced while open: nothing was changed; "
                "put it back, or restart qlens"
            )


def marks_frame(triage: Triage | None, dictionaries: Mapping[int, str]) -> pl.DataFrame:
    """The marked features of several layers, to be joined on `layer` and `feature`.

    `dictionaries` is the sha256 of each layer's dictionary. Columns: layer, feature, star, reject,
    label, tags (a list by alphabet), note; never null. Without `triage` there are no rows.

    Raises:
        StoreError: marks cannot be read.
    """
    import polars as pl

    schema: dict[str, Any] = {
        "feature": pl.Int32, "star": pl.Boolean, "reject": pl.Boolean,
        "label": pl.String, "tags": pl.List(pl.String), "note": pl.String,
    }  # fmt: skip
    frames = [pl.DataFrame(schema={"layer": pl.Int32, **schema})]
    if triage is not None:
        for layer, sha256 in dictionaries.items():
            rows = pl.DataFrame(triage.columns(sha256), schema)
            frames.append(rows.insert_column(0, pl.lit(layer, pl.Int32).alias("layer")))
    return pl.concat(frames)


class _NothingToDoError(Exception):
    pass


def _mark(cells: Iterable[tuple[int, Any]], fields: Mapping[int, Field]) -> Mark:
    kinds = {fields[field].kind: value for field, value in cells}
    tags = sorted(fields[field].tag for field, _ in cells if fields[field].kind == "tag")
    label, note = (str(kinds.get(kind, "")) for kind in ("label", "note"))
    return Mark("star" in kinds, "reject" in kinds, label, tuple(tags), note)

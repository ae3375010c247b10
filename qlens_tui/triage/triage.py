"""Stars, rejections, tags and notes: what a person decided about features, never lost.

A mark belongs to (sha256 of the dictionary, feature), so that it is found again however the
dictionary is called. Every method that changes something is one transaction, on the disk
when it returns (`triage_file`); sessions on one file see each other's marks, and keep both
where they touched different fields of one feature.

An undo takes back this session's last edit, of however many features, cell by cell, and only
where that edit is still what the cell shows:

    cell shows edit e   ->  value and edit from before e
    else                ->  left alone, counted: somebody changed it since

Cost: a few milliseconds for one feature, a few seconds for a million. Neither torch nor
polars is imported here; only `marks_frame` uses polars.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import index
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal

from lens_core.errors import StoreError
from qlens_tui.triage.database import connect, explained, transaction, triage_path
from qlens_tui.triage.marks import (
    DictionaryName,
    Mark,
    Past,
    Selection,
    Step,
    note_text,
    tag_name,
    whole_characters,
)

if TYPE_CHECKING:
    import polars as pl

_Wanted = dict[tuple[str, str], "str | bool | None"]
"""The value that each (kind, tag) is to have; `None` takes the mark off."""

_ROWS = """
    SELECT m.feature, MAX(f.kind = 'star'), MAX(f.kind = 'reject'),
        GROUP_CONCAT(NULLIF(f.tag, '')), MAX(CASE f.kind WHEN 'note' THEN m.value END)
    FROM marks m JOIN fields f ON f.id = m.field
    WHERE m.dictionary = (SELECT id FROM dictionaries WHERE sha256 = ?)
        AND m.value IS NOT NULL {where}
    GROUP BY m.feature ORDER BY m.feature
"""
# Each chosen feature with the cell of one field, if it has one.
_CHOSEN = """
    chosen c LEFT JOIN marks m
        ON m.dictionary = c.dictionary AND m.feature = c.feature AND m.field = :field
"""
# The changes of one edit with the cells that they were made to.
_REPLAYED = """
    c.edit = :edit AND m.dictionary = c.dictionary AND m.field = c.field
    AND m.feature BETWEEN c.first AND c.last
"""


class Triage:
    """One session on one triage file. Safe to call from several threads, one at a time."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = triage_path() if path is None else path
        self._database = connect(self.path)
        self._file = os.stat(self.path)
        self._lock = RLock()
        self._done: list[Step] = []
        self._undone: list[Step] = []
        self._seen = self._data_version()
        with self._locked():
            self._database.execute(
                "CREATE TEMP TABLE chosen (dictionary, feature, PRIMARY KEY (dictionary, feature))"
                " WITHOUT ROWID"
            )

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
            StoreError: the file cannot be written; nothing was changed.
        """
        wanted: _Wanted = {}
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

        def wanted() -> _Wanted:
            without = self._database.execute(
                f"SELECT 1 FROM {_CHOSEN} WHERE m.value IS NULL LIMIT 1",
                {"field": self._field(kind, "")},
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
        rows = self._rows(sha256, "AND m.feature = ?", index(feature))
        return next((_mark(*marks) for _, *marks in rows), Mark())

    def marks(self, sha256: str) -> dict[int, Mark]:
        """The marked features of a dictionary, in order; equal marks are one object."""
        alike: dict[tuple[Any, ...], Mark] = {}
        found = {}
        for feature, *marks in self._rows(sha256):
            key = tuple(marks)
            found[feature] = alike.get(key) or alike.setdefault(key, _mark(*marks))
        return found

    def columns(self, sha256: str) -> dict[str, list[Any]]:
        """The same as columns: feature, star and reject (0 or 1), tags ("a,b" or None), note."""
        names = ("feature", "star", "reject", "tags", "note")
        columns = zip(*self._rows(sha256), strict=True)
        return dict(zip(names, map(list, columns), strict=False)) or {name: [] for name in names}

    def tags(self) -> list[str]:
        """The tags in use, most used first."""
        with self._locked():
            rows = self._database.execute(
                "SELECT f.tag FROM fields f JOIN marks m ON m.field = f.id WHERE f.kind = 'tag'"
                " AND m.value IS NOT NULL GROUP BY f.id ORDER BY COUNT(*) DESC, f.tag"
            )
            return [tag for (tag,) in rows]

    def history(self, sha256: str, feature: int) -> list[Past]:
        """All edits of a feature's marks, oldest first, those that were undone too."""
        with self._locked():
            rows = self._database.execute(
                "SELECT e.at, e.what, f.kind, f.tag, c.before, c.after FROM changes c"
                " JOIN edits e ON e.id = c.edit JOIN fields f ON f.id = c.field"
                " WHERE c.dictionary = (SELECT id FROM dictionaries WHERE sha256 = ?)"
                " AND ? BETWEEN c.first AND c.last ORDER BY c.edit",
                (sha256, index(feature)),
            ).fetchall()

        def said(value: str | int | None, kind: str, tag: str) -> str:
            return "" if value is None else str(value) if kind == "note" else tag or kind

        return [
            Past(at, what, kind, said(before, kind, tag), said(after, kind, tag))
            for at, what, kind, tag, before, after in rows
        ]

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

    def _rows(self, sha256: str, where: str = "", *more: int) -> list[tuple[Any, ...]]:
        with self._locked():
            found = self._database.execute(_ROWS.format(where=where), (sha256, *more))
            return found.fetchall()

    def _edit(self, selection: Selection, wanted: Callable[[], _Wanted]) -> Step | None:
        """One transaction; `wanted` is asked inside it, when nobody else can write."""
        with self._locked():
            self._check_place()
            try:
                self._choose(selection)
                with transaction(self._database):
                    step = self._set(wanted())
            except _NothingToDoError:
                return None
            finally:
                self._database.execute("DELETE FROM chosen")
            self._done.append(step)
            self._undone.clear()
            return step

    def _choose(self, selection: Selection) -> None:
        """The features as rows of a temporary table, which keeps nobody waiting."""
        for dictionary, features in selection.items():
            number = self._number(dictionary)
            with transaction(self._database, "DEFERRED"):
                self._database.executemany(
                    "INSERT OR IGNORE INTO chosen VALUES (?, ?)",
                    ((number, index(feature)) for feature in features),
                )

    def _set(self, wanted: _Wanted) -> Step:
        what = ", ".join(
            f"{'' if value else 'un'}{kind}{' ' if tag else ''}{tag}"
            for (kind, tag), value in wanted.items()
        )
        edit = self._execute("INSERT INTO edits (what) VALUES (:what)", what=what).lastrowid or 0
        changed = 0
        for (kind, tag), value in wanted.items():
            given = {"edit": edit, "field": self._field(kind, tag), "value": value}
            self._database.executemany(
                f"INSERT INTO changes VALUES ({edit}, ?, {given['field']}, ?, ?, ?, ?, ?)",
                ((*run, value) for run in self._runs(given)),
            )
            changed += self._execute(
                "INSERT INTO marks SELECT c.dictionary, c.feature, :field, :value, :edit"
                f" FROM {_CHOSEN} WHERE m.value IS NOT :value ON CONFLICT DO UPDATE"
                " SET value = excluded.value, edit = excluded.edit",
                **given,
            ).rowcount
        if not changed:
            raise _NothingToDoError
        return Step(edit, what, changed)

    def _runs(self, given: Mapping[str, Any]) -> Iterator[list[Any]]:
        """What is about to change: [dictionary, first, last, value, edit], alike in between."""
        run: list[Any] = []
        for dictionary, feature, value, edit in self._database.execute(
            f"SELECT c.dictionary, c.feature, m.value, IFNULL(m.edit, 0) FROM {_CHOSEN}"
            " WHERE m.value IS NOT :value ORDER BY c.dictionary, c.feature",
            given,
        ):
            if run and run[2:] == [feature - 1, value, edit] and run[0] == dictionary:
                run[2] = feature
                continue
            if run:
                yield run
            run = [dictionary, feature, feature, value, edit]
        if run:
            yield run

    def _replay(self, verb: str, taken: list[Step], given: list[Step]) -> Step | None:
        """Move the last step of one stack to the other, and its cells to the other state."""
        if not taken:
            return None
        before, after = ("c.before", "c.before_edit"), ("c.after", "c.edit")
        (_, standing), (value, edit) = (after, before) if verb == "undo" else (before, after)
        step = taken[-1]
        with self._locked():
            self._check_place()
            with transaction(self._database):
                ((left_alone,),) = self._execute(
                    f"SELECT COUNT(*) FROM changes c, marks m WHERE {_REPLAYED}"
                    f" AND m.edit NOT IN ({standing}, {edit})",
                    edit=step.edit,
                )
                changed = self._execute(
                    f"UPDATE marks AS m SET value = {value}, edit = {edit} FROM changes c"
                    f" WHERE {_REPLAYED} AND m.edit = {standing}",
                    edit=step.edit,
                ).rowcount
                self._execute(
                    "INSERT INTO edits (what) VALUES (:what)", what=f"{verb} of edit {step.edit}"
                )
            given.append(taken.pop())
        return Step(step.edit, step.what, changed, left_alone)

    def _number(self, dictionary: DictionaryName) -> int:
        """The row of a dictionary, with the names that it has now."""
        row = (
            dictionary.sha256,
            whole_characters(dictionary.name),
            whole_characters(dictionary.model),
            dictionary.layer,
        )
        known = self._database.execute(
            "SELECT id FROM dictionaries WHERE (sha256, name, model, layer) = (?, ?, ?, ?)", row
        ).fetchone()
        if known is None:
            self._database.execute(
                "INSERT INTO dictionaries (sha256, name, model, layer) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (sha256) DO UPDATE SET"
                " name = excluded.name, model = excluded.model, layer = excluded.layer",
                row,
            )
            return self._number(dictionary)
        return int(known[0])

    def _field(self, kind: str, tag: str) -> int:
        self._execute(
            "INSERT OR IGNORE INTO fields (kind, tag) VALUES (:kind, :tag)", kind=kind, tag=tag
        )
        ((number,),) = self._execute(
            "SELECT id FROM fields WHERE kind = :kind AND tag = :tag", kind=kind, tag=tag
        )
        return int(number)

    def _execute(self, statement: str, **given: str | int | None) -> sqlite3.Cursor:
        return self._database.execute(statement, given)

    def _check_place(self) -> None:
        """Refuse to write to a file that nobody will find again."""
        try:
            there = os.path.samestat(self._file, os.stat(self.path))
        except OSError:
            there = False
        if not there:
            raise StoreError(
                f"{self.path} was moved or replaced while open: nothing was changed; "
                "put it back, or start qlens again"
            )


def marks_frame(triage: Triage | None, dictionaries: Mapping[int, str]) -> pl.DataFrame:
    """The marked features of several layers, to be joined on `layer` and `feature`.

    `dictionaries` is the sha256 of each layer's. Columns: layer, feature, star, reject, tags
    (a list in alphabetical order), note; never null. No `triage`: no rows.
    """
    import polars as pl

    stored = {"star": pl.Int32, "reject": pl.Int32, "tags": pl.String, "note": pl.String}
    frames = [pl.DataFrame(schema={"layer": pl.Int32, "feature": pl.Int32, **stored})]
    if triage is not None:
        for layer, sha256 in dictionaries.items():
            rows = pl.DataFrame(triage.columns(sha256), {"feature": pl.Int32, **stored})
            frames.append(rows.insert_column(0, pl.lit(layer, pl.Int32).alias("layer")))
    tags = pl.col("tags").str.split(",").list.sort()
    return pl.concat(frames).with_columns(
        pl.col("star", "reject").cast(pl.Boolean),
        tags.fill_null(pl.lit([], pl.List(pl.String))),
        pl.col("note").fill_null(""),
    )


class _NothingToDoError(Exception):
    pass


def _mark(star: int, reject: int, tags: str | None, note: str | None) -> Mark:
    names = tuple(sorted(tags.split(","))) if tags else ()
    return Mark(bool(star), bool(reject), names, note or "")

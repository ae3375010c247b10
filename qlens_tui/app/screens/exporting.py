"""Exporting: ask for features and a file, then write it off the UI thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.screen import Screen

from lens_core.errors import LensError, StoreError
from qlens_tui.app.notices import LONG
from qlens_tui.app.opened import Opened
from qlens_tui.app.screens.choice import Choice
from qlens_tui.app.screens.prompt import Answer, Prompt
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.formats import counted
from qlens_tui.table.known_layer import KnownLayer
from qlens_tui.table.row_reader import RowReader
from qlens_tui.text import visible
from qlens_tui.triage.triage import Triage

if TYPE_CHECKING:
    import polars as pl

    from qlens_tui.table.explanations import Explanations
    from qlens_tui.table.rows import Rows


@dataclass(frozen=True)
class _Scope:
    """A set of features to choose: rows of the table, or marks in all layers."""

    label: str
    rows: Rows | None = None
    starred: bool = False
    marked: bool = False
    tagged: bool = False
    tag: str | None = None


class Exporting:
    """Asks for features and a file, and writes it."""

    def __init__(
        self,
        opened: Opened,
        triage: Future[Triage | None],
        *,
        reader: RowReader,
        table: FeatureTable,
        screen: Screen[Any],
        ascii_only: bool,
    ) -> None:
        self._opened = opened
        self._triage = triage
        self._reader = reader
        self._table = table
        self._screen = screen
        self._ascii = ascii_only

    def ask(self) -> None:
        """Ask for the features, then for the file, then write."""
        try:
            scopes = self._scopes()
        except LensError as error:  # from the triage file
            self._screen.notify(str(error), severity="error")
            return
        if not scopes:
            self._screen.notify("there is nothing to export yet", severity="warning")
            return

        def chosen(index: int | None) -> None:
            if index is not None:
                self._ask_file(scopes[index])

        labels = [visible(scope.label, ascii_only=self._ascii) for scope in scopes]
        choice = Choice("export", labels, ascii_only=self._ascii)
        self._screen.app.push_screen(choice, chosen)

    def _scopes(self) -> list[_Scope]:
        table, opened = self._table, self._opened
        triage = self._triage.result() if self._triage.done() else None
        found = []
        if table.rows is not None and len(table.rows):
            rows, chosen = table.rows, table.chosen
            if len(chosen) > 1:
                selected = rows[chosen.start : chosen.stop]
                found.append(_Scope(f"the {len(chosen):,} selected rows", rows=selected))
            every = f"the {counted(len(rows), 'row')} of the table, in this order"
            found.append(_Scope(every, rows=rows))
        if triage is not None:
            known, layers = len(opened.known), "every layer"
            if opened.session is None or known < len(opened.layers):
                layers = f"the {known} layers that are known so far"
            found.append(_Scope(f"all starred features, of {layers}", starred=True))
            found.append(_Scope(f"all features with any mark, of {layers}", marked=True))
            tags = triage.tags()
            if tags:
                found.append(_Scope(f"all features with any tag, of {layers}", tagged=True))
            found += [_Scope(f"tagged {tag}, in {layers}", tag=tag) for tag in tags]
        return found

    def _ask_file(self, scope: _Scope) -> None:
        from qlens_tui.export.write import check_destination

        def check(text: str) -> str | None:
            if not text.strip():
                return "a file name, ending in .csv, .parquet or .ndjson"
            try:
                check_destination(_path(text))
            except LensError as error:
                return str(error)
            return None

        def confirm(text: str) -> str | None:
            return (
                "this file exists: press enter again to replace it"
                if _path(text).exists()
                else None
            )

        def write(answer: Answer | None) -> None:
            if answer is not None:
                self._screen.run_worker(self._write(scope, _path(answer.text)), group="export")

        prompt = Prompt(
            f"export {scope.label} to",
            value=_free_name(),
            hint=".csv (for spreadsheets), .parquet or .ndjson",
            check=check,
            confirm=confirm,
            ascii_only=self._ascii,
        )
        self._screen.app.push_screen(prompt, write)

    async def _write(self, scope: _Scope, path: Path) -> None:
        opened = self._opened
        known, texts = dict(opened.known), opened.texts
        try:
            count, warnings = await asyncio.to_thread(
                _write, scope, path, known, texts, self._triage, self._reader.explanations
            )
        except (LensError, OSError) as error:
            self._screen.notify(str(error), severity="error", timeout=LONG)
            return
        self._screen.notify(f"wrote {counted(count, 'feature')} to {path}")
        for warning in warnings:
            self._screen.notify(warning, severity="warning", timeout=LONG)


def _free_name() -> str:
    """The first of features.csv, features-2.csv and so on that does not exist."""
    names = ("features.csv", *(f"features-{number}.csv" for number in range(2, 1000)))
    return next((name for name in names if not Path(name).exists()), names[0])


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text.strip()))


def _write(
    scope: _Scope,
    path: Path,
    known: Mapping[int, KnownLayer],
    texts: Sequence[str] | None,
    triage: Future[Triage | None],
    explanations: Explanations | None,
) -> tuple[int, tuple[str, ...]]:
    """Write the file, in a worker thread; returns the number of features, and warnings."""
    import polars as pl

    from lens_core.atlas.files import find_layer, merged_provenance
    from qlens_tui.export.write import export
    from qlens_tui.triage.triage import marks_frame

    if texts is None:
        raise StoreError("the vocabulary is still loading: export when the model is ready")
    shas = {layer: each.sha256 for layer, each in known.items()}
    marks = marks_frame(triage.result(), shas).sort("layer", "feature")
    rows = _rows(scope, marks)
    layers = sorted(rows["layer"].unique().to_list())
    atlases = []
    for layer in layers or sorted(known)[:1]:
        place = known[layer].atlas if layer in known else None
        found = None
        if place is not None:
            found = find_layer(Path(place).parent.parent, Path(place).name)
        if found is None:
            raise StoreError(
                f"layer {layer} has no atlas yet: go there, or press B, and export when it is made"
            )
        atlases.append(found)
    warnings = export(
        rows,
        path,
        atlas=pl.concat([each.scan() for each in atlases]),
        marks=marks,
        explanations=None if explanations is None else explanations.frame(known.values()),
        texts=texts,
        provenance=merged_provenance(atlases),
    )
    return rows.height, warnings


def _rows(scope: _Scope, marks: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    if scope.rows is not None:
        return scope.rows.features()
    if scope.starred:
        return marks.filter("star")
    if scope.marked:
        return marks
    if scope.tagged:
        return marks.filter(pl.col("tags").list.len() > 0)
    return marks.filter(pl.col("tags").list.contains(scope.tag))

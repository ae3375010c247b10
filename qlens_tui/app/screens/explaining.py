"""Explanations from elsewhere: read in the background, then in the table and beside the feature.

The file is read on a thread after the first paint. What was left out of it is said once, as soon
as all layers are known.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.notices import LONG
from qlens_tui.app.opened import Opened
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.table.row_reader import RowReader

if TYPE_CHECKING:
    from qlens_tui.table.explanations import Explanations


class Explaining:
    """Reads the file of explanations."""

    def __init__(
        self,
        file: Path | None,
        opened: Opened,
        *,
        reader: RowReader,
        rows: TableRows,
        screen: Screen[Any],
    ) -> None:
        self._file = file
        self._opened = opened
        self._reader = reader
        self._rows = rows
        self._screen = screen
        self._has_remarked = False

    async def read(self) -> None:
        """Read the file, if there is one, and show its explanations."""
        file = self._file
        if file is None:
            return

        def read() -> Explanations:
            from qlens_tui.table.explanation_files import read_explanations
            from qlens_tui.table.explanations import Explanations

            return Explanations(read_explanations(file))

        try:
            self._reader.explanations = await asyncio.to_thread(read)
        except LensError as error:
            self._screen.notify(f"no explanations: {error}", severity="error", timeout=LONG)
            return
        self._rows.refresh()
        self.remark()

    def remark(self) -> None:
        """Say what was left out of the file, once all layers are known."""
        opened, explanations = self._opened, self._reader.explanations
        is_known = opened.session is not None and {*opened.layers} <= opened.described.keys()
        if explanations is None or self._file is None or not is_known or self._has_remarked:
            return
        self._has_remarked = True
        remarks = explanations.remarks(opened.known, opened.layers)
        if remarks:
            said = f"{self._file.name}: {'; '.join(remarks)}"
            self._screen.notify(said, severity="warning", timeout=LONG)

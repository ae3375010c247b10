"""The lines of the feature table: the head, and one for each feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qlens_tui.app.widgets.column_fit import Fitted
from qlens_tui.app.widgets.line_pane import Line, line
from qlens_tui.app.widgets.table_cells import Values, Writing
from qlens_tui.app.widgets.table_columns import Column
from qlens_tui.table.sort_key import SortKey
from qlens_tui.text import fit

BASELINE, BARS = "feature-table--baseline", "feature-table--bars"
MATCH = "feature-table--match"


@dataclass(frozen=True)
class TableLines:
    """Writes the columns that fit, on lines of a width."""

    fitted: Fitted
    writing: Writing
    width: int

    def row(self, values: Values) -> Line:
        """A feature's line, without the sign of cursor and selection."""
        runs = []
        blank = self.width - 1 - sum(placed.width + 1 for placed in self.fitted.placed)
        for placed in self.fitted.placed:
            column = placed.column
            style = BASELINE if column.is_baseline else BARS if column.reads else ""
            pieces = column.pieces(self.writing, values, placed.width)
            runs += [(text, MATCH if matched else style) for text, matched in pieces]
            # A blank of the same style as its neighbour costs no bytes.
            runs.append((self.writing.edge, "") if placed.edge else (" ", style))
        return line(*runs, " " * blank)

    def heading(self, keys: Sequence[SortKey], lacking: str) -> str:
        """The titles; at the ends, whether there are more columns.

        `lacking`: why there are none that need an atlas.
        """
        before, after = ("<", ">") if self.writing.ascii_only else ("‹", "›")
        text = before if self.fitted.left else " "
        for placed in self.fitted.placed:
            if lacking and placed.column.is_computed:
                return text + lacking
            edge = self.writing.edge if placed.edge else " "
            text += placed.column.heading(placed.width, self._arrow(placed.column, keys), edge)
        return fit(text, self.width - 1, ellipsis="") + after if self.fitted.right else text

    def _arrow(self, column: Column, keys: Sequence[SortKey]) -> str:
        """The sign of a column that the rows are sorted by, with a number if others are too."""
        down, up = ("\\", "/") if self.writing.ascii_only else ("▼", "▲")
        for number, key in enumerate(keys, 1):
            if key.column in column.sources:
                return (down if key.descending else up) + (str(number) if keys[1:] else "")
        return ""

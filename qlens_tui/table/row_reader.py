"""Rows read, joined with marks, filtered and sorted, off the UI's thread.

The frames of layers last shown are kept while they are small, so that walking between a few
layers reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qlens_tui.table.known_layer import KnownLayer
from qlens_tui.triage.triage import Triage, marks_frame

if TYPE_CHECKING:
    import polars as pl

    from qlens_tui.table.rows import Rows

_KEPT_BYTES = 1 << 28  # of frames of layers that are not shown
_MARKS = ("star", "reject", "tags", "note")


class RowReader:
    """Reads layers from their atlases; keeps what it read."""

    def __init__(self, triage: Triage | None) -> None:
        self._triage = triage
        self._frames: dict[int, tuple[KnownLayer, pl.DataFrame]] = {}

    def read(
        self,
        layers: Sequence[KnownLayer],
        texts: Sequence[str] | None,
        *,
        keep: str = "",
        sort: str | None = None,
        descending: bool = False,
    ) -> Rows:
        """The rows of layers that the filter `keep` keeps, sorted; in a worker thread.

        What was read is kept even if nobody waits for the rows any more.

        Raises:
            LensError: the filter or the order needs columns or token strings that are not there.
        """
        from qlens_tui.table.frames import layer_frame, together
        from qlens_tui.table.rows import all_rows, filtered, sorted_by, with_marks

        frames = []
        for known in layers:
            kept = self._frames.get(known.layer)
            if kept is None or kept[0] != known:
                kept = self._frames[known.layer] = known, layer_frame(known)
            frames.append(kept[1])
        frame = together(frames)
        if keep or sort in _MARKS:
            shas = {known.layer: known.sha256 for known in layers}
            frame = with_marks(frame, marks_frame(self._triage, shas))
        rows = all_rows(frame)
        if keep:
            rows = filtered(rows, keep, texts)
        if sort is not None and sort in rows.frame.columns:
            rows = sorted_by(rows, sort, descending, texts)
        return rows

    def nothing(self) -> Rows:
        """No rows at all."""
        from qlens_tui.table.frames import together
        from qlens_tui.table.rows import all_rows

        return all_rows(together(()))

    def frames(self, known: Mapping[int, KnownLayer]) -> dict[int, pl.DataFrame]:
        """The frames that are in memory, of layers that are still known as they were read."""
        return {
            layer: frame
            for layer, (read_as, frame) in list(self._frames.items())  # threads put more there
            if known.get(layer) == read_as
        }

    def forget(self, layer: int) -> None:
        """Let a layer's frame go."""
        self._frames.pop(layer, None)

    def drop_all_but(self, shown: Sequence[int]) -> None:
        """Let go the frames of other layers, those read first, where they are large."""
        others = [layer for layer in list(self._frames) if layer not in shown]
        sizes = [self._frames[layer][1].estimated_size() for layer in others]
        while others and sum(sizes) > _KEPT_BYTES:
            del self._frames[others.pop(0)], sizes[0]

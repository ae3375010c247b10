"""Read rows, join them with marks, filter and sort them, off the UI thread.

Small frames of recently shown layers are kept, so that moving between a few layers reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from qlens_tui.table.known_layer import KnownLayer
from qlens_tui.table.sort_key import SortKey
from qlens_tui.triage.triage import Triage, marks_frame

if TYPE_CHECKING:
    import polars as pl

    from qlens_tui.table.explanations import Explanations
    from qlens_tui.table.rows import Rows

_KEPT_BYTES = 1 << 28  # for frames of layers that are not shown
MARKS_SHOWN = ("star", "reject", "label", "tags", "note")
"""The columns of marks."""


class RowReader:
    """Reads layers from their atlases and keeps their frames."""

    def __init__(self, triage: Future[Triage | None], *, ascii_only: bool = False) -> None:
        """`triage`: the open triage file, or `None`, once this is known.

        `ascii_only`: filters are in the ASCII notation of lists.
        """
        self._triage = triage
        self._ascii = ascii_only
        self.explanations: Explanations | None = None
        """What others say about the features, once it was read."""
        self._frames: dict[int, tuple[KnownLayer, pl.DataFrame]] = {}

    def read(
        self,
        layers: Sequence[KnownLayer],
        texts: Sequence[str] | None,
        *,
        only: Sequence[tuple[int, int]] | None = None,
        keep: str = "",
        sort: Sequence[SortKey] = (),
    ) -> Rows:
        """The rows of layers that the filter `keep` keeps, sorted; in a worker thread.

        `only`: no other features than these, in this order unless they are sorted.

        Waits for the triage file if marks are needed.

        What was read is kept even if the rows are no longer needed.

        Raises:
            LensError: the filter or the order needs columns or token strings that are not there.
        """
        from qlens_tui.table.frames import layer_frame, together
        from qlens_tui.table.rows import all_rows, filtered, only_these, sorted_by, with_marks

        frames, explanations = [], self.explanations
        for known in layers:
            kept = self._frames.get(known.layer)
            if kept is None or kept[0] != known:
                kept = self._frames[known.layer] = known, layer_frame(known)
            explained = [explanations.column(known)] if explanations is not None else []
            frames.append(kept[1].with_columns(explained))
        frame = together(frames)
        if keep or any(key.column in MARKS_SHOWN for key in sort):
            shas = {known.layer: known.sha256 for known in layers}
            frame = with_marks(frame, marks_frame(self._triage.result(), shas))
        rows = all_rows(frame)
        if only is not None:
            rows = only_these(rows, only)
        if keep:
            rows = filtered(rows, keep, texts, ascii_only=self._ascii)
        keys = [key for key in sort if key.column in rows.frame.columns]
        return sorted_by(rows, keys, texts) if keys else rows

    def explanation(self, known: KnownLayer | None, feature: int) -> str:
        """What others say about a feature; empty if nothing is known."""
        if self.explanations is None or known is None:
            return ""
        return self.explanations.of(known, feature)

    def nothing(self) -> Rows:
        """No rows at all."""
        from qlens_tui.table.frames import together
        from qlens_tui.table.rows import all_rows

        return all_rows(together(()))

    def frames(self, known: Mapping[int, KnownLayer]) -> dict[int, pl.DataFrame]:
        """The frames in memory whose layers have not changed since they were read."""
        return {
            layer: frame
            for layer, (read_as, frame) in list(
                self._frames.items()
            )  # other threads may add entries
            if known.get(layer) == read_as
        }

    def forget(self, layer: int) -> None:
        """Drop a layer's frame."""
        self._frames.pop(layer, None)

    def drop_all_but(self, shown: Sequence[int]) -> None:
        """Drop the frames of other layers, oldest first, if they are large."""
        others = [layer for layer in list(self._frames) if layer not in shown]
        sizes = [self._frames[layer][1].estimated_size() for layer in others]
        while others and sum(sizes) > _KEPT_BYTES:
            del self._frames[others.pop(0)], sizes[0]

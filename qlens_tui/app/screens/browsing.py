"""Which rows are in the table and where its cursor is sent: layers, order, filter, ways back.

Rows are read, joined with marks, filtered and sorted off the UI's thread. The frames of layers
last shown are kept while they are small, so that walking between a few layers reads nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from textual.timer import Timer

from lens_core.errors import LensError
from qlens_tui.app.last_visit import KnownLayer, Place
from qlens_tui.text import visible
from qlens_tui.triage.frame import marks_frame

if TYPE_CHECKING:
    import polars as pl

    from qlens_tui.app.screens.workbench import Workbench
    from qlens_tui.table.rows import Rows

_KEPT_BYTES = 1 << 28  # of frames of layers that are not shown
_STOPS = 100
_WHILE_LAYERS_ARRIVE = 0.3  # seconds
_MARKS = ("star", "reject", "tags", "note")


class _Stop(NamedTuple):
    """Somewhere to go back to: the layer that was shown (`None`: all) and the feature."""

    layer: int | None
    feature: tuple[int, int]


class Browsing:
    """The layers there are, the rows of those that are shown, and the way through them."""

    def __init__(self, bench: Workbench, place: Place) -> None:
        self._bench = bench
        self.known: dict[int, KnownLayer] = {each.layer: each for each in place.known}
        self.layer: int | None = place.layer
        """The layer that is shown; `None` for all of them, or before any is known."""
        self.filter, self.sort, self.descending = place.filter, place.sort, place.descending
        if place.everywhere:
            self.layer = None
        self._frames: dict[int, tuple[KnownLayer, pl.DataFrame]] = {}
        self._last: dict[int, int] = {}
        self._behind: list[_Stop] = []
        self._wanted: tuple[int, int] | None = None
        if place.layer is not None and place.feature is not None:
            self._wanted = place.layer, place.feature
        self._insists = self._to_top = False
        self._soon: Timer | None = None

    # Layers.

    @property
    def choices(self) -> list[int | None]:
        """The layers there are, and first all of them where there are several."""
        ready = self._bench.dialogue.ready
        layers = ready.layers if ready is not None else sorted(self.known)
        return [None, *layers] if len(layers) > 1 else list(layers)

    @property
    def frames(self) -> dict[int, pl.DataFrame]:
        """The rows of layers that are in memory."""
        return {
            layer: frame
            for layer, (known, frame) in list(self._frames.items())  # threads put more there
            if self.known.get(layer) == known
        }

    def learn(self, known: KnownLayer) -> None:
        """A layer's dictionary, or its atlas, is known now."""
        if self.known.get(known.layer) == known:
            return
        self.known[known.layer] = known
        if self.layer is None:
            self._refresh_soon()
        elif known.layer == self.layer:
            self.refresh()

    def keep_only(self, layers: Sequence[int]) -> None:
        """Forget what was remembered of layers that the configuration has no more."""
        lost = set(self.known) - set(layers)
        for gone in lost:
            for kept in (self.known, self._frames, self._last):
                kept.pop(gone, None)
        self._behind = [stop for stop in self._behind if stop.feature[0] in layers]
        if lost:
            self._empty("reading")  # there are no marks for rows of what is gone
            self.refresh()

    def begin(self, layers: Sequence[int], at: tuple[int, int] | None) -> None:
        """The layers are known: begin `at` a feature, unless the user is somewhere already."""
        lost = self.layer is not None and self.layer not in layers
        if lost or (self.layer is None and not self.known):
            self.layer = at[0] if at is not None and at[0] in layers else layers[0]
            self._wanted = at

    # The way through them.

    def visited(self, layer: int, feature: int) -> None:
        """The cursor came to a feature: where it goes when the layer is shown again."""
        self._last[layer] = feature

    def step(self, by: int) -> None:
        """The next layer, or one before."""
        choices = self.choices
        if choices:
            at = choices.index(self.layer) if self.layer in choices else 0
            self.go(choices[max(0, min(at + by, len(choices) - 1))])

    def go(self, layer: int | None, feature: int | None = None) -> None:
        """Show a layer (`None`: all); with `feature`, jump to it, to come `back` from later."""
        if layer is None or feature is None:
            if layer != self.layer:
                last = self._last.get(layer) if layer is not None else None
                self._show(layer, None if layer is None or last is None else (layer, last))
            return
        here = self._bench.table.feature
        if here is not None and here != (layer, feature):
            self._behind = [*self._behind[1 - _STOPS :], _Stop(self.layer, here)]
        self._show(None if self.layer is None else layer, (layer, feature), insists=True)

    def back(self) -> None:
        """Return to where the last jump came from, or from a filter that nothing passes."""
        bench, rows = self._bench, self._bench.table.rows
        if self._behind:
            stop = self._behind.pop()
            bench.notify(f"back at {stop.feature[0]}:{stop.feature[1]}")
            self._show(stop.layer, stop.feature, insists=True)
        elif self.filter and rows is not None and not len(rows):
            bench.qlens.toast(f"the filter was taken off: {self.filter}")
            self.filter_by("")
        else:
            bench.notify("there is nothing to go back to: q quits")

    def _show(
        self, layer: int | None, wanted: tuple[int, int] | None, *, insists: bool = False
    ) -> None:
        bench = self._bench
        self._wanted, self._insists = wanted, insists
        if layer == self.layer and wanted is not None and bench.table.move_to(*wanted):
            self._wanted = None
            return  # else a filter hides it, or its rows are being read
        if layer != self.layer:
            self.layer = layer
            # Until the new rows are read nothing of the old layer can be marked by mistake.
            self._empty(f"reading layer {layer}" if layer is not None else "reading")
        needed = wanted[0] if wanted is not None else layer
        if needed is not None:
            bench.dialogue.need_layer(needed)
        self.refresh()
        bench.show_layers()
        bench.save_soon()

    # Order and filter.

    def sort_by(self, column: str) -> None:
        """Sort by a column, largest first where that is what one wants; again: the other way.

        The cursor goes to what was sorted for, the first row; `back` leads to where it was.
        """
        falls = column not in ("feature", "layer", "tags", "note") and "ids" not in column
        self.descending = not self.descending if column == self.sort else falls
        self.sort = column
        here = self._bench.table.feature
        self._behind = [_Stop(self.layer, here)] if here is not None else []
        self._to_top = True
        self.refresh()
        self._bench.save_soon()

    def filter_by(self, text: str) -> None:
        """Keep the rows that a filter keeps; all for an empty one.

        Where the cursor last was it returns to as soon as that feature is shown again. Jumps
        before are not gone back to: the filter would hide what they came from.
        """
        self.filter = text
        self._behind = []
        if self.layer is not None and self.layer in self._last:
            self._wanted, self._insists = (self.layer, self._last[self.layer]), False
        self.refresh()
        self._bench.save_soon()

    def begin_empty(self) -> None:
        """Nothing is known of the layers yet: say so where their features will be."""
        if not self.known:
            self._empty("the features come with the model")

    def wait_for(self, layer: int) -> None:
        """A layer's dictionary is being loaded: say so where its features will be."""
        if layer == self.layer and layer not in self.known:
            self._empty(f"reading layer {layer}")

    def cannot_show(self, layer: int, why: str) -> None:
        """A layer's dictionary was not to be had: say so where its features would be."""
        if layer == self.layer and layer not in self.known:
            self._empty(why)

    def texts_arrived(self) -> None:
        """The vocabulary is there, which words and an order by token wait for."""
        if self.filter or (self.sort or "").endswith("_ids"):
            self.refresh()

    # Rows.

    def refresh(self) -> None:
        """Read, join, filter and sort off this thread; then show."""
        self._bench.run_worker(self._refresh(), exclusive=True, group="rows")

    def _refresh_soon(self) -> None:
        if self._soon is None:
            self._soon = self._bench.set_timer(_WHILE_LAYERS_ARRIVE, self._refresh_now)

    def _refresh_now(self) -> None:
        self._soon = None
        self.refresh()

    async def _refresh(self) -> None:
        bench = self._bench
        layers = [self.layer] if self.layer is not None else sorted(self.known)
        if not layers or not self.known.keys() >= set(layers):
            return
        known = [self.known[layer] for layer in layers]
        asked = self.filter, self.sort, self.descending
        try:
            rows = await asyncio.to_thread(self._rows, known, *asked)
        except (LensError, OSError) as error:
            # The filter stays as it was typed: the atlas or the vocabulary may be on its way.
            making = bench.dialogue.is_tabulating(layers)
            why = "its atlas is being made" if making else str(error)
            self._empty(f"the filter waits: {why}" if self.filter else str(error))
            bench.say()
            return
        self._drop_frames(layers)
        table = bench.table
        table.set_texts(bench.dialogue.texts)
        table.set_rows(rows, "no feature passes the filter" if self.filter else "no features")
        table.set_sort(self.sort, self.descending)
        table.set_marks(bench.marking.marks)
        if self._to_top:
            self._to_top = False
            table.action_first()
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not table.move_to(*wanted) and self._insists and self.filter:
            self._wanted, self.filter = wanted, ""
            bench.notify("the filter was taken off: it hid that feature")
            self.refresh()
            return
        bench.show_layers()
        if len(rows):
            bench.dialogue.show_feature()
        else:
            bench.dialogue.show_nothing()
        bench.say()

    def _rows(
        self, layers: Sequence[KnownLayer], wanted: str, sort: str | None, descending: bool
    ) -> Rows:
        """In a worker thread; what was read is kept even if nobody waits for the rows."""
        from qlens_tui.table.frames import layer_frame, together
        from qlens_tui.table.rows import all_rows, filtered, sorted_by, with_marks

        frames = []
        for known in layers:
            kept = self._frames.get(known.layer)
            if kept is None or kept[0] != known:
                kept = self._frames[known.layer] = known, layer_frame(known)
            frames.append(kept[1])
        frame = together(frames)
        if wanted or sort in _MARKS:
            shas = {known.layer: known.sha256 for known in layers}
            frame = with_marks(frame, marks_frame(self._bench.triage, shas))
        rows, texts = all_rows(frame), self._bench.dialogue.texts
        if wanted:
            rows = filtered(rows, wanted, texts, ascii_only=self._bench.ascii)
        if sort is not None and sort in rows.frame.columns:
            rows = sorted_by(rows, sort, descending, texts)
        return rows

    def _drop_frames(self, shown: Sequence[int]) -> None:
        """Let go the frames of other layers, those read first, where they are large."""
        others = [layer for layer in list(self._frames) if layer not in shown]
        sizes = [self._frames[layer][1].estimated_size() for layer in others]
        while others and sum(sizes) > _KEPT_BYTES:
            del self._frames[others.pop(0)], sizes[0]

    def _empty(self, why: str) -> None:
        from qlens_tui.table.frames import together
        from qlens_tui.table.rows import all_rows

        said = visible(why, ascii_only=self._bench.ascii)
        self._bench.table.set_rows(all_rows(together(())), said)

"""Which rows are in the table, and where its cursor goes: layer, order, filter, history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.alarm import Alarm
from qlens_tui.app.last_visit import LastVisit
from qlens_tui.app.layer_requests import LayerRequests
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature, Listed
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.table.known_layer import KnownLayer
from qlens_tui.table.row_reader import MARKS_SHOWN, RowReader
from qlens_tui.table.sort_key import SortKey, useful_end_first

if TYPE_CHECKING:
    from qlens_tui.table.rows import Rows

_STEPS = 100
_FILTERS = 30
_WHILE_LAYERS_ARRIVE = 0.3  # seconds


class _Step(NamedTuple):
    """What escape goes back to: filter, order and results, and where the cursor was.

    `feature` is `None` where the cursor stays, as after a filter; `layer` is the layer that was
    shown then (`None`: all); `listed` are the results that were shown, if any.
    """

    filter: str
    sort: tuple[SortKey, ...]
    layer: int | None = None
    feature: Feature | None = None
    listed: Listed | None = None


class TableRows:
    """The rows of the layer that is shown, and moving between layers."""

    def __init__(
        self,
        state: State,
        visit: LastVisit,
        *,
        reader: RowReader,
        table: FeatureTable,
        layer_requests: LayerRequests,
        screen: Screen[Any],
        changed: Callable[[], None],
        asked: Callable[[], None],
    ) -> None:
        """`changed` is called when the rows changed, or another layer is being read.

        `asked` is called when the user asked for other rows.
        """
        self._state = state
        self._opened = state.opened
        self._reader = reader
        self._table = table
        self._layer_requests = layer_requests
        self._screen = screen
        self._changed = changed
        self._asked = asked
        self.filter, self.filters, self.sort = visit.filter, visit.filters, visit.sort
        self.listed: Listed | None = visit.listed
        """The results of a search that the table shows, in their order; `None`: all features."""
        state.layer = None if visit.everywhere else visit.layer
        self._last: dict[int, int] = {}
        self._here: Feature | None = None
        self._behind: list[_Step] = []
        self._wanted: Feature | None = None
        if visit.layer is not None and visit.feature is not None:
            self._wanted = visit.layer, visit.feature
        self._insists = self._to_top = False
        self._is_behind = False
        """Whether marks changed since rows were read that depend on them."""
        self.is_awaited = False
        """Whether rows are being read that the user asked for: keys pressed now are for these."""
        self._soon = Alarm(screen.set_timer, self.refresh)

    # Layers.

    def learn(self, known: KnownLayer) -> None:
        """A layer's dictionary or atlas is now known."""
        if self._opened.known.get(known.layer) == known:
            return
        self._opened.known[known.layer] = known
        if self._state.layer is None:
            self._soon.within(_WHILE_LAYERS_ARRIVE)
        elif known.layer == self._state.layer:
            self.refresh()

    def keep_only(self, layers: Sequence[int]) -> None:
        """Forget layers that the configuration no longer has."""
        listed = () if self.listed is None else self.listed.features
        lost = {*self._opened.known, *(layer for layer, _ in listed)} - set(layers)
        for gone in lost:
            self._opened.known.pop(gone, None)
            self._reader.forget(gone)
            self._last.pop(gone, None)
        steps = self._behind
        self._behind = [each for each in steps if not each.feature or each.feature[0] in layers]
        if lost:
            self.listed = None
            self._behind = [each._replace(listed=None) for each in self._behind]
            self._empty("reading")  # rows of removed layers have no marks
            self.refresh()

    def begin(self, layers: Sequence[int], at: Feature | None) -> None:
        """The layers are known: start `at` a feature, unless a layer is already shown."""
        layer = self._state.layer
        if (layer is None and not self._opened.known) or (
            layer is not None and layer not in layers
        ):
            self._state.layer = at[0] if at is not None and at[0] in layers else layers[0]
            self._wanted = at

    # Moving through the layers.

    def visited(self, layer: int, feature: int) -> None:
        """Remember the feature under the cursor, for when the layer is shown again.

        A feature that no longer passes the filter stays until the cursor has left it.
        """
        if self._is_behind and self._here != (layer, feature):
            self.refresh()
        self._last[layer] = feature
        self._here = layer, feature

    def marks_changed(self) -> None:
        """Marks changed, on which a filter or an order may depend."""
        if self.filter or any(key.column in MARKS_SHOWN for key in self.sort):
            self._is_behind = True

    def when_current(self, act: Callable[[], None]) -> None:
        """`act()`, once the filter and the order were applied to the marks as they are now."""

        async def catch_up() -> None:
            await self._refresh()
            act()

        if not self._is_behind:
            act()
            return
        self.is_awaited = True
        self._screen.run_worker(catch_up(), exclusive=True, group="rows")

    def step(self, by: int) -> None:
        """Show the next or a previous layer."""
        choices, layer = self._opened.choices, self._state.layer
        if choices:
            at = choices.index(layer) if layer in choices else 0
            self.go(choices[max(0, min(at + by, len(choices) - 1))])

    def go(self, layer: int | None, feature: int | None = None) -> None:
        """Show a layer (`None`: all); with `feature`, jump to it, so that `back` returns."""
        if layer is None or feature is None:
            if layer != self._state.layer:
                last = self._last.get(layer) if layer is not None else None
                self.listed = None
                self._show(layer, None if layer is None or last is None else (layer, last))
            return
        if self._table.feature != (layer, feature):
            self._remember_place()
        if self.listed is not None and (layer, feature) not in self.listed.features:
            self.listed = None
        shown = None if self._state.layer is None else layer
        self._show(shown, (layer, feature), insists=True)

    def show_listed(self, listed: Listed) -> None:
        """Show only these features, in this order, without a filter; `back` shows all again."""
        self._remember_place()
        self.listed, self.filter, self.sort, self._to_top = listed, "", (), True
        layers = {layer for layer, _ in listed.features}
        self._show(layers.pop() if len(layers) == 1 else None, None, same_rows=False)

    def back(self) -> bool:
        """Undo the last jump, sort or filter; without one, clear the filter of an earlier visit.

        Returns whether there was anything to undo.
        """
        now = _Step(self.filter, self.sort, listed=self.listed)
        while self._behind and self._behind[-1] == now:  # a jump cleared that filter
            self._behind.pop()
        if not self._behind and not self.filter and self.listed is None:
            return False
        step = self._behind.pop() if self._behind else now._replace(filter="", listed=None)
        changes = {
            "filter restored" if step.filter else "filter cleared": step.filter != self.filter,
            "sorted as before": step.sort != self.sort,
            "results restored" if step.listed else "all features": step.listed != now.listed,
        }
        said = [what for what, is_so in changes.items() if is_so]
        self.filter, self.sort = step.filter, step.sort
        self.listed = step.listed
        if step.feature is None:
            self._keep_cursor()
            self._replace()
        else:
            said.append(f"back at {step.feature[0]}:{step.feature[1]}")
            self._show(step.layer, step.feature, insists=True, same_rows=len(said) == 1)
        self._screen.notify(", ".join(said))
        return True

    def _remember_place(self) -> None:
        """Remember this place, for `back`."""
        here = self._table.feature
        if here is not None:
            step = _Step(self.filter, self.sort, self._state.layer, here, self.listed)
            self._behind = [*self._behind[1 - _STEPS :], step]

    def _show(
        self,
        layer: int | None,
        wanted: Feature | None,
        *,
        insists: bool = False,
        same_rows: bool = True,
    ) -> None:
        self._wanted, self._insists = wanted, insists
        is_shown = same_rows and layer == self._state.layer
        if is_shown and wanted is not None and self._table.move_to(*wanted):
            self._wanted = None
            return  # else a filter hides it, or rows are still being read
        if layer != self._state.layer:
            self._state.layer = layer
            # So that nothing in the old layer is marked by mistake while the new rows are read.
            self._empty(f"reading layer {layer}" if layer is not None else "reading")
        needed = wanted[0] if wanted is not None else layer
        if needed is not None:
            self.need(needed)
        self._replace()
        self._changed()

    def need(self, layer: int) -> None:
        """Ask for what a layer lacks; until its dictionary is described, say so in the table."""
        self._layer_requests.need(layer)
        if layer == self._state.layer and layer not in self._opened.known:
            self._empty(f"reading layer {layer}")

    # Order and filter.

    def sort_by(self, column: str, *, adds: bool = False) -> None:
        """Sort by a column, its useful end first; by it alone already: reverse.

        `adds`: as a further key, which orders the rows that the keys before it leave equal; one of
        the keys already: reverse that one.
        """
        key = useful_end_first(column)
        keys = self.sort if adds else [each for each in self.sort[:1] if len(self.sort) == 1]
        if column in (each.column for each in keys):
            self.order(each.reversed if each.column == column else each for each in keys)
        else:
            self.order((*self.sort, key) if adds else (key,))

    def order(self, keys: Iterable[SortKey]) -> None:
        """Sort by these keys; none: in order of layer and feature.

        The cursor goes to the first row; `back` returns to where it was, and to the order before.
        """
        self._remember_place()
        self.sort = tuple(keys)
        self._to_top = True
        self._replace()

    def filter_by(self, text: str) -> None:
        """Show only the rows that pass a filter; all for an empty one. `back` clears it.

        The cursor stays on its feature, or returns to it as soon as that is shown again.
        """
        cleared = _Step("", self.sort, listed=self.listed)
        if self._behind[-1:] != [cleared]:
            self._behind = [*self._behind[1 - _STEPS :], cleared]
        if text:
            others = (each for each in self.filters if each != text)
            self.filters = (*others, text)[-_FILTERS:]
        self.filter = text
        self._keep_cursor()
        self._replace()

    def _keep_cursor(self) -> None:
        layer, here = self._state.layer, self._here
        if layer is not None:
            here = (layer, self._last[layer]) if layer in self._last else None
        self._wanted, self._insists = here, False

    # Rows.

    def begin_empty(self) -> None:
        """No layer is known yet: say so in the table."""
        if not self._opened.known:
            self._empty("features appear once the model is loaded")

    def cannot_show(self, layer: int, why: str) -> None:
        """A layer's dictionary could not be loaded: say so in the table."""
        if layer == self._state.layer and layer not in self._opened.known:
            self._empty(why)

    def texts_arrived(self) -> None:
        """The vocabulary has arrived: apply the filter or order that waited for it."""
        self._table.set_texts(self._opened.texts)
        if self.filter or any(key.column.endswith("_ids") for key in self.sort):
            self.refresh()

    def refresh(self) -> None:
        """Read, join, filter and sort off the UI thread, then show the rows."""
        self._screen.run_worker(self._refresh(), exclusive=True, group="rows")

    def _replace(self) -> None:
        """Show the rows that the user asked for."""
        self.is_awaited = True
        self._asked()
        self.refresh()

    async def _refresh(self) -> None:
        await self._show_rows()
        self.is_awaited = False  # not if another call stopped this one

    async def _show_rows(self) -> None:
        self._is_behind = False
        layer, known, listed = self._state.layer, self._opened.known, self.listed
        layers = [layer] if layer is not None else sorted(known)
        if listed is not None:
            layers = sorted({each for each, _ in listed.features})
        if not layers or not known.keys() >= set(layers):
            return
        try:
            rows = await asyncio.to_thread(
                self._reader.read,
                [known[each] for each in layers],
                self._opened.texts,
                only=None if listed is None else listed.features,
                keep=self.filter,
                sort=self.sort,
            )
        except (LensError, OSError) as error:
            # The filter stays as typed: the atlas or the vocabulary may still arrive.
            making = self._layer_requests.is_tabulating(layers)
            why = "its atlas is being computed" if making else str(error)
            self._empty(f"filter not applied yet: {why}" if self.filter else str(error))
            self._changed()
            return
        self._reader.drop_all_but(layers)
        table = self._table
        had_none = table.rows is None or not len(table.rows)
        table.set_texts(self._opened.texts)
        table.set_rows(rows, _nothing(rows) if self.filter else "no features")
        table.set_sort(self.sort)
        if self._to_top:
            self._to_top = False
            table.action_first()
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not table.move_to(*wanted):
            if self._insists and self.filter:
                self._wanted, self.filter = wanted, ""
                self._screen.notify("filter cleared: it hid that feature")
                await self._show_rows()
                return
            near = rows.nearest(*wanted) if had_none else None
            if near is not None:  # the table had no row to follow
                table.move_to(*rows.feature(near))
        self._changed()

    def _empty(self, why: str) -> None:
        self._table.set_rows(self._reader.nothing(), why)


def _nothing(rows: Rows) -> str:
    """What the table says if a filter keeps no row."""
    elsewhere = "; ll: tag: label: note: look elsewhere" if rows.matches.tokens else ""
    return f"no feature passes the filter (esc: clear{elsewhere})"

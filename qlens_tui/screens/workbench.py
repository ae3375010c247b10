"""The screen that features are triaged on: table, token lists, paths, evidence.

It wires: what the user does becomes requests to the engine and edits of the triage file, what
the engine says goes to the pane it is for. Answers are kept for the features last looked at;
until the engine is ready, the table and the lists of an atlas that is there stand already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.timer import Timer

from lens_core.errors import LensError
from qlens_tui import messages as m
from qlens_tui.completion import Completion
from qlens_tui.inquiry import FeatureKey, Inquiry, duration
from qlens_tui.place import KnownLayer, Place, remember
from qlens_tui.screens import edges, finding, known
from qlens_tui.screens.choice import Choice
from qlens_tui.screens.help import Help, bindings_of
from qlens_tui.screens.marking import Marking
from qlens_tui.screens.reverse_search import ReverseSearch
from qlens_tui.text import token_label, visible
from qlens_tui.triage import Triage, marks_frame
from qlens_tui.widgets.evidence_pane import EvidencePane, WhatIsKnown
from qlens_tui.widgets.feature_table import FeatureTable
from qlens_tui.widgets.key_line import KeyLine
from qlens_tui.widgets.layer_column import LayerColumn
from qlens_tui.widgets.paths_grid import PathsGrid
from qlens_tui.widgets.status_line import StatusLine
from qlens_tui.widgets.token_pane import TokenLook, TokenPane

if TYPE_CHECKING:
    import polars as pl

    from qlens_tui.app import QlensApp
    from qlens_tui.rows import Rows

SIDES: tuple[m.Side, m.Side] = ("value", "key")
PANES = ("table", "value", "key", "paths", "evidence")
Tab = Literal["value", "key", "paths", "evidence"]
_RESTS = 0.08  # seconds on a feature until its paths and evidence are asked for
_SAVE_AFTER = 1.0  # seconds without a move until the place is written
_WATCH_MARKS = 2.0  # seconds between looks for another session's marks


class Workbench(Screen[None]):
    """Everything about one configuration."""

    DEFAULT_CSS = """
    Workbench { layout: vertical; }
    Workbench #upper { height: 1fr; }
    Workbench #lists { height: 1fr; }
    Workbench #value, Workbench #key { width: 1fr; }
    Workbench #key { border-left: solid $foreground 30%; padding-left: 1; }
    Workbench #lower { height: 9; border-top: solid $foreground 30%; }
    Workbench #lists { border-top: solid $foreground 30%; }
    Workbench.-tall #lower { height: 18; }
    Workbench.-tall #paths { height: 8; }
    Workbench #small { display: none; }
    Workbench.-narrow #layers { display: none; }
    Workbench.-narrow #lists { height: 13; }
    Workbench.-narrow #lower { display: none; height: 13; }
    Workbench.-narrow #key { border-left: none; padding-left: 0; }
    Workbench.-narrow.-tab-value #key { display: none; }
    Workbench.-narrow.-tab-key #value { display: none; }
    Workbench.-narrow.-tab-paths #lists, Workbench.-narrow.-tab-evidence #lists { display: none; }
    Workbench.-narrow.-tab-paths #lower, Workbench.-narrow.-tab-evidence #lower { display: block; }
    Workbench.-short.-tab-evidence #paths { display: none; }
    Workbench.-short.-tab-value #evidence, Workbench.-short.-tab-key #evidence,
    Workbench.-short.-tab-paths #evidence { display: none; }
    Workbench.-tiny #upper, Workbench.-tiny #lists, Workbench.-tiny #lower,
    Workbench.-tiny #keys { display: none; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "feature(1)", "Next feature", show=False),
        Binding("k,up", "feature(-1)", "Previous feature", show=False),
        Binding("h,left", "layer(-1)", "Previous layer", show=False),
        Binding("l,right", "layer(1)", "Next layer", show=False),
        Binding("tab", "pane(1)", "Next pane"),
        Binding("shift+tab", "pane(-1)", "Previous pane", show=False),
        Binding("colon", "jump", "Jump to layer:feature", show=False, key_display=":"),
        Binding("slash", "token_search", "Token", key_display="/"),
        Binding("f", "filter", "Filter"),
        Binding("o", "sort", "Sort"),
        Binding("s", "star", "Star"),
        Binding("x", "reject", "Reject"),
        Binding("t", "tag", "Tag"),
        Binding("m", "note", "Note"),
        Binding("u", "undo", "Undo", show=False),
        Binding("ctrl+r", "redo", "Redo", show=False),
        Binding("e", "export", "Export"),
        Binding("1", "transition('identity')", "Identity", show=False),
        Binding("2", "transition('first-order')", "First order", show=False),
        Binding("3", "transition('full')", "Full", show=False),
        Binding("b", "look('other_end')", "Top or bottom lists", show=False),
        Binding("i", "look('ids')", "Token ids", show=False),
        Binding("c", "look('lenses')", "Lenses compared", show=False),
        Binding("plus,equals_sign", "longer(1)", "Longer lists", show=False),
        Binding("minus", "longer(-1)", "Shorter lists", show=False),
        Binding("y", "copy", "Copy", show=False),
        Binding("w", "jobs", "Jobs", show=False),
        Binding("B", "build", "Build operators and atlas", show=False),
        Binding("escape", "back", "Back to the table", show=False),
        Binding("question_mark", "help", "All keys", key_display="?"),
        Binding("q", "quit", "Quit", show=False),
    ]

    def __init__(self, config: Path, place: Place, triage: Triage | None) -> None:
        super().__init__()
        self.config = config
        self._place = place
        self.marking = Marking(self, triage)
        self.ready: m.Ready | None = None
        self.known: dict[int, KnownLayer] = {each.layer: each for each in place.known}
        self._ways: dict[int, m.Layer] = {}
        self._frames: dict[int, pl.DataFrame] = {}
        self.texts: list[str] | None = None
        self.at_layer: int | None = place.layer
        self._insists = False
        self._last: dict[int, int] = {}
        self._wanted: tuple[int, int] | None = None
        if place.layer is not None and place.feature is not None:
            self._wanted = place.layer, place.feature
        self.filter, self._sort, self._descending = place.filter, place.sort, place.descending
        self._tab: Tab = place.tab if place.tab in PANES[1:] else "value"  # type: ignore[assignment]
        self._k = place.k
        self.settings = m.Settings(
            transition=place.transition or "full",  # type: ignore[arg-type]
            off=place.off,
        )
        self._state = "starting"
        self._completion: Completion | None = None
        self._reverse: ReverseSearch | None = None
        self._saver: Timer | None = None
        self._rest: Timer | None = None

    @cached_property
    def inquiry(self) -> Inquiry:
        """What is asked of the engine and what it answered."""
        return Inquiry(lambda request: self.qlens.engine.send(request))

    @property
    def qlens(self) -> QlensApp:
        from qlens_tui.app import QlensApp

        assert isinstance(self.app, QlensApp)
        return self.app

    @property
    def ascii(self) -> bool:
        return self.qlens.ascii_only

    def compose(self) -> ComposeResult:
        plain = self.ascii
        look = TokenLook(
            end="bottom" if self._place.bottom else "top", ids=self._place.ids, length=None
        )
        yield StatusLine(ascii_only=plain, id="status")
        with Horizontal(id="upper"):
            yield LayerColumn(ascii_only=plain, id="layers")
            yield FeatureTable(ascii_only=plain, id="table")
        with Horizontal(id="lists"):
            yield TokenPane("value", look=look, ascii_only=plain, id="value")
            yield TokenPane("key", look=look, ascii_only=plain, id="key")
        with Vertical(id="lower"):
            yield PathsGrid(ascii_only=plain, id="paths")
            yield EvidencePane(ascii_only=plain, id="evidence")
        yield KeyLine(ascii_only=plain, id="keys")

    def on_mount(self) -> None:
        self.paths.ask(frozenset(self.settings.off), self.settings.transition)
        self._show_tab()
        self.table.focus()
        self._say("starting the engine")
        if self.known:
            self.refresh_rows()
        self.set_interval(_WATCH_MARKS, self.marking.watch)

    @property
    def table(self) -> FeatureTable:
        return self.query_one(FeatureTable)

    @property
    def paths(self) -> PathsGrid:
        return self.query_one(PathsGrid)

    @property
    def evidence(self) -> EvidencePane:
        return self.query_one(EvidencePane)

    def pane(self, side: m.Side) -> TokenPane:
        return self.query_one(f"#{side}", TokenPane)

    # What the engine says.

    def engine_started(self) -> None:
        """A new process is up, or a new session: what was asked before will not be answered."""
        self.inquiry.forget()
        self.ready = None
        self._say("opening")

    def hear(self, event: m.Event) -> None:
        """An event of the engine."""
        request = self.inquiry.asked.get(event.id)
        if isinstance(event, m.Status):
            self._progress(event, request)
            return
        # Several layers answer one request; a notice answers none.
        if not isinstance(event, m.Layer | m.Notice):
            self.inquiry.answered(event.id)
        match event:
            case m.Ready():
                self._opened(event)
            case m.Layer():
                if isinstance(request, m.DescribeLayer):
                    self.inquiry.answered(event.id)
                self._learn(event)
            case m.Vocabulary():
                self.texts, self._completion = list(event.tokens), None
                self.qlens.keep_vocabulary(event.tokens)
                self._texts_arrived()
            case m.Signature() if isinstance(request, m.Sign):
                self.inquiry.signatures.put(_key_of(request), event)
                self._show_signature(event)
            case m.Paths() if isinstance(request, m.Split):
                self.inquiry.paths.put((event.side, *_key_of(request)), event)
                self._show_paths(event)
            case m.Evidence():
                self.inquiry.evidence.put((event.layer, event.feature), event)
                self._show_evidence(event)
            case m.Found():
                if self._reverse is not None:
                    self._reverse.found(event)
            case m.AtlasReady():
                self._atlas_ready(event)
            case m.Built():
                self.notify("operators built: every feature is now answered by them")
                self.inquiry.forget_answers()
                self.qlens.reopen()
            case m.Notice():
                self.qlens.toast(event.text, "warning")
            case m.Failed():
                self._failed(event, request)
        self._say()

    def died(self, text: str, again: bool) -> None:
        """The engine is gone; `again`: another one is being started."""
        self.ready = None
        self.inquiry.forget()
        if self._reverse is not None:
            self._reverse.failed(text)
        for pane in (self.pane("value"), self.pane("key"), self.paths, self.evidence):
            feature = self.table.feature
            if feature is not None and pane.waiting:
                pane.fail(*feature, text)
        self._say("restarting the engine" if again else "no engine: B starts it")

    def _opened(self, ready: m.Ready) -> None:
        self.ready = ready
        for gone in [layer for layer in self.known if layer not in ready.layers]:
            for kept in (self.known, self._frames, self._last, self.marking.marks):
                kept.pop(gone, None)
        off = tuple(block for block in self.settings.off if block < len(ready.blocks))
        self.settings = replace(self.settings, off=off)
        self._k = self._k or ready.k
        if self.settings == m.Settings(off=self.settings.off) and not self._place.transition:
            self.settings = replace(ready.settings, off=self.settings.off)
        else:
            self.settings = replace(
                ready.settings, transition=self.settings.transition, off=self.settings.off
            )
        self.paths.ask(frozenset(self.settings.off), self.settings.transition)
        if self.at_layer not in (None, *ready.layers) or (self.at_layer is None and not self.known):
            start = self.qlens.begin_at
            self.at_layer = start[0] if start and start[0] in ready.layers else ready.layers[0]
            self._wanted = start
        # The engine serves in its own order: the layer in sight first.
        if self.at_layer is not None:
            self.inquiry.ask(m.DescribeLayer(layer=self.at_layer))
        self.inquiry.ask(m.ReadVocabulary())
        self.inquiry.ask(m.DescribeLayers())
        self._show_feature()

    def _learn(self, event: m.Layer) -> None:
        self._ways[event.layer] = event
        before = self.known.get(event.layer)
        self.known[event.layer] = KnownLayer(
            event.layer, event.sha256, event.dictionary, event.n_features, event.atlas
        )
        if before is not None and before.sha256 != event.sha256:
            self.inquiry.forget_answers()
        if before != self.known[event.layer]:
            self._frames.pop(event.layer, None)
        if event.layer == self.at_layer or self.at_layer is None:
            if event.layer not in self._frames:
                self.refresh_rows()
            else:
                self._show_feature()
        if event.atlas is None and event.layer == self.at_layer and event.operators != "none":
            self._tabulate(event.layer)
        self._show_layers()
        self._save_soon()

    def _tabulate(self, layer: int) -> None:
        self.inquiry.ask_once(m.Tabulate(layer=layer), job=f"atlas of layer {layer}")

    def _atlas_ready(self, event: m.AtlasReady) -> None:
        known = self.known.get(event.layer)
        if known is not None:
            self.known[event.layer] = replace(known, atlas=event.directory)
            self._frames.pop(event.layer, None)
            if self.at_layer in (None, event.layer):
                self.refresh_rows()
            self._save_soon()

    def _progress(self, event: m.Status, request: m.Request | None) -> None:
        job = self.inquiry.jobs.get(event.id)
        if job is not None:
            job.update(event)
        doing = event.text
        if event.total:
            doing += f" {event.done}/{event.total}"
        if event.eta is not None:
            doing += f", {duration(event.eta)} left"
        match request:
            case m.Sign():
                for side in SIDES:
                    self.pane(side).expect(request.layer, request.feature, doing)
            case m.Split():
                self.paths.expect(request.layer, request.feature, doing)
            case m.Examine():
                # One pass serves a layer: the cursor may have moved on in it.
                here = self.table.feature
                if here is not None and here[0] == request.layer:
                    self.evidence.expect(*here, doing)
            case m.Open():
                self._state = doing
        self._say()

    def _failed(self, event: m.Failed, request: m.Request | None) -> None:
        text = event.text
        match request:
            case m.Sign():
                for side in SIDES:
                    self.pane(side).fail(request.layer, request.feature, text)
            case m.Split():
                self.paths.fail(request.layer, request.feature, text)
            case m.Examine() if self.table.feature == (request.layer, request.feature):
                self.evidence.fail(request.layer, request.feature, text)
            case m.Search():
                if self._reverse is not None:
                    self._reverse.failed(text)
            case m.Open():
                self._state = "cannot open: B tries again"
                self.qlens.toast(text, "error", long=True)
            case _:
                self.qlens.toast(text, "error")

    # What is asked of it.

    def _key(self, layer: int, feature: int) -> FeatureKey:
        return layer, feature, self.settings, self._k

    def remember_texts(self, tokens: list[str]) -> None:
        """Token strings kept from the last visit, until the engine tells its own."""
        if self.texts is None:
            self.texts = tokens
            self._texts_arrived()

    def _texts_arrived(self) -> None:
        self.table.set_texts(self.texts)
        self._show_from_atlas()
        if self.filter or (self._sort or "").endswith("_ids"):
            self.refresh_rows()

    def _show_feature(self) -> None:
        """Fill the panes for the feature under the cursor: from what is kept, else by asking."""
        feature = self.table.feature
        key = None if feature is None else self._key(*feature)
        self.inquiry.stop_what_is_stale(key)
        if feature is None or key is None:
            return
        layer, number = feature
        signature = self.inquiry.signatures.get(key)
        if signature is not None:
            self._show_signature(signature)
        else:
            for side in SIDES:
                self.pane(side).expect(*feature, self._waiting_word())
            self._show_from_atlas()
            self._ask(m.Sign(layer=layer, feature=number, settings=self.settings, k=self._k))
        paths = {side: self.inquiry.paths.get((side, *key)) for side in SIDES}
        if None in paths.values():
            self.paths.expect(*feature, self._waiting_word())
        for found in paths.values():
            if found is not None:
                self._show_paths(found)
        evidence = self.inquiry.evidence.get(feature)
        if evidence is not None:
            self._show_evidence(evidence)
        else:
            self.evidence.expect(*feature, self._waiting_word())
        # Whoever walks on at once does not wait for what takes longer.
        if self._rest is not None:
            self._rest.stop()
        self._rest = self.set_timer(_RESTS, self._ask_at_rest)

    def _ask_at_rest(self) -> None:
        feature = self.table.feature
        if feature is None:
            return
        key = self._key(*feature)
        layer, number = feature
        for side in SIDES:
            if (side, *key) not in self.inquiry.paths:
                self._ask(
                    m.Split(
                        layer=layer, feature=number, side=side, settings=self.settings, k=self._k
                    )
                )
        if feature not in self.inquiry.evidence:
            self._ask(m.Examine(layer=layer, feature=number))

    def _ask(self, request: m.Request) -> None:
        if self.ready is not None:
            self.inquiry.ask_once(request)

    def _waiting_word(self) -> str:
        return "computing" if self.ready is not None else f"waiting for the model: {self._state}"

    def _show_from_atlas(self) -> None:
        """The feature's lists from its atlas row, until the engine has answered."""
        feature, rows = self.table.feature, self.table.rows
        plain = self.settings.transition == "full" and not self.settings.off
        if (
            feature is None
            or rows is None
            or not plain
            or self.pane("value").look.end == "bottom"
            or self._key(*feature) in self.inquiry.signatures
        ):
            return
        from qlens_tui.features import signature_of

        row = rows.page(self.table.row, 1, rows.frame.columns)[0]
        ready = self.ready
        tokens = ready.reference.n_tokens if ready is not None else self._place.tokens
        found = signature_of(row, self.texts, n_tokens=tokens, operators=self._origin(feature[0]))
        if found is not None:
            self._show_signature(found, settled=False)

    def _origin(self, layer: int) -> m.OperatorsFrom:
        return self._ways[layer].operators if layer in self._ways else "built"

    def _show_signature(self, signature: m.Signature, *, settled: bool = True) -> None:
        if self.table.feature != (signature.layer, signature.feature):
            return
        if settled and self._key(signature.layer, signature.feature) not in self.inquiry.signatures:
            return  # of other settings than those asked for now
        way = self._ways.get(signature.layer)
        stored = "float16" if signature.operators == "shipped" else ""
        out, into = (way.value_blocks, way.key_blocks) if way is not None else (None, None)
        self.pane("value").show_signature(signature, out, stored)
        self.pane("key").show_signature(signature, into, stored)

    def _show_paths(self, paths: m.Paths) -> None:
        if self.table.feature == (paths.layer, paths.feature) and self.ready is not None:
            self.paths.show_paths(paths, self.ready.n_layers)

    def _show_evidence(self, evidence: m.Evidence) -> None:
        feature = evidence.layer, evidence.feature
        if self.table.feature != feature:
            return
        signature = self.inquiry.signatures.get(self._key(*feature))
        near = (*evidence.by_value, *evidence.by_key)
        self.evidence.show(
            WhatIsKnown(
                evidence,
                signature,
                labels=known.labels(
                    [(each.layer, each.feature) for each in near], self._frames, self.texts
                ),
                provenance=tuple(known.provenance(self.ready, self._ways.get(evidence.layer))),
            )
        )

    # The table.

    @work(exclusive=True, group="rows", thread=False)
    async def refresh_rows(self) -> None:
        """Read, join, filter and sort off this thread; then show."""
        layers = self._layers_shown()
        if not layers:
            return
        asked = self.filter, self._sort, self._descending
        try:
            frames, rows = await asyncio.to_thread(
                self._rows, layers, dict(self._frames), dict(self.known), *asked
            )
        except (LensError, OSError) as error:
            # The filter stays as it was typed: the atlas or the vocabulary may be on its way.
            self._empty_table(f"waits: {error}" if self.filter else str(error))
            self._say()
            return
        self._frames.update(
            {layer: frame for layer, frame in frames.items() if layer in self.known}
        )
        for layer in frames:
            self.marking.read(layer)
        table = self.table
        table.set_texts(self.texts)
        nothing = "no feature passes the filter" if self.filter else "no features"
        table.set_rows(rows, nothing)
        table.set_sort(self._sort, self._descending)
        table.set_marks(self.marking.marks)
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not table.move_to(*wanted) and self._insists and self.filter:
            self._wanted, self.filter = wanted, ""
            self.notify("the filter was taken off: it hid that feature")
            self.refresh_rows()
            return
        self._show_layers()
        self._show_feature()
        self._say()

    def _layers_shown(self) -> list[int]:
        if self.at_layer is None:
            return sorted(self.known)
        return [self.at_layer] if self.at_layer in self.known else []

    def _rows(
        self,
        layers: Sequence[int],
        kept: dict[int, pl.DataFrame],
        known: dict[int, KnownLayer],
        wanted: str,
        sort: str | None,
        descending: bool,
    ) -> tuple[dict[int, pl.DataFrame], Rows]:
        """In a worker thread: frames that were read, and the rows to show."""
        from qlens_tui.features import layer_frame, together
        from qlens_tui.rows import all_rows, filtered, sorted_by, with_marks

        read = {k: layer_frame(known[k])[0] for k in layers if k not in kept}
        frame = together([(kept | read)[layer] for layer in layers])
        if wanted or (sort in ("star", "reject", "tags", "note")):
            shas = {layer: known[layer].sha256 for layer in layers}
            frame = with_marks(frame, marks_frame(self.marking.triage, shas))
        rows = all_rows(frame)
        if wanted:
            rows = filtered(rows, wanted, self.texts)
        if sort is not None and sort in rows.frame.columns:
            rows = sorted_by(rows, sort, descending, self.texts)
        return read, rows

    def on_feature_table_feature_focused(self, event: FeatureTable.FeatureFocused) -> None:
        event.stop()
        if event.layer is not None and event.feature is not None:
            self._last[event.layer] = event.feature
        self._show_feature()
        self._say()
        self._save_soon()

    def on_feature_table_selection_changed(self, event: FeatureTable.SelectionChanged) -> None:
        event.stop()
        self._say()

    def on_feature_table_sort_requested(self, event: FeatureTable.SortRequested) -> None:
        event.stop()
        if event.column is None:
            self.action_sort()
        else:
            self.sort_by(event.column)

    def on_layer_column_layer_chosen(self, event: LayerColumn.LayerChosen) -> None:
        event.stop()
        self.go_to_layer(event.layer)

    def action_feature(self, by: int) -> None:
        self.table.action_move(by)

    def action_layer(self, by: int) -> None:
        layers = self.all_layers()
        if layers:
            at = layers.index(self.at_layer) if self.at_layer in layers else 0
            self.go_to_layer(layers[max(0, min(at + by, len(layers) - 1))])

    def all_layers(self) -> list[int | None]:
        known = self.ready.layers if self.ready is not None else sorted(self.known)
        return [None, *known] if len(known) > 1 else list(known)

    def go_to_layer(self, layer: int | None, feature: int | None = None) -> None:
        """Show a layer (`None`: all), the cursor on `feature` if one is named."""
        self._wanted, self._insists = None, feature is not None
        if feature is not None and layer is not None:
            self._wanted = layer, feature
            if self.at_layer in (layer, None):
                if self.table.move_to(layer, feature):
                    self._wanted = None
                    return
                layer = self.at_layer  # a filter hides it, or its rows are being read
        elif layer == self.at_layer:
            return
        elif layer in self._last:
            self._wanted = layer, self._last[layer]
        if layer != self.at_layer:
            self.at_layer = layer
            # Until the new rows are read nothing of the old layer can be marked by mistake.
            self._empty_table(f"reading layer {layer}" if layer is not None else "reading")
        if layer is not None and layer not in self.known:
            self._ask(m.DescribeLayer(layer=layer))
        elif (
            layer is not None
            and self.ready is not None
            and self.known[layer].atlas is None
            and self._origin(layer) != "none"
        ):
            self._tabulate(layer)
        self.refresh_rows()
        self._show_layers()
        self._save_soon()

    def _empty_table(self, why: str) -> None:
        from qlens_tui.features import together
        from qlens_tui.rows import all_rows

        self.table.set_rows(all_rows(together(())), visible(why, ascii_only=self.ascii))

    def action_jump(self) -> None:
        finding.ask_jump(self)

    def action_sort(self) -> None:
        finding.ask_sort(self)

    def action_filter(self) -> None:
        finding.ask_filter(self)

    @property
    def order(self) -> tuple[str | None, bool]:
        """The column that the rows are sorted by, and whether it falls."""
        return self._sort, self._descending

    def sort_by(self, column: str) -> None:
        """Sort by a column, largest first where that is what one wants; again: the other way."""
        falls = column not in ("feature", "layer", "tags", "note") and "ids" not in column
        self._descending = not self._descending if column == self._sort else falls
        self._sort = column
        self.refresh_rows()
        self._save_soon()

    def filter_by(self, text: str) -> None:
        """Keep the rows that a filter keeps; none for an empty one."""
        self.filter = text
        self.refresh_rows()
        self._save_soon()

    # Blocks, lists and panes.

    def on_paths_grid_blocks_toggled(self, event: PathsGrid.BlocksToggled) -> None:
        event.stop()
        self.settings = replace(self.settings, off=tuple(sorted(event.off)))
        self._show_feature()
        self._say()
        self._save_soon()

    def on_paths_grid_transition_chosen(self, event: PathsGrid.TransitionChosen) -> None:
        event.stop()
        self.settings = replace(self.settings, transition=event.transition)
        self._show_feature()
        self._say()
        self._save_soon()

    def action_transition(self, transition: m.Transition) -> None:
        self.paths.action_transition(transition)

    def on_token_pane_look_changed(self, event: TokenPane.LookChanged) -> None:
        event.stop()
        for side in SIDES:
            self.pane(side).look = event.look
        length = event.look.length
        if length is not None and self._k is not None and length > self._k:
            self._k = length
            self._show_feature()
        self._save_soon()

    def action_look(self, what: str) -> None:
        getattr(self.pane("value"), f"action_{what}")()

    def action_longer(self, by: int) -> None:
        self.pane("value").action_lengthen(by)

    def on_evidence_pane_feature_chosen(self, event: EvidencePane.FeatureChosen) -> None:
        event.stop()
        self.go_to_layer(event.layer, event.feature)

    def action_pane(self, by: int) -> None:
        at = PANES.index(self.focused.id) if self.focused and self.focused.id in PANES else 0
        self.focus_pane(PANES[(at + by) % len(PANES)])

    def focus_pane(self, name: str) -> None:
        if name != "table":
            self._tab = name  # type: ignore[assignment]
            self._show_tab()
        self.query_one(f"#{name}").focus()
        self._save_soon()

    def _show_tab(self) -> None:
        for name in PANES[1:]:
            self.set_class(name == self._tab, f"-tab-{name}")

    def action_back(self) -> None:
        self.table.focus()

    def on_descendant_focus(self) -> None:
        self._show_keys()

    def on_resize(self, event: events.Resize) -> None:
        width, height = event.size.width, event.size.height
        tiny = width < 80 or height < 24
        self.set_class(tiny, "-tiny")
        self.set_class(width < 120, "-narrow")
        self.set_class(width >= 120 and height >= 44, "-tall")
        self.set_class(not (width >= 120 and height >= 44), "-short")
        self._say()

    # Marks.

    @property
    def triage(self) -> Triage | None:
        return self.marking.triage

    @property
    def layers_at_hand(self) -> list[int]:
        """The layers whose rows have been read."""
        return list(self._frames)

    @property
    def model_name(self) -> str:
        return self.ready.model if self.ready is not None else self._place.model

    def show_marks(self) -> None:
        """Show the marks as they are now."""
        self.table.set_marks(dict(self.marking.marks))
        self._show_layers()

    def action_star(self) -> None:
        self.marking.toggle("star")

    def action_reject(self) -> None:
        self.marking.toggle("reject")

    def action_tag(self) -> None:
        self.marking.tag()

    def action_note(self) -> None:
        self.marking.note()

    def action_undo(self) -> None:
        self.marking.undo()

    def action_redo(self) -> None:
        self.marking.redo()

    # Search, export, copy, jobs, help.

    def action_token_search(self) -> None:
        if self.ready is None or self.texts is None:
            self.notify("search needs the model: it is still loading", severity="warning")
            return
        if self._completion is None:
            self._completion = Completion(self.texts)
        finding.ask_token(self, self._completion, self.texts)

    def search(self, token_id: int, token: str) -> None:
        """Open the hits for a token."""

        def leave(hit: tuple[int, int] | None) -> None:
            self._reverse = None
            if hit is not None:
                self.go_to_layer(*hit)

        self._reverse = ReverseSearch(self, token_id, token, self.at_layer)
        self.app.push_screen(self._reverse, leave)

    def labels_of(self, layer: int, feature: int) -> str:
        """The first tokens that a feature promotes, for a line in a list."""
        named = known.labels([(layer, feature)], self._frames, self.texts)
        found = named.get((layer, feature), ())
        return " ".join(token_label(token, ascii_only=self.ascii) for token in found)

    def action_export(self) -> None:
        from qlens_tui.screens.exporting import ask_and_export

        ask_and_export(self)

    def action_copy(self) -> None:
        """The focused pane's text; of the table, the row's lists."""
        focused = self.focused
        lines = getattr(focused, "lines", [])
        feature = self.table.feature
        if isinstance(focused, FeatureTable):
            lines = [line for side in SIDES for line in self.pane(side).lines]
        if feature is not None and lines:
            self.qlens.copy("\n".join(line.rstrip() for line in lines) + "\n")

    def action_jobs(self) -> None:
        def lines() -> list[str]:
            shown = (f"{job.name}: {job.progress}" for job in self.inquiry.jobs.values())
            return [visible(line, ascii_only=self.ascii) for line in shown]

        def cancel(choice: Choice, index: int | None) -> None:
            numbers = list(self.inquiry.jobs)
            if index is not None and index < len(numbers):
                self.inquiry.cancel(numbers[index])

        choice = Choice(
            "jobs", lines(), nothing="nothing long is being done",
            keys=(("d", "cancel", cancel),), ascii_only=self.ascii,
        )  # fmt: skip
        timer = self.set_interval(0.5, lambda: choice.show(lines()))
        self.app.push_screen(choice, lambda _index: timer.stop())

    def action_build(self) -> None:
        if self.qlens.engine.pid is None:
            self.qlens.restart_engine()
            return
        if self.ready is None:
            if any(isinstance(request, m.Open) for request in self.inquiry.asked.values()):
                self.notify("the model is still loading", severity="warning")
            else:
                self.qlens.reopen()
            return
        if self.ready.operators == "built":
            for layer in self.ready.layers:
                self._tabulate(layer)
            self.notify("operators are built; the atlas of every layer is being made (w: jobs)")
            return
        self.inquiry.ask_once(m.Build(), job="operators")
        self.notify("building the operators (w: jobs)")

    def action_help(self) -> None:
        self.app.push_screen(Help(list(self.sections()), ascii_only=self.ascii))

    def sections(self) -> Iterable[tuple[str, list[Binding]]]:
        """All bindings by where they work, for help and palette."""
        yield "everywhere", list(bindings_of(self.BINDINGS))
        for title, pane in (
            ("table", FeatureTable),
            ("token lists", TokenPane),
            ("paths", PathsGrid),
            ("evidence", EvidencePane),
        ):
            yield title, list(bindings_of(pane.BINDINGS))

    async def action_quit(self) -> None:
        await self.qlens.action_quit()

    # What the lines at the edges say.

    def _say(self, state: str | None = None) -> None:
        if state is not None:
            self._state = state
        if not self.is_attached or not self.query("#status"):
            return
        if self.has_class("-tiny"):
            size = self.app.size
            words = f"80x24 is the least; this is {size.width}x{size.height}"
            self.query_one(StatusLine).tell([[words]], "")
            return
        doing = edges.now(self, self.inquiry.jobs, self._state)
        self.query_one(StatusLine).tell(edges.where(self), doing)
        self._show_keys()

    def _show_layers(self) -> None:
        self.query_one(LayerColumn).tell(self.all_layers(), self.at_layer, self.marking.stars)

    def _show_keys(self) -> None:
        self.query_one(KeyLine).tell(edges.keys(self))

    # The place.

    def current_place(self) -> Place:
        """Where the user is, to come back to."""
        feature = self.table.feature
        look = self.pane("value").look
        layer, number = feature if feature is not None else (self.at_layer, None)
        return Place(
            layer=layer,
            feature=number,
            sort=self._sort,
            descending=self._descending,
            filter=self.filter,
            k=self._k if self.ready is None or self._k != self.ready.k else None,
            transition=self.settings.transition,
            off=self.settings.off,
            tab=self._tab,
            ids=look.ids,
            bottom=look.end == "bottom",
            theme=self.app.theme,
            model=self.model_name,
            tokens=self.ready.reference.n_tokens if self.ready else self._place.tokens,
            known=tuple(self.known[layer] for layer in sorted(self.known)),
        )

    def _save_soon(self) -> None:
        if self._saver is not None:
            self._saver.stop()
        self._saver = self.set_timer(_SAVE_AFTER, self.save)

    def save(self) -> None:
        """Write the place now."""
        if self.known:
            remember(self.config, self.current_place())


def _key_of(request: m.Sign | m.Split) -> FeatureKey:
    return request.layer, request.feature, request.settings, request.k

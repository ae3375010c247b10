"""The screen that features are triaged on: table, token lists, paths, evidence.

It wires: what the user does becomes requests to the engine and edits of the triage file, what
the engine says goes to the pane it is for. Answers are kept for the features last looked at;
until the engine is ready, the table and the lists of an atlas that is there stand already.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui import messages as m
from qlens_tui.completion import Completion
from qlens_tui.marks import DictionaryName, Mark, Step
from qlens_tui.place import KnownLayer, Place, remember
from qlens_tui.screens.choice import Choice
from qlens_tui.screens.help import Help, bindings_of, keys_of
from qlens_tui.screens.note import NoteEditor
from qlens_tui.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.screens.reverse_search import ReverseSearch
from qlens_tui.text import fit, token_label, visible
from qlens_tui.triage import Triage, marks_frame
from qlens_tui.widgets.evidence_pane import EvidencePane, WhatIsKnown
from qlens_tui.widgets.feature_table import FeatureTable
from qlens_tui.widgets.key_line import Key, KeyLine
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
_KEPT = 512  # answers
_COMPLETIONS = 50
_SAVE_AFTER = 1.0  # seconds without a move until the place is written
_WATCH_MARKS = 2.0  # seconds between looks for another session's marks


@dataclass
class Job:
    """Long work that the engine does; `total` 0: nobody knows how much."""

    id: int
    name: str
    text: str = "waiting"
    done: int = 0
    total: int = 0
    eta: float | None = None

    @property
    def progress(self) -> str:
        share = f" {100 * self.done / self.total:.0f}%" if self.total else ""
        left = f", {_duration(self.eta)} left" if self.eta is not None else ""
        return f"{self.text}{share}{left}"


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
        self.triage = triage
        self._ready: m.Ready | None = None
        self.known: dict[int, KnownLayer] = {each.layer: each for each in place.known}
        self._ways: dict[int, m.Layer] = {}
        self._frames: dict[int, pl.DataFrame] = {}
        self.texts: list[str] | None = None
        self._marks: dict[int, dict[int, Mark]] = {}
        self._layer: int | None = place.layer
        self._last: dict[int, int] = {}
        self._wanted: tuple[int, int] | None = None
        if place.layer is not None and place.feature is not None:
            self._wanted = place.layer, place.feature
        self._filter, self._sort, self._descending = place.filter, place.sort, place.descending
        self._tab: Tab = place.tab if place.tab in PANES[1:] else "value"  # type: ignore[assignment]
        self._k = place.k
        self._settings = m.Settings(
            transition=place.transition or "full",  # type: ignore[arg-type]
            off=place.off,
        )
        self._state = "starting"
        self._asked: dict[int, m.Request] = {}
        self._jobs: dict[int, Job] = {}
        self._signatures: OrderedDict[Any, m.Signature] = OrderedDict()
        self._paths: OrderedDict[Any, m.Paths] = OrderedDict()
        self._evidence: OrderedDict[Any, m.Evidence] = OrderedDict()
        self._completion: Completion | None = None
        self._reverse: ReverseSearch | None = None
        self._saver: Any = None

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
        self.paths.ask(frozenset(self._settings.off), self._settings.transition)
        self._show_tab()
        self.table.focus()
        self._say("starting the engine")
        if self.known:
            self.refresh_rows()
        self.set_interval(_WATCH_MARKS, self._look_for_marks)

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
        """A new process is up: nothing that was asked of the one before will be answered."""
        self._asked.clear()
        self._jobs.clear()
        self._ready = None
        self._say("opening")

    def hear(self, event: m.Event) -> None:
        """An event of the engine."""
        request = self._asked.get(event.id)
        match event:
            case m.Status():
                self._progress(event, request)
                return
            case m.Ready():
                self._opened(event)
            case m.Layer():
                self._learn(event)
            case m.Vocabulary():
                self.texts, self._completion = list(event.tokens), None
                self.table.set_texts(self.texts)
                self.qlens.keep_vocabulary(event.tokens)
                self._show_from_atlas()
            case m.Signature():
                _keep(self._signatures, self._key(event.layer, event.feature, request), event)
                self._show_signature(event)
            case m.Paths():
                key = (event.side, *self._key(event.layer, event.feature, request))
                _keep(self._paths, key, event)
                self._show_paths(event)
            case m.Evidence():
                _keep(self._evidence, (event.layer, event.feature), event)
                self._show_evidence(event)
            case m.Found():
                if self._reverse is not None:
                    self._reverse.found(event)
            case m.AtlasReady():
                self._atlas_ready(event)
            case m.Built():
                self.notify("operators built: every feature is now answered by them")
                self._signatures.clear()
                self._paths.clear()
                self.qlens.reopen()
            case m.Notice():
                self.qlens.toast(event.text, "warning")
            case m.Failed():
                self._failed(event, request)
        if not isinstance(event, m.Ready | m.Layer | m.Notice):
            self._asked.pop(event.id, None)
            self._jobs.pop(event.id, None)
        elif isinstance(event, m.Ready):
            self._jobs.pop(event.id, None)
        self._say()

    def died(self, text: str, again: bool) -> None:
        """The engine is gone; `again`: another one is being started."""
        self._ready = None
        self._asked.clear()
        self._jobs.clear()
        for pane in (self.pane("value"), self.pane("key"), self.paths, self.evidence):
            feature = self.table.feature
            if feature is not None and pane.waiting:
                pane.fail(*feature, text)
        self._say("restarting the engine" if again else "no engine: B starts it")

    def _opened(self, ready: m.Ready) -> None:
        self._ready = ready
        self.known = {k: known for k, known in self.known.items() if k in ready.layers}
        self._k = self._k or ready.k
        if self._settings == m.Settings(off=self._settings.off) and not self._place.transition:
            self._settings = replace(ready.settings, off=self._settings.off)
        else:
            self._settings = replace(
                ready.settings, transition=self._settings.transition, off=self._settings.off
            )
        self.paths.ask(frozenset(self._settings.off), self._settings.transition)
        if self._layer not in (None, *ready.layers) or (self._layer is None and not self.known):
            start = self.qlens.begin_at
            self._layer = start[0] if start and start[0] in ready.layers else ready.layers[0]
            self._wanted = start
        # The engine serves in its own order: the layer in sight first.
        if self._layer is not None:
            self.ask(m.DescribeLayer(layer=self._layer))
        self.ask(m.ReadVocabulary())
        self.ask(m.DescribeLayers())
        self._show_feature()

    def _learn(self, event: m.Layer) -> None:
        self._ways[event.layer] = event
        before = self.known.get(event.layer)
        self.known[event.layer] = KnownLayer(
            event.layer, event.sha256, event.dictionary, event.n_features, event.atlas
        )
        if before != self.known[event.layer]:
            self._frames.pop(event.layer, None)
        if event.layer == self._layer or self._layer is None:
            if event.layer not in self._frames:
                self.refresh_rows()
            else:
                self._show_feature()
        if event.atlas is None and event.layer == self._layer and event.operators != "none":
            self._tabulate(event.layer)
        self._show_layers()
        self._save_soon()

    def _tabulate(self, layer: int) -> None:
        place = f"atlas-{layer}"
        if not any(request.place == place for request in self._asked.values()):
            self.ask(m.Tabulate(layer=layer), job=f"atlas of layer {layer}")

    def _atlas_ready(self, event: m.AtlasReady) -> None:
        known = self.known.get(event.layer)
        if known is not None:
            self.known[event.layer] = replace(known, atlas=event.directory)
            self._frames.pop(event.layer, None)
            if self._layer in (None, event.layer):
                self.refresh_rows()
            self._save_soon()

    def _progress(self, event: m.Status, request: m.Request | None) -> None:
        job = self._jobs.get(event.id)
        if job is not None:
            job.text, job.done, job.total, job.eta = event.text, event.done, event.total, event.eta
        doing = event.text
        if event.total:
            doing += f" {event.done}/{event.total}"
        if event.eta is not None:
            doing += f", {_duration(event.eta)} left"
        match request:
            case m.Sign():
                for side in SIDES:
                    self.pane(side).expect(request.layer, request.feature, doing)
            case m.Split():
                self.paths.expect(request.layer, request.feature, doing)
            case m.Examine():
                self.evidence.expect(request.layer, request.feature, doing)
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
            case m.Examine():
                self.evidence.fail(request.layer, request.feature, text)
            case m.Search():
                if self._reverse is not None:
                    self._reverse.failed(text)
            case m.Open():
                self._state = "failed"
                self.qlens.toast(text, "error", long=True)
            case _:
                self.qlens.toast(text, "error")

    # What is asked of it.

    def ask(self, request: m.Request, job: str | None = None) -> int:
        """Send a request, listed under jobs where `job` names it."""
        number = self.qlens.engine.send(request)
        self._asked[number] = request
        if job is not None:
            self._jobs[number] = Job(number, job)
        return number

    def _key(self, layer: int, feature: int, request: m.Request | None = None) -> tuple[Any, ...]:
        settings, k = self._settings, self._k
        if isinstance(request, m.Sign | m.Split):
            settings, k = request.settings, request.k
        return layer, feature, settings, k

    def remember_texts(self, tokens: list[str]) -> None:
        """Token strings kept from the last visit, until the engine tells its own."""
        if self.texts is None:
            self.texts = tokens
            self.table.set_texts(tokens)
            self._show_from_atlas()

    def _show_feature(self) -> None:
        """Fill the panes for the feature under the cursor: from what is kept, else by asking."""
        self._stop_what_is_stale()
        feature = self.table.feature
        if feature is None:
            return
        key = self._key(*feature)
        signature = self._signatures.get(key)
        if signature is not None:
            self._signatures.move_to_end(key)
            self._show_signature(signature)
        else:
            for side in SIDES:
                self.pane(side).expect(*feature, self._waiting_word())
            self._show_from_atlas()
            self._ask_if_ready(
                m.Sign(layer=feature[0], feature=feature[1], settings=self._settings, k=self._k)
            )
        missing = [side for side in SIDES if (side, *key) not in self._paths]
        if missing:
            self.paths.expect(*feature, self._waiting_word())
        for side in SIDES:
            if side in missing:
                self._ask_if_ready(
                    m.Split(
                        layer=feature[0], feature=feature[1], side=side,
                        settings=self._settings, k=self._k,
                    )
                )  # fmt: skip
            else:
                self._show_paths(self._paths[side, *key])
        known = self._evidence.get(feature)
        if known is not None:
            self._show_evidence(known)
        else:
            self.evidence.expect(*feature, self._waiting_word())
            self._ask_if_ready(m.Examine(layer=feature[0], feature=feature[1]))

    def _ask_if_ready(self, request: m.Request) -> None:
        """Ask, unless that is under way already."""
        if self._ready is not None and request not in self._asked.values():
            self.ask(request)

    def _stop_what_is_stale(self) -> None:
        """Passes for another feature, or other blocks, would keep the new ones waiting."""
        feature = self.table.feature
        for number, request in list(self._asked.items()):
            match request:
                case m.Sign() | m.Split():
                    asked = request.layer, request.feature, request.settings, request.k
                    stale = feature is None or asked != self._key(*feature)
                case m.Examine():
                    stale = feature is None or request.layer != feature[0]
                case _:
                    continue
            if stale:
                del self._asked[number]
                self.qlens.engine.send(m.Cancel(target=number))

    def _waiting_word(self) -> str:
        return "computing" if self._ready is not None else f"waiting for the model: {self._state}"

    def _show_from_atlas(self) -> None:
        """The feature's lists from its atlas row, until the engine has answered."""
        feature, rows = self.table.feature, self.table.rows
        plain = self._settings.transition == "full" and not self._settings.off
        if feature is None or rows is None or not plain or self._key(*feature) in self._signatures:
            return
        from qlens_tui.features import signature_of

        row = rows.page(self.table.row, 1, rows.frame.columns)[0]
        ready = self._ready
        tokens = ready.reference.n_tokens if ready is not None else self._place.tokens
        found = signature_of(row, self.texts, n_tokens=tokens, operators=self._origin(feature[0]))
        if found is not None:
            self._show_signature(found, settled=False)

    def _origin(self, layer: int) -> m.OperatorsFrom:
        return self._ways[layer].operators if layer in self._ways else "built"

    def _show_signature(self, signature: m.Signature, *, settled: bool = True) -> None:
        if self.table.feature != (signature.layer, signature.feature):
            return
        if settled and self._key(signature.layer, signature.feature) not in self._signatures:
            return  # of other settings than those asked for now
        way = self._ways.get(signature.layer)
        stored = "float16" if signature.operators == "shipped" else ""
        out, into = (way.value_blocks, way.key_blocks) if way is not None else (None, None)
        self.pane("value").show_signature(signature, out, stored)
        self.pane("key").show_signature(signature, into, stored)

    def _show_paths(self, paths: m.Paths) -> None:
        if self.table.feature == (paths.layer, paths.feature) and self._ready is not None:
            self.paths.show_paths(paths, self._ready.n_layers)

    def _show_evidence(self, evidence: m.Evidence) -> None:
        feature = evidence.layer, evidence.feature
        if self.table.feature != feature:
            return
        signature = self._signatures.get(self._key(*feature))
        near = (*evidence.by_value, *evidence.by_key)
        self.evidence.show(
            WhatIsKnown(
                evidence,
                signature,
                labels=self._labels([(each.layer, each.feature) for each in near]),
                provenance=tuple(self._provenance(evidence.layer)),
            )
        )

    def _labels(
        self, features: Iterable[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[str, ...]]:
        """The first Query Lens tokens of features whose atlas is at hand."""
        if self.texts is None:
            return {}
        found = {}
        for layer, feature in features:
            frame = self._frames.get(layer)
            if frame is not None and "value_query_ids" in frame.columns and feature < frame.height:
                ids = frame["value_query_ids"][feature]
                found[layer, feature] = tuple(
                    self.texts[token] for token in ids.head(6) if token < len(self.texts)
                )
        return found

    def _provenance(self, layer: int) -> Iterable[tuple[str, str]]:
        ready, way = self._ready, self._ways.get(layer)
        if ready is not None:
            reference = ready.reference
            yield "model", f"{ready.model} ({ready.dtype} on {ready.device})"
            yield (
                "reference",
                f"{reference.samples} x {reference.length} tokens of {reference.origin}, "
                f"{reference.n_tokens} of them count ({reference.sha256[:12]})",
            )
            yield (
                "settings",
                f"{ready.settings.convention} convention, final norm "
                + (ready.settings.final_norm),
            )
        if way is not None:
            yield "dictionary", f"{way.dictionary} ({way.sha256[:12]})"
            yield "operators", way.operators
            for name in ("hook_read", "architecture", "key", "folder", "release", "id"):
                if name in way.provenance:
                    yield name.replace("_", " "), way.provenance[name]

    # The table.

    @work(exclusive=True, group="rows", thread=False)
    async def refresh_rows(self) -> None:
        """Read, join, filter and sort off this thread; then show."""
        import asyncio

        layers = self._layers_shown()
        if not layers:
            return
        try:
            frames, rows = await asyncio.to_thread(self._rows, layers, dict(self._frames))
        except LensError as error:
            self.qlens.toast(str(error), "error")
            self._filter = ""
            frames, rows = await asyncio.to_thread(self._rows, layers, dict(self._frames))
        self._frames.update(frames)
        for layer in frames:
            self._read_marks(layer)
        table = self.table
        table.set_texts(self.texts)
        nothing = "no feature passes the filter" if self._filter else "no features"
        table.set_rows(rows, nothing)
        table.set_sort(self._sort, self._descending)
        table.set_marks(self._marks)
        if self._wanted is not None and table.move_to(*self._wanted):
            self._wanted = None
        self._show_layers()
        self._show_feature()
        self._say()

    def _layers_shown(self) -> list[int]:
        if self._layer is None:
            return sorted(self.known)
        return [self._layer] if self._layer in self.known else []

    def _rows(
        self, layers: Sequence[int], kept: dict[int, pl.DataFrame]
    ) -> tuple[dict[int, pl.DataFrame], Rows]:
        """In a worker thread: frames that were read, and the rows to show."""
        from qlens_tui.features import layer_frame, together
        from qlens_tui.rows import all_rows, filtered, sorted_by, with_marks

        read = {k: layer_frame(self.known[k])[0] for k in layers if k not in kept}
        frame = together([(kept | read)[layer] for layer in layers])
        if self._filter or (self._sort in ("star", "reject", "tags", "note")):
            shas = {layer: self.known[layer].sha256 for layer in layers}
            frame = with_marks(frame, marks_frame(self.triage, shas))
        rows = all_rows(frame)
        if self._filter:
            rows = filtered(rows, self._filter, self.texts)
        if self._sort is not None and self._sort in rows.frame.columns:
            rows = sorted_by(rows, self._sort, self._descending, self.texts)
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
            self._sort_by(event.column)

    def on_layer_column_layer_chosen(self, event: LayerColumn.LayerChosen) -> None:
        event.stop()
        self.go_to_layer(event.layer)

    def action_feature(self, by: int) -> None:
        self.table.action_move(by)

    def action_layer(self, by: int) -> None:
        layers = self._all_layers()
        if layers:
            at = layers.index(self._layer) if self._layer in layers else 0
            self.go_to_layer(layers[max(0, min(at + by, len(layers) - 1))])

    def _all_layers(self) -> list[int | None]:
        known = self._ready.layers if self._ready is not None else sorted(self.known)
        return [None, *known] if len(known) > 1 else list(known)

    def go_to_layer(self, layer: int | None, feature: int | None = None) -> None:
        """Show a layer (`None`: all), the cursor on `feature` if one is named."""
        if layer == self._layer and feature is None:
            return
        if feature is not None and layer is not None:
            self._wanted = layer, feature
        elif layer in self._last:
            self._wanted = layer, self._last[layer]
        if layer == self._layer or self._layer is None:
            if self._wanted is not None and self.table.move_to(*self._wanted):
                self._wanted = None
                return
            if self._filter and layer is not None:
                self._filter = ""
                self.notify("the filter was taken off: it hid that feature")
        self._layer = layer
        if layer is not None and layer not in self.known:
            self._ask_if_ready(m.DescribeLayer(layer=layer))
            self._say(f"loading layer {layer}")
        elif (
            layer is not None
            and self._ready is not None
            and self.known[layer].atlas is None
            and self._origin(layer) != "none"
        ):
            self._tabulate(layer)
        self.refresh_rows()
        self._show_layers()
        self._save_soon()

    def action_jump(self) -> None:
        def check(text: str) -> str | None:
            found = _jump(text, self._layer)
            if found is None:
                return "write LAYER:FEATURE, such as 8:1279, or a feature of this layer"
            layer, feature = found
            layers = [each for each in self._all_layers() if each is not None]
            if layer not in layers:
                return f"there is no layer {layer}: layers are {', '.join(map(str, layers))}"
            known = self.known.get(layer)
            if known is not None and feature >= known.n_features:
                return f"layer {layer} has features 0 to {known.n_features - 1}"
            return None

        def go(answer: Answer | None) -> None:
            found = _jump(answer.text, self._layer) if answer is not None else None
            if found is not None:
                self.go_to_layer(*found)

        self.app.push_screen(
            Prompt("jump to layer:feature", check=check, ascii_only=self.ascii), go
        )

    def action_sort(self) -> None:
        frame = self.table.rows.frame if self.table.rows is not None else None
        columns = _sortable(frame.columns if frame is not None else ())
        lines = []
        for column in columns:
            arrow = ("down" if self._descending else "up") if column == self._sort else ""
            lines.append(f"{column:<28}{arrow}")
        cursor = columns.index(self._sort) if self._sort in columns else 0

        def chosen(index: int | None) -> None:
            if index is not None:
                self._sort_by(columns[index])

        self.app.push_screen(
            Choice("sort by (again: the other way)", lines, cursor=cursor, ascii_only=self.ascii),
            chosen,
        )

    def _sort_by(self, column: str) -> None:
        numbers = column not in ("feature", "layer", "tags", "note") and "ids" not in column
        self._descending = not self._descending if column == self._sort else numbers
        self._sort = column
        self.refresh_rows()
        self._save_soon()

    def action_filter(self) -> None:
        from qlens_tui.filters import RULE, read_filter

        def check(text: str) -> str | None:
            from qlens_tui.rows import KNOWN

            try:
                read_filter(text, KNOWN)
            except LensError as error:
                return str(error)
            return None

        def apply(answer: Answer | None) -> None:
            if answer is not None:
                self._filter = answer.text.strip()
                self.refresh_rows()
                self._save_soon()

        self.app.push_screen(
            Prompt(
                "filter features (empty: none)",
                value=self._filter,
                hint=RULE,
                check=check,
                ascii_only=self.ascii,
            ),
            apply,
        )

    # Blocks, lists and panes.

    def on_paths_grid_blocks_toggled(self, event: PathsGrid.BlocksToggled) -> None:
        event.stop()
        self._settings = replace(self._settings, off=tuple(sorted(event.off)))
        self._show_feature()
        self._say()
        self._save_soon()

    def on_paths_grid_transition_chosen(self, event: PathsGrid.TransitionChosen) -> None:
        event.stop()
        self._settings = replace(self._settings, transition=event.transition)
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

    def _selection(self) -> dict[DictionaryName, list[int]]:
        rows = self.table.rows
        if rows is None or not len(rows):
            return {}
        chosen = self.table.chosen
        found: dict[int, list[int]] = {}
        for row in rows.page(chosen.start, len(chosen), ("layer", "feature")):
            found.setdefault(row["layer"], []).append(row["feature"])
        model = self._ready.model if self._ready is not None else self._place.model
        return {
            DictionaryName(self.known[layer].sha256, self.known[layer].name, model, layer): features
            for layer, features in found.items()
        }

    def action_star(self) -> None:
        self._toggle("star")

    def action_reject(self) -> None:
        self._toggle("reject")

    def _toggle(self, kind: Literal["star", "reject"]) -> None:
        selection = self._selection()
        if selection and self.triage is not None:
            triage = self.triage
            self._edit(lambda: triage.toggle(selection, kind))

    def action_tag(self) -> None:
        selection = self._selection()
        triage = self.triage
        if not selection or triage is None:
            return
        tags = triage.tags()
        count = sum(map(len, selection.values()))
        here = self._tags_of(selection) if count == 1 else frozenset()

        def typed(prompt: Prompt, text: str) -> None:
            wanted = text.strip().casefold()
            prompt.offer(
                [
                    Suggestion(f"{visible(tag)}{'  (take off)' if tag in here else ''}", tag)
                    for tag in tags
                    if wanted in tag.casefold()
                ][:50]
            )

        def apply(answer: Answer | None) -> None:
            tag = answer.text.strip() if answer is not None else ""
            if tag.startswith("-") and tag[1:].strip() in tags:
                self._edit(lambda: triage.apply(selection, remove=[tag[1:].strip()]))
            elif tag in here:
                self._edit(lambda: triage.apply(selection, remove=[tag]))
            elif tag:
                self._edit(lambda: triage.apply(selection, add=[tag]))

        what = f"{count:,} features" if count > 1 else "this feature"
        hint = "a tag it has is taken off; -tag takes it off all; no commas"
        self.app.push_screen(
            Prompt(f"tag {what}", hint=hint, typed=typed, ascii_only=self.ascii), apply
        )

    def _tags_of(self, selection: Mapping[DictionaryName, list[int]]) -> frozenset[str]:
        assert self.triage is not None
        ((dictionary, (feature,)),) = selection.items()
        return frozenset(self.triage.mark(dictionary.sha256, feature).tags)

    def action_note(self) -> None:
        feature, triage = self.table.feature, self.triage
        if feature is None or triage is None:
            return
        layer, number = feature
        known = self.known[layer]
        model = self._ready.model if self._ready is not None else self._place.model
        selection = {DictionaryName(known.sha256, known.name, model, layer): [number]}

        def keep(note: str | None) -> None:
            if note is not None:
                self._edit(lambda: triage.apply(selection, note=note))

        before = triage.mark(known.sha256, number).note
        self.app.push_screen(
            NoteEditor(f"note on {layer}:{number}", before, ascii_only=self.ascii), keep
        )

    def action_undo(self) -> None:
        if self.triage is not None:
            self._edit(self.triage.undo, "undone", "nothing to undo")

    def action_redo(self) -> None:
        if self.triage is not None:
            self._edit(self.triage.redo, "done again", "nothing to do again")

    def _edit(self, act: Any, verb: str = "", nothing: str = "") -> None:
        """Do an edit that is on the disk when it returns, and show it."""
        try:
            step: Step | None = act()
        except LensError as error:
            self.qlens.toast(str(error), "error")
            return
        if step is None:
            if nothing:
                self.notify(nothing)
            return
        if verb or step.changed > 1:
            left = f", {step.left_alone:,} left alone: changed elsewhere" if step.left_alone else ""
            self.qlens.toast(f"{verb + ': ' if verb else ''}{step.what} ({step.changed:,}){left}")
        self._read_all_marks()

    def _read_all_marks(self) -> None:
        for layer in self._frames:
            self._read_marks(layer)
        self.table.set_marks(dict(self._marks))
        self._show_layers()

    def _read_marks(self, layer: int) -> None:
        if self.triage is not None:
            try:
                self._marks[layer] = self.triage.marks(self.known[layer].sha256)
            except LensError as error:
                self.qlens.toast(str(error), "error")

    def _look_for_marks(self) -> None:
        try:
            if self.triage is not None and self.triage.changed_elsewhere():
                self._read_all_marks()
        except LensError as error:
            self.qlens.toast(str(error), "error")

    # Search, export, copy, jobs, help.

    def action_token_search(self) -> None:
        if self._ready is None or self.texts is None:
            self.notify("search needs the model: it is still loading", severity="warning")
            return

        if self._completion is None:
            self._completion = Completion(self.texts)
        completion, texts = self._completion, self.texts

        def typed(prompt: Prompt, text: str) -> None:
            ids = completion.ids(text, _COMPLETIONS)
            prompt.offer(
                [
                    Suggestion(
                        f"{fit(token_label(texts[token], ascii_only=self.ascii), 28)} {token}",
                        texts[token],
                        token,
                    )
                    for token in ids
                ],
                take_first=True,
            )
            if text and not ids:
                prompt.tell("no token begins with that, or holds it", problem=True)

        def go(answer: Answer | None) -> None:
            if answer is None or answer.number is None:
                return
            self._reverse = ReverseSearch(self, answer.number, answer.text, self._layer)
            self.app.push_screen(self._reverse, self._leave_search)

        self.app.push_screen(
            Prompt(
                "features by token",
                hint="type a token, choose one with up and down; a leading space counts",
                typed=typed,
                must_choose=True,
                ascii_only=self.ascii,
            ),
            go,
        )

    def _leave_search(self, hit: tuple[int, int] | None) -> None:
        self._reverse = None
        if hit is not None:
            self.go_to_layer(*hit)

    def labels_of(self, layer: int, feature: int) -> str:
        """The first tokens that a feature promotes, for a line in a list."""
        found = self._labels([(layer, feature)]).get((layer, feature), ())
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
            shown = (f"{job.name}: {job.progress}" for job in self._jobs.values())
            return [visible(line, ascii_only=self.ascii) for line in shown]

        def cancel(choice: Choice, index: int | None) -> None:
            numbers = list(self._jobs)
            if index is not None and index < len(numbers):
                self.qlens.engine.send(m.Cancel(target=numbers[index]))

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
        if self._ready is None:
            self.notify("the model is still loading", severity="warning")
            return
        if self._ready.operators == "built":
            for layer in self._ready.layers:
                self._tabulate(layer)
            self.notify("operators are built; the atlas of every layer is being made (w: jobs)")
            return
        if not any(isinstance(request, m.Build) for request in self._asked.values()):
            self.ask(m.Build(), job="operators")
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
        self.query_one(StatusLine).tell(self._where(), self._now())
        self._show_keys()

    def _where(self) -> list[list[str]]:
        ready, rows = self._ready, self.table.rows
        model = (ready.model if ready is not None else self._place.model).rsplit("/", 1)[-1]
        model = model.split(".")[0]
        layer = "all layers" if self._layer is None else f"L{self._layer:02d}"
        count = len(rows) if rows is not None else 0
        total = rows.frame.height if rows is not None else 0
        place = f"{self.table.row + 1:,}/{count:,}" if count else "0"
        shown = [f"{place} of {total:,}"] if count != total else [place]
        chosen = len(self.table.chosen)
        facts = [[model, model[:12]], [layer], shown]
        if chosen > 1:
            facts.append([f"{chosen:,} selected"])
        if self._filter:
            facts.append([f"filter {self._filter[:30]}", "filtered"])
        if self._settings.off or self._settings.transition != "full":
            off = f", {len(self._settings.off)} off" if self._settings.off else ""
            facts.append([f"{self._settings.transition}{off}"])
        if ready is not None:
            facts.append([f"ref {ready.reference.n_tokens:,} tok"])
            facts.append([f"{ready.device} {ready.dtype}", ready.device])
        return facts

    def _now(self) -> str:
        if self._jobs:
            job = next((job for job in self._jobs.values() if job.done), None) or next(
                iter(self._jobs.values())
            )
            more = f" (+{len(self._jobs) - 1})" if len(self._jobs) > 1 else ""
            return f"{job.name}: {job.progress}{more}"
        if self._ready is None:
            return self._state
        return {"built": "ready", "shipped": "ready", "none": "ready, no operators: B builds"}[
            self._ready.operators
        ]

    def _show_layers(self) -> None:
        stars = {
            layer: sum(mark.star for mark in marks.values()) for layer, marks in self._marks.items()
        }
        self.query_one(LayerColumn).tell(self._all_layers(), self._layer, stars)

    def _show_keys(self) -> None:
        focused = self.focused
        before = {
            "table": [("j/k", "feature"), ("h/l", "layer")],
            "paths": [("hjkl", "block")],
            "evidence": [("up/down", "neighbour")],
        }.get(focused.id or "" if focused is not None else "", [("j/k", "feature")])
        own: list[Key] = []
        others: list[Key] = []
        for binding in self.active_bindings.values():
            each = binding.binding
            if each.show and each.description:
                pair = (each.key_display or keys_of(each).split(" ")[0], each.description.lower())
                (own if binding.node is focused else others).append(pair)
        unique = list(dict.fromkeys([*before, *own, *others]))
        last = ("?", "all keys")
        self.query_one(KeyLine).tell([*(key for key in unique if key != last), last])

    # The place.

    def current_place(self) -> Place:
        """Where the user is, to come back to."""
        feature = self.table.feature
        look = self.pane("value").look
        layer, number = feature if feature is not None else (self._layer, None)
        return Place(
            layer=layer,
            feature=number,
            sort=self._sort,
            descending=self._descending,
            filter=self._filter,
            k=self._k if self._ready is None or self._k != self._ready.k else None,
            transition=self._settings.transition,
            off=self._settings.off,
            tab=self._tab,
            ids=look.ids,
            bottom=look.end == "bottom",
            theme=self.app.theme,
            model=self._ready.model if self._ready is not None else self._place.model,
            tokens=self._ready.reference.n_tokens if self._ready else self._place.tokens,
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


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > _KEPT:
        kept.popitem(last=False)


def _jump(text: str, layer: int | None) -> tuple[int, int] | None:
    first, colon, second = text.strip().partition(":")
    if not colon:
        first, second = ("" if layer is None else str(layer)), first
    if first.isdecimal() and second.isdecimal() and len(text) < 20:
        return int(first), int(second)
    return None


def _sortable(columns: Sequence[str]) -> list[str]:
    """Columns that an order makes sense of, those of the table first."""
    from qlens_tui.widgets.table_columns import COLUMNS

    shown = [column.source for column in COLUMNS]
    marks = ["star", "reject", "tags", "note"]
    others = [
        name
        for name in columns
        if name not in shown
        and not name.endswith(("_ids", "_scores", "_moved"))
        and not name.startswith("context_")
    ]
    found = [name for name in shown if name in columns or name in marks]
    return list(dict.fromkeys([*found, *marks, *others]))


def _duration(seconds: float) -> str:
    minutes, left = divmod(max(0, round(seconds)), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes}:{left:02d} min" if minutes else f"{left} s"

"""The talk with the engine: what it is asked, and where each of its answers goes.

Answers are kept for the features last looked at; `showing` brings them into the panes.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from textual.timer import Timer

from qlens_tui.app.last_visit import KnownLayer, Place
from qlens_tui.app.requests import FeatureKey, Inquiry, Job
from qlens_tui.app.screens import known
from qlens_tui.app.screens.showing import SIDES, Showing
from qlens_tui.completion import Completion
from qlens_tui.engine import messages as m
from qlens_tui.formats import duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qlens_tui.app.screens.probe import ProbeScreen
    from qlens_tui.app.screens.reverse_search import ReverseSearch, Sought
    from qlens_tui.app.screens.workbench import Workbench

_RESTS = 0.08  # seconds on a feature until its paths and evidence are asked for
_RESTS_ON_BLOCK = 0.4  # seconds; what follows takes passes
# A key held down repeats every 30 ms or so: a pane that followed each would fill a slow line.
_QUICK, _SETTLES = 0.1, 0.06


_PASSES = m.ComputeSignature | m.ComputePaths | m.ComputeBlockTokens | m.ComputeEvidence


class Dialogue:
    """Questions about the feature under the cursor, and what has been learned of the model."""

    def __init__(self, bench: Workbench, place: Place) -> None:
        self._bench = bench
        self._place = place
        self._showing = Showing(bench, self)
        self.ready: m.SessionFacts | None = None
        self.released = False
        self.ways: dict[int, m.LayerFacts] = {}
        self.no_atlas: dict[int, str] = {}
        """Why a layer's atlas is neither there nor on its way."""
        self.texts: list[str] | None = None
        self.k = place.k
        self.settings = m.Settings(
            transition=place.transition or "full",  # type: ignore[arg-type]
            convention=place.convention,  # type: ignore[arg-type]
            final_norm=place.final_norm,  # type: ignore[arg-type]
            off=frozenset(place.off),
        )
        self._switched = place.transition is not None
        self.state = "starting"
        self.search: ReverseSearch | None = None
        self.last_search: Sought | None = None
        self.probe: ProbeScreen | None = None
        self._completion: Completion | None = None
        self._rest: Timer | None = None
        self._block: Timer | None = None
        self._settling: Timer | None = None
        self._moved = 0.0

    @cached_property
    def inquiry(self) -> Inquiry:
        """What is asked of the engine and what it answered."""
        return Inquiry(lambda request: self._bench.qlens.engine.send(request))

    # What the engine says.

    def started(self) -> None:
        """A new process is up, or a new session: what was asked before will not be answered."""
        self.inquiry.forget()
        self.no_atlas.clear()
        self.ready = None
        self._bench.say("opening")

    def hear(self, event: m.Event) -> None:
        """An event of the engine."""
        request = self.inquiry.asked.get(event.id)
        if request is not None:
            self.released = False
        if isinstance(event, m.Status):
            self._progress(event, request)
            return
        # Several layers answer one request; a notice answers none.
        if not isinstance(event, m.LayerReady | m.Notice):
            self.inquiry.answered(event.id)
        match event:
            case m.Ready():
                self._opened(event.session)
            case m.LayerReady():
                if isinstance(request, m.DescribeLayer):
                    self.inquiry.answered(event.id)
                self._learn(event.layer)
            case m.VocabularyReady():
                self.texts, self._completion = list(event.tokens), None
                self._bench.qlens.keep_vocabulary(event.tokens)
                self._texts_arrived()
            case m.SignatureReady() if isinstance(request, m.ComputeSignature):
                self.inquiry.signatures.put(_key_of(request), event.signature)
                self._showing.signature(event.signature)
            case m.PathsReady() if isinstance(request, m.ComputePaths):
                self.inquiry.paths.put((event.paths.side, *_key_of(request)), event.paths)
                self._showing.paths(event.paths)
                self.show_block()
            case m.BlockTokensReady():
                of = event.layer, event.feature, event.side, event.block
                self.inquiry.favoured.put(of, event)
                self.show_block()
            case m.EvidenceReady():
                found = event.evidence
                self.inquiry.evidence.put((found.layer, found.feature), found)
                self._showing.evidence(event.evidence)
            case m.SearchReady() if isinstance(request, m.Search):
                self.inquiry.searches.put(request, event.found)
                if self.search is not None:
                    self.search.found(event.id, event.found)
            case m.PromptReady():
                if self.probe is not None:
                    self.probe.probed(event.id, event.prompt)
            case m.Released():
                self.released = True
            case m.AtlasReady():
                self._atlas_ready(event)
            case m.Built():
                self._built()
            case m.Notice():
                self._bench.qlens.toast(event.text, "warning")
            case m.Failed():
                self._failed(event, event.text, request)
            case m.Cancelled() if isinstance(request, _PASSES):
                text = "cancelled: go to another feature and back to compute it"
                self._failed(event, text, request)
            case m.Cancelled() if isinstance(request, m.Tabulate):
                self.no_atlas[request.layer] = "columns were cancelled: B computes them"
            case m.Dropped() if isinstance(request, m.ComputeEvidence):
                # Nobody asked anew if the cursor was back before this was heard.
                if self._bench.table.feature == (request.layer, request.feature):
                    self._ask_at_rest()
        self._bench.say()

    def died(self, text: str, again: bool) -> None:
        """The engine is gone; `again`: another one is being started."""
        self.ready = None
        self.inquiry.forget()
        for screen in (self.search, self.probe):
            if screen is not None:
                screen.failed(text)
        self._showing.unanswered(text)
        self._bench.say("restarting the engine" if again else "no engine: B starts it")

    def _opened(self, ready: m.SessionFacts) -> None:
        self.ready = ready
        self._bench.browsing.keep_only(ready.layers)
        self._bench.marking.keep_only(ready.layers)
        off = frozenset(block for block in self.settings.off if block < len(ready.blocks))
        self.k = self.k or ready.k
        # What the user chose, now or on the last visit; else what the configuration says.
        chosen = self.settings if self._switched else ready.settings
        self.settings = replace(ready.settings, transition=chosen.transition, off=off)
        self._bench.paths.ask(frozenset(self.settings.off), self.settings.transition)
        browsing = self._bench.browsing
        browsing.begin(ready.layers, self._bench.qlens.begin_at)
        self._describe()
        self.inquiry.ask(m.ReadVocabulary())
        self.show_feature()

    def _describe(self) -> None:
        # The engine serves in its own order: the layer in sight first.
        layer = self._bench.browsing.layer
        if layer is not None:
            self.inquiry.ask(m.DescribeLayer(layer=layer))
        self.inquiry.ask(m.DescribeLayers())

    def _learn(self, event: m.LayerFacts) -> None:
        browsing = self._bench.browsing
        before = browsing.known.get(event.layer)
        if before is not None and before.sha256 != event.sha256:
            self.inquiry.forget_answers()
        self.ways[event.layer] = event
        browsing.learn(
            KnownLayer(
                event.layer,
                event.sha256,
                event.dictionary,
                event.n_features,
                event.atlas,
                event.operators,
            )
        )
        self._bench.marking.read(event.layer)
        if event.layer == browsing.layer:
            self.show_feature()
            if event.atlas is None and event.operators != "none":
                self.tabulate(event.layer)
        self._bench.show_layers()
        self._bench.save_soon()

    def _built(self) -> None:
        assert self.ready is not None
        self._bench.notify("operators built: every feature is now answered by them")
        self.ready = replace(self.ready, operators="built")
        self.inquiry.forget_answers()
        self._describe()
        self.show_feature()

    def _atlas_ready(self, event: m.AtlasReady) -> None:
        found = self._bench.browsing.known.get(event.layer)
        if found is not None:
            self._bench.browsing.learn(replace(found, atlas=event.directory))
            self._bench.save_soon()

    def _progress(self, event: m.Status, request: m.Request | None) -> None:
        bench, job = self._bench, self.inquiry.jobs.get(event.id)
        if job is None and event.total and isinstance(request, _PASSES):
            job = self.inquiry.jobs[event.id] = Job(event.id, _pass_of(request))
        if job is not None:
            job.update(event)
        doing = event.text
        if event.total:
            doing += f" {100 * event.done // event.total}%"
        if event.eta is not None:
            doing += f", {duration(event.eta)} left"
        self._showing.doing(request, doing)
        match request:
            case m.ReadPrompt():
                if self.probe is not None:
                    self.probe.doing(doing)
            case m.Open():
                self.state = doing
        bench.say()

    def _failed(self, event: m.Event, text: str, request: m.Request | None) -> None:
        bench = self._bench
        if self._showing.failed(request, text):
            return
        match request:
            case m.Search():
                if self.search is not None:
                    self.search.failed(text, event.id)
            case m.ReadPrompt():
                if self.probe is not None:
                    self.probe.failed(text, event.id)
            case m.DescribeLayer():
                bench.browsing.cannot_show(request.layer, text)
                bench.qlens.toast(text, "error")
            case m.Tabulate():
                self.no_atlas[request.layer] = f"no columns (B tries again): {text}"
                bench.qlens.toast(text, "error")
            case m.Open():
                self.state = "cannot open: B tries again"
                bench.qlens.toast(text, "error", long=True)
            case _:
                bench.qlens.toast(text, "error")

    # What is asked of it.

    def ask(self, request: m.Request) -> None:
        """Ask once, if anybody can answer."""
        if self.ready is not None:
            self.inquiry.ask_once(request)

    def need_layer(self, layer: int) -> None:
        """A layer is about to be shown: have it described, and its atlas made."""
        found = self._bench.browsing.known.get(layer)
        if found is None:
            self.ask(m.DescribeLayer(layer=layer))
            self._bench.browsing.wait_for(layer)
        elif self.ready is not None and found.atlas is None and self.origin(layer) != "none":
            self.tabulate(layer)
        for request in list(self.inquiry.asked.values()):
            if isinstance(request, m.Tabulate) and request.in_sight:
                self.tabulate(request.layer)  # it can wait, if that one is no more in sight

    def tabulate(self, layer: int) -> None:
        """Have a layer's atlas made: at once if the layer is in sight, else in the background."""
        wanted = m.Tabulate(layer=layer, in_sight=layer == self._bench.browsing.layer)
        for number, request in list(self.inquiry.asked.items()):
            if isinstance(request, m.Tabulate) and request.layer == layer and request != wanted:
                self.inquiry.answered(number)  # it makes place for this one
        self.no_atlas.pop(layer, None)
        self.inquiry.ask_once(wanted, job=f"atlas of layer {layer}")

    def is_tabulating(self, layers: Sequence[int]) -> bool:
        """Whether the atlas of one of these layers is under way."""
        asked = self.inquiry.asked.values()
        return any(isinstance(each, m.Tabulate) and each.layer in layers for each in asked)

    def build(self) -> None:
        """Start whatever is missing: the engine, the session, the operators, the atlases."""
        bench = self._bench
        if bench.qlens.engine.pid is None:
            bench.qlens.restart_engine()
        elif self.ready is None:
            if any(isinstance(request, m.Open) for request in self.inquiry.asked.values()):
                bench.notify("the model is still loading", severity="warning")
            else:
                bench.qlens.reopen()
        elif bench.browsing.layer is not None and not self._is_complete(bench.browsing.layer):
            self.need_layer(bench.browsing.layer)
            bench.say()
        elif self.ready.operators == "built":
            for layer in self.ready.layers:
                self.tabulate(layer)
            bench.notify("operators are built; the atlas of every layer is being made (w: jobs)")
        else:
            self.inquiry.ask_once(m.Build(), job="operators")
            bench.notify("building the operators (w: jobs)")

    def _is_complete(self, layer: int) -> bool:
        """Whether nothing is left to do for a layer, or it is being done."""
        found = self._bench.browsing.known.get(layer)
        if found is None or self.origin(layer) == "none":
            return found is not None
        return found.atlas is not None or self.is_tabulating([layer])

    def switch(self, settings: m.Settings) -> None:
        """Carry features in another way."""
        self._switched = True
        self.settings = settings
        self.show_feature()

    def resize(self, k: int | None) -> None:
        """Lists of `k` tokens, `None` for the configuration's; shares are of their score."""
        k = k or (self.ready.k if self.ready is not None else self.k)
        if k != self.k:
            self.k = k
            self._bench.paths.clear()
            self.show_feature()

    def follow(self) -> None:
        """The cursor moved: the panes go along, or if it runs, when it has stopped."""
        now = time.monotonic()
        runs, self._moved = now - self._moved < _QUICK, now
        if self._settling is not None:
            self._settling.stop()
            self._settling = None
        if runs:
            self._settling = self._bench.set_timer(_SETTLES, self._settle)
        else:
            self.show_feature()

    def _settle(self) -> None:
        self.show_feature()
        self._ask_at_rest()

    def show_feature(self) -> None:
        """Fill the panes for the feature under the cursor: from what is kept, else by asking."""
        bench, feature = self._bench, self._bench.table.feature
        key = None if feature is None else self.key(*feature)
        self.inquiry.stop_what_is_stale(key)
        if feature is None or key is None:
            return
        self._showing.feature(*feature)
        self.show_block()
        if key not in self.inquiry.signatures:
            layer, number = feature
            self.ask(
                m.ComputeSignature(layer=layer, feature=number, settings=self.settings, k=self.k)
            )
        # Whoever walks on at once does not wait for what takes longer.
        if self._rest is not None:
            self._rest.stop()
        self._rest = bench.set_timer(_RESTS, self._ask_at_rest)

    def rest_on_block(self) -> None:
        """The cursor is on another block, or came into the pane: see to it if it stays there."""
        if self._block is not None:
            self._block.stop()
        self._block = self._bench.set_timer(_RESTS_ON_BLOCK, self.show_block)

    def show_block(self) -> None:
        """The tokens of the block under the cursor, if only its share is known: kept, or asked for.

        They take passes of their own; who is not in the pane has not asked for them.
        """
        paths = self._bench.paths
        of = paths.bare_block
        if of is None:
            return
        found = self.inquiry.favoured.get(of)
        if found is not None:
            paths.favour(of, found.tokens)
        elif paths.has_focus and self.ready is not None:
            layer, feature, side, block = of
            paths.favour(of, (), "its tokens")
            self.ask(m.ComputeBlockTokens(layer=layer, feature=feature, side=side, block=block))

    def show_nothing(self) -> None:
        """There is no feature to show: no row passes the filter."""
        self.inquiry.stop_what_is_stale(None)
        self._showing.nothing()

    def _ask_at_rest(self) -> None:
        feature = self._bench.table.feature
        if feature is None:
            return
        key, (layer, number) = self.key(*feature), feature
        for side in SIDES:
            if (side, *key) not in self.inquiry.paths:
                self.ask(
                    m.ComputePaths(
                        layer=layer, feature=number, side=side, settings=self.settings, k=self.k
                    )
                )
        if feature not in self.inquiry.evidence:
            self.ask(m.ComputeEvidence(layer=layer, feature=number))

    # What is known.

    def key(self, layer: int, feature: int) -> FeatureKey:
        """What a feature's answers are kept under, as it is carried now."""
        return layer, feature, self.settings, self.k

    @property
    def n_tokens(self) -> int:
        """Reference tokens that count, as far as is known."""
        return self.ready.reference.n_tokens if self.ready is not None else self._place.tokens

    @property
    def model_name(self) -> str:
        return self.ready.model if self.ready is not None else self._place.model

    @property
    def completion(self) -> Completion | None:
        """The vocabulary, ready to be searched; `None` until it is there."""
        if self._completion is None and self.texts is not None:
            self._completion = Completion(self.texts)
        return self._completion

    def origin(self, layer: int) -> m.OperatorSource:
        """Which operators answer for a layer; until the engine says, those of the last visit."""
        found = self.ways.get(layer) or self._bench.browsing.known.get(layer)
        return "built" if found is None else found.operators

    def labels(
        self, features: list[tuple[int, int]], side: m.Side = "value"
    ) -> Mapping[tuple[int, int], tuple[str, ...]]:
        """The first tokens of a side of features, raw, of those whose atlas is in memory."""
        return known.labels(features, self._bench.browsing.frames, self.texts, side)

    def remember_texts(self, tokens: list[str]) -> None:
        """Token strings kept from the last visit, until the engine tells its own."""
        if self.texts is None:
            self.texts = tokens
            self._texts_arrived()

    def _texts_arrived(self) -> None:
        self._bench.table.set_texts(self.texts)
        self._showing.from_atlas()
        self._bench.browsing.texts_arrived()


def _pass_of(
    request: m.ComputeSignature | m.ComputePaths | m.ComputeBlockTokens | m.ComputeEvidence,
) -> str:
    """What passes over the reference are made for."""
    match request:
        case m.ComputeSignature():
            return f"lists of {request.layer}:{request.feature}"
        case m.ComputePaths():
            return f"{request.side} paths of {request.layer}:{request.feature}"
        case m.ComputeBlockTokens():
            return f"block tokens of {request.layer}:{request.feature}"
        case m.ComputeEvidence():
            return f"contexts of layer {request.layer}"


def _key_of(request: m.ComputeSignature | m.ComputePaths) -> FeatureKey:
    return request.layer, request.feature, request.settings, request.k

"""Where each of the engine's events goes: into the state, to the table's rows, to the marks.

Events about one request (progress, an answer, a failure) go to the state, from which panes and
screens draw. Events about the session, its layers and operators are handled here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from textual.notifications import SeverityLevel

from qlens_tui.app.kept_answers import KEPT
from qlens_tui.app.layer_requests import LayerRequests
from qlens_tui.app.notices import LONG
from qlens_tui.app.requests import FeatureRequests, Requests
from qlens_tui.app.screens.building import Building
from qlens_tui.app.screens.marking import Marking
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature
from qlens_tui.app.work import Work
from qlens_tui.engine import messages as m
from qlens_tui.table.known_layer import KnownLayer


class Notify(Protocol):
    """Shows the user a line, as a Textual screen's `notify` does."""

    def __call__(
        self, message: str, *, severity: SeverityLevel = ..., timeout: float | None = ...
    ) -> None: ...


class Answers:
    """Handles the engine's events."""

    def __init__(
        self,
        state: State,
        requests: Requests,
        *,
        feature_requests: FeatureRequests,
        layer_requests: LayerRequests,
        rows: TableRows,
        marking: Marking,
        building: Building,
        begin_at: Feature | None,
        notify: Notify,
    ) -> None:
        """`begin_at` is the feature that a first visit starts with."""
        self._state = state
        self._opened = state.opened
        self._requests = requests
        self._feature_requests = feature_requests
        self._layer_requests = layer_requests
        self._rows = rows
        self._marking = marking
        self._building = building
        self._begin_at = begin_at
        self._notify = notify

    def take(self, event: m.Event) -> None:
        """Handle an event of the engine."""
        if event.id == self._requests.opening:
            self._take_of_opening(event)
        work = self._state.take(event)
        if work is not None:
            self._opened.released = False
        match event:
            case m.LayerReady():
                self._described(event.layer)
            case m.VocabularyReady():
                self._opened.read_vocabulary(event.tokens)
                self._opened.has_own_texts = True
                self._rows.texts_arrived()
            case m.AtlasReady():
                found = self._opened.known.get(event.layer)
                if found is not None:
                    self._rows.learn(replace(found, atlas=event.directory))
            case m.BuildPlanned() if work is not None:
                self._building.confirm(event.plan)
            case m.Built():
                self._built()
            case m.Released():
                self._opened.released = True
            case m.Notice():
                self._notify(event.text, severity="warning")
            case m.Failed() if work is not None:
                self._failed(work, event.text)
            case m.Cancelled() if work is not None and isinstance(work.request, m.Tabulate):
                self._opened.no_columns[work.request.layer] = (
                    "cancelled: press B to compute the columns"
                )
        self._feature_requests.answered()

    def lost(self, text: str, phase: str) -> None:
        """The engine died; `phase` is what the app is doing about it."""
        self._opened.session, self._opened.phase = None, phase
        self._requests.opening = None
        self._state.lost(text)

    def _take_of_opening(self, event: m.Event) -> None:
        match event:
            case m.Status():
                self._opened.phase = Work(0, m.Request(), "", event.text).doing
            case m.Ready():
                self._requests.opening = None
                self._open(event.session)
            case m.Failed() | m.Cancelled() | m.Dropped():
                self._requests.opening = None
                self._opened.phase = "cannot open: press B to try again"
                if isinstance(event, m.Failed):
                    self._notify(event.text, severity="error", timeout=LONG)

    def _open(self, session: m.SessionFacts) -> None:
        self._state.open(session)
        self._rows.keep_only(session.layers)
        self._marking.keep_only(session.layers)
        self._rows.begin(session.layers, self._begin_at)
        self._layer_requests.describe()
        self._requests.ask(m.ReadVocabulary())
        self._feature_requests.changed()

    def _described(self, facts: m.LayerFacts) -> None:
        layer, kept = facts.layer, self._opened.kept
        before = self._opened.known.get(layer), None if kept is None else kept.layers.get(layer)
        if any(each is not None and each.sha256 != facts.sha256 for each in before):
            self._state.forget_answers()
        if facts.text:
            self._state.keep_text(layer, facts.text)
        self._opened.described[facts.layer] = facts
        self._rows.learn(KnownLayer.of(facts))
        self._marking.learn(facts.layer)
        if facts.layer == self._state.layer:
            self._feature_requests.changed()
            if facts.atlas is None and facts.operators != "none":
                self._layer_requests.tabulate(facts.layer)

    def _built(self) -> None:
        assert self._opened.session is not None
        self._notify("operators built: they are used for every feature from now on")
        self._opened.session = replace(self._opened.session, operators="built")
        self._state.forget_answers()
        self._layer_requests.describe()
        self._feature_requests.changed()

    def _failed(self, work: Work, text: str) -> None:
        """Show the error, unless a pane or screen shows it in place of the answer."""
        if isinstance(work.request, KEPT):
            return
        match work.request:
            case m.DescribeLayer(layer=layer):
                self._rows.cannot_show(layer, text)
            case m.Tabulate(layer=layer):
                self._opened.no_columns[layer] = f"no columns (B tries again): {text}"
        self._notify(text, severity="error")

"""Opening the session: what is shown until the model is there, and after the engine died."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qlens_tui.app.answers import Answers
from qlens_tui.app.requests import FeatureRequests, Requests
from qlens_tui.app.screens.atlas_lists import offer_atlas_lists
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.app.state import State
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.engine import messages as m

if TYPE_CHECKING:
    from qlens_tui.engine.kept_sessions import KeptSession


class Opening:
    """Opens sessions, and uses what earlier ones left on disk until the engine has a model."""

    def __init__(
        self,
        state: State,
        requests: Requests,
        *,
        feature_requests: FeatureRequests,
        answers: Answers,
        rows: TableRows,
        table: FeatureTable,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when the panes are to be drawn again."""
        self._state = state
        self._requests = requests
        self._feature_requests = feature_requests
        self._answers = answers
        self._rows = rows
        self._table = table
        self._changed = changed

    def begin(self, request: m.Open) -> None:
        """Open a session, in a new process or again."""
        self._state.opened.phase = "opening"
        self._state.opened.no_columns.clear()
        self._requests.open(request)
        self._changed()

    def remember_vocabulary(self, tokens: list[str]) -> None:
        """Use the token strings of the last visit until the engine sends its own."""
        self._state.opened.read_vocabulary(tokens)
        self._rows.texts_arrived()
        offer_atlas_lists(self._table, self._state)
        self._changed()

    def remember(self, kept: KeptSession) -> None:
        """Show what a session on the same files answered, until this one is open."""
        if self._state.opened.session is None:
            self._state.opened.kept = kept
            self._state.expect(kept.facts)
            self._feature_requests.changed()
            self._changed()

    def lost(self, text: str, phase: str) -> None:
        """The engine died; `phase` is what the app is doing about it."""
        self._answers.lost(text, phase)
        self._changed()

"""The main screen, for triage of features: table, token lists, paths, evidence.

It connects the parts. Requests and answers are in `qlens_tui.app.state`, of which panes get views.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen

from qlens_tui.app.alarm import Alarm
from qlens_tui.app.answers import Answers
from qlens_tui.app.early_answers import EarlyAnswers
from qlens_tui.app.keymap import KEYMAP
from qlens_tui.app.last_visit import LastVisit, remember
from qlens_tui.app.layer_requests import LayerRequests
from qlens_tui.app.requests import FeatureRequests, Requests
from qlens_tui.app.screens import status
from qlens_tui.app.screens.answer_screen import AnswerScreen
from qlens_tui.app.screens.atlas_lists import offer_atlas_lists
from qlens_tui.app.screens.building import Building, EngineControl
from qlens_tui.app.screens.copying import Copying
from qlens_tui.app.screens.explaining import Explaining
from qlens_tui.app.screens.exporting import Exporting
from qlens_tui.app.screens.mark_keys import MarkKeys
from qlens_tui.app.screens.marking import Marking
from qlens_tui.app.screens.opening import Opening
from qlens_tui.app.screens.pane_layout import CSS, PaneLayout
from qlens_tui.app.screens.panes import Sources
from qlens_tui.app.screens.pinning import Pinning
from qlens_tui.app.screens.row_prompts import RowPrompts
from qlens_tui.app.screens.searches import Searches
from qlens_tui.app.screens.side_screens import SideScreens
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.app.screens.visits import begun, visit_of
from qlens_tui.app.views import Feature, TokenLook
from qlens_tui.app.widgets.evidence_pane import EvidencePane
from qlens_tui.app.widgets.feature_head import head_view
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.layer_column import LayerColumn
from qlens_tui.app.widgets.paths_grid import PathsGrid
from qlens_tui.app.widgets.status_line import StatusLine
from qlens_tui.app.widgets.token_pane import TokenPane
from qlens_tui.engine import messages as m
from qlens_tui.table.row_reader import RowReader
from qlens_tui.triage.triage import Triage

_SAVE_AFTER = 0.5  # seconds from a change until the visit is saved, so that a kill loses no more
_WAKE = 1.0  # seconds
_WATCH_MARKS = 2.0  # seconds between checks for another session's marks


class Workbench(Screen[None]):
    """The main screen for one configuration."""

    DEFAULT_CSS = CSS
    BINDINGS: ClassVar[list[BindingType]] = [*KEYMAP]

    def __init__(
        self,
        config: Path,
        visit: LastVisit,
        triage: Future[Triage | None],
        *,
        send: Callable[[m.Request], int],
        engine: EngineControl,
        begin_at: Feature | None = None,
        explanations: Path | None = None,
        ascii_only: bool = False,
    ) -> None:
        """Show `config` as it was left; `send` sends requests to the engine.

        `begin_at`: the feature that a first visit starts with; `explanations`: a file for
        `explaining`; `triage`: the file that `marking` opens, or `None`: nothing can be marked.
        """
        super().__init__()
        self.config = config
        self.ascii_only = plain = ascii_only
        self._visit = visit
        self.table = FeatureTable(ascii_only=plain, id="table")
        self.state = state = begun(visit)
        self.reader = reader = RowReader(triage, ascii_only=plain)
        self.pane_layout = PaneLayout(
            self, Sources(state, reader), visit.tab, is_first_visit=not visit.model,
            head=lambda: head_view(self.table, self.marking.marks), ascii_only=plain,
        )  # fmt: skip
        early = EarlyAnswers(state, self.run_worker, self._answered_early)
        self.requests = requests = Requests(state, send, early=early.ask)
        self.layer_requests = LayerRequests(state, requests)
        self.feature_requests = FeatureRequests(
            state, requests, self.set_timer, ahead=lambda: self.table.ahead,
            reads_blocks=lambda: self.paths.has_focus, asked=self.draw,
        )  # fmt: skip
        self.rows = TableRows(
            state, visit, reader=reader, table=self.table, layer_requests=self.layer_requests,
            screen=self, changed=self._rows_changed, asked=self.save_soon,
        )  # fmt: skip
        self.marking = Marking(
            triage, state.opened, table=self.table, screen=self, changed=self.show_marks
        )
        self.mark_keys = MarkKeys(
            self.marking, state, reader, rows=self.rows, table=self.table, screen=self,
            changed=self._settings_changed, moves_on=visit.moves_on, ascii_only=plain,
        )  # fmt: skip
        self._building = Building(
            state, requests, self.layer_requests, need_layer=self.rows.need, engine=engine,
            screen=self, ascii_only=plain,
        )  # fmt: skip
        self.answers = Answers(
            state, requests, feature_requests=self.feature_requests,
            layer_requests=self.layer_requests, rows=self.rows, marking=self.marking,
            building=self._building, begin_at=begin_at, notify=self.notify,
        )  # fmt: skip
        self.opening = Opening(
            state, requests, feature_requests=self.feature_requests, answers=self.answers,
            rows=self.rows, table=self.table, changed=self._show_answers,
        )  # fmt: skip
        self._copying = Copying(state, self.pane_layout, table=self.table, screen=self)
        self.pinning = Pinning(
            state, self.pane_layout, table=self.table, screen=self, changed=self._settings_changed
        )
        self.searches = Searches(
            state, requests, reader, self.mark_keys, self.pinning, self._copying, go=self.rows.go,
            tabulate=self.rows.show_listed, screen=self, ascii_only=plain,
        )  # fmt: skip
        self._row_prompts = RowPrompts(
            state, rows=self.rows, table=self.table, screen=self, ascii_only=plain
        )
        self._exporting = Exporting(
            state.opened, triage, reader=reader, table=self.table, screen=self, ascii_only=plain
        )
        self._side_screens = SideScreens(
            state, requests, self.marking, table=self.table, config=config, go=self.rows.go,
            screen=self, ascii_only=plain,
        )  # fmt: skip
        self.explaining = Explaining(
            explanations, state.opened, reader=reader, rows=self.rows, screen=self
        )
        self._saving = Alarm(self.set_timer, self.save)

    def compose(self) -> ComposeResult:
        yield StatusLine(ascii_only=self.ascii_only, id="status")
        layers = LayerColumn(ascii_only=self.ascii_only, id="layers")
        yield from self.pane_layout.compose(self.table, layers)
        yield KeyLine(ascii_only=self.ascii_only, id="keys")

    def on_mount(self) -> None:
        self.focus_pane(self.pane_layout.in_sight(self._visit.pane))
        self._side_screens.use_saved_columns()
        self.rows.begin_empty()
        self.rows.refresh()
        self.refresh_lines()
        # Otherwise toasts sometimes stay until the next key press.
        self.set_interval(_WAKE, self.check_idle)
        self.set_interval(_WATCH_MARKS, self.marking.watch)

    @property
    def paths(self) -> PathsGrid:
        return self.query_one(PathsGrid)

    def pane(self, name: str) -> FeaturePane[Any]:
        """One of the panes about the feature under the cursor."""
        return self.pane_layout.panes[name]

    # Events of the engine.

    def hear(self, event: m.Event) -> None:
        """Handle an event of the engine."""
        self.answers.take(event)
        if isinstance(event, m.Ready | m.LayerReady | m.AtlasReady):
            self.show_layers()
            self.explaining.remark()
            self.save_soon()
        if isinstance(event, m.VocabularyReady):
            offer_atlas_lists(self.table, self.state)
        self._show_answers()

    def _answered_early(self) -> None:
        self.feature_requests.answered()
        self._show_answers()

    def _show_answers(self) -> None:
        self.draw()
        self.refresh_lines()
        for screen in self.app.screen_stack:
            if isinstance(screen, AnswerScreen):
                screen.answered()

    # Messages of the widgets.

    def on_feature_table_feature_focused(self, event: FeatureTable.FeatureFocused) -> None:
        event.stop()
        if event.layer is not None and event.feature is not None:
            self.rows.visited(event.layer, event.feature)
        self._follow_cursor()
        self.feature_requests.moved()
        self.pane_layout.follow(is_running=self.feature_requests.is_running)
        self.refresh_lines()
        self.save_soon()

    def on_feature_table_selection_changed(self, event: FeatureTable.SelectionChanged) -> None:
        event.stop()
        self.refresh_lines()

    def on_feature_table_sort_requested(self, event: FeatureTable.SortRequested) -> None:
        event.stop()
        if event.column is None:
            self._row_prompts.sort()
        else:
            self.rows.sort_by(event.column)

    def on_layer_column_layer_chosen(self, event: LayerColumn.LayerChosen) -> None:
        event.stop()
        self.rows.go(event.layer)

    def on_paths_grid_blocks_toggled(self, event: PathsGrid.BlocksToggled) -> None:
        self._carry(replace(self.state.settings, off=event.off))

    def on_paths_grid_transition_chosen(self, event: PathsGrid.TransitionChosen) -> None:
        self._carry(replace(self.state.settings, transition=event.transition))

    def on_paths_grid_shares_chosen(self, event: PathsGrid.SharesChosen) -> None:
        self.state.split, self.state.heads = event.split, event.heads
        self._settings_changed()

    def on_paths_grid_block_focused(self, event: PathsGrid.BlockFocused) -> None:
        self.state.block = event.block
        self.feature_requests.block_moved()
        self.draw()
        self.save_soon()

    def on_token_pane_look_changed(self, event: TokenPane.LookChanged) -> None:
        self._look(event.look)

    def on_evidence_pane_feature_chosen(self, event: EvidencePane.FeatureChosen) -> None:
        self.rows.go(event.layer, event.feature)

    def on_evidence_pane_context_chosen(self, event: EvidencePane.ContextChosen) -> None:
        self._side_screens.context(event.of, event.context)

    def on_descendant_focus(self) -> None:
        self.query_one(KeyLine).tell(status.keys(self, moves_on=self.mark_keys.moves_on))
        self.feature_requests.block_moved()

    def on_resize(self, event: events.Resize) -> None:
        was_tiny = self.has_class("-tiny")
        has_room = self.pane_layout.resize(event.size.width, event.size.height)
        if was_tiny and has_room:
            self.call_after_refresh(self.table.focus)  # a hidden widget must not keep the focus
        self.refresh_lines()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Block actions while the window is too small to show their effect."""
        return not self.has_class("-tiny") or (action, parameters) == ("open", ("help",))

    # Feature and settings.

    def _rows_changed(self) -> None:
        """The table's rows changed, or are being read."""
        self.table.set_marks(self.marking.marks, has_labels=self.marking.has_labels)
        self._follow_cursor()
        self.show_layers()
        self._settings_changed()

    def _follow_cursor(self) -> None:
        self.state.focus(self.table.feature)
        offer_atlas_lists(self.table, self.state)

    def _look(self, look: TokenLook) -> None:
        self.state.look = look
        self._settings_changed()

    def _carry(self, settings: m.Settings) -> None:
        self.state.carry(settings)
        self._settings_changed()

    def _settings_changed(self) -> None:
        self.feature_requests.changed()
        self.draw()
        self.refresh_lines()
        self.save_soon()

    # Keys.

    def action_feature(self, by: int) -> None:
        self.table.action_move(by)

    def action_layer(self, by: int) -> None:
        self.rows.step(by)

    def action_pane(self, by: int) -> None:
        here = self.focused.id if self.focused is not None else None
        self.focus_pane(self.pane_layout.in_sight(here, by))

    def focus_pane(self, name: str) -> None:
        self.pane_layout.show(name)
        self.query_one(f"#{name}").focus()
        self.save_soon()

    def action_zoom(self) -> None:
        self.pane_layout.toggle_zoom()
        self.refresh_lines()

    def action_back(self) -> None:
        if self.pane_layout.zoomed is not None:
            self.action_zoom()
        elif not self.table.has_focus:
            self.table.focus()
        elif not (self.pinning.unpin() or self.rows.back() or self.pane_layout.first_visit.leave()):
            self.notify("nothing to go back to: q quits")

    def action_ask(self, what: Literal["jump", "sort", "filter"]) -> None:
        getattr(self._row_prompts, what)()

    def action_search(self, how: Literal["by_token", "by_text"]) -> None:
        getattr(self.searches, how)()

    def action_transition(self, transition: m.Transition) -> None:
        self._carry(replace(self.state.settings, transition=transition))

    def action_all_on(self) -> None:
        self._carry(replace(self.state.settings, off=frozenset()))

    def action_look(self, what: str, *by: int) -> None:
        self._look(getattr(self.query_one("#value", TokenPane), what)(*by))

    def action_mark(self, what: str, *how: str) -> None:
        getattr(self.mark_keys, what)(*how)

    def action_pin(self) -> None:
        self.pinning.toggle()

    def action_export(self) -> None:
        self.rows.when_current(self._exporting.ask)

    def action_copy(self, what: Literal["pane", "address"] = "pane") -> None:
        getattr(self._copying, what)()

    def action_open(self, what: str) -> None:
        getattr(self._side_screens, what)()

    def action_build(self) -> None:
        self._building.start()
        self.refresh_lines()

    def draw(self) -> None:
        """Give the panes their views."""
        self.pane_layout.draw()

    def refresh_lines(self) -> None:
        """Update the first line, the table's head and the last line."""
        if not self.is_attached or not self.query("#status"):
            return
        status.show_lines(
            self, self.state, self.rows, self.table, self.layer_requests, self.mark_keys,
            self.config.stem,
        )  # fmt: skip

    def show_layers(self) -> None:
        """Update the layer column."""
        choices, layer = self.state.opened.choices, self.state.layer
        self.query_one(LayerColumn).tell(choices, layer, self.marking.stars)

    def show_marks(self) -> None:
        """Show the current marks."""
        self.rows.marks_changed()
        self.table.set_marks(dict(self.marking.marks), has_labels=self.marking.has_labels)
        self.draw()
        self.show_layers()
        self.refresh_lines()
        for screen in self.app.screen_stack:
            if isinstance(screen, AnswerScreen):
                screen.marks_changed()

    # The visit.

    def save_soon(self) -> None:
        """Save where the user is, with what else changes in the next moment."""
        self._saving.within(_SAVE_AFTER)

    def save(self) -> None:
        """Save where the user is now."""
        self._saving.stop()
        if self.state.opened.known:
            here = self.focused.id if self.focused is not None else None
            pane, tab = self.pane_layout.in_sight(here), self.pane_layout.tab
            moves_on = self.mark_keys.moves_on
            visit = visit_of(self.state, self.rows, self.table.feature, moves_on=moves_on)
            remember(self.config, replace(visit, tab=tab, pane=pane, theme=self.app.theme))

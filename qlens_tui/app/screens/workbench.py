"""The screen that features are triaged on: table, token lists, paths, evidence.

It composes the panes and gives every key its action. What the keys do lies beside it: rows and
the way through them (`browsing`), the talk with the engine (`dialogue`), marks (`marking`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.timer import Timer

from qlens_tui.app.keymap import KEYMAP
from qlens_tui.app.last_visit import Place, remember
from qlens_tui.app.screens import edges, finding
from qlens_tui.app.screens.browsing import Browsing
from qlens_tui.app.screens.dialogue import Dialogue
from qlens_tui.app.screens.help import Help, bindings_of
from qlens_tui.app.screens.jobs import show_jobs
from qlens_tui.app.screens.marking import Marking
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.probe import ProbeScreen, ask_prompt
from qlens_tui.app.screens.reverse_search import ReverseSearch
from qlens_tui.app.screens.showing import SIDES
from qlens_tui.app.widgets.evidence_pane import EvidencePane
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.layer_column import LayerColumn
from qlens_tui.app.widgets.line_pane import LinePane
from qlens_tui.app.widgets.paths_grid import PathsGrid
from qlens_tui.app.widgets.status_line import StatusLine
from qlens_tui.app.widgets.token_pane import TokenLook, TokenPane
from qlens_tui.engine import messages as m
from qlens_tui.triage.triage import Triage

if TYPE_CHECKING:
    from typing import Any

    from qlens_tui.app.app import QlensApp

_SECTIONS = {"value": "token lists", "key": "token lists", "paths": "paths", "evidence": "evidence"}
"""The part of the help that a pane's keys are in; the table's begins it, with `everywhere`."""
PANES = ("table", "value", "key", "paths", "evidence")
Tab = Literal["value", "key", "paths", "evidence"]
_SAVE_AFTER = 1.0  # seconds from a move until the place is written
_WAKE = 1.0  # seconds
_WATCH_MARKS = 2.0  # seconds between looks for another session's marks


class Workbench(Screen[None]):
    """Everything about one configuration."""

    DEFAULT_CSS = """
    Workbench { layout: vertical; }
    Workbench #upper { height: 1fr; }
    Workbench #lists { height: 1fr; }
    Workbench #value, Workbench #key { width: 1fr; }
    Workbench #value { border-right: solid $foreground 30%; }
    Workbench #lower { height: 9; border-top: solid $foreground 30%; }
    Workbench #lists { border-top: solid $foreground 30%; }
    Workbench.-tall #lower { height: 18; }
    Workbench.-tall #paths { height: 8; }
    Workbench #small { display: none; }
    Workbench.-narrow #layers { display: none; }
    Workbench.-narrow #lists { height: 13; }
    Workbench.-narrow #lower { display: none; height: 13; }
    Workbench.-narrow #value { border-right: none; }
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

    BINDINGS: ClassVar[list[BindingType]] = [*KEYMAP]

    def __init__(self, config: Path, place: Place, triage: Triage | None) -> None:
        super().__init__()
        self.config = config
        self._place = place
        self.marking = Marking(self, triage)
        self.browsing = Browsing(self, place)
        self.dialogue = Dialogue(self, place)
        self._tab: Tab = place.tab if place.tab in PANES[1:] else "value"  # type: ignore[assignment]
        self._saver: Timer | None = None

    @property
    def qlens(self) -> QlensApp:
        from qlens_tui.app.app import QlensApp

        assert isinstance(self.app, QlensApp)
        return self.app

    @property
    def ascii(self) -> bool:
        return self.qlens.ascii_only

    def compose(self) -> ComposeResult:
        plain, look = self.ascii, look_of(self._place)
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
        settings = self.dialogue.settings
        self.paths.ask(frozenset(settings.off), settings.transition)
        self._show_tab()
        self.focus_pane(self._place.pane if self._place.pane in PANES else "table")
        self.say("starting the engine")
        self.browsing.begin_empty()
        self.marking.read_all()
        self.browsing.refresh()
        # Toasts were once seen to stay until the next key, as if nothing had woken the screen.
        self.set_interval(_WAKE, self.check_idle)
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

    @property
    def panes(self) -> tuple[FeaturePane[Any], ...]:
        """Those about the feature under the cursor."""
        return self.pane("value"), self.pane("key"), self.paths, self.evidence

    @property
    def triage(self) -> Triage | None:
        return self.marking.triage

    # What the widgets say.

    def on_feature_table_feature_focused(self, event: FeatureTable.FeatureFocused) -> None:
        event.stop()
        if event.layer is not None and event.feature is not None:
            self.browsing.visited(event.layer, event.feature)
        self.dialogue.follow()
        self.say()
        self.save_soon()

    def on_feature_table_selection_changed(self, event: FeatureTable.SelectionChanged) -> None:
        event.stop()
        self.say()

    def on_feature_table_sort_requested(self, event: FeatureTable.SortRequested) -> None:
        event.stop()
        if event.column is None:
            self.action_sort()
        else:
            self.browsing.sort_by(event.column)

    def on_layer_column_layer_chosen(self, event: LayerColumn.LayerChosen) -> None:
        event.stop()
        self.browsing.go(event.layer)

    def on_paths_grid_blocks_toggled(self, event: PathsGrid.BlocksToggled) -> None:
        event.stop()
        self._switch(replace(self.dialogue.settings, off=event.off))

    def on_paths_grid_transition_chosen(self, event: PathsGrid.TransitionChosen) -> None:
        event.stop()
        self._switch(replace(self.dialogue.settings, transition=event.transition))

    def _switch(self, settings: m.Settings) -> None:
        self.dialogue.switch(settings)
        self.say()
        self.save_soon()

    def on_token_pane_look_changed(self, event: TokenPane.LookChanged) -> None:
        event.stop()
        for side in SIDES:
            self.pane(side).look = event.look
        self.dialogue.resize(event.look.length)
        self.save_soon()

    def on_paths_grid_block_focused(self, event: PathsGrid.BlockFocused) -> None:
        event.stop()
        self.dialogue.rest_on_block()

    def on_evidence_pane_feature_chosen(self, event: EvidencePane.FeatureChosen) -> None:
        event.stop()
        self.browsing.go(event.layer, event.feature)

    def on_descendant_focus(self) -> None:
        self._show_keys()
        self.dialogue.rest_on_block()

    def on_resize(self, event: events.Resize) -> None:
        width, height = event.size.width, event.size.height
        was_tiny, tiny = self.has_class("-tiny"), width < 80 or height < 24
        self.set_class(tiny, "-tiny")
        self.set_class(width < 120, "-narrow")
        self.set_class(width >= 120 and height >= 44, "-tall")
        self.set_class(not (width >= 120 and height >= 44), "-short")
        if was_tiny and not tiny:
            self.call_after_refresh(self.table.focus)  # what is hidden loses the focus
        self.say()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Nothing can be done blindly to what a window is too small to show."""
        return not self.has_class("-tiny") or action in ("quit", "help")

    # Keys.

    def action_feature(self, by: int) -> None:
        self.table.action_move(by)

    def action_layer(self, by: int) -> None:
        self.browsing.step(by)

    def action_pane(self, by: int) -> None:
        at = PANES.index(self.focused.id) if self.focused and self.focused.id in PANES else 0
        self.focus_pane(PANES[(at + by) % len(PANES)])

    def focus_pane(self, name: str) -> None:
        if name != "table":
            self._tab = name  # type: ignore[assignment]
            self._show_tab()
        self.query_one(f"#{name}").focus()
        self.save_soon()

    def _show_tab(self) -> None:
        for name in PANES[1:]:
            self.set_class(name == self._tab, f"-tab-{name}")

    def action_back(self) -> None:
        if not self.table.has_focus:
            self.table.focus()
        else:
            self.browsing.back()

    def action_jump(self) -> None:
        finding.ask_jump(self)

    def action_sort(self) -> None:
        finding.ask_sort(self)

    def action_filter(self) -> None:
        finding.ask_filter(self)

    def action_token_search(self) -> None:
        finding.ask_token(self)

    def action_prompt(self) -> None:
        self.dialogue.probe = ask_prompt(self, self.dialogue.probe)

    def action_transition(self, transition: m.Transition) -> None:
        self.paths.action_transition(transition)

    def action_look(self, what: str) -> None:
        getattr(self.pane("value"), f"action_{what}")()

    def action_longer(self, by: int) -> None:
        self.pane("value").action_lengthen(by)

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

    def action_export(self) -> None:
        from qlens_tui.app.screens.exporting import ask_and_export

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

    def action_overview(self) -> None:
        from qlens_tui.app.screens.overview import show_overview

        show_overview(self)

    def action_jobs(self) -> None:
        show_jobs(self)

    def action_build(self) -> None:
        self.dialogue.build()

    def action_help(self) -> None:
        from qlens_tui.app.screens.overview import OverviewScreen

        elsewhere = (
            ("features by token", ReverseSearch),
            ("what fires on a text", ProbeScreen),
            ("overview", OverviewScreen),
            ("note", NoteEditor),
        )
        shown = [(title, list(bindings_of(screen.BINDINGS))) for title, screen in elsewhere]
        scrolling = "token lists and evidence: scrolling", list(bindings_of(LinePane.BINDINGS))
        focused = self.focused.id or "" if self.focused is not None else ""
        self.app.push_screen(
            Help(
                [*self.sections(), scrolling, *shown],
                begin=_SECTIONS.get(focused, ""),
                ascii_only=self.ascii,
            )
        )

    async def action_quit(self) -> None:
        await self.qlens.action_quit()

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

    # What the lines at the edges say.

    def say(self, state: str | None = None) -> None:
        """Bring status and keys up to date; `state` is what is going on without an engine."""
        if state is not None:
            self.dialogue.state = state
        if not self.is_attached or not self.query("#status"):
            return
        if self.has_class("-tiny"):
            size = self.app.size
            words = f"80x24 is the least; this is {size.width}x{size.height}"
            self.query_one(StatusLine).tell([[words]], [""])
            return
        self.query_one(StatusLine).tell(edges.where(self), edges.now(self))
        self.table.set_lacking(edges.lacking(self))
        self._show_keys()

    def show_layers(self) -> None:
        """Bring the layer column up to date."""
        browsing = self.browsing
        column = self.query_one(LayerColumn)
        column.tell(browsing.choices, browsing.layer, self.marking.stars)

    def show_marks(self) -> None:
        """Show the marks as they are now."""
        self.table.set_marks(dict(self.marking.marks))
        self.show_layers()

    def _show_keys(self) -> None:
        self.query_one(KeyLine).tell(edges.keys(self))

    # The place.

    def current_place(self) -> Place:
        """Where the user is, to come back to."""
        feature, look = self.table.feature, self.pane("value").look
        browsing, dialogue = self.browsing, self.dialogue
        layer, number = feature if feature is not None else (browsing.layer, None)
        ready, focused = dialogue.ready, self.focused
        return Place(
            layer=layer,
            feature=number,
            everywhere=browsing.layer is None and layer is not None,
            sort=browsing.sort,
            descending=browsing.descending,
            filter=browsing.filter,
            k=dialogue.k if ready is None or dialogue.k != ready.k else None,
            transition=dialogue.settings.transition,
            off=tuple(sorted(dialogue.settings.off)),
            convention=dialogue.settings.convention,
            final_norm=dialogue.settings.final_norm,
            tab=self._tab,
            pane=focused.id if focused is not None and focused.id in PANES else "table",
            ids=look.ids,
            bottom=look.end == "bottom",
            lenses=look.lenses,
            length=look.length,
            theme=self.app.theme,
            model=dialogue.model_name,
            tokens=dialogue.n_tokens,
            known=tuple(browsing.known[layer] for layer in sorted(browsing.known)),
        )

    def save_soon(self) -> None:
        """Write the place, in a moment: once for many moves."""
        if self._saver is None:
            self._saver = self.set_timer(_SAVE_AFTER, self.save)

    def save(self) -> None:
        """Write the place now."""
        self._saver = None
        if self.browsing.known:
            remember(self.config, self.current_place())


def look_of(place: Place) -> TokenLook:
    """How lists were shown."""
    return TokenLook(
        end="bottom" if place.bottom else "top",
        ids=place.ids,
        lenses=place.lenses,  # type: ignore[arg-type]
        length=place.length,
    )

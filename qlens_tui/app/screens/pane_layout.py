"""The layout of the workbench: two shapes, and the zoom of one pane.

From 140 columns the table is on the left over the whole height, and the feature under the cursor
on the right. On a narrower screen the table is above and the panes below: all of them from 120
columns, else the one used last. While a feature is pinned, its comparison with the one under the
cursor is in their place. A zoomed pane has the whole screen, and the zoom follows the focus.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.screen import Screen
from textual.widget import Widget

from qlens_tui.app.alarm import Alarm
from qlens_tui.app.screens.key_sections import TABLE
from qlens_tui.app.screens.panes import COMPARISON, PANES, PaneKind, Sources
from qlens_tui.app.views import HeadView
from qlens_tui.app.widgets.fact_line import FactLine
from qlens_tui.app.widgets.feature_head import FeatureHead
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.first_visit import FirstVisit

LEAST = 80, 24
"""The smallest usable screen, in columns and lines."""
_ROOMY, _WIDE, _TALL = 120, 140, 44
_DRAWS = 0.2  # seconds between redraws while the cursor moves fast
_AFTER_GRACE = 0.005  # seconds by which a timer may be early

NAMES = (TABLE, *(kind.name for kind in PANES))
"""The table and the panes, in the order of `tab`."""

CSS = """
Workbench { layout: vertical; }
Workbench #body { layout: vertical; height: 1fr; }
Workbench #upper { layout: horizontal; height: 1fr; }
Workbench #detail { layout: vertical; height: 60%; }
Workbench #feature, Workbench #rows { display: none; }
Workbench #lists { layout: horizontal; height: 1fr; border-top: solid $border-blurred; }
Workbench #lists > FeaturePane { width: 1fr; border-right: solid $border-blurred; }
Workbench #lists > FeaturePane.-last { border-right: none; }
Workbench #lower { layout: vertical; height: 9; border-top: solid $border-blurred; }
Workbench.-tall #detail { height: 70%; }
Workbench.-tall #lower { height: 18; }
Workbench.-tall #paths { height: 8; }
Workbench.-short #lower > FeaturePane { display: none; }
Workbench.-short #lower > FeaturePane.-front { display: block; }
Workbench.-wide #body { layout: horizontal; }
Workbench.-wide #layers { display: none; }
Workbench.-wide #feature, Workbench.-wide #rows { display: block; }
Workbench.-wide #upper { width: 38%; height: 100%; }
Workbench.-wide #detail { width: 1fr; height: 100%; border-left: solid $border-blurred; }
Workbench.-wide.-tall #lower { height: 1fr; }
/* Two changes of colour a row: 0.9 KB for a feature at 120x40, where bold has to do. */
Workbench.-wide TokenPane > .tokens--other { color: $foreground-muted; }
Workbench.-wide TokenPane:ansi > .tokens--other { text-style: dim; }
Workbench.-narrow #layers { display: none; }
Workbench.-narrow #detail { height: 58%; min-height: 13; }
Workbench.-narrow #lists, Workbench.-narrow #lower { display: none; height: 1fr; }
Workbench.-narrow #lists.-front, Workbench.-narrow #lower.-front { display: block; }
Workbench.-narrow #lists > FeaturePane { border-right: none; }
Workbench.-narrow .-group > FeaturePane { display: none; }
Workbench.-narrow .-group > FeaturePane.-front { display: block; }
Workbench #comparison { display: none; height: 1fr; border-top: solid $border-blurred; }
Workbench.-compares #detail > .-group { display: none; }
Workbench.-compares #comparison { display: block; }
Workbench.-zoomed .-part { display: none !important; }
Workbench.-zoomed .-part.-zoom {
    display: block !important; width: 1fr !important; height: 1fr !important;
    border: none !important;
}
Workbench.-tiny #body, Workbench.-tiny #keys, Workbench.-tiny FirstVisit { display: none; }
"""


class PaneLayout:
    """Creates the panes, shows the one used last in front or alone, and has them drawn."""

    def __init__(
        self,
        screen: Screen[Any],
        sources: Sources,
        tab: str,
        *,
        head: Callable[[], HeadView],
        is_first_visit: bool,
        ascii_only: bool,
    ) -> None:
        """`tab` names the pane in front, if it exists; `head` gives what is above the panes."""
        self._screen = screen
        self._sources = sources
        self._head = head
        self.rows = FactLine(ascii_only=ascii_only, id="rows")
        self.first_visit = FirstVisit(is_first=is_first_visit, ascii_only=ascii_only)
        self.feature = FeatureHead(ascii_only=ascii_only, id="feature")
        self._drawing = Alarm(screen.set_timer, self.draw)
        self._grace = Alarm(screen.set_timer, self.draw)
        self.panes: dict[str, FeaturePane[Any]] = {
            kind.name: kind.make(kind.name, ascii_only) for kind in (*PANES, COMPARISON)
        }
        self.tab = tab if tab in NAMES[1:] else PANES[0].name
        self.zoomed: str | None = None
        self._groups: dict[str, list[PaneKind]] = {}
        self._containers: dict[str, Container] = {}
        for kind in PANES:
            self._groups.setdefault(kind.group, []).append(kind)

    @property
    def names(self) -> tuple[str, ...]:
        """The table and the panes in its sight, in the order of `tab`."""
        return NAMES if self._sources.state.pinned is None else (NAMES[0], COMPARISON.name)

    def in_sight(self, name: str | None, by: int = 0) -> str:
        """The pane `by` panes after one; after the table, if that is not in sight."""
        names = self.names
        return names[((names.index(name) if name in names else 0) + by) % len(names)]

    def compose(self, table: Widget, layers: Widget) -> ComposeResult:
        """The table, beside the layers, and the panes in their groups."""
        groups = []
        for group, kinds in self._groups.items():
            panes = [self.panes[kind.name] for kind in kinds]
            for pane in panes:
                pane.add_class("-part", update=False)
            panes[-1].add_class("-last", update=False)
            self._containers[group] = Container(*panes, id=group, classes="-group -part")
            groups.append(self._containers[group])
        comparison = self.panes[COMPARISON.name]
        comparison.add_class("-part", update=False)
        groups.append(Container(comparison, id=COMPARISON.group, classes="-part"))
        yield Container(
            Container(layers, Vertical(self.rows, table), id="upper", classes="-part"),
            Container(self.feature, *groups, id="detail", classes="-part"),
            id="body",
        )
        yield self.first_visit
        self.show(self.tab)
        self.show_comparison()
        # Before anything is mounted: each class that changes later has all of it styled again.
        self.resize(*self._screen.app.size)

    def show_comparison(self) -> None:
        """Show the comparison in place of the panes if a feature is pinned, or else the panes."""
        self._screen.set_class(self._sources.state.pinned is not None, "-compares")

    def show(self, name: str) -> None:
        """Show a pane in front, if there is no room for all; while one is zoomed, zoom this.

        The table is always in front.
        """
        self.tab = name if name in NAMES[1:] else self.tab
        for group, kinds in self._groups.items():
            names = [kind.name for kind in kinds]
            here = self.tab in names
            front = self.tab if here else names[0]
            for each in names:
                self.panes[each].set_class(each == front, "-front")
            self._containers[group].set_class(here, "-front")
        if self.zoomed is not None:
            self.zoom(name)

    def toggle_zoom(self) -> None:
        """Zoom the pane with the focus, or show all again."""
        focused = self._screen.focused
        here = focused.id if focused is not None else None
        self.zoom(here if self.zoomed is None else None)

    def zoom(self, name: str | None) -> None:
        """Give the table or a pane the whole screen; `None`: none."""
        self.zoomed = name
        kind = next((kind for kind in (*PANES, COMPARISON) if kind.name == name), None)
        shown = {name, kind.group, "detail"} if kind is not None else {"upper"}
        self._screen.set_class(name is not None, "-zoomed")
        for part in self._screen.query(".-part"):
            part.set_class(part.id in shown, "-zoom")

    def resize(self, width: int, height: int) -> bool:
        """Fit the layout to this screen size; returns whether it is large enough."""
        tiny = width < LEAST[0] or height < LEAST[1]
        roomy = width >= _ROOMY and height >= _TALL
        self._screen.update_classes(
            {
                "-tiny": tiny, "-narrow": width < _ROOMY, "-wide": width >= _WIDE,
                "-tall": roomy, "-short": not roomy,
            }
        )  # fmt: skip
        return not tiny

    def draw(self) -> None:
        """Give every pane its view, and again when old numbers are to turn grey."""
        self._drawing.stop()
        for kind in (*PANES, COMPARISON):
            self.panes[kind.name].draw(kind.view(self._sources))
        if self._screen.has_class("-wide"):
            self.feature.tell(self._head())
        grace = self._sources.state.grace_ends()
        if grace is not None:
            self._grace.put_off(grace + _AFTER_GRACE)

    def follow(self, *, is_running: bool) -> None:
        """The cursor moved: draw, or, while it moves fast, once for many moves.

        The connection may be slow.
        """
        if is_running:
            self._drawing.within(_DRAWS)
        else:
            self.draw()

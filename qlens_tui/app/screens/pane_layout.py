"""The layout of the panes: all on a wide screen, one group or one pane on a narrow one."""

from __future__ import annotations

from typing import Any

from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen

from qlens_tui.app.alarm import Alarm
from qlens_tui.app.screens.key_sections import TABLE
from qlens_tui.app.screens.panes import PANES, PaneKind, Sources
from qlens_tui.app.widgets.feature_pane import FeaturePane

LEAST = 80, 24
"""The smallest usable screen, in columns and lines."""
_WIDE, _TALL = 120, 44
_DRAWS = 0.1  # seconds between redraws while the cursor moves fast
_AFTER_GRACE = 0.005  # seconds by which a timer may be early

NAMES = (TABLE, *(kind.name for kind in PANES))
"""The table and the panes, in the order of `tab`."""

CSS = """
Workbench { layout: vertical; }
Workbench #upper { height: 1fr; }
Workbench #lists { layout: horizontal; height: 1fr; border-top: solid $foreground 30%; }
Workbench #lists > FeaturePane { width: 1fr; border-right: solid $foreground 30%; }
Workbench #lists > FeaturePane.-last { border-right: none; }
Workbench #lower { layout: vertical; height: 9; border-top: solid $foreground 30%; }
Workbench.-tall #lower { height: 18; }
Workbench.-tall #paths { height: 8; }
Workbench.-short #lower > FeaturePane { display: none; }
Workbench.-short #lower > FeaturePane.-front { display: block; }
Workbench.-narrow #layers { display: none; }
Workbench.-narrow #lists, Workbench.-narrow #lower { display: none; height: 13; }
Workbench.-narrow #lists.-front, Workbench.-narrow #lower.-front { display: block; }
Workbench.-narrow #lists > FeaturePane { border-right: none; }
Workbench.-narrow .-group > FeaturePane { display: none; }
Workbench.-narrow .-group > FeaturePane.-front { display: block; }
Workbench.-tiny #upper, Workbench.-tiny .-group, Workbench.-tiny #keys { display: none; }
"""


class PaneLayout:
    """Creates the panes, shows the one used last in front, and has them drawn."""

    def __init__(
        self, screen: Screen[Any], sources: Sources, tab: str, *, ascii_only: bool
    ) -> None:
        """`tab` names the pane in front, if it exists."""
        self._screen = screen
        self._sources = sources
        self._drawing = Alarm(screen.set_timer, self.draw)
        self._grace = Alarm(screen.set_timer, self.draw)
        self.panes: dict[str, FeaturePane[Any]] = {
            kind.name: kind.make(kind.name, ascii_only) for kind in PANES
        }
        self.tab = tab if tab in self.panes else PANES[0].name
        self._groups: dict[str, list[PaneKind]] = {}
        for kind in PANES:
            self._groups.setdefault(kind.group, []).append(kind)

    def compose(self) -> ComposeResult:
        """The groups, with their panes in them."""
        for group, kinds in self._groups.items():
            panes = [self.panes[kind.name] for kind in kinds]
            panes[-1].add_class("-last")
            yield Container(*panes, id=group, classes="-group")
        self.show(self.tab)

    def show(self, name: str) -> None:
        """Show a pane in front, if there is no room for all."""
        self.tab = name
        for group, kinds in self._groups.items():
            names = [kind.name for kind in kinds]
            here = name in names
            front = name if here else names[0]
            for each in names:
                self.panes[each].set_class(each == front, "-front")
            for container in self._screen.query(f"#{group}"):
                container.set_class(here, "-front")

    def resize(self, width: int, height: int) -> bool:
        """Fit the layout to this screen size; returns whether it is large enough."""
        tiny = width < LEAST[0] or height < LEAST[1]
        roomy = width >= _WIDE and height >= _TALL
        self._screen.set_class(tiny, "-tiny")
        self._screen.set_class(width < _WIDE, "-narrow")
        self._screen.set_class(roomy, "-tall")
        self._screen.set_class(not roomy, "-short")
        return not tiny

    def draw(self) -> None:
        """Give every pane its view, and again when old numbers are to turn grey."""
        self._drawing.stop()
        for kind in PANES:
            self.panes[kind.name].draw(kind.view(self._sources))
        grace = self._sources.state.grace_ends()
        if grace is not None:
            self._grace.put_off(grace + _AFTER_GRACE)

    def draw_soon(self) -> None:
        """Draw in a moment, once for many cursor moves, because the connection may be slow."""
        self._drawing.within(_DRAWS)

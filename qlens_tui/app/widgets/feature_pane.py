"""Whose numbers a pane shows: of this feature, or still of the last one, and it says which.

The cursor is quicker than the engine. Until an answer arrives the last feature's numbers stay
under the last feature's name; after a moment they turn grey and the pane says what it waits
for, so that a quick walk does not flicker and a slow answer is never taken for the new one.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from textual.timer import Timer

from qlens_tui.app.widgets.line_pane import Line, LinePane, Run
from qlens_tui.text import visible


class OfFeature(Protocol):
    """Data that says which feature it is of."""

    @property
    def layer(self) -> int: ...
    @property
    def feature(self) -> int: ...


View = TypeVar("View", bound=OfFeature)


class FeaturePane(LinePane, Generic[View]):
    """A pane about the feature under the cursor."""

    GRACE = 0.15
    """Seconds that the last feature's numbers stay as they are before they turn grey."""

    def __init__(
        self,
        *,
        ascii_only: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(ascii_only=ascii_only, name=name, id=id, classes=classes)
        self._view: View | None = None
        self._awaited: tuple[int, int] | None = None
        self._doing = ""
        self._problem = ""
        self._late = False
        self._grace: Timer | None = None

    @property
    def view(self) -> View | None:
        """What is shown, of whichever feature."""
        return self._view

    @property
    def stale(self) -> bool:
        """Whether the numbers are greyed: those of another feature or mask than the asked one."""
        return self._late and self._view is not None

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come, with or without numbers on the screen."""
        return self._awaited is not None and not self._problem

    def show(self, view: View) -> None:
        """Show these numbers; an answer to an older question leaves the pane waiting."""
        asked = self._awaited in (None, (view.layer, view.feature))
        if asked:
            self._settle()
        if asked or not self._problem:
            before, self._view = self._view, view
            if before is None or (before.layer, before.feature) != (view.layer, view.feature):
                self._top = 0
            self.redraw()

    def expect(self, layer: int, feature: int, doing: str = "computing") -> None:
        """Say that this feature's numbers are on their way, and what is being done for them."""
        waiting = self._awaited is not None and not self._problem
        if not waiting:
            self._settle()
        self._awaited, self._doing = (layer, feature), doing
        if self._view is None or self._late:
            self._give_up_waiting()
            return
        if not waiting:
            self._grace = self.set_timer(self.GRACE, self._give_up_waiting)
        self.redraw()

    def fail(self, layer: int, feature: int, problem: str) -> None:
        """Say why there are no numbers of this feature."""
        self._settle()
        self._view, self._awaited, self._problem = None, (layer, feature), problem
        self.redraw()

    def clear(self) -> None:
        """Show nothing: there is no feature under the cursor."""
        self._settle()
        self._view = None
        self.redraw()

    def printable(self, text: str) -> str:
        return visible(text, ascii_only=self.ascii_only)

    def feature_name(self) -> str:
        """The feature whose numbers these are, or for want of numbers the one asked for."""
        of = (self._view.layer, self._view.feature) if self._view is not None else self._awaited
        return "" if of is None else f"{of[0]}:{of[1]}"

    def waiting_for(self) -> str:
        """`6:36 computing...` while the shown numbers are not the asked ones."""
        if not self.stale or self._awaited is None:
            return ""
        name = f"{self._awaited[0]}:{self._awaited[1]} "
        arrow = ">" if self.ascii_only else "▸"
        return f"{arrow} {name if name[:-1] != self.feature_name() else ''}{self.doing()}"

    def instead(self) -> Line | None:
        """The one line to show in place of numbers that are not there."""
        if self._problem:
            said: Run = f"! {self.printable(self._problem)}", "pane--problem"
        elif self._view is not None:
            return None
        elif self._awaited is None:
            said = "no feature", "pane--quiet"
        else:
            said = self.doing(), "pane--waiting"
        return ((" " + said[0], said[1]),)

    def shade(self, style: str = "") -> str:
        """The style, or grey where the numbers are not the asked ones."""
        return "pane--quiet" if self.stale else style

    def doing(self) -> str:
        return f"{self.printable(self._doing or 'computing')}{self.ellipsis}"

    def _settle(self) -> None:
        if self._grace is not None:
            self._grace.stop()
        self._grace, self._awaited, self._late = None, None, False
        self._doing = self._problem = ""

    def _give_up_waiting(self) -> None:
        self._late = True
        self.redraw()

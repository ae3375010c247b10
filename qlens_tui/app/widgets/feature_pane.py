"""A pane about the feature under the cursor: it draws the view that it is given, and no other.

Whose numbers these are, whether they are the asked ones and what is awaited is in the view
(`qlens_tui.app.views`); a pane keeps its scroll and its cursor.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from qlens_tui.app.views import Feature, Shown
from qlens_tui.app.widgets.line_pane import Line, LinePane, Run
from qlens_tui.text import visible


class PaneView(Protocol):
    """What all views have."""

    @property
    def shown(self) -> Shown[Any]: ...


View = TypeVar("View", bound=PaneView)


class FeaturePane(LinePane, Generic[View]):
    """A pane about the feature under the cursor."""

    def __init__(
        self,
        view: View,
        *,
        ascii_only: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """Draw `view` at first."""
        super().__init__(ascii_only=ascii_only, name=name, id=id, classes=classes)
        self._view = view

    @property
    def view(self) -> View:
        """What is drawn."""
        return self._view

    @property
    def shown(self) -> Shown[Any]:
        """The numbers that are drawn, and how they stand to the feature under the cursor."""
        return self._view.shown

    def draw(self, view: View) -> None:
        """Draw this; the numbers of another feature begin at their top."""
        if view == self._view:
            return
        is_other = view.shown.of != self.shown.of
        self._view = view
        if is_other:
            self._top = 0
        self.view_changed(is_other_feature=is_other)
        self.redraw()

    def view_changed(self, *, is_other_feature: bool) -> None:
        """There is another view: what the pane keeps of its own is to fit it."""

    @property
    def is_grey(self) -> bool:
        """Whether all numbers are grey: those of another feature, or by other settings."""
        return self.shown.late and self.shown.answer is not None

    def printable(self, text: str) -> str:
        return visible(text, ascii_only=self.ascii_only)

    def feature_name(self) -> str:
        """The feature whose numbers these are, or for want of numbers the one asked for."""
        shown = self.shown
        return _name(shown.of if shown.answer is not None else shown.asked)

    def waiting_for(self) -> str:
        """`▸ 6:36 computing…` while the numbers are grey."""
        shown = self.shown
        if not self.is_grey or not shown.awaits:
            return ""
        name = "" if shown.asked == shown.of else f"{_name(shown.asked)} "
        return f"{self.arrow} {name}{self.doing(shown.awaits)}"

    def instead(self) -> Line | None:
        """The one line to show in place of numbers that are not there."""
        shown = self.shown
        if shown.problem:
            said: Run = f"! {self.printable(shown.problem)}", "pane--problem"
        elif shown.answer is not None:
            return None
        elif shown.asked is None:
            said = "no feature", "pane--quiet"
        else:
            said = self.doing(shown.awaits), "pane--waiting"
        return ((" " + said[0], said[1]),)

    def shade(self, style: str = "") -> str:
        """The style, or grey where the numbers are not the asked ones."""
        return "pane--quiet" if self.is_grey else style

    def doing(self, text: str) -> str:
        """What is being done, as it is shown."""
        return f"{self.printable(text)}{self.ellipsis}"

    @property
    def arrow(self) -> str:
        return ">" if self.ascii_only else "▸"


def _name(feature: Feature | None) -> str:
    return "" if feature is None else f"{feature[0]}:{feature[1]}"

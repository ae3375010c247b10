"""A pane about the feature under the cursor, which draws only its view.

The view (`qlens_tui.app.views`) says which feature's numbers these are, whether they are current
and what is awaited; a pane keeps only its scroll and cursor.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from qlens_tui.app.views import Feature, Shown
from qlens_tui.app.widgets.line_pane import Line, LinePane, Run
from qlens_tui.text import visible


class PaneView(Protocol):
    """The attributes that all views have."""

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
        """The view that is drawn."""
        return self._view

    @property
    def shown(self) -> Shown[Any]:
        """The numbers that are drawn, and whether they are the requested ones."""
        return self._view.shown

    def draw(self, view: View) -> None:
        """Draw this view; for another feature, scroll to the top."""
        if view == self._view:
            return
        is_other = view.shown.of != self.shown.of
        self._view = view
        if is_other:
            self._top = 0
        self.view_changed(is_other_feature=is_other)
        self.redraw()

    def view_changed(self, *, is_other_feature: bool) -> None:
        """The view changed: adapt the pane's own scroll and cursor."""

    @property
    def is_grey(self) -> bool:
        """Whether all numbers are grey: of another feature or for other settings."""
        return self.shown.late and self.shown.answer is not None

    def printable(self, text: str) -> str:
        return visible(text, ascii_only=self.ascii_only)

    def feature_name(self) -> str:
        """The feature whose numbers are shown or, without numbers, the requested one."""
        shown = self.shown
        return _name(shown.of if shown.answer is not None else shown.asked)

    def waiting_for(self) -> str:
        """`▸ 6:36 computing…` while the numbers are grey."""
        shown = self.shown
        if not self.is_grey or not shown.awaits:
            return ""
        name = "" if shown.asked == shown.of else f"{_name(shown.asked)} "
        return f"{self.arrow} {name}{self.doing(shown.awaits)}"

    def kept_note(self, form: str) -> Line:
        """A remark, written in `form`, on numbers that were there before the model is."""
        is_kept = self.shown.is_kept and self.shown.answer is not None and not self.is_grey
        return ((form.format("kept from before"), "pane--waiting"),) if is_kept else ()

    def instead(self) -> Line | None:
        """The line to show in place of missing numbers."""
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
        """The style, or grey if the numbers are not the requested ones."""
        return "pane--quiet" if self.is_grey else style

    def doing(self, text: str) -> str:
        """The progress text as shown."""
        return f"{self.printable(text)}{self.ellipsis}"

    @property
    def arrow(self) -> str:
        return ">" if self.ascii_only else "▸"


def _name(feature: Feature | None) -> str:
    return "" if feature is None else f"{feature[0]}:{feature[1]}"

"""The panes about the feature under the cursor: their names, places and views.

To add a pane, write its widget, its view (`views`, `state`) and an entry here. Help, palette,
tabs and the order of `tab` are made from these entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qlens_tui.app.comparing import compare_view
from qlens_tui.app.evidence import evidence_view
from qlens_tui.app.state import State
from qlens_tui.app.widgets.compare_pane import ComparePane
from qlens_tui.app.widgets.evidence_pane import EvidencePane
from qlens_tui.app.widgets.feature_pane import FeaturePane, PaneView
from qlens_tui.app.widgets.paths_grid import PathsGrid
from qlens_tui.app.widgets.token_pane import TokenPane
from qlens_tui.table.row_reader import RowReader


@dataclass(frozen=True)
class Sources:
    """The sources of views: the state, and the atlases in memory."""

    state: State
    reader: RowReader


@dataclass(frozen=True)
class PaneKind:
    """A pane by its name in CSS and in a saved visit.

    `keys` is the section of the help with its keys, `group` its container: if that has no room for
    all of its panes, the one focused last is shown.
    """

    name: str
    keys: str
    group: str
    widget: type[FeaturePane[Any]]
    view: Callable[[Sources], PaneView]
    make: Callable[[str, bool], FeaturePane[Any]]
    """Creates the widget, given its name and whether to write only ASCII."""


PANES: tuple[PaneKind, ...] = (
    PaneKind(
        "key", "token lists", "lists", TokenPane,
        lambda sources: sources.state.lists_view("key"),
        lambda name, plain: TokenPane("key", ascii_only=plain, id=name),
    ),
    PaneKind(
        "value", "token lists", "lists", TokenPane,
        lambda sources: sources.state.lists_view("value"),
        lambda name, plain: TokenPane("value", ascii_only=plain, id=name),
    ),
    PaneKind(
        "paths", "paths", "lower", PathsGrid,
        lambda sources: sources.state.paths_view(),
        lambda name, plain: PathsGrid(ascii_only=plain, id=name),
    ),
    PaneKind(
        "evidence", "evidence", "lower", EvidencePane,
        lambda sources: evidence_view(sources.state, sources.reader),
        lambda name, plain: EvidencePane(ascii_only=plain, id=name),
    ),
)  # fmt: skip
COMPARISON = PaneKind(
    "compare", "comparison", "comparison", ComparePane,
    lambda sources: compare_view(sources.state, sources.reader),
    lambda name, plain: ComparePane(ascii_only=plain, id=name),
)  # fmt: skip
"""The pane that takes the place of all others while a feature is pinned."""

"""The panes about the feature under the cursor: their names, where they stand, what they draw.

Whoever adds one writes its widget, its view (`views`, `state`) and a line here. Help, palette,
tabs and the order of `tab` are made from these lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qlens_tui.app.evidence import evidence_view
from qlens_tui.app.state import State
from qlens_tui.app.widgets.evidence_pane import EvidencePane
from qlens_tui.app.widgets.feature_pane import FeaturePane, PaneView
from qlens_tui.app.widgets.paths_grid import PathsGrid
from qlens_tui.app.widgets.token_pane import TokenPane
from qlens_tui.table.row_reader import RowReader


@dataclass(frozen=True)
class Sources:
    """Where views come from: the state, and the atlases that are in memory."""

    state: State
    reader: RowReader


@dataclass(frozen=True)
class PaneKind:
    """A pane by the name that it has in CSS and in a saved visit.

    `keys` is the part of the help that its keys are in, `group` the container that it stands
    in: where that has no room for all of its panes, the one that was gone to last is shown.
    """

    name: str
    keys: str
    group: str
    widget: type[FeaturePane[Any]]
    view: Callable[[Sources], PaneView]
    make: Callable[[str, bool], FeaturePane[Any]]
    """The widget, given its name and whether it may write ASCII only."""


PANES: tuple[PaneKind, ...] = (
    PaneKind(
        "value", "token lists", "lists", TokenPane,
        lambda sources: sources.state.lists_view("value"),
        lambda name, plain: TokenPane("value", ascii_only=plain, id=name),
    ),
    PaneKind(
        "key", "token lists", "lists", TokenPane,
        lambda sources: sources.state.lists_view("key"),
        lambda name, plain: TokenPane("key", ascii_only=plain, id=name),
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

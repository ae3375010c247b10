"""Every key, by where it works; the help and the palette are made from this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textual.binding import Binding, BindingType
from textual.screen import Screen

from qlens_tui.app.keymap import KEYMAP, bindings_of
from qlens_tui.app.screens.context import ContextScreen
from qlens_tui.app.screens.near_duplicates import NearDuplicates
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.overview import OverviewScreen
from qlens_tui.app.screens.panes import COMPARISON, PANES
from qlens_tui.app.screens.probe import ProbeScreen
from qlens_tui.app.screens.reverse_search import ReverseSearch
from qlens_tui.app.screens.steered import SteeredScreen
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.app.widgets.line_pane import LinePane

TABLE = "table"
EVERYWHERE = "everywhere"
_RESULTS: Mapping[type[Screen[Any]], str] = {
    ReverseSearch: "features by token",
    ProbeScreen: "what fires on a text",
    NearDuplicates: "near-duplicates",
}


@dataclass(frozen=True)
class KeySection:
    """Keys that work in the same place; `panes` names the workbench's panes that have them."""

    title: str
    bindings: Sequence[Binding]
    panes: Sequence[str] = ()


def in_workbench() -> list[KeySection]:
    """The workbench's keys: everywhere, then pane by pane."""
    found = [_section(EVERYWHERE, KEYMAP), _section(TABLE, FeatureTable.BINDINGS, [TABLE])]
    every = (*PANES, COMPARISON)
    for title in dict.fromkeys(kind.keys for kind in every):
        kinds = [kind for kind in every if kind.keys == title]
        names = [kind.name for kind in kinds]
        found.append(_section(title, kinds[0].widget.BINDINGS, names))
    return found


def title_of(pane: str | None) -> str:
    """The section with the keys of a pane; for the table, the first section."""
    sections = in_workbench()
    found = [each.title for each in sections if pane in each.panes and pane != TABLE]
    return found[0] if found else sections[0].title


def in_help() -> list[KeySection]:
    """All keys: the workbench's, and those of the screens that open over it."""
    return [
        *in_workbench(),
        _section("token lists and evidence: scrolling", LinePane.BINDINGS),
        *(_section(title, kind.BINDINGS) for kind, title in _RESULTS.items()),
        _section("context", ContextScreen.BINDINGS),
        _section("observed", SteeredScreen.BINDINGS),
        _section("overview", OverviewScreen.BINDINGS),
        _section("note", NoteEditor.BINDINGS),
    ]


def on_screen(screen: Screen[Any]) -> list[KeySection]:
    """The keys of a list of results that is open, or else the workbench's."""
    title = _RESULTS.get(type(screen))
    return in_workbench() if title is None else [_section(title, type(screen).BINDINGS)]


def _section(title: str, bindings: Iterable[BindingType], panes: Sequence[str] = ()) -> KeySection:
    return KeySection(title, list(bindings_of(bindings)), panes)

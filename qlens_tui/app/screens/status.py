"""The content of the workbench's first line, the table's head and the last line, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textual.screen import Screen

from qlens_tui.app.keymap import MOVE_ON, keys_of
from qlens_tui.app.layer_requests import LayerRequests
from qlens_tui.app.screens.mark_keys import MarkKeys
from qlens_tui.app.screens.marking import Marking
from qlens_tui.app.screens.pane_layout import LEAST
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.app.state import State
from qlens_tui.app.widgets.fact_line import FactLine
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.app.widgets.key_line import Key, KeyLine
from qlens_tui.app.widgets.status_line import Now, StatusLine
from qlens_tui.table.column_names import header

_BEFORE: Mapping[str, list[Key]] = {
    "table": [("j/k", "feature"), ("h/l", "layer")],
    "paths": [("hjkl", "block")],
    "evidence": [("up/down", "choose")],
}
_ALL_KEYS = ("?", "help")
_ZOOM = "z"
_SHORT, _LONG = len("waiting"), len("59:59 min left, 99%")
"""Columns for a job's progress, so that the words beside it stay while it changes."""


def where(state: State, name: str, *, is_wide: bool) -> list[list[str]]:
    """Facts about the model, the layer and the settings, each in several wordings.

    `name` is the configuration's name, shown until the model is known. On a wide screen the layers
    are among them, which otherwise have a column, or have no room.
    """
    opened, settings, ready = state.opened, state.settings, state.opened.session
    if not opened.known:
        return [[name]]
    model = opened.model_name.rsplit("/", 1)[-1].split(".")[0]
    facts = [[model, model[:12]], _layers(state) if is_wide else [_layer(state)]]
    if settings.off or settings.transition != "full":
        off = f", {len(settings.off)} off" if settings.off else ""
        facts.append([f"{settings.transition}{off}"])
    if ready is not None:
        what = "texts" if ready.reference.are_texts else "tok"
        facts.append([f"ref {ready.reference.n_tokens:,} {what}"])
        facts.append([f"{ready.device} {ready.dtype}", ready.device])
    return facts


def _marked(state: State, marking: Marking) -> list[list[str]]:
    """How many features of the layers in sight are marked, and how many are left; none if none."""
    known = state.opened.known
    layers = sorted(known) if state.layer is None else {state.layer} & known.keys()
    marked, left = marking.counts(layers)
    return [[f"{marked:,} marked, {left:,} to go", f"{left:,} to go"]] if marked else []


def _layer(state: State) -> str:
    return "all layers" if state.layer is None else f"L{state.layer:02d}"


def _layers(state: State) -> list[str]:
    """The layers with the shown one in brackets: all of them, or as many around it as fit."""
    choices, here = state.opened.choices, state.layer
    if here not in choices:
        return [_layer(state)]
    names = ["all" if layer is None else str(layer) for layer in choices]
    at = choices.index(here)
    names[at] = f"[{names[at]}]"
    said = [" ".join(["layer", *names])]
    for around in (6, 3, 1):
        first, last = max(0, at - around), at + around + 1
        before, after = [".."] if first else [], [".."] if names[last:] else []
        shorter = " ".join(["layer", *before, *names[first:last], *after])
        if len(shorter) < len(said[-1]):
            said.append(shorter)
    return [*said, _layer(state)]


def of_rows(rows: TableRows, table: FeatureTable) -> list[list[str]]:
    """Facts about the table's rows: how many, and of what kind, in which order."""
    count = len(table.rows) if table.rows is not None else 0
    total = table.rows.frame.height if table.rows is not None else 0
    row = f"{table.row + 1:,}/{count:,}" if count else "0"
    facts = [[f"{row} of {total:,}" if count != total else row]]
    if len(table.chosen) > 1:
        facts.append([f"{len(table.chosen):,} selected"])
    if rows.listed is not None:
        words = rows.listed.words
        facts.append([_cut(words, room) for room in (40, 20)])
    if rows.filter:
        facts.append([f"filter {_cut(rows.filter, room)}" for room in (40, 30, 20, 12)])
    if rows.sort:
        keys = [f"{header(key.column)} {'down' if key.descending else 'up'}" for key in rows.sort]
        more = f" +{len(keys) - 1}" if keys[1:] else ""
        facts.append([f"sort {', '.join(keys)}", f"sort {keys[0]}{more}"])
    return facts


def lacking(state: State, table: FeatureTable) -> str:
    """Why the table has no columns: what the missing atlas waits for."""
    opened, rows = state.opened, table.rows
    if rows is None or not rows.frame.height or "value_query_ids" in rows.frame.columns:
        return ""
    layers = [state.layer] if state.layer is not None else sorted(opened.known)
    if all(opened.operators(layer) == "none" for layer in layers):
        return "columns need operators: B builds them"
    if opened.session is None:
        return "columns appear once the model is loaded"
    if state.layer is None:
        return "columns appear once each layer has been visited"
    return opened.no_columns.get(state.layer, "columns are being computed (w: jobs)")


def doing(state: State, layer_requests: LayerRequests) -> tuple[Now, ...]:
    """What is going on, in several wordings, longest first."""
    opened, jobs = state.opened, state.jobs
    if jobs:
        job = state.running if state.running in jobs else jobs[0]
        words = f"{job.name} (+{len(jobs) - 1})" if len(jobs) > 1 else job.name
        return Now(words, job.share_and_left, _LONG), Now(words, job.share, _SHORT)
    if opened.session is None:
        return (Now(opened.phase),)
    if opened.released:
        long = "model unloaded while idle: loads again when needed"
        return Now(long), Now("model unloaded")
    if state.layer is not None and state.layer not in opened.known:
        loading = layer_requests.is_describing(state.layer)
        missing = "no dictionary: press B to try again"
        return (Now("loading the dictionary" if loading else missing),)
    if opened.session.operators == "shipped":
        return Now("ready; paths are slow: B makes them fast"), Now("ready")
    if opened.session.operators == "none":
        return (Now("ready, no operators: B builds them"),)
    return (Now("ready"),)


def show_lines(
    screen: Screen[Any],
    state: State,
    rows: TableRows,
    table: FeatureTable,
    layer_requests: LayerRequests,
    mark_keys: MarkKeys,
    name: str,
) -> None:
    """Update the first line, the table's head and the last line of the screen."""
    first = screen.query_one(StatusLine)
    if screen.has_class("-tiny"):
        size = screen.app.size
        needs = f"needs at least {LEAST[0]}x{LEAST[1]}: this is {size.width}x{size.height}"
        first.tell([[needs]], [Now("")])
        return
    is_wide = screen.has_class("-wide")
    place, of = where(state, name, is_wide=is_wide), of_rows(rows, table)
    screen.query_one(FactLine).tell(of)
    marked = _marked(state, mark_keys.marking)
    if is_wide:
        place[2:2] = marked
    elif state.opened.known:
        # What changes goes before the model's name.
        place = [place[1], *of, *marked, place[0], *place[2:]]
    first.tell(place, doing(state, layer_requests))
    table.set_lacking(lacking(state, table))
    screen.query_one(KeyLine).tell(keys(screen, moves_on=mark_keys.moves_on))


def keys(screen: Screen[Any], *, moves_on: bool) -> list[Key]:
    """The keys that work now; the last one shows all others.

    `moves_on`: marks move on to the next feature, which is said first.
    """
    focused = screen.focused
    own: list[Key] = []
    others: list[Key] = []
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.show and binding.description:
            key = binding.key_display or keys_of(binding).split(" ")[0]
            (own if active.node is focused else others).append((key, binding.description.lower()))
    name = focused.id or "" if focused is not None else ""
    zoom = (_ZOOM, "unzoom" if screen.has_class("-zoomed") else "zoom")
    shown = dict.fromkeys([*_BEFORE.get(name, [("j/k", "feature")]), zoom, *own, *others])
    said = {_ALL_KEYS[0], MOVE_ON if moves_on else "", _ZOOM}
    found = [key for key in shown if key == zoom or key[0] not in said]
    return [*([(MOVE_ON, "marks move on")] if moves_on else []), *found, _ALL_KEYS]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."

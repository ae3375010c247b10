"""What the first and the last line of the workbench say, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qlens_tui.app.screens.help import keys_of
from qlens_tui.app.widgets.key_line import Key
from qlens_tui.engine import messages as m
from qlens_tui.text import visible

if TYPE_CHECKING:
    from qlens_tui.app.screens.workbench import Workbench

_BEFORE: Mapping[str, list[Key]] = {
    "table": [("j/k", "feature"), ("h/l", "layer")],
    "paths": [("hjkl", "block")],
    "evidence": [("up/down", "neighbour")],
}
_ALL_KEYS = ("?", "all keys")


def where(bench: Workbench) -> list[list[str]]:
    """Facts on where the user is, each in its wordings, the most wanted first."""
    browsing, dialogue, rows = bench.browsing, bench.dialogue, bench.table.rows
    ready, settings = dialogue.ready, dialogue.settings
    model = dialogue.model_name.rsplit("/", 1)[-1].split(".")[0]
    layer = "all layers" if browsing.layer is None else f"L{browsing.layer:02d}"
    count = len(rows) if rows is not None else 0
    total = rows.frame.height if rows is not None else 0
    place = f"{bench.table.row + 1:,}/{count:,}" if count else "0"
    if not browsing.known:
        return [[bench.config.stem]]  # a first visit: the engine will tell
    facts = [[model, model[:12]], [layer], [f"{place} of {total:,}" if count != total else place]]
    chosen = len(bench.table.chosen)
    if chosen > 1:
        facts.append([f"{chosen:,} selected"])
    if browsing.filter:
        facts.append([f"filter {_cut(browsing.filter, room)}" for room in (30, 12)] + ["filtered"])
    if browsing.sort is not None:
        facts.append([f"{'down' if browsing.descending else 'up'} by {browsing.sort}", "sorted"])
    if settings.off or settings.transition != "full":
        off = f", {len(settings.off)} off" if settings.off else ""
        facts.append([f"{settings.transition}{off}"])
    if ready is not None:
        facts.append([f"ref {ready.reference.n_tokens:,} tok"])
        facts.append([f"{ready.device} {ready.dtype}", ready.device])
    return facts


def lacking(bench: Workbench) -> str:
    """Why the table has no columns: what the atlas waits for that no layer in sight has."""
    browsing, dialogue, rows = bench.browsing, bench.dialogue, bench.table.rows
    if rows is None or not rows.frame.height or "value_query_ids" in rows.frame.columns:
        return ""
    layers = [browsing.layer] if browsing.layer is not None else sorted(browsing.known)
    if all(dialogue.origin(layer) == "none" for layer in layers):
        return "columns come with operators: B builds them"
    if dialogue.ready is None:
        return "columns come when the model is loaded"
    if browsing.layer is None:
        return "columns come with the first visit of each layer"
    why = dialogue.no_atlas.get(browsing.layer, "columns are being computed (w: jobs)")
    return visible(why, ascii_only=bench.ascii)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."


def now(bench: Workbench) -> tuple[str, ...]:
    """What is going on, in its wordings, longest first."""
    dialogue = bench.dialogue
    jobs = dialogue.inquiry.jobs
    if jobs:
        # The newest that moves is the one that others give way to.
        job = next((job for job in reversed(jobs.values()) if job.done), next(iter(jobs.values())))
        more = f" (+{len(jobs) - 1})" if len(jobs) > 1 else ""
        return f"{job.name}: {job.progress}{more}", f"{job.name} {job.share}{more}"
    if dialogue.ready is None:
        return (dialogue.state,)
    if dialogue.released:
        return "model released; it comes back when asked", "model released"
    layer = bench.browsing.layer
    if layer is not None and layer not in bench.browsing.known:
        asked = dialogue.inquiry.asked.values()
        loading = any(isinstance(each, m.DescribeLayer) and each.layer == layer for each in asked)
        return ("loading the dictionary" if loading else "no dictionary: B tries again",)
    if dialogue.ready.operators == "shipped":
        return "ready; B builds operators: paths without passes", "ready"
    return ("ready, no operators: B builds" if dialogue.ready.operators == "none" else "ready",)


def keys(bench: Workbench) -> list[Key]:
    """The keys that work here and now; the last one leads to all others."""
    focused = bench.focused
    own: list[Key] = []
    others: list[Key] = []
    for active in bench.active_bindings.values():
        binding = active.binding
        if binding.show and binding.description:
            key = binding.key_display or keys_of(binding).split(" ")[0]
            (own if active.node is focused else others).append((key, binding.description.lower()))
    name = focused.id or "" if focused is not None else ""
    shown = dict.fromkeys([*_BEFORE.get(name, [("j/k", "feature")]), *own, *others])
    return [*(key for key in shown if key != _ALL_KEYS), _ALL_KEYS]

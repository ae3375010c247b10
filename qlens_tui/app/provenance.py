"""Where the numbers on the screen come from, as titled lists of a name and a text.

The panes say only what is not as usual; this says all of it, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lens_core.terms import on_path
from qlens_tui.app.state import State
from qlens_tui.app.views import SIDES
from qlens_tui.engine import messages as m
from qlens_tui.formats import part_of, reference_size

_OF_DICTIONARY = ("hook_read", "architecture", "key", "folder", "release", "id")
_OPERATORS: dict[m.OperatorSource, str] = {
    "none": "none: passes over the reference",
    "built": "built for this model",
    "shipped": "those that come with qlens, float16",
}


@dataclass(frozen=True)
class About:
    """What is known about one thing, raw; `facts` are names and texts."""

    title: str
    facts: tuple[tuple[str, str], ...]


def provenance(state: State) -> list[About]:
    """About the lists and paths in sight, the model, and the dictionary; what is known of them."""
    feature, opened = state.feature, state.opened
    found = []
    if feature is not None:
        named = f"{feature[0]}:{feature[1]}"
        found += [
            About(f"lists of {named}", tuple(_lists(state))),
            About(f"paths of {named}", tuple(_paths(state))),
        ]
    if opened.session is not None:
        found.append(About("model and reference", tuple(_model(opened.session))))
    layer = None if feature is None else opened.described.get(feature[0])
    if layer is not None:
        found.append(About("dictionary", tuple(_dictionary(layer))))
    return [about for about in found if about.facts]


def _lists(state: State) -> Iterator[tuple[str, str]]:
    for side in reversed(SIDES):
        view = state.lists_view(side)
        answer = view.shown.answer
        if answer is None or view.shown.of != state.feature:
            continue
        of = answer.value if side == "value" else answer.key
        settings = answer.settings
        said: list[str] = [settings.transition]
        if view.blocks is not None:
            off = len(on_path(settings.off, view.blocks))
            said.append(f"{off} switched off" if off else f"all {len(view.blocks)} blocks on")
        said += [
            f"over {part_of(of.n_tokens, view.n_tokens)} reference tokens",
            f"operators: {_OPERATORS[of.operators]}",
            f"{settings.convention} convention, final norm: {settings.final_norm}",
        ]
        yield side, ", ".join(said)


def _paths(state: State) -> Iterator[tuple[str, str]]:
    view = state.paths_view()
    if view.shown.of != state.feature:
        return
    for side in reversed(SIDES):
        paths = view.sides[side].paths if side in view.sides else None
        if paths is not None:
            tokens = part_of(paths.n_tokens, view.n_tokens)
            yield side, f"exact on {tokens} reference tokens, {paths.split} split"


def _model(ready: m.SessionFacts) -> Iterator[tuple[str, str]]:
    reference = ready.reference
    size = reference_size(reference.samples, reference.length, are_texts=reference.are_texts)
    count = "" if reference.are_texts else f", {reference.n_tokens} of them count"
    yield "model", f"{ready.model} ({ready.dtype} on {ready.device})"
    yield (
        "reference",
        f"{size}, of {reference.origin}{count} ({reference.sha256[:12]})",
    )
    settings = ready.settings
    yield "settings", f"{settings.convention} convention, final norm {settings.final_norm}"


def _dictionary(layer: m.LayerFacts) -> Iterator[tuple[str, str]]:
    yield "dictionary", f"{layer.dictionary} ({layer.sha256[:12]})"
    yield "operators", _OPERATORS[layer.operators]
    for name in _OF_DICTIONARY:
        if name in layer.provenance:
            yield name.replace("_", " "), layer.provenance[name]

"""The words of a feature's Query Lens lists, from which tags and labels are proposed.

They are read from the atlas, of which recently shown layers are in memory; without an atlas, from
the lists on the screen.
"""

from __future__ import annotations

from typing import NamedTuple

from lens_core.lenses import QUERY
from lens_core.terms import SIDES
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature
from qlens_tui.engine import messages as m
from qlens_tui.proposals import words_in
from qlens_tui.table.feature_labels import labels, read_labels
from qlens_tui.table.row_reader import RowReader

_ALL = 1000  # tokens of a list


class Words(NamedTuple):
    """The words that a feature fires on, and those that it promotes, the strongest first."""

    key: list[str]
    value: list[str]


class FeatureWords:
    """Finds the words of a feature."""

    def __init__(self, state: State, reader: RowReader) -> None:
        self._state = state
        self._reader = reader

    def at_hand(self, feature: Feature) -> Words | None:
        """The words, if they are in memory."""
        opened = self._state.opened
        frames = self._reader.frames(opened.known)
        found = {
            side: labels([feature], frames, opened.texts, side, most=_ALL).get(feature)
            for side in SIDES
        }
        shown = self._state.answer(self._state.lists_asked)
        if isinstance(shown, m.Signature) and (shown.layer, shown.feature) == feature:
            for side in SIDES:
                lists = shown.value.top if side == "value" else shown.key.top
                found[side] = found[side] or lists[QUERY.name].tokens
        key, value = found["key"], found["value"]
        if key is None or value is None:
            return None
        return Words(words_in(key), words_in(value))

    def on_disk(self, feature: Feature) -> Words:
        """The words from the atlas, none without one; call it off the UI thread."""
        opened, (layer, number) = self._state.opened, feature
        if layer not in opened.known or opened.texts is None:
            return Words([], [])
        key, value = (
            read_labels(opened.known, {layer: [number]}, opened.texts, side, most=_ALL)
            for side in ("key", "value")
        )
        return Words(words_in(key.get(feature, ())), words_in(value.get(feature, ())))

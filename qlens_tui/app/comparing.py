"""The pinned feature beside the feature under the cursor: what is asked of it, and what is shown.

Everything is looked up by its request, for the two features that are named on the screen and the
settings of the lists drawn: no number is shown of another pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import polars as pl

from qlens_tui.app.opened import Opened
from qlens_tui.app.views import SIDES, Compared, CompareView, Feature, ListsView
from qlens_tui.engine import messages as m
from qlens_tui.table.row_reader import RowReader

_GAINS = {"key": "key_gain", "value": "value_gain"}


class Answered(Protocol):
    """The state, as far as it is needed here (`qlens_tui.app.state`)."""

    opened: Opened
    feature: Feature | None
    pinned: Feature | None
    settings: m.Settings

    def answer(self, question: m.Request | None) -> object: ...
    def problem(self, question: m.Request | None) -> str: ...
    def doing(self, question: m.Request | None, idle: str = ...) -> str: ...
    def shares_of(self, of: Feature, side: m.Side) -> m.ComputePaths: ...
    def lists_view(self, side: m.Side) -> ListsView: ...


def asked_to_compare(state: Answered) -> list[m.OfFeature]:
    """What a comparison needs besides what the panes ask of the feature under the cursor."""
    pinned, here, settings = state.pinned, state.feature, state.settings
    if pinned is None or here is None or pinned == here:
        return []
    layer, feature = pinned
    return [
        _lists(pinned, settings),
        _cosines(here, pinned, settings),
        *(replace(state.shares_of(pinned, side), pinned=True) for side in SIDES),
        m.ComputeEvidence(layer=layer, feature=feature, pinned=True),
    ]


def compare_view(state: Answered, reader: RowReader) -> CompareView:
    """What the comparison draws."""
    lists = state.lists_view("key")
    shown, pinned = lists.shown, state.pinned
    if pinned is None or shown.answer is None or shown.of is None:
        return CompareView(shown, pinned)
    settings = shown.answer.settings
    of_pinned, alike = _lists(pinned, settings), _cosines(shown.of, pinned, settings)
    found, cosines = state.answer(of_pinned), state.answer(alike)
    problem = state.problem(of_pinned) or state.problem(alike)
    waits = next((q for q in (of_pinned, alike) if state.answer(q) is None), None)
    frames = reader.frames(state.opened.known)

    def one(feature: Feature, signature: m.Signature | None) -> Compared:
        evidence = state.answer(m.ComputeEvidence(layer=feature[0], feature=feature[1]))
        shares = {side: _shares(state, feature, side, settings) for side in SIDES}
        return Compared(
            feature,
            signature,
            {side: each for side, each in shares.items() if each is not None},
            evidence if isinstance(evidence, m.Evidence) else None,
            _gains(feature, frames),
            reader.explanation(state.opened.known.get(feature[0]), feature[1]),
        )

    return CompareView(
        shown,
        pinned,
        one(pinned, found if isinstance(found, m.Signature) else None),
        one(shown.of, shown.answer),
        cosines if isinstance(cosines, m.PairCosines) else None,
        "" if waits is None or problem else state.doing(waits),
        problem,
        lists.look,
        lists.k,
        lists.n_tokens,
    )


def _lists(of: Feature, settings: m.Settings) -> m.ComputeSignature:
    return m.ComputeSignature(layer=of[0], feature=of[1], settings=settings, pinned=True)


def _cosines(one: Feature, other: Feature, settings: m.Settings) -> m.ComputeCosines:
    return m.ComputeCosines(
        layer=one[0], feature=one[1], other_layer=other[0], other_feature=other[1],
        settings=settings,
    )  # fmt: skip


def _shares(state: Answered, of: Feature, side: m.Side, settings: m.Settings) -> m.Paths | None:
    """The shares of a feature, if they are with the settings of the lists drawn."""
    if settings != state.settings:
        return None
    found = state.answer(state.shares_of(of, side))
    return found if isinstance(found, m.Paths) else None


def _gains(of: Feature, frames: Mapping[int, pl.DataFrame]) -> dict[m.Side, float]:
    """The gains of a feature, as far as its layer's atlas is in memory."""
    layer, feature = of
    frame = frames.get(layer)
    if frame is None or feature >= frame.height or not {*_GAINS.values()} <= {*frame.columns}:
        return {}
    found = {side: frame[_GAINS[side]][feature] for side in SIDES}
    return {side: gain for side, gain in found.items() if gain is not None}

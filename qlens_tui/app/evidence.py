"""What the evidence pane draws: the engine's answer, and other facts about the feature."""

from __future__ import annotations

from qlens_tui.app.state import State
from qlens_tui.app.views import EvidenceView
from qlens_tui.engine import messages as m
from qlens_tui.table.feature_labels import labels, stability
from qlens_tui.table.row_reader import RowReader


def evidence_view(state: State, reader: RowReader) -> EvidenceView:
    """The view of the feature whose evidence is shown, which may be the previous feature."""
    shown, opened = state.evidence_shown(), state.opened
    if shown.answer is None or shown.of is None:
        return EvidenceView(shown)
    frames = reader.frames(opened.known)
    near = (*shown.answer.by_value, *shown.answer.by_key)
    signature = state.answer(state.lists_asked)
    return EvidenceView(
        shown,
        signature if isinstance(signature, m.Signature) else None,
        labels([(each.layer, each.feature) for each in near], frames, opened.texts),
        stability(*shown.of, frames),
        reader.explanation(opened.known.get(shown.of[0]), shown.of[1]),
    )

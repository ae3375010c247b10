"""Reading marks of many layers, off the UI thread."""

from __future__ import annotations

from collections.abc import Mapping

from lens_core.errors import LensError
from qlens_tui.triage.marks import Mark
from qlens_tui.triage.triage import Triage


def opened_with_marks(
    known: Mapping[int, str],
) -> tuple[Triage, dict[int, dict[int, Mark]], str]:
    """The open triage file, the marks of layers by their sha256, and what the user should know.

    Raises:
        StoreError: it cannot be opened.
    """
    triage = Triage()
    try:
        marks = marks_of(triage, known)
    except LensError as error:
        return triage, {}, str(error)
    return triage, marks, triage.warning


def any_labels(marks: Mapping[int, Mapping[int, Mark]]) -> bool:
    """Whether any of the marks, by layer and feature, has a label."""
    return any(mark.label for those in marks.values() for mark in those.values())


def marks_of(triage: Triage, known: Mapping[int, str]) -> dict[int, dict[int, Mark]]:
    """The marks of layers, by their sha256."""
    return {layer: triage.marks(sha256) for layer, sha256 in known.items()}

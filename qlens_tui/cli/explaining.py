"""Explanations from elsewhere, for commands: read from a file, with what is wrong said in lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qlens_tui.cli.output import Output
from qlens_tui.table.known_layer import KnownLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lens_core.session import Session
    from lens_core.signature import FeatureReport, LayerFacts
    from qlens_tui.table.explanations import Explanations


def explanations_of(
    output: Output, session: Session, layers: Sequence[LayerFacts]
) -> Explanations | None:
    """What the configuration's file says, if it names one; remarks about `layers` are warnings.

    Raises:
        LensError: the file cannot be read, or holds none.
    """
    file = session.config.explanations.file
    if file is None:
        return None
    from qlens_tui.table.explanation_files import read_explanations
    from qlens_tui.table.explanations import Explanations

    output.step("reading the explanations")
    explanations = Explanations(read_explanations(file))
    known = {each.layer: KnownLayer.of(each) for each in layers}
    for remark in explanations.remarks(known, session.lens.dictionaries.layers):
        output.note(f"warning: {file.name}: {remark}")
    return explanations


def explanation_of(output: Output, session: Session, report: FeatureReport) -> str:
    """What the configuration's file says about the feature of a report; empty if nothing."""
    explanations = explanations_of(output, session, [report.layer])
    if explanations is None:
        return ""
    return explanations.of(KnownLayer.of(report.layer), report.signature.feature)

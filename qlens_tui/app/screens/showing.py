"""What the panes show: of the engine's answers those about the feature under the cursor.

A pane is told first which feature it is to expect, and takes no other feature's answer. Until
the engine is ready, the lists of an atlas that is there stand already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qlens_tui.app.screens import known
from qlens_tui.app.widgets.evidence_pane import WhatIsKnown
from qlens_tui.engine import messages as m

if TYPE_CHECKING:
    from qlens_tui.app.screens.dialogue import Dialogue
    from qlens_tui.app.screens.workbench import Workbench

SIDES: tuple[m.Side, m.Side] = ("value", "key")


class Showing:
    """Brings answers into the panes of a workbench, and what is said of those to come."""

    def __init__(self, bench: Workbench, dialogue: Dialogue) -> None:
        self._bench = bench
        self._dialogue = dialogue

    def feature(self, layer: int, feature: int) -> None:
        """Show what is at hand of a feature, and that the rest is on its way."""
        dialogue, inquiry = self._dialogue, self._dialogue.inquiry
        waiting = (
            "computing"
            if dialogue.ready is not None
            else f"waiting for the model: {dialogue.state}"
        )
        for pane in self._bench.panes:
            pane.expect(layer, feature, waiting)
        key = dialogue.key(layer, feature)
        signature = inquiry.signatures.get(key)
        if signature is not None:
            self.signature(signature)
        else:
            self.from_atlas()
        for side in SIDES:
            paths = inquiry.paths.get((side, *key))
            if paths is not None:
                self.paths(paths)
        evidence = inquiry.evidence.get((layer, feature))
        if evidence is not None:
            self.evidence(evidence)

    def nothing(self) -> None:
        """There is no feature to show."""
        for pane in self._bench.panes:
            pane.clear()

    def doing(self, request: m.Request | None, text: str) -> None:
        """What the engine is doing for a request stands where its answer will."""
        bench = self._bench
        match request:
            case m.ComputeSignature():
                for side in SIDES:
                    bench.pane(side).expect(request.layer, request.feature, text)
            case m.ComputePaths():
                bench.paths.expect(request.layer, request.feature, text, side=request.side)
            case m.ComputeBlockTokens():
                bench.paths.favour(_block_of(request), (), text)
            case m.ComputeEvidence():
                # One pass serves a layer: the cursor may have moved on in it.
                here = bench.table.feature
                if (
                    here is not None
                    and here[0] == request.layer
                    and here not in self._dialogue.inquiry.evidence
                ):
                    bench.evidence.expect(*here, text)

    def failed(self, request: m.Request | None, text: str) -> bool:
        """Why there is no answer stands where it would; False where no pane awaits it."""
        bench = self._bench
        match request:
            case m.ComputeSignature():
                for side in SIDES:
                    bench.pane(side).fail(request.layer, request.feature, text)
            case m.ComputePaths():
                bench.paths.fail(request.layer, request.feature, text, side=request.side)
            case m.ComputeBlockTokens():
                bench.paths.favour(_block_of(request), (), text)
            case m.ComputeEvidence() if bench.table.feature == (request.layer, request.feature):
                bench.evidence.fail(request.layer, request.feature, text)
            case _:
                return False
        return True

    def unanswered(self, text: str) -> None:
        """Whatever still waits will not be answered."""
        feature = self._bench.table.feature
        for pane in self._bench.panes:
            if feature is not None and pane.waiting:
                pane.fail(*feature, text)

    def from_atlas(self) -> None:
        """The feature's lists from its atlas row, if those are asked for, until the engine's."""
        bench, dialogue = self._bench, self._dialogue
        feature, rows = bench.table.feature, bench.table.rows
        if (
            feature is None
            or rows is None
            or dialogue.settings != m.Settings(method=dialogue.settings.method)
            or bench.pane("value").look.end == "bottom"
            or dialogue.key(*feature) in dialogue.inquiry.signatures
        ):
            return
        from qlens_tui.table.frames import signature_of

        row = rows.page(bench.table.row, 1, rows.frame.columns)[0]
        found = signature_of(
            row, dialogue.texts, n_tokens=dialogue.n_tokens, operators=dialogue.origin(feature[0])
        )
        if found is not None:
            self._lists(found)

    def signature(self, signature: m.Signature) -> None:
        """The engine's lists, if they are of the settings that are asked for now."""
        feature = signature.layer, signature.feature
        if self._dialogue.key(*feature) in self._dialogue.inquiry.signatures:
            self._lists(signature)

    def paths(self, paths: m.Paths) -> None:
        ready = self._dialogue.ready
        if self._bench.table.feature == (paths.layer, paths.feature) and ready is not None:
            self._bench.paths.show_paths(paths, ready.n_layers)

    def evidence(self, evidence: m.Evidence) -> None:
        dialogue, feature = self._dialogue, (evidence.layer, evidence.feature)
        if self._bench.table.feature != feature:
            return
        near = [(each.layer, each.feature) for each in (*evidence.by_value, *evidence.by_key)]
        way = dialogue.ways.get(evidence.layer)
        self._bench.evidence.show(
            WhatIsKnown(
                evidence,
                dialogue.inquiry.signatures.get(dialogue.key(*feature)),
                labels=dialogue.labels(near),
                provenance=tuple(known.provenance(dialogue.ready, way)),
                atlas_stability=known.stability(*feature, self._bench.browsing.frames),
            )
        )

    def _lists(self, signature: m.Signature) -> None:
        if self._bench.table.feature != (signature.layer, signature.feature):
            return
        way = self._dialogue.ways.get(signature.layer)
        stored = "float16" if signature.operators == "shipped" else ""
        out, into = (way.value_blocks, way.key_blocks) if way is not None else (None, None)
        self._bench.pane("value").show_signature(signature, out, stored)
        self._bench.pane("key").show_signature(signature, into, stored)


def _block_of(request: m.ComputeBlockTokens) -> tuple[int, int, m.Side, int]:
    return request.layer, request.feature, request.side, request.block

"""A few facts about a layer's dictionary, saved so that its rows are shown at once next time."""

from __future__ import annotations

from dataclasses import dataclass

from qlens_tui.engine.messages import LayerFacts, OperatorSource


@dataclass(frozen=True)
class KnownLayer:
    """A dictionary as the engine last described it.

    `atlas` is its directory, `None` if there is none yet; `operators` says which operators answer
    for it. `neuronpedia` is where Neuronpedia has its features, if its metadata says so.
    """

    layer: int
    sha256: str
    name: str
    n_features: int
    atlas: str | None = None
    operators: OperatorSource = "built"
    neuronpedia: str | None = None

    @classmethod
    def of(cls, described: LayerFacts) -> KnownLayer:
        """The saved part of the engine's description."""
        return cls(
            described.layer,
            described.sha256,
            described.dictionary,
            described.n_features,
            described.atlas,
            described.operators,
            described.provenance.get("neuronpedia"),
        )

    def address(self, feature: int) -> str | None:
        """The page of a feature on Neuronpedia; `None` if the dictionary names none."""
        if self.neuronpedia is None:
            return None
        return f"https://www.neuronpedia.org/{self.neuronpedia}/{feature}"

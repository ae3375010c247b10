"""The two keys of a gated neuron, side by side.

    a = act(x W_gate + b_gate) * (x W_in + b_in)          keys: columns of W_gate, or of W_in

`[dictionary].key` chooses one for Query Lens; the code of the paper's authors reads the up
projection, qlens the gate unless told otherwise (docs/method.md, section 5a). As lenses both stand
in one table: the same neuron, the same contexts, two lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_core.lenses.lens import Lens
from lens_core.terms import Projection, Settings, Side

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.direct import Transported
    from lens_core.instruments import Instruments


@dataclass(frozen=True)
class KeyOfProjection(Lens):
    """Query Lens on a neuron's key in one projection, whatever the configuration chooses."""

    projection: Projection = "gate"

    def missing(
        self, tools: Instruments, side: Side, dictionary: FeatureDictionary | None = None
    ) -> str:
        found = super().missing(tools, side, dictionary)
        if found or dictionary is None or dictionary.provenance.get("gated"):
            return found
        return f"{self.title} is for the neurons of a gated MLP alone"

    def carry(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        asked: Settings,
    ) -> Transported:
        chosen = tools.neurons(dictionary, self.projection)
        return super().carry(tools, side, chosen, feature, asked)

    def vectors(
        self, tools: Instruments, side: Side, dictionary: FeatureDictionary
    ) -> Float[Tensor, "n_features d_model"]:
        return super().vectors(tools, side, tools.neurons(dictionary, self.projection))

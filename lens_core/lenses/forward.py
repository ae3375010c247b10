"""Key lenses from the states of the vocabulary: which token drives the feature.

    forward               score_t = k . (x_t - mean x) / |x_t - mean x|
    forward+first-order   score_t = z(forward)_t + z(first order)_t

`x_t` is what the encoder reads where token `t` stands behind a few left contexts
(`lens_core.vocabulary_states`), the norm in front of the encoder included; means, and the standard
deviations in `z`, are over the vocabulary. The forward pass has what a single token does, without
linearising; first order has what the other positions of the reference add (docs/method.md, section
7). Of the reference only the left contexts matter to `forward`; switched blocks and the transition
do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_core.lenses.lens import Lens
from lens_core.terms import Settings, Side

if TYPE_CHECKING:
    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.direct import Transported
    from lens_core.feature_map import FeatureMap
    from lens_core.instruments import Instruments
    from lens_core.readout import Readout


@dataclass(frozen=True)
class ForwardLens(Lens):
    """The key as it is, read with the states of the vocabulary."""

    def missing(
        self, tools: Instruments, side: Side, dictionary: FeatureDictionary | None = None
    ) -> str:
        found = super().missing(tools, side, dictionary)
        if found or dictionary is None:
            return found
        if tools.states is not None and tools.states.has(dictionary.read_site):
            return ""
        return (
            f"{self.title} needs the states of the vocabulary: run "
            "`qlens build CONFIG --lens forward`"
        )

    def carries_all(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> bool:
        return True

    def readout(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        *,
        normed: bool = False,
    ) -> Readout:
        """See the module.

        Raises:
            OperatorError: the states are not built.
        """
        return tools.state_readouts.forward(dictionary)


@dataclass(frozen=True)
class JoinedLens(ForwardLens):
    """Standard scores of the forward lens and of `other`, added up.

    What it carries is the key carried by `other`, and behind that the key as it is.
    """

    other: Lens | None = None

    @property
    def _other(self) -> Lens:
        assert self.other is not None, "it is joined with another lens"
        return self.other

    def settings(self, asked: Settings) -> Settings:
        return self._other.settings(asked)

    def carry(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        asked: Settings,
    ) -> Transported:
        found = self._other.carry(tools, side, dictionary, feature, asked)
        return tools.state_readouts.joined_vectors(found)

    def carries_all(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> bool:
        return self._other.carries_all(tools, side, dictionary)

    def map(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> FeatureMap:
        return self._other.map(tools, side, dictionary).beside_itself()

    def readout(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        *,
        normed: bool = False,
    ) -> Readout:
        return tools.state_readouts.joined(
            dictionary, self._other.readout(tools, side, dictionary), self.readouts[side]
        )

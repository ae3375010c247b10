"""What a lens is: its names, how it carries a vector, which readout each side uses.

    score = readout( transition( feature's vector ) )

(docs/method.md, section 2.) Methods take what they compute with as arguments, so that this
package imports no torch and the app can import it for names and titles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_core.terms import Settings, Side, Transition

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.direct import Transported
    from lens_core.feature_map import FeatureMap
    from lens_core.instruments import Instruments
    from lens_core.readout import Readout


@dataclass(frozen=True)
class Lens:
    """One lens.

    `name` is used on the command line, `field` in JSON documents, `column` in tables; `title`
    and `short` are for the screen. `readouts` names a readout of `lens_core.readout` for each
    side that the lens has.
    """

    name: str
    title: str
    short: str
    field: str
    column: str
    transition: Transition
    readouts: Mapping[Side, str]

    @property
    def needs_operators(self) -> bool:
        """Whether carrying many features at once needs operators."""
        return self.transition != "identity"

    def settings(self, asked: Settings) -> Settings:
        """The settings for this lens's list when the feature's settings are `asked`."""
        return asked.with_transition(self.transition)

    def missing(
        self, tools: Instruments, side: Side, dictionary: FeatureDictionary | None = None
    ) -> str:
        """Why this lens has no list for a side, of any dictionary or of one; empty if it has."""
        return "" if side in self.readouts else f"{self.title} has no {side} side"

    def carry(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        asked: Settings,
    ) -> Transported:
        """One feature's vector carried to where it is read; `asked` are the feature's settings."""
        return tools.carrier.carry(side, dictionary, feature, self.settings(asked))

    def carry_several(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        features: Sequence[int],
        asked: Settings,
    ) -> list[Transported]:
        """`carry` of several features, for lenses whose passes can be shared."""
        return [self.carry(tools, side, dictionary, feature, asked) for feature in features]

    def carries_all(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> bool:
        """Whether `map` carries `vectors`, under the default settings, exactly as `carry` does."""
        settings, carrier = self.settings(tools.settings), tools.carrier
        if settings.transition != self.transition:
            return False
        if carrier.obstacle(side, dictionary, settings) is not None:
            return False
        return settings.transition == "identity" or carrier.has_operators(dictionary)

    def vectors(
        self, tools: Instruments, side: Side, dictionary: FeatureDictionary
    ) -> Float[Tensor, "n_features d_model"]:
        """What is carried, of every feature."""
        return dictionary.values if side == "value" else dictionary.keys

    def readout(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        *,
        normed: bool = False,
    ) -> Readout:
        """What reads carried vectors; `normed`: to which the final norm was already applied."""
        return tools.readout(self.readouts[side], normed=normed)

    def map(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> FeatureMap:
        """The map that carries all features of a dictionary: paper's convention, all blocks on.

        Raises:
            OperatorError: there are no operators yet.
        """
        return tools.carrier.map(side, dictionary, Settings(self.transition))

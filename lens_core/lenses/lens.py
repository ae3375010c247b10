"""What a lens is: its names, how it carries a vector, which readout each side takes.

    score = readout( transition( feature's vector ) )

(docs/method.md, section 2.) Methods get what they compute with as arguments, so that this
package imports no torch and the app can read names and titles from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_core.terms import Settings, Side, Transition

if TYPE_CHECKING:
    from lens_core.carry import FeatureMap
    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.direct import Transported
    from lens_core.instruments import Instruments


@dataclass(frozen=True)
class Lens:
    """One lens.

    `name` is the command line's, `field` that of JSON documents, `column` that of tables;
    `title` and `short` are for the screen. `readouts` names a readout of `lens_core.readout`
    for each side that the lens has.
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
        """Whether many features at once can be carried only with operators."""
        return self.transition != "identity"

    def settings(self, asked: Settings) -> Settings:
        """The settings that this lens's list is made with where `asked` are the feature's."""
        return asked.with_transition(self.transition)

    def missing(self, tools: Instruments, side: Side) -> str:
        """Why it has no list for a side here; empty where it has one."""
        return "" if side in self.readouts else f"{self.title} has no {side} side"

    def carry(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        asked: Settings,
    ) -> Transported:
        """One feature's vector at the end where it is read; `asked` are the feature's settings."""
        return tools.carrier.carry(side, dictionary, feature, self.settings(asked))

    def map(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> FeatureMap:
        """What carries all features of a dictionary, in the paper's convention, all blocks on.

        Raises:
            OperatorError: there are no operators yet.
        """
        return tools.carrier.map(side, dictionary, Settings(self.transition))

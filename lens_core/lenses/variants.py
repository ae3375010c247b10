"""Query Lens with other conventions than the paper's, as lenses of their own name.

`convention = "exact"` applies the Jacobian of the norm at the dictionary first, `final_norm =
"linearize"` that of the final norm at every reference token instead of the norm itself at the
mean (docs/method.md, section 2). As settings they change Query Lens's own list; as lenses they
stand beside it in one table. Where the norm has a Jacobian, operators cannot carry them and a
feature costs a walk over the reference (`lens_core.carry`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lens_core.errors import OperatorError
from lens_core.lenses.lens import Lens
from lens_core.terms import Convention, FinalNorm, Settings, Side

if TYPE_CHECKING:
    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.feature_map import FeatureMap
    from lens_core.instruments import Instruments


@dataclass(frozen=True)
class Variant(Lens):
    """Query Lens with fixed conventions, whatever the settings of the feature say of them."""

    convention: Convention = "paper"
    final_norm: FinalNorm = "apply"

    def settings(self, asked: Settings) -> Settings:
        return replace(
            asked,
            transition=self.transition,
            convention=self.convention,
            final_norm=self.final_norm,
            method=None if asked.method == "operator" else asked.method,
        )

    def map(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> FeatureMap:
        """The map that carries all features of a dictionary, where no norm's Jacobian is in it.

        Raises:
            OperatorError: there is one, or there are no operators yet.
        """
        obstacle = tools.carrier.obstacle(side, dictionary, self.settings(Settings()))
        if obstacle is not None:
            raise OperatorError(f"operators cannot answer because {obstacle}")
        return super().map(tools, side, dictionary)

"""Zero-Out and Token Change: lists of what the model says with a feature set to a value.

    Zero-Out: y(a_clean) - y(0)          Token Change: y(a_clamp) - y(a_clean)

(docs/method.md, section 5.) No map carries all features of a dictionary: each costs passes of its
own (`lens_core.finite_differences`), which several features share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lens_core.errors import UsageError
from lens_core.lenses.lens import Lens
from lens_core.terms import Settings, Side

if TYPE_CHECKING:
    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.direct import Transported
    from lens_core.feature_map import FeatureMap
    from lens_core.instruments import Instruments


@dataclass(frozen=True)
class FiniteDifference(Lens):
    """The effect of setting a feature to `clamp`; `None`: of its being there, against zero.

    Of the settings it uses `tokens` alone: blocks are never off, nothing is linear.
    """

    clamp: float | None = None

    def missing(
        self, tools: Instruments, side: Side, dictionary: FeatureDictionary | None = None
    ) -> str:
        found = super().missing(tools, side, dictionary)
        if found or dictionary is None:
            return found
        obstacle = tools.differences.obstacle(dictionary)
        return obstacle and f"{self.title} cannot run the model with it: {obstacle}"

    def carry(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        asked: Settings,
    ) -> Transported:
        return self.carry_several(tools, side, dictionary, [feature], asked)[0]

    def carry_several(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        features: Sequence[int],
        asked: Settings,
    ) -> list[Transported]:
        found = tools.differences.carried(dictionary, features, self.clamp, asked.tokens)
        return [
            each if each.vector.any() else replace(each, reason=self._nothing(each))
            for each in found
        ]

    def carries_all(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> bool:
        return False

    def map(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> FeatureMap:
        raise UsageError(f"{self.title} runs the model for every feature: it has no map of all")

    def _nothing(self, carried: Transported) -> str:
        where = f"the first {carried.n_tokens:,} tokens of the reference"
        if self.clamp is None:
            return f"nothing changes without it in {where}: it does not fire there"
        return f"nothing changes in {where} if it is set to {self.clamp:g}"

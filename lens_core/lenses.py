"""The lenses: for each its names, how it carries a vector, and which readout each side takes.

    score = readout( transition( feature's vector ) )

(docs/method.md, section 2.) A lens that carries vectors in a way of its own is a subclass of
`Lens` in a file of its own, and an entry in `LENSES`; lists, search, the atlas, exports and both
front ends go over that table. Methods get what they compute with as arguments, so that this
file imports no torch and the app can read names and titles from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from lens_core.errors import UsageError
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


@dataclass(frozen=True)
class _AsAsked(Lens):
    """Query Lens: its list is that of the transition which the settings ask for."""

    def settings(self, asked: Settings) -> Settings:
        return asked


_PLAIN: Mapping[Side, str] = MappingProxyType({"value": "unembed", "key": "embed"})
_CARRIED: Mapping[Side, str] = MappingProxyType(
    {"value": "unembed", "key": "embed_centered_cosine"}
)

LOGIT = Lens("logit", "Logit Lens", "Logit", "logit_lens", "logit", "identity", _PLAIN)
QUERY = _AsAsked("query", "Query Lens", "Query", "query_lens", "query", "full", _CARRIED)
FIRST_ORDER = Lens(
    "first-order", "First order", "First", "first_order", "first_order", "first-order", _CARRIED
)

LENSES: tuple[Lens, ...] = (LOGIT, QUERY, FIRST_ORDER)
"""All lenses, in the order in which tables and documents have them."""


def lens_named(name: str) -> Lens:
    """The lens of a name.

    Raises:
        UsageError: there is none.
    """
    for lens in LENSES:
        if lens.name == name:
            return lens
    names = ", ".join(lens.name for lens in LENSES)
    raise UsageError(f"there is no lens {name!r}: the lenses are {names}")

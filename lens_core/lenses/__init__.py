"""The lenses. Lists, search, the atlas, exports, JSON and both front ends iterate over `LENSES`.

A lens that is described by a transition and two readouts is an entry here; one that carries
vectors differently is also a subclass of `Lens`, in a file of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lens_core.errors import UsageError
from lens_core.lenses.lens import Lens
from lens_core.terms import Settings, Side

__all__ = ["FIRST_ORDER", "LENSES", "LOGIT", "QUERY", "Lens", "lens_named"]


@dataclass(frozen=True)
class _AsAsked(Lens):
    """Query Lens: its list uses the transition of the settings."""

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
"""All lenses, in the order of tables and documents."""


def lens_named(name: str) -> Lens:
    """The lens called `name`.

    Raises:
        UsageError: there is none.
    """
    for lens in LENSES:
        if lens.name == name:
            return lens
    names = ", ".join(lens.name for lens in LENSES)
    raise UsageError(f"there is no lens {name!r}: the lenses are {names}")

"""The lenses. Lists, search, the atlas, exports, JSON and both front ends iterate over `LENSES`.

Those `ON_REQUEST`, key lenses from forward passes and baselines to compare with, are slow or need
files. They are made only where one asks for them by name (`qlens show --lens`,
`qlens score --lenses`).

A lens that is described by a transition and two readouts is an entry here; one that carries
vectors differently is also a subclass of `Lens`, in a file of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from lens_core.errors import UsageError
from lens_core.lenses.finite import FiniteDifference
from lens_core.lenses.forward import ForwardLens, JoinedLens
from lens_core.lenses.lens import Lens
from lens_core.lenses.projections import KeyOfProjection
from lens_core.lenses.tuned import TunedLens
from lens_core.lenses.variants import Variant
from lens_core.terms import Projection, Settings, Side

__all__ = ["FIRST_ORDER", "LENSES", "LOGIT", "ON_REQUEST", "QUERY", "Lens", "lens_named"]


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
"""All lenses of every list, in the order of tables and documents."""

_VALUE: Mapping[Side, str] = MappingProxyType({"value": "unembed"})

FORWARD = ForwardLens(
    "forward", "Forward", "Forward", "forward", "forward", "identity",
    MappingProxyType({"key": "forward"}),
)  # fmt: skip
FORWARD_FIRST_ORDER = JoinedLens(
    "forward+first-order", "Forward and first order", "Forw.+first", "forward_first_order",
    "forward_first_order", "first-order", MappingProxyType({"key": "standard_scores"}),
    other=FIRST_ORDER,
)  # fmt: skip
EXACT = Variant(
    "query:exact", "Query Lens, exact", "Exact", "query_lens_exact", "query_exact", "full",
    _CARRIED, convention="exact",
)  # fmt: skip
LINEARIZE = Variant(
    "query:linearize", "Query Lens, norm linearised", "Linearised", "query_lens_linearize",
    "query_linearize", "full", _VALUE, final_norm="linearize",
)  # fmt: skip
TUNED = TunedLens("tuned", "Tuned Lens", "Tuned", "tuned_lens", "tuned", "identity", _VALUE)
TUNED_PUBLISHED = TunedLens(
    "tuned:published", "Tuned Lens, as published", "Tuned, pub.", "tuned_lens_published",
    "tuned_published", "identity", _VALUE, published=True,
)  # fmt: skip
ZERO_OUT = FiniteDifference(
    "zero-out", "Zero-Out", "Zero-Out", "zero_out", "zero_out", "identity", _VALUE
)
TOKEN_CHANGES = tuple(
    FiniteDifference(
        f"token-change:{clamp}", f"Token Change, {clamp}", f"Change {clamp}",
        f"token_change_{clamp}", f"token_change_{clamp}", "identity", _VALUE, clamp=float(clamp),
    )
    for clamp in (1, 5, 10)
)  # fmt: skip

GATE, UP = (
    KeyOfProjection(
        f"query:{which}", f"Query Lens, {which} projection", f"By {which}", f"query_lens_{which}",
        f"query_{which}", "full", MappingProxyType({"key": "embed_centered_cosine"}),
        projection=which,
    )
    for which in get_args(Projection)
)  # fmt: skip

ON_REQUEST: tuple[Lens, ...] = (
    FORWARD, FORWARD_FIRST_ORDER, EXACT, LINEARIZE, GATE, UP, TUNED, TUNED_PUBLISHED,
    ZERO_OUT, *TOKEN_CHANGES
)  # fmt: skip
"""Lenses that are made where they are named, in the order of tables and documents."""

LENSES_WITH_FILES = (FORWARD.name,)
"""Those that read files of their own, which `qlens build --lens` computes."""


def lens_named(name: str) -> Lens:
    """The lens called `name`, of all lenses.

    Raises:
        UsageError: there is none.
    """
    every = (*LENSES, *ON_REQUEST)
    for lens in every:
        if lens.name == name:
            return lens
    names = ", ".join(lens.name for lens in every)
    raise UsageError(f"there is no lens {name!r}: the lenses are {names}")

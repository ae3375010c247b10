"""How alike two features are, of any two layers: the cosines of their vectors.

    raw       cos(v_i, v_j)         cos(k_i, k_j)           as the dictionaries have them
    carried   cos(T v_i, T' v_j)    cos(k_i T, k_j T')      where they are read

(docs/method.md, section 3.) T and T' carry from the features' own layers to the same end, so that
carried vectors can be compared across layers; they are carried with the same settings and over the
same tokens as the features' lists. Costs what the two lists cost, and nothing after them.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.feature_map import vectors_of
from lens_core.instruments import Instruments
from lens_core.lenses import QUERY
from lens_core.resemblance import SideCosines
from lens_core.terms import SIDES, Settings, Side

Which = tuple[FeatureDictionary, int]
"""A feature of a dictionary."""


def pair_cosines(
    tools: Instruments, one: Which, other: Which, settings: Settings
) -> tuple[Mapping[Side, SideCosines], int]:
    """The cosines of both sides, and over how many reference tokens they are carried.

    Raises:
        UsageError: as `Carrier.method`.
    """
    found, tokens = {}, [tools.carrier.reference.n_tokens]
    for side in SIDES:
        raw, carried = [], []
        for dictionary, feature in (one, other):
            vector = vectors_of(side, dictionary)[feature]
            raw.append(vector)
            if vector.norm() == 0:
                carried.append(vector)
                continue
            moved = QUERY.carry(tools, side, dictionary, feature, settings)
            carried.append(moved.vector)
            tokens.append(moved.n_tokens or tools.carrier.reference.n_tokens)
        found[side] = SideCosines(_cosine(*raw), _cosine(*carried))
    return found, min(tokens)


def _cosine(one: Float[Tensor, " d_model"], other: Float[Tensor, " d_model"]) -> float | None:
    """`None` where one of the two has length zero."""
    one, other = one.double(), other.double()
    lengths = one.norm() * other.norm()
    return float((one @ other / lengths).clamp(-1, 1)) if lengths > 0 else None

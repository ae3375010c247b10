"""How much a feature's list depends on the reference sample.

    stability = |A and B| / |A or B|      A, B: Query Lens's top k from the two halves

(docs/method.md, section 5, with the two disjoint halves of the reference.) The halves of the
operators give it for every feature at once, with two products with the vocabulary per side. A
vector of length zero has no lists and no stability (NaN).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.carry import Carrier
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.feature_map import FeatureMap, vectors_of
from lens_core.readout import Readout
from lens_core.terms import Side

_ROWS_AT_ONCE = 8192


@torch.no_grad()
def split_half(
    readout: Readout,
    vectors: Float[Tensor, "n_features d_model"],
    halves: Sequence[FeatureMap],
    k: int,
) -> Float[Tensor, " n_features"]:
    """The stability of each of `vectors` (0 to 1), carried by the two `halves`."""
    parts = []
    for chunk in torch.split(vectors, _ROWS_AT_ONCE):
        one, other = (readout.top_k(half(chunk), k)[0] for half in halves)
        parts.append(jaccard(one, other))
    found = torch.cat(parts).to(vectors.dtype)
    return found.masked_fill(vectors.norm(dim=1) == 0, torch.nan)


def jaccard(one: Int[Tensor, "n k"], other: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Jaccard similarity of two sets of `k` ids, row by row."""
    shared = (one[:, :, None] == other[:, None, :]).any(-1).sum(-1)
    return shared / (2 * one.shape[1] - shared)


def stability(
    carrier: Carrier,
    readout: Readout,
    side: Side,
    dictionary: FeatureDictionary,
    k: int,
    part: slice = slice(None),
) -> Float[Tensor, " n"] | None:
    """The stability of the features in `part` of `dictionary`; `None` if unknown.

    Raises:
        OperatorError: there are no operators for this dictionary.
    """
    halves = carrier.halves(side, dictionary)
    if len(halves) == 2:
        return split_half(readout, vectors_of(side, dictionary)[part], halves, k)
    stored = carrier.operators_for(dictionary).stability(side, dictionary.sha256, k)
    return None if stored is None else stored[part]

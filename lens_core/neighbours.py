"""The features of a layer most similar to a given one, by keys or by values.

    cos(i, j) = x_i . x_j / (|x_i| |x_j|)        x: the keys, or the values, of one dictionary

Features with the same key fire together; features with the same value have the same effect.
Costs two products with the dictionary (one for the lengths), some rows at a time so that no
normalised copy is made: 20 ms for 32,768 x 768 on two CPU cores.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.feature_map import vectors_of
from lens_core.terms import Side

_ROWS_AT_ONCE = 8192


def neighbours(
    dictionary: FeatureDictionary, feature: int, side: Side, n: int
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The `n` other features nearest to `feature` and their cosines, the nearest first.

    Fewer if the dictionary has fewer. Equal cosines are in the order of features. A vector of
    length zero has no direction: it has no neighbours and is never one.
    """
    vectors = vectors_of(side, dictionary)
    cosines = cosines_with(vectors, vectors[feature])
    cosines[feature] = torch.nan
    found = (~cosines.isnan()).nonzero().squeeze(1)
    order = found[cosines[found].argsort(descending=True, stable=True)[:n]]
    return order, cosines[order]


def cosines_with(
    vectors: Float[Tensor, "n_features d_model"], one: Float[Tensor, " d_model"]
) -> Float[Tensor, " n_features"]:
    """The cosine of every row of `vectors` with `one`; NaN where either has length zero."""
    unit = one / one.norm()
    chunks = torch.split(vectors, _ROWS_AT_ONCE)
    return torch.cat([rows @ unit / rows.norm(dim=1) for rows in chunks])

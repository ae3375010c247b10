"""The features of a layer that are most like one of them, by what they read or what they write.

    cos(i, j) = x_i . x_j / (|x_i| |x_j|)        x: the keys, or the values, of one dictionary

Features that share a key fire together; features that share a value say the same. Two
products with the dictionary (one for the lengths), some rows at a time, so that no
normalised copy of it is made: 20 ms for 32,768 x 768 on two CPU cores.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.carry import vectors_of
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.terms import Side

_ROWS_AT_ONCE = 8192


def neighbours(
    dictionary: FeatureDictionary, feature: int, side: Side, n: int
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The `n` other features nearest to `feature` and their cosines, the nearest first.

    Fewer where the dictionary has fewer. Equal cosines are in the order of features; a vector
    of length zero has no direction, and so neither neighbours nor a place among them.
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

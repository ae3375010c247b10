"""How much of a feature's list is the feature's own, and how much the sample's.

    stability = |A and B| / |A or B|      A, B: Query Lens's top k from the two halves

(method.md, section 5, with the two disjoint halves of the reference.) The halves of the
operators say it for every feature at once: two products with the vocabulary a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.blocked_topk import top_k_of_product
from lens_core.carry import Side, carried_by, site_of, vectors_of
from lens_core.dictionaries.feature_dictionary import FeatureDictionary

if TYPE_CHECKING:
    from lens_core.lens import QueryLens

_ROWS_AT_ONCE = 8192


@torch.no_grad()
def split_half(
    lens: QueryLens,
    side: Side,
    vectors: Float[Tensor, "n_features d_model"],
    halves: Sequence[Float[Tensor, "d_model d_model"]],
    k: int,
) -> Float[Tensor, " n_features"]:
    """The stability of each of `vectors` (0 to 1), carried by the two `halves`."""
    parts = []
    for chunk in torch.split(vectors, _ROWS_AT_ONCE):
        one, other = (best(lens, side, carried_by(side, half, chunk), k)[0] for half in halves)
        parts.append(jaccard(one, other))
    return torch.cat(parts).to(vectors.dtype)


def best(
    lens: QueryLens, side: Side, carried: Float[Tensor, "n d_model"], k: int
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Query Lens's top `k` tokens and their scores for many carried vectors."""
    if side == "key":
        return top_k_of_product(carried, lens.rows, None, k)
    model = lens.model
    return top_k_of_product(model.final_norm(carried), model.W_U.T, model.b_U, k)


def jaccard(one: Int[Tensor, "n k"], other: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Overlap of two sets of `k` each, row by row."""
    shared = (one[:, :, None] == other[:, None, :]).any(-1).sum(-1)
    return shared / (2 * one.shape[1] - shared)


def stability(
    lens: QueryLens,
    side: Side,
    dictionary: FeatureDictionary,
    k: int,
    part: slice = slice(None),
) -> Float[Tensor, " n"] | None:
    """The stability of the features in `part` of `dictionary`; `None` where nobody knows it.

    Raises:
        OperatorError: there are no operators for this dictionary.
    """
    operators = lens.transport.operators_for(dictionary)
    halves = operators.halves(side, site_of(side, dictionary))
    if len(halves) == 2:
        return split_half(lens, side, vectors_of(side, dictionary)[part], halves, k)
    stored = operators.stability(side, dictionary.sha256, k)
    return None if stored is None else stored[part]

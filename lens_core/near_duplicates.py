"""Near-duplicates of a feature: the features of its layer whose carried vectors are nearest.

    value   cos(T v_i, T v_j)        what the features do, through all blocks after them
    key     cos(k_i T, k_j T)        what they fire on, through all blocks before them
    both    the lesser of the two

(docs/method.md, section 3; the paper's convention, all blocks on.) Raw vectors (`neighbours`) of
features that do the same can point in different directions, which blocks carry to one.

Costs, once for a dictionary and side, its product with an operator, for the lengths, which are
kept in the result cache; then one matrix-vector product. Vectors of length zero have no cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.feature_map import vectors_of
from lens_core.instruments import Instruments
from lens_core.lenses import QUERY
from lens_core.resemblance import Likeness
from lens_core.terms import SIDES, Progress, Side

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """The features found, the most alike first, equal ones in order of features.

    `cosines` has NaN where one of the two vectors has length zero; `of` is how many features have
    a cosine that counts. `has_direction`: the feature itself has no length of zero that counts.
    """

    features: Int[Tensor, " n"]
    cosines: Mapping[Side, Float[Tensor, " n"]]
    of: int
    has_direction: bool


def near_duplicates(
    tools: Instruments,
    dictionary: FeatureDictionary,
    feature: int,
    likeness: Likeness,
    n: int,
    progress: Progress | None = None,
) -> NearDuplicates:
    """The `n` other features most like `feature`.

    `progress` is called with the features whose lengths are known, of both sides, while these are
    computed.

    Raises:
        OperatorError: there are no operators yet.
    """
    cosines = {}
    for done, side in enumerate(SIDES):

        def report(rows: int, done: int = done) -> None:
            if progress is not None:
                each = dictionary.n_features
                progress(done * each + rows, len(SIDES) * each)

        lengths = carried_lengths(tools, dictionary, side, report)
        cosines[side] = _cosines(tools, dictionary, feature, side, lengths)
    counts = torch.minimum(*cosines.values()) if likeness == "both" else cosines[likeness].clone()
    has_direction = not bool(counts[feature].isnan())
    counts[feature] = torch.nan
    found = (~counts.isnan()).nonzero().squeeze(1)
    order = found[counts[found].argsort(descending=True, stable=True)[:n]]
    kept = {side: each[order] for side, each in cosines.items()}
    return NearDuplicates(order, kept, len(found), has_direction)


def carried_lengths(
    tools: Instruments,
    dictionary: FeatureDictionary,
    side: Side,
    report: Callable[[int], None] = lambda _rows: None,
) -> Float[Tensor, " n_features"]:
    """The length of every carried vector of one side; `report` is called with the rows done."""
    carry = QUERY.map(tools, side, dictionary)

    def compute() -> dict[str, Tensor]:
        found, done = [], 0
        for rows in torch.split(vectors_of(side, dictionary), _ROWS_AT_ONCE):
            report(done)
            found.append(carry(rows).norm(dim=1))
            done += len(rows)
        return {"lengths": torch.cat(found)}

    asked = {
        "kind": "carried lengths", "side": side, "dictionary": dictionary.sha256,
        "operators": tools.carrier.operators_for(dictionary).fingerprint,
    }  # fmt: skip
    lengths: Tensor = tools.carrier.results.cached(asked, compute)["lengths"]
    return lengths


def _cosines(
    tools: Instruments,
    dictionary: FeatureDictionary,
    feature: int,
    side: Side,
    lengths: Float[Tensor, " n_features"],
) -> Float[Tensor, " n_features"]:
    """The cosine of every carried vector with the feature's; NaN where either has length zero."""
    carry, vectors = QUERY.map(tools, side, dictionary), vectors_of(side, dictionary)
    unit = carry(vectors[feature]) / lengths[feature]
    products = vectors @ carry.pulled(unit) + carry.offset(unit)
    return (products / lengths).clamp(-1, 1).masked_fill(lengths == 0, torch.nan)

"""The score of a token for every feature of a dictionary, and its rank in some features' lists.

    value   score_i(t) = v_i . T_value^T (gain * u_t, centred for a LayerNorm) / scale_i + bias_t
    key     score_i(t) = k_i . T_key c_t / |k_i^T T_key|
    rank    1 + how many tokens score higher in the feature's list, equal scores in order of ids

with `scale_i` the final norm's scale for the transported `v_i`, so that the score is the same
as in the feature's own signature: its `scores` on the value side, its `unit_scores` on the key
side (docs/method.md, section 3). Costs one matrix-vector product per token once the scales are
known; these cost one matrix product per layer, lens and side, and are cached. A vector of length
zero has no score. A rank costs the product of the feature with the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.feature_map import vectors_of
from lens_core.instruments import Instruments
from lens_core.lenses import Lens
from lens_core.readout import Readout
from lens_core.terms import Side

_ROWS_AT_ONCE = 8192


def token_scores(
    tools: Instruments, dictionary: FeatureDictionary, token_id: int, side: Side, lens: Lens
) -> Float[Tensor, " n_features"]:
    """The score of one token for every feature of a dictionary; NaN for a vector of length zero."""
    divisor = scales(tools, dictionary, side, lens)
    return _scores(tools, dictionary, slice(None), token_id, side, lens, divisor)


def scores_among(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: Sequence[int] | Int[Tensor, " n"],
    token_id: int,
    side: Side,
    lens: Lens,
) -> Float[Tensor, " n"]:
    """The score of one token for some features under another lens than the one that searched.

    Does not read the whole dictionary, which is the main cost of a search.
    """
    carried = lens.map(tools, side, dictionary)(vectors_of(side, dictionary)[features])
    divisor = lens.readout(tools, side, dictionary).divisor(carried)
    return _scores(tools, dictionary, features, token_id, side, lens, divisor)


def ranks_among(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: Sequence[int] | Int[Tensor, " n"],
    token_ids: Sequence[int],
    side: Side,
    lens: Lens,
) -> Int[Tensor, "n tokens"]:
    """The rank (1 is best) of each token in the list of each of some features.

    Costs the product of those features with the vocabulary.
    """
    carried = lens.map(tools, side, dictionary)(vectors_of(side, dictionary)[features])
    return ranks_of_carried(lens.readout(tools, side, dictionary), carried, token_ids)


def ranks_of_carried(
    readout: Readout, carried: Float[Tensor, "n d_model"], token_ids: Sequence[int]
) -> Int[Tensor, "n tokens"]:
    """The same for vectors that are carried already."""
    ids = torch.tensor(token_ids, device=carried.device).expand(len(carried), -1)
    return readout.ranks(carried, ids) + 1


def directions_of(
    tools: Instruments,
    dictionary: FeatureDictionary,
    ids: Int[Tensor, " tokens"],
    side: Side,
    lens: Lens,
) -> Float[Tensor, "tokens lifted"]:
    """The rows `w` with `lifted @ w = score * divisor`, for `lifted` = vector, divisor, 1.

    Carries the tokens to the features, which is cheaper than the reverse for fewer tokens than
    features.
    """
    readout, carry = lens.readout(tools, side, dictionary), lens.map(tools, side, dictionary)
    directions, constants = readout.directions(ids), readout.constants(ids)
    constants = directions.new_zeros(len(ids)) if constants is None else constants
    offsets = carry.offset(directions)
    return torch.cat([carry.pulled(directions), constants[:, None], offsets[:, None]], 1)


def _scores(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: slice | Sequence[int] | Int[Tensor, " n"],
    token_id: int,
    side: Side,
    lens: Lens,
    divisor: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """The score of one token for some features with known `divisor`."""
    vectors = vectors_of(side, dictionary)[features]
    readout, carry = lens.readout(tools, side, dictionary), lens.map(tools, side, dictionary)
    ids = torch.tensor([token_id], device=vectors.device)
    direction = readout.direction(ids)
    scores = (vectors @ carry.pulled(direction) + carry.offset(direction)) / divisor
    constant = readout.constant(ids)
    return scores if constant is None else scores + constant


def scales(
    tools: Instruments, dictionary: FeatureDictionary, side: Side, lens: Lens
) -> Float[Tensor, " n_features"]:
    """The divisor of each feature's score: stored with the operators, cached, or computed."""
    place = side, lens.name, dictionary.sha256
    if place not in tools.scales:
        carrier, found = tools.carrier, None
        if carrier.operators is not None and lens.needs_operators:
            found = carrier.operators.scale(side, lens.name, dictionary.sha256)
        if found is None:
            asked = {
                "kind": "scales",
                "side": side,
                "lens": lens.name,
                "dictionary": dictionary.sha256,
            }
            if lens.needs_operators:
                asked["operators"] = carrier.operators_for(dictionary).fingerprint
            found = carrier.results.cached(
                asked, lambda: {"scales": compute_scales(tools, dictionary, side, lens)}
            )["scales"]
        tools.scales[place] = found
    return tools.scales[place]


def compute_scales(
    tools: Instruments, dictionary: FeatureDictionary, side: Side, lens: Lens
) -> Float[Tensor, " n_features"]:
    """The final norm's scale for each carried value, or the length of each carried key.

    NaN for a vector of length zero.
    """
    carry, readout = lens.map(tools, side, dictionary), lens.readout(tools, side, dictionary)
    chunks = torch.split(vectors_of(side, dictionary), _ROWS_AT_ONCE)
    return torch.cat([readout.divisor(carry(chunk)) for chunk in chunks])

"""Reverse search: the features that promote a token or fire on it, indirect effects included.

    value   score_i(t) = v_i . T_value^T (gain * u_t, centred for a LayerNorm) / scale_i + bias_t
    key     score_i(t) = k_i . T_key c_t / |k_i^T T_key|

with `scale_i` the final norm's scale for the transported `v_i`, so that the score is the same
as in the feature's own signature: its `scores` on the value side, its `unit_scores` on the key
side (docs/method.md, section 3). Costs one matrix-vector product per layer once the scales are
known; these cost one matrix product per layer, lens and side, and are cached. A vector of length
zero has no score and is never found.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import OperatorError, UsageError
from lens_core.feature_map import vectors_of
from lens_core.instruments import Instruments
from lens_core.lenses import LOGIT, Lens
from lens_core.ranking import top_k
from lens_core.terms import Settings, Side

_ROWS_AT_ONCE = 8192


def search(
    tools: Instruments,
    token_id: int,
    settings: Settings,
    *,
    side: Side,
    lens: Lens,
    layers: Sequence[int] | None,
    n: int,
) -> pl.DataFrame:
    """The `n` best features over `layers` (`None`: all): layer, feature, score, logit_score.

    Equal scores are in the order of layer and feature. `logit_score` is Logit Lens's.

    Raises:
        UsageError: operators cannot answer `settings`, or the lens has no such side.
        OperatorError: the lens needs operators that are not built.
    """
    missing = lens.missing(tools, side)
    if missing:
        raise UsageError(f"{missing}: search with another --lens or --side")
    frames = []
    for layer in tools.dictionaries.layers if layers is None else layers:
        dictionary = tools.dictionaries[layer]
        _demand_operators(tools, dictionary, side, lens, settings)
        scores = token_scores(tools, dictionary, token_id, side, lens)
        best, found = top_k(scores.nan_to_num(nan=-torch.inf), n)
        best, found = best[found > -torch.inf], found[found > -torch.inf]
        plain = found
        if lens is not LOGIT:
            plain = scores_among(tools, dictionary, best, token_id, side, LOGIT)
        frames.append(
            pl.DataFrame(
                {
                    "layer": pl.repeat(layer, len(best), dtype=pl.Int32, eager=True),
                    "feature": best.cpu().numpy(),
                    "score": found.cpu().numpy(),
                    "logit_score": plain.cpu().numpy(),
                }
            )
        )
    hits = pl.concat(frames).sort("score", "layer", "feature", descending=[True, False, False])
    return hits.head(n)


def _demand_operators(
    tools: Instruments, dictionary: FeatureDictionary, side: Side, lens: Lens, settings: Settings
) -> None:
    if not lens.needs_operators:
        return
    carrier = tools.carrier
    obstacle = carrier.obstacle(side, dictionary, lens.settings(settings))
    if settings.off:
        obstacle = "blocks are off"
    if obstacle is not None:
        raise UsageError(
            f"search needs operators, which cannot answer because {obstacle}: search with the "
            "paper's convention, then look at features with `qlens show`"
        )
    try:
        carrier.operators_for(dictionary)
    except OperatorError as error:
        raise OperatorError(f"{error}, or search with --lens {LOGIT.name}") from None


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
    divisor = tools.readout(lens.readouts[side]).divisor(carried)
    return _scores(tools, dictionary, features, token_id, side, lens, divisor)


def ranks_among(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: Sequence[int] | Int[Tensor, " n"],
    token_id: int,
    side: Side,
    lens: Lens,
) -> Int[Tensor, " n"]:
    """The token's rank (1 is best) in the list of each of some features.

    Search ranks features by score; this ranks the token within each feature's list. Costs the
    product of those features with the vocabulary.
    """
    carried = lens.map(tools, side, dictionary)(vectors_of(side, dictionary)[features])
    ids = torch.full((len(carried), 1), token_id, device=carried.device)
    return tools.readout(lens.readouts[side]).ranks(carried, ids)[:, 0] + 1


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
    readout, carry = tools.readout(lens.readouts[side]), lens.map(tools, side, dictionary)
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
    carry, readout = lens.map(tools, side, dictionary), tools.readout(lens.readouts[side])
    chunks = torch.split(vectors_of(side, dictionary), _ROWS_AT_ONCE)
    return torch.cat([readout.divisor(carry(chunk)) for chunk in chunks])

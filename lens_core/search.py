"""Search backwards: the features that promote a token, or fire on it, indirect effects included.

    value   score_i(t) = v_i . T_value^T (gain * u_t, centred for a LayerNorm) / scale_i + bias_t
    key     score_i(t) = k_i . T_key c_t / |k_i^T T_key|

with `scale_i` the final norm's scale for the transported `v_i`, so that the score is the one
that the feature's own signature gives the token: its `scores` on the value side, its
`unit_scores` on the key side. Without the scale other features would come first. One
matrix-vector product per layer once the scales are known; those are one matrix product per
layer, lens and side, and are cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.blocked_topk import ranks_in_product
from lens_core.carry import Settings, Side, carried_by, vectors_of
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.direct import Transition
from lens_core.errors import UsageError
from lens_core.readout import top_k

if TYPE_CHECKING:
    from lens_core.lens import QueryLens

Lens = Literal["query", "logit", "first-order"]

TRANSITION_OF: dict[Lens, Transition] = {
    "query": "full",
    "first-order": "first-order",
    "logit": "identity",
}

_ROWS_AT_ONCE = 8192


def search(
    lens: QueryLens,
    token_id: int,
    settings: Settings,
    *,
    side: Side,
    kind: Lens,
    layers: Sequence[int] | None,
    n: int,
) -> pl.DataFrame:
    """The `n` best features over `layers` (`None`: all): layer, feature, score, logit_score.

    Equal scores are in the order of layer and feature. `logit_score` is Logit Lens's.
    """
    frames = []
    for layer in lens.dictionaries.layers if layers is None else layers:
        dictionary = lens.dictionaries[layer]
        obstacle = lens.transport.obstacle(side, dictionary, settings)
        if settings.off:
            obstacle = "blocks are off"
        if kind != "logit" and obstacle is not None:
            raise UsageError(
                f"search ranks by operators and cannot where {obstacle}: search with the paper's "
                "conventions, then look at features with `qlens show`"
            )
        scores = token_scores(lens, dictionary, token_id, side, kind)
        best, found = top_k(scores, n)
        plain = (
            found
            if kind == "logit"
            else scores_among(lens, dictionary, best, token_id, side, "logit")
        )
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


def token_scores(
    lens: QueryLens, dictionary: FeatureDictionary, token_id: int, side: Side, kind: Lens
) -> Float[Tensor, " n_features"]:
    """The score of one token for every feature of a dictionary."""
    matrix = _matrix(lens, dictionary, side, kind)
    scale = scales(lens, dictionary, side, kind)
    return _scores_of(
        lens, vectors_of(side, dictionary), token_id, side, kind, matrix=matrix, scale=scale
    )


def scores_among(
    lens: QueryLens,
    dictionary: FeatureDictionary,
    features: Sequence[int] | Int[Tensor, " n"],
    token_id: int,
    side: Side,
    kind: Lens,
) -> Float[Tensor, " n"]:
    """The same for some features, as another lens scores them beside the one that found them.

    It does not read the whole dictionary, which is what search costs.
    """
    vectors = vectors_of(side, dictionary)[features]
    matrix = _matrix(lens, dictionary, side, kind)
    return _scores_of(lens, vectors, token_id, side, kind, matrix=matrix)


def ranks_among(
    lens: QueryLens,
    dictionary: FeatureDictionary,
    features: Sequence[int] | Int[Tensor, " n"],
    token_id: int,
    side: Side,
    kind: Lens,
) -> Int[Tensor, " n"]:
    """The token's rank (1 is best) in the list of each of some features.

    A high score may be one of many: search ranks features, this the feature's tokens. Costs the
    product of those features with the vocabulary.
    """
    vectors, matrix = vectors_of(side, dictionary)[features], _matrix(lens, dictionary, side, kind)
    carried = vectors if matrix is None else carried_by(side, matrix, vectors)
    ids = torch.full((len(carried), 1), token_id, device=carried.device)
    model = lens.model
    if side == "key":
        rows = model.embedding if kind == "logit" else lens.rows
        return ranks_in_product(carried, rows, None, ids)[:, 0] + 1
    return ranks_in_product(model.final_norm(carried), model.W_U.T, model.b_U, ids)[:, 0] + 1


def _scores_of(
    lens: QueryLens,
    vectors: Float[Tensor, "n d_model"],
    token_id: int,
    side: Side,
    kind: Lens,
    *,
    matrix: Float[Tensor, "d_model d_model"] | None = None,
    scale: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, " n"]:
    """The score of one token for `vectors`; `scale` is computed where it is not given."""
    if scale is None:
        scale = _scale_of(lens, side, vectors, matrix)
    if side == "value":
        unembedding = lens.model.W_U[:, token_id]
        direction = lens.final_norm.pulled(unembedding)
        scores = vectors @ (direction if matrix is None else direction @ matrix) / scale
        if lens.final_norm.bias is not None:
            scores = scores + lens.final_norm.bias @ unembedding
        return scores if lens.model.b_U is None else scores + lens.model.b_U[token_id]
    direction = (lens.model.embedding if kind == "logit" else lens.rows)[token_id]
    scores = vectors @ (direction if matrix is None else matrix @ direction)
    return torch.where(scale > 0, scores / torch.where(scale > 0, scale, 1), 0)


def _matrix(
    lens: QueryLens, dictionary: FeatureDictionary, side: Side, kind: Lens
) -> Float[Tensor, "d_model d_model"] | None:
    if kind == "logit":
        return None
    return lens.transport.matrix(side, dictionary, TRANSITION_OF[kind])


def scales(
    lens: QueryLens, dictionary: FeatureDictionary, side: Side, kind: Lens
) -> Float[Tensor, " n_features"]:
    """What each feature's score is divided by: stored with the operators, cached, or computed."""
    place = side, kind, dictionary.sha256
    if place not in lens.scales:
        operators, found = lens.transport.operators, None
        if operators is not None and kind != "logit":
            found = operators.scale(side, kind, dictionary.sha256)
        if found is None:
            asked = {"kind": "scales", "side": side, "lens": kind, "dictionary": dictionary.sha256}
            if kind != "logit":
                asked["operators"] = lens.transport.operators_for(dictionary).fingerprint
            found = lens.transport.cached(
                asked, lambda: {"scales": compute_scales(lens, dictionary, side, kind)}
            )["scales"]
        lens.scales[place] = found
    return lens.scales[place]


def compute_scales(
    lens: QueryLens, dictionary: FeatureDictionary, side: Side, kind: Lens
) -> Float[Tensor, " n_features"]:
    """The final norm's scale for each carried value, or the length of each carried key."""
    matrix = _matrix(lens, dictionary, side, kind)
    chunks = torch.split(vectors_of(side, dictionary), _ROWS_AT_ONCE)
    return torch.cat([_scale_of(lens, side, chunk, matrix) for chunk in chunks])


def _scale_of(
    lens: QueryLens,
    side: Side,
    vectors: Float[Tensor, "n d_model"],
    matrix: Float[Tensor, "d_model d_model"] | None,
) -> Float[Tensor, " n"]:
    carried = vectors if matrix is None else carried_by(side, matrix, vectors)
    return lens.final_norm.scale(carried) if side == "value" else carried.norm(dim=-1)

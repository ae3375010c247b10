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
from jaxtyping import Float
from torch import Tensor

from lens_core.dictionary import FeatureDictionary
from lens_core.errors import UsageError
from lens_core.readout import top_k
from lens_core.transition import Transition
from lens_core.transport import Settings, Side, carried_by, vectors_of

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
        plain = token_scores(lens, dictionary, token_id, side, "logit")
        best, _ = top_k(scores, n)
        frames.append(
            pl.DataFrame(
                {
                    "layer": pl.repeat(layer, len(best), dtype=pl.Int32, eager=True),
                    "feature": best.cpu().numpy(),
                    "score": scores[best].cpu().numpy(),
                    "logit_score": plain[best].cpu().numpy(),
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
    scale = _scales(lens, dictionary, side, kind)
    if side == "value":
        unembedding = lens.model.W_U[:, token_id]
        direction = lens.final_norm.pulled(unembedding)
        direction = direction if matrix is None else direction @ matrix
        scores = dictionary.values @ direction / scale
        if lens.final_norm.bias is not None:
            scores = scores + lens.final_norm.bias @ unembedding
        return scores if lens.model.b_U is None else scores + lens.model.b_U[token_id]
    direction = (lens.model.embedding if kind == "logit" else lens.rows)[token_id]
    scores = dictionary.keys @ (direction if matrix is None else matrix @ direction)
    return torch.where(scale > 0, scores / torch.where(scale > 0, scale, 1), 0)


def _matrix(
    lens: QueryLens, dictionary: FeatureDictionary, side: Side, kind: Lens
) -> Float[Tensor, "d_model d_model"] | None:
    if kind == "logit":
        return None
    return lens.transport.matrix(side, dictionary, TRANSITION_OF[kind])


def _scales(
    lens: QueryLens, dictionary: FeatureDictionary, side: Side, kind: Lens
) -> Float[Tensor, " n_features"]:
    """What each feature's score is divided by: the final norm's scale, or a key's length."""

    def compute() -> dict[str, Tensor]:
        matrix = _matrix(lens, dictionary, side, kind)
        parts = []
        for chunk in torch.split(vectors_of(side, dictionary), _ROWS_AT_ONCE):
            carried = chunk if matrix is None else carried_by(side, matrix, chunk)
            scale = lens.final_norm.scale(carried) if side == "value" else carried.norm(dim=-1)
            parts.append(scale)
        return {"scales": torch.cat(parts)}

    place = side, kind, dictionary.sha256
    if place not in lens.scales:
        asked = {"kind": "scales", "side": side, "lens": kind, "dictionary": dictionary.sha256}
        lens.scales[place] = lens.transport.cached(asked, compute)["scales"]
    return lens.scales[place]

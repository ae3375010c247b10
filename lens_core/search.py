"""Reverse search: the features that promote tokens or fire on them, indirect effects included.

    by rank     the token's rank in each feature's own list, then its score
    by score    the score alone

A score compares features by how far they move a token, whatever else they move further: a
feature with large scores throughout leads the scores of many tokens that it ranks in the
ten-thousands. A rank says whether the feature is about the token. With several tokens a feature
counts with the worst of them: worst rank, lowest score (`lens_core.token_query`).

Cost: by score, one matrix-vector product per token and layer; by rank, see `lens_core.best_ranks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import polars as pl
import torch

from lens_core.best_ranks import Limit, Ranked, Ranker
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import OperatorError, UsageError
from lens_core.feature_scores import scores_among
from lens_core.instruments import Instruments
from lens_core.lenses import LOGIT, Lens
from lens_core.terms import Progress, Settings, Side
from lens_core.token_query import By, TokenQuery

_PARTS = 100  # of a layer, in reports of progress


def search(
    tools: Instruments,
    query: TokenQuery,
    settings: Settings,
    *,
    side: Side,
    lens: Lens,
    layers: Sequence[int] | None,
    n: int,
    by: By = "rank",
    progress: Progress | None = None,
) -> pl.DataFrame:
    """The `n` best features over `layers` (`None`: all).

    Columns: `layer`, `feature`, `rank` (1 is best), `score`, `logit_score` (Logit Lens's) and
    `ranks`, those of every token of the query, wanted ones first. Equal features are in the order
    of layer and feature. `progress` is called with the hundredths of layers that are done, and all.

    Raises:
        UsageError: the query cannot be answered, `n` is less than 1, there is no such order,
            operators cannot answer `settings`, or the lens has no such side.
        OperatorError: the lens needs operators that are not built.
    """
    query.check()
    if by not in get_args(By):
        raise UsageError(f"there is no order {by!r}: search by {' or '.join(get_args(By))}")
    if n < 1:
        raise UsageError(f"a search finds at least 1 feature, got n = {n}")
    missing = lens.missing(tools, side)
    if missing:
        raise UsageError(f"{missing}: search with another --lens or --side")
    searched = tuple(tools.dictionaries.layers if layers is None else layers)
    limit = Limit(n)
    best: pl.DataFrame | None = None
    for done, layer in enumerate(searched):
        settled = _reporting(progress, done, len(searched))
        settled(0)
        dictionary = tools.dictionaries[layer]
        _demand_operators(tools, dictionary, side, lens, settings)
        ranker = Ranker(tools, dictionary, query, side, lens)
        found = ranker.best(limit, settled) if by == "rank" else _by_score(ranker, limit)
        frame = _first(_frame(layer, found), by, n)
        plain = frame["score"]
        if lens is not LOGIT:
            features = frame["feature"].to_list()
            each = [
                scores_among(tools, dictionary, features, token, side, LOGIT)
                for token in query.wanted
            ]
            plain = pl.Series(torch.stack(each).amin(0).cpu().numpy())
        frame = frame.with_columns(plain.alias("logit_score"))
        best = frame if best is None else _first(pl.concat([best, frame]), by, n)
    if best is None:
        raise UsageError("no layers to search: name at least one")
    return best.select("layer", "feature", "rank", "score", "logit_score", "ranks")


def _by_score(ranker: Ranker, limit: Limit) -> Ranked:
    """The features with the highest scores, as many as can be among the `n` best."""
    features = ranker.with_direction()
    order = ranker.scores[features].sort(descending=True, stable=True).indices
    found = []
    for chunk in torch.split(features[order], limit.n):
        found.append(ranker.ranked(chunk[-ranker.scores[chunk] <= limit.worst]))
        limit.take(-found[-1].scores)
        if not len(chunk) or -ranker.scores[chunk[-1]] > limit.worst:
            break
    return Ranked.joined(found)


def _frame(layer: int, found: Ranked) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "layer": pl.repeat(layer, len(found.features), dtype=pl.Int32, eager=True),
            "feature": found.features.cpu().numpy(),
            "rank": found.rank.cpu().numpy(),
            "score": found.scores.cpu().numpy(),
            "ranks": pl.Series(found.ranks.tolist(), dtype=pl.List(pl.Int64)),
        }
    )


def _first(frame: pl.DataFrame, by: By, n: int) -> pl.DataFrame:
    """The `n` best rows, best first."""
    keys = ["rank", "score"] if by == "rank" else ["score"]
    falling = [key == "score" for key in keys]
    return frame.sort(*keys, "layer", "feature", descending=[*falling, False, False]).head(n)


def _reporting(progress: Progress | None, done: int, total: int) -> Callable[[float], None]:
    """A function to call with the part of the current layer that is done."""

    def report(share: float) -> None:
        if progress is not None:
            progress(int(_PARTS * (done + share)), _PARTS * total)

    return report


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

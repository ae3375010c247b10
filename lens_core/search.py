"""Reverse search: the features that promote tokens or fire on them, indirect effects included.

    by rank     the token's rank in each feature's own list, then its score
    by score    the score alone

A score compares features by how far they move a token, whatever else they move further: a
feature with large scores throughout leads the scores of many tokens that it ranks in the
ten-thousands. A rank says whether the feature is about the token. With several tokens a feature
counts with the worst of them: worst rank, lowest score (`lens_core.token_query`).

Cost: by score, one matrix-vector product per token and layer, then ranking the `n` features. By
rank it is the same if the atlas's lists are known and `n` of them have the tokens
(`lens_core.shortlist`), else more (`lens_core.best_ranks`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import polars as pl
import torch

from lens_core.best_ranks import Limit, Ranked, Ranker
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import OperatorError, UsageError
from lens_core.feature_scores import scores_among
from lens_core.instruments import Instruments
from lens_core.lenses import LENSES, LOGIT, Lens
from lens_core.shortlist import ListScores, Shortlist
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
    lists: ListScores | None = None,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """The `n` best features over `layers` (`None`: all).

    Columns: `layer`, `feature`, `rank` (1 is best), `score`, `logit_score` (Logit Lens's) and
    `ranks`, those of every token of the query, wanted ones first. Equal features are in the order
    of layer and feature. `lists` saves ranking what they say cannot be among the best; the answer
    is the same. `progress` is called with the hundredths of layers that are done, and all.

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
    if lens not in LENSES:
        names = ", ".join(each.name for each in LENSES)
        raise UsageError(
            f"{lens.title} is made on request alone, and nothing searches it: use {names}"
        )
    missing = lens.missing(tools, side)
    if missing:
        raise UsageError(f"{missing}: search with another --lens or --side")
    searched = tuple(tools.dictionaries.layers if layers is None else layers)
    if not searched:
        raise UsageError("no layers to search: name at least one")
    asked = _Asked(tools, query, settings, side, lens, searched, progress)
    if by == "rank":
        found = _by_rank(asked, n, lists)
    elif query.unwanted:
        found = _by_score(asked, n)
    else:
        found = _highest(asked, n)
    frame = _first(pl.concat(_frame(layer, own) for layer, own in found), by, n)
    columns = "layer", "feature", "rank", "score", "logit_score", "ranks"
    return frame.with_columns(_logit_scores(asked, frame)).select(columns)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A search's question, and what is told of its progress."""

    tools: Instruments
    query: TokenQuery
    settings: Settings
    side: Side
    lens: Lens
    layers: tuple[int, ...]
    progress: Progress | None

    def ranker(self, layer: int) -> Ranker:
        """What ranks the tokens in the features of one layer."""
        dictionary = self.tools.dictionaries[layer]
        _demand_operators(self.tools, dictionary, self.side, self.lens, self.settings)
        return Ranker(self.tools, layer, self.query, self.side, self.lens)

    def reports(self, layer: int) -> Callable[[float], None]:
        """A function to call with the part of a layer that is done."""
        done, total = self.layers.index(layer), len(self.layers)

        def report(share: float) -> None:
            if self.progress is not None:
                self.progress(int(_PARTS * (done + share)), _PARTS * total)

        return report


def _by_rank(asked: _Asked, n: int, lists: ListScores | None) -> list[tuple[int, Ranked]]:
    """By layer, all that can be among the `n` best by rank, and some more."""
    shortlist, limit, rankers = Shortlist(n), Limit(n), {}
    beyond = {}  # by layer, the least rank of what is not in the shortlist
    for layer in asked.layers:
        if lists is None:
            break
        asked.reports(asked.layers[0])(0)
        ranker = rankers[layer] = asked.ranker(layer)
        if (scores := lists(layer, asked.side, asked.lens)) is not None:
            shortlist.add_listed(layer, ranker, scores)
            beyond[layer] = scores.shape[1] + 1
    found = shortlist.ranked(asked.tools, asked.query, asked.side, asked.lens)
    for _, own in found:
        limit.take(own.rank)
    for layer in asked.layers:
        asked.reports(layer)(0)
        if limit.worst < beyond.get(layer, 0):
            continue
        ranker = rankers.get(layer) or asked.ranker(layer)
        own = ranker.best(limit, asked.reports(layer), shortlist.features(layer))
        found.append((layer, own))
    return found


def _highest(asked: _Asked, n: int) -> list[tuple[int, Ranked]]:
    """By layer, the `n` features with the highest scores."""
    shortlist = Shortlist(n)
    for layer in asked.layers:
        asked.reports(layer)(0)
        shortlist.add_highest(layer, asked.ranker(layer))
    return shortlist.ranked(asked.tools, asked.query, asked.side, asked.lens)


def _by_score(asked: _Asked, n: int) -> list[tuple[int, Ranked]]:
    """The same where unwanted tokens leave some out: ranked until as many can be."""
    limit, every = Limit(n), []
    for layer in asked.layers:
        asked.reports(layer)(0)
        ranker = asked.ranker(layer)
        features = ranker.with_direction()
        order = ranker.scores[features].sort(descending=True, stable=True).indices
        for chunk in torch.split(features[order], n):
            found = ranker.ranked(chunk[-ranker.scores[chunk] <= limit.worst])
            every.append((layer, found))
            limit.take(-found.scores)
            if not len(chunk) or -ranker.scores[chunk[-1]] > limit.worst:
                break
    return every


def _logit_scores(asked: _Asked, frame: pl.DataFrame) -> pl.Series:
    """The lowest of the wanted tokens' scores under Logit Lens, for each row."""
    plain = frame["score"].to_numpy().copy()
    layers = frame["layer"].to_numpy()
    for layer in frame["layer"].unique() if asked.lens is not LOGIT else ():
        rows = layers == layer
        dictionary = asked.tools.dictionaries[layer]
        features = frame["feature"].to_numpy()[rows].tolist()
        each = [
            scores_among(asked.tools, dictionary, features, token, asked.side, LOGIT)
            for token in asked.query.wanted
        ]
        plain[rows] = torch.stack(each).amin(0).cpu().numpy()
    return pl.Series("logit_score", plain)


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

"""The answer to a search, for both front ends: as `lens_core.report` answers about a feature."""

from __future__ import annotations

from collections.abc import Sequence

from lens_core.feature_scores import scores_among
from lens_core.lens import QueryLens
from lens_core.lenses import LOGIT, QUERY, lens_named
from lens_core.session import Session
from lens_core.signature import Found, Hit
from lens_core.terms import Side, Tick
from lens_core.token_query import By, TokenQuery

_BEST_TOKENS = 5  # of a feature that a search found


def search(
    session: Session,
    query: TokenQuery,
    *,
    side: Side = "value",
    lens: str = "query",
    layers: Sequence[int] | None = None,
    n: int = 25,
    by: By = "rank",
    tick: Tick | None = None,
) -> Found:
    """The `n` best features for the tokens of `query` in `layers` (`None`: all).

    `by`: their order, see `lens_core.search`.

    Raises:
        UsageError: there is no such token, lens or layer, or the query cannot be answered.
        OperatorError: the lens needs operators, and there are none.
    """
    ours, asked = session.lens, lens_named(lens)
    searched = tuple(ours.dictionaries.layers if layers is None else layers)

    def progress(done: int, total: int) -> None:
        if tick is not None:
            tick("searching", done, total)

    frame = ours.search(
        query, side=side, lens=lens, layers=searched, n=n, by=by, lists=session.lists,
        progress=progress,
    )  # fmt: skip
    places = list(frame.select("layer", "feature").iter_rows())
    best = ours.best_tokens(side, places, asked, _BEST_TOKENS)
    query_scores: list[float | None] = [None] * len(places)
    for layer in frame["layer"].unique() if asked is LOGIT else ():
        rows = [row for row, place in enumerate(places) if place[0] == layer]
        features = [places[row][1] for row in rows]
        for row, score in zip(rows, _query_scores(ours, query, side, layer, features), strict=True):
            query_scores[row] = score
    return Found(
        query=query,
        tokens=tuple(ours.vocabulary.texts(list(query.ids))),
        side=side,
        lens=lens,
        by=by,
        layers=searched,
        hits=tuple(
            Hit(
                layer=row["layer"],
                feature=row["feature"],
                rank=row["rank"],
                score=row["score"],
                logit_score=row["logit_score"],
                query_score=query_score,
                ranks=tuple(row["ranks"]),
                ids=tuple(ids),
                tokens=tuple(ours.vocabulary.texts(ids)),
            )
            for row, query_score, ids in zip(
                frame.iter_rows(named=True), query_scores, best, strict=True
            )
        ),
    )


def _query_scores(
    ours: QueryLens, query: TokenQuery, side: Side, layer: int, features: list[int]
) -> Sequence[float | None]:
    """The lowest of the wanted tokens' scores under Query Lens, if there are operators."""
    dictionary = ours.dictionaries[layer]
    if not ours.carrier.has_operators(dictionary):
        return [None] * len(features)
    each = [
        scores_among(ours, dictionary, features, token, side, QUERY).tolist()
        for token in query.wanted
    ]
    return [min(scores) for scores in zip(*each, strict=True)]

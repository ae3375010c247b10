"""The answer to a search, for both front ends: as `lens_core.report` answers about a feature."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from lens_core.feature_scores import scores_among
from lens_core.lenses import LOGIT, QUERY, Lens, lens_named
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

    frame = ours.search(query, side=side, lens=lens, layers=searched, n=n, by=by, progress=progress)
    hits: dict[tuple[int, int], Hit] = {}
    for own in frame.partition_by("layer", maintain_order=True):
        for hit in _hits(session, own, query, side, asked):
            hits[hit.layer, hit.feature] = hit
    return Found(
        query=query,
        tokens=tuple(ours.vocabulary.texts(list(query.ids))),
        side=side,
        lens=lens,
        by=by,
        layers=searched,
        hits=tuple(hits[place] for place in frame.select("layer", "feature").iter_rows()),
    )


def _hits(
    session: Session, rows: pl.DataFrame, query: TokenQuery, side: Side, lens: Lens
) -> list[Hit]:
    """The hits in some rows of one layer."""
    ours, features = session.lens, rows["feature"].to_list()
    dictionary = ours.dictionaries[rows["layer"][0]]
    query_scores: list[float | None] = [None] * len(features)
    if lens is LOGIT and ours.carrier.has_operators(dictionary):
        each = [
            scores_among(ours, dictionary, features, token, side, QUERY).tolist()
            for token in query.wanted
        ]
        query_scores = [min(scores) for scores in zip(*each, strict=True)]
    best = ours.best_tokens(side, dictionary, features, lens, _BEST_TOKENS)
    return [
        Hit(
            layer=row["layer"],
            feature=row["feature"],
            rank=row["rank"],
            score=row["score"],
            logit_score=row["logit_score"],
            query_score=carried,
            ranks=tuple(row["ranks"]),
            ids=tuple(ids),
            tokens=tuple(ours.vocabulary.texts(ids)),
        )
        for row, carried, ids in zip(rows.iter_rows(named=True), query_scores, best, strict=True)
    ]

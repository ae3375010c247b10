"""The answer to a search, for both front ends: as `lens_core.report` answers about a feature."""

from __future__ import annotations

from collections.abc import Sequence

from lens_core.lenses import LOGIT, QUERY, Lens, lens_named
from lens_core.report import Tick
from lens_core.search import ranks_among, scores_among
from lens_core.session import Session
from lens_core.signature import Found, Hit
from lens_core.terms import Side

_BEST_TOKENS = 5  # of a feature that a search found


def search(
    session: Session,
    token_id: int,
    *,
    side: Side = "value",
    lens: str = "query",
    layers: Sequence[int] | None = None,
    n: int = 25,
    tick: Tick | None = None,
) -> Found:
    """The `n` best features for a token in `layers` (`None`: all that have a dictionary).

    Raises:
        UsageError: there is no such token, lens or layer.
        OperatorError: the lens needs operators, and there are none.
    """
    ours, asked = session.lens, lens_named(lens)
    token = ours.vocabulary.text(ours.vocabulary.check(token_id))
    searched = tuple(ours.dictionaries.layers if layers is None else layers)
    n = max(1, n)
    rows: list[tuple[float, int, int, float]] = []
    for done, layer in enumerate(searched):
        if tick is not None:
            tick("searching", done, len(searched))
        frame = ours.search(token_id, side=side, lens=lens, layers=[layer], n=n)
        rows += frame.select("score", "layer", "feature", "logit_score").iter_rows()
    rows.sort(key=lambda row: (-row[0], row[1], row[2]))
    hits = {(layer, feature): None for _, layer, feature, _ in rows[:n]}
    beside = {
        layer: _hits(session, layer, rows[:n], token_id, side, asked)
        for layer in dict.fromkeys(layer for layer, _ in hits)
    }
    return Found(
        token_id=token_id,
        token=token,
        side=side,
        lens=lens,
        layers=searched,
        hits=tuple(beside[layer][feature] for layer, feature in hits),
    )


def _hits(
    session: Session,
    layer: int,
    rows: Sequence[tuple[float, int, int, float]],
    token_id: int,
    side: Side,
    lens: Lens,
) -> dict[int, Hit]:
    """The hits of one layer among `rows`, by feature."""
    ours = session.lens
    own = [row for row in rows if row[1] == layer]
    features = [feature for _, _, feature, _ in own]
    dictionary = ours.dictionaries[layer]
    ranks = ranks_among(ours, dictionary, features, token_id, side, lens).tolist()
    query: list[float | None] = [None] * len(own)
    if lens is LOGIT and ours.carrier.has_operators(dictionary):
        query = scores_among(ours, dictionary, features, token_id, side, QUERY).tolist()
    best = ours.best_tokens(side, dictionary, features, lens, _BEST_TOKENS)
    return {
        feature: Hit(
            layer=layer,
            feature=feature,
            score=score,
            rank=rank,
            logit_score=plain,
            query_score=carried,
            ids=tuple(ids),
            tokens=tuple(ours.vocabulary.texts(ids)),
        )
        for (score, _, feature, plain), rank, carried, ids in zip(
            own, ranks, query, best, strict=True
        )
    }

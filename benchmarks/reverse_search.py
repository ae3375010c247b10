"""(d) Which of 393,216 features promote a token, through `lens_core.search`.

The first search computes one number for each feature and lens (the divisor of its score), which is
kept in the result cache and comes with the demo's operators; later searches by score are one
matrix-vector product per layer and lens, and searches by rank take some more of the vocabulary,
unless the scores of the atlas's lists are known. These are made here for the values, which takes
some minutes; searches with and without them are timed in turns. Token ids differ each time.
"""

from __future__ import annotations

from functools import partial
from typing import get_args

import polars as pl
from jaxtyping import Float
from polars.testing import assert_frame_equal
from torch import Tensor

from benchmarks.measure import Report, Row, Times, peak_memory, progress, timed
from benchmarks.shape import GPT2_SMALL, TINY
from lens_core.lens import QueryLens
from lens_core.lenses import QUERY, Lens
from lens_core.shortlist import ListScores
from lens_core.terms import SIDES, Side
from lens_core.token_query import By

AT_MOST = 0.3
_TOKENS = range(1, 12)


def run(*, quick: bool) -> Report:
    shape = TINY if quick else GPT2_SMALL
    progress(f"{shape.n_dictionary:,} features")
    lens = shape.lens(2, {layer: shape.dictionary(layer) for layer in range(shape.n_layers)})
    lens.prepare()
    rows = []
    for side in SIDES:
        first = timed(partial(lens.search, 0, side=side, by="score"))
        rows.append(Row(f"{side}: the first search", first, "s"))
        for by in get_args(By):
            rows.append(_later(f"{side}: the later ones, by {by}", lens, side, by))
    rows += _with_lists(lens)
    said = (str(shape), "dictionaries in memory; best 25 of all layers, Logit Lens's score beside")
    return Report("(d) reverse search", said, (*rows, peak_memory()))


def _later(what: str, lens: QueryLens, side: Side, by: By) -> Row:
    times = Times(tuple(timed(partial(lens.search, token, side=side, by=by)) for token in _TOKENS))
    return Row(what, times.smallest, "s", times.spread, AT_MOST if by == "score" else None)


def _with_lists(lens: QueryLens) -> list[Row]:
    """Searches by rank with known lists, and without, in turns; their answers are the same."""
    known = {}
    for layer in lens.dictionaries.layers:
        progress(f"the lists of layer {layer}")
        known[layer] = _lists(lens, layer)

    def lists(layer: int, _side: Side, _lens: Lens) -> Tensor:
        return known[layer]

    before, after = [], []
    for token in _TOKENS:
        found: list[pl.DataFrame] = []

        def search(token: int, known: ListScores | None, into: list[pl.DataFrame]) -> None:
            into.append(lens.search(token, lists=known))

        before.append(timed(partial(search, token, None, found)))
        after.append(timed(partial(search, token, lists, found)))
        assert_frame_equal(*found)
    with_lists, without = Times(tuple(after)), Times(tuple(before))
    ratio = without.smallest / with_lists.smallest
    what = "value: the later ones, by rank, with an atlas"
    return [
        Row(what, with_lists.smallest, "s", with_lists.spread, AT_MOST),
        Row("  how many times faster than without", ratio),
    ]


def _lists(lens: QueryLens, layer: int) -> Float[Tensor, "n_features k"]:
    """The scores of Query Lens's lists of values, as an atlas has them."""
    dictionary = lens.dictionary(layer)
    carried = QUERY.map(lens, "value", dictionary)(dictionary.values)
    scores: Tensor = lens.readout(QUERY.readouts["value"]).top_k(carried, lens.k)[1]
    return scores

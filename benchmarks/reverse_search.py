"""(d) Which of 393,216 features promote a token, through `lens_core.search`.

The first search computes one number for each feature and lens (the divisor of its score), which is
kept in the result cache and comes with the demo's operators; later searches by score are one
matrix-vector product per layer and lens, and searches by rank take some more of the vocabulary.
Token ids differ each time.
"""

from __future__ import annotations

from typing import get_args

from benchmarks.measure import Report, Row, Times, peak_memory, progress, timed
from benchmarks.shape import GPT2_SMALL, TINY
from lens_core.terms import SIDES
from lens_core.token_query import By

AT_MOST = 0.3


def run(*, quick: bool) -> Report:
    shape = TINY if quick else GPT2_SMALL
    progress(f"{shape.n_dictionary:,} features")
    lens = shape.lens(2, {layer: shape.dictionary(layer) for layer in range(shape.n_layers)})
    lens.prepare()
    rows = []
    for side in SIDES:
        first = timed(lambda side=side: lens.search(0, side=side, by="score"))  # type: ignore[misc]
        rows.append(Row(f"{side}: the first search", first, "s"))
        for by in get_args(By):
            later = Times(tuple(
                timed(lambda token=token, side=side, by=by: lens.search(token, side=side, by=by))  # type: ignore[misc]
                for token in range(1, 12)
            ))  # fmt: skip
            what = f"{side}: the later ones, by {by}"
            rows.append(Row(what, later.smallest, "s", later.spread, AT_MOST))
    said = (str(shape), "dictionaries in memory; best 25 of all layers, Logit Lens's score beside")
    return Report("(d) reverse search", said, (*rows, peak_memory()))

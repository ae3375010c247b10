"""(c) The token lists of a whole layer against the matrix products they need.

The lists: the top 25 of Query Lens and of Logit Lens, values and keys, from the feature vectors
(including the two products that carry them and the final norm). The products: four of the same
shape, features times vocabulary, into one block of memory that is reused. Nothing that reads the
scores can be faster than these.
"""

from __future__ import annotations

import torch

from benchmarks.measure import Report, Row, in_turns, peak_memory, progress
from benchmarks.shape import GPT2_SMALL, TINY
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.feature_map import vectors_of
from lens_core.lens import QueryLens
from lens_core.lenses import FIRST_ORDER, LOGIT, QUERY
from lens_core.terms import SIDES

AT_MOST = 2
_K = 25
# Rows per bare product: more are not faster.
_BLOCK = 512


@torch.no_grad()
def lists_of(lens: QueryLens, dictionary: FeatureDictionary, *, first_order: bool) -> None:
    """The top 25 of every lens for every feature, by the fused product."""
    carried = [QUERY, FIRST_ORDER] if first_order else [QUERY]
    for side in SIDES:
        start = vectors_of(side, dictionary)
        for each in (*carried, LOGIT):
            vectors = each.map(lens, side, dictionary)(start)
            lens.readout(each.readouts[side]).top_k(vectors, _K)


def run(*, quick: bool) -> Report:
    shape, n = (TINY, 64) if quick else (GPT2_SMALL, 2048)
    layer = shape.n_layers // 2 - 1
    dictionary = shape.dictionary(layer, n)
    lens = shape.lens(32, {layer: dictionary})
    lens.prepare()
    # Rows aligned to cache lines: a sixth faster than rows of 50,257.
    out = torch.empty(_BLOCK, -(-shape.d_vocab // 64) * 64)[:, : shape.d_vocab]

    def bare() -> None:
        for side in SIDES:
            for each in (LOGIT, QUERY):
                rows = lens.readout(each.readouts[side]).rows
                for block in torch.split(vectors_of(side, dictionary), _BLOCK):
                    torch.mm(block, rows.T, out=out[: len(block)])

    some = torch.randint(0, shape.d_vocab, (n, _K), generator=torch.Generator().manual_seed(3))

    def ranks() -> None:
        for side in SIDES:
            lens.readout(LOGIT.readouts[side]).ranks(vectors_of(side, dictionary), some)

    progress(f"the lists of {n} features")
    times = in_turns(
        {
            "bare": bare,
            "lists": lambda: lists_of(lens, dictionary, first_order=False),
            "ranks": ranks,
        },
        1 if quick else 3,
    )
    products = times["bare"].smallest
    rate = 4 * 2 * n * shape.d_model * shape.d_vocab / products / 1e9
    whole = shape.n_features / n
    said = (
        f"{shape};",
        f"{n} of {shape.n_features:,} features timed: top 25, Query Lens and Logit Lens, "
        "values and keys",
    )  # fmt: skip
    rows = (
        Row("four bare products, whole layer", products * whole, "s", times["bare"].spread),
        Row("their rate", rate, "GFLOP/s"),
        Row("the lists, whole layer", times["lists"].smallest * whole, "s", times["lists"].spread),
        Row("lists / bare products", times["lists"].smallest / products, "x", "", AT_MOST),
        Row("ranks of 25 ids / two bare products", 2 * times["ranks"].smallest / products, "x"),
        peak_memory(),
    )
    return Report("(c) the lists of one layer against bare products", said, rows)

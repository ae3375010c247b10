"""Features of several layers that can be among the `n` best of a search, ranked by one product.

By score, these are the `n` features with the highest scores. By rank, the scores of the atlas's
lists bound a token's rank without any product with the vocabulary:

    rank_i(t) > j     if the j-th best score of the list is higher than score_i(t)
    rank_i(t) <= j    if no more than j scores of the list are as high, and not all `k` of them

A feature is dropped as soon as `n` others certainly come before it. What is left is ranked over
the whole vocabulary like everything else, so the bounds decide what is ranked, not the answer.
A list's scores and those of a search may differ by rounding; a score counts as higher only if it
is so by more than that.

Cost: a look at `k` scores of each feature, then the product of about `n` vectors with the
vocabulary, instead of one product for each layer.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.best_ranks import Ranked, Ranker
from lens_core.feature_scores import ranks_of_carried
from lens_core.instruments import Instruments
from lens_core.lenses import Lens
from lens_core.terms import Side
from lens_core.token_query import TokenQuery

ListScores = Callable[[int, Side, Lens], Float[Tensor, "n_features k"] | None]
"""The scores of the lists of a layer's features, best first; `None` if they are not known.

As long as the search's `k`; NaN for a vector of length zero.
"""


class Shortlist:
    """The features of several layers that can be among the `n` best."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._layers: list[int] = []
        self._rows: pl.DataFrame | None = None
        self._vectors: Tensor | None = None  # carried, one for each of the rows

    def add_highest(self, layer: int, ranker: Ranker) -> None:
        """Take the features of one more layer with the highest scores."""
        features = ranker.with_direction()
        best = features[ranker.scores[features].sort(descending=True, stable=True).indices]
        rows = self._with(layer, ranker, {"feature": best[: self._n]})
        order = rows.sort("score", "layer", "feature", descending=[True, False, False])
        self._keep(order.head(self._n), ranker)

    def add_listed(self, layer: int, ranker: Ranker, lists: Float[Tensor, "n_features k"]) -> None:
        """Take the features of one more layer that may have all wanted tokens in their lists."""
        features, low, high = ranker.bounds(lists)
        rows = self._with(layer, ranker, {"feature": features, "low": low, "high": high})
        certain = rows.filter(pl.col("high") <= lists.shape[1])
        if len(certain) >= self._n:
            order = certain.sort("high", "score", descending=[False, True])
            high, score = order.select("high", "score").row(self._n - 1)
            as_good = (pl.col("low") == high) & (pl.col("score") >= score)
            rows = rows.filter((pl.col("low") < high) | as_good)
        self._keep(rows, ranker)

    def features(self, layer: int) -> list[int]:
        """Those of one layer."""
        return self._of(layer)["feature"].to_list()

    def ranked(
        self, tools: Instruments, query: TokenQuery, side: Side, lens: Lens
    ) -> list[tuple[int, Ranked]]:
        """By layer, those that no unwanted token excludes, ranked over the whole vocabulary."""
        if self._vectors is None:
            return []
        ranks = ranks_of_carried(tools.readout(lens.readouts[side]), self._vectors, query.ids)
        found = []
        for layer in self._layers:
            rows = self._of(layer)
            features, at = (
                torch.tensor(rows[name].to_list(), dtype=torch.int64, device=ranks.device)
                for name in ("feature", "row")
            )
            scores = self._vectors.new_tensor(rows["score"].to_list())
            own = Ranked.admitted(query, tools.k, features, ranks[at], scores)
            found.append((layer, own))
        return found

    def _of(self, layer: int) -> pl.DataFrame:
        """The rows of one layer; `row` is that of the vector."""
        if self._rows is None:
            return pl.DataFrame(schema={"feature": pl.Int64})
        return self._rows.with_row_index("row").filter(pl.col("layer") == layer)

    def _with(self, layer: int, ranker: Ranker, columns: dict[str, Tensor]) -> pl.DataFrame:
        """The rows so far, and those of one more layer, which have no `kept`."""
        self._layers.append(layer)
        numbers = columns | {"score": ranker.scores[columns["feature"]].double()}
        added = pl.DataFrame({name: each.cpu().numpy() for name, each in numbers.items()})
        added = added.with_columns(layer=pl.lit(layer), kept=pl.lit(None, pl.Int64))
        if self._rows is None:
            return added
        kept = pl.int_range(pl.len(), dtype=pl.Int64).alias("kept")
        return pl.concat([self._rows.with_columns(kept).select(added.columns), added])

    def _keep(self, rows: pl.DataFrame, ranker: Ranker) -> None:
        """Keep some rows; carry the vectors of those that are new."""
        kept, new = rows.filter(pl.col("kept").is_not_null()), rows.filter(pl.col("kept").is_null())
        vectors = ranker.carried(new["feature"].to_list())
        if self._vectors is not None:
            vectors = torch.cat([self._vectors[kept["kept"].to_list()], vectors])
        self._rows, self._vectors = pl.concat([kept, new]).drop("kept"), vectors

"""The features of a dictionary that rank tokens best, without ranking them in every feature.

    rank_i(t) = 1 + |{s : score_i(s) > score_i(t)}|      over all tokens s of the vocabulary
    rank_i    = max over the wanted tokens t

Ranks in all features need the product of the whole dictionary with the whole vocabulary, but only
the `n` best features are asked for. Tokens are taken in a random, fixed order, some more each
time: those that score higher than `t` so far can only become more, so a feature is dropped as
soon as they are more than the rank of the `n`-th best feature that is known. Features that look
best so far (by the distance of `t` from the mean, in standard deviations) are ranked early, so
that this is a small number. Whatever is left is ranked over the whole vocabulary. The answer is
that of the whole product: a token counts as higher only if it is so by more than rounding, and
every rank that is given is counted over the whole vocabulary (`feature_scores.ranks_among`).

Cost on two CPU cores with the demo's vocabulary of 49,152: the 25 best of 2,304 features take 0.4
to 0.6 s, the 200 best 0.8 to 1.3 s, where ranking all takes 1.6 s; the 25 best of three such
dictionaries take 1.0 s. It is all of the product if unwanted tokens leave fewer than `n` features.
Memory: a block of scores (`_BLOCK` numbers) and a sample's directions.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.feature_map import vectors_of
from lens_core.feature_scores import directions_of, ranks_among, scales, token_scores
from lens_core.instruments import Instruments
from lens_core.lenses import Lens
from lens_core.terms import Side
from lens_core.token_query import TokenQuery

_FIRST, _LARGEST, _GROWTH = 32, 2048, 4  # tokens of a sample; how many times larger the next is
_OVERHEAD = 64  # the cost of ranking no features, as that of so many
_BLOCK = 2**20  # scores that are held at once, in the CPU cache
_AT_ONCE = 2e10  # multiplications between two reports of progress, about a second on two cores
_ROUNDING = 1e-4  # of the largest score; errors of float32 are a hundred times smaller

Settled = Callable[[float], None]
"""Called with the share of the features that is settled; may raise to stop."""
Report = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Some features with the rank of every token of the query (wanted first), and their score.

    `rank` is the worst of the wanted tokens' ranks, `scores` are the lowest of their scores.
    """

    features: Int[Tensor, " n"]
    ranks: Int[Tensor, "n tokens"]
    rank: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]

    @classmethod
    def admitted(
        cls,
        query: TokenQuery,
        k: int,
        features: Int[Tensor, " n"],
        ranks: Int[Tensor, "n tokens"],
        scores: Float[Tensor, " n"],
    ) -> Ranked:
        """Without features that have an unwanted token in their best `k` or before a wanted one."""
        n_wanted = len(query.wanted)
        rank = ranks[:, :n_wanted].amax(1)
        front = rank.clamp(min=k)
        keep = (ranks[:, n_wanted:] > front[:, None]).all(1)
        return cls(features[keep], ranks[keep], rank[keep], scores[keep])

    @classmethod
    def joined(cls, parts: Sequence[Ranked]) -> Ranked:
        """Several, one after the other."""
        return cls(*(torch.cat([vars(each)[name] for each in parts]) for name in vars(parts[0])))


@dataclass
class Limit:
    """The rank (or negative score) of the `n`-th best feature so far, over all dictionaries."""

    n: int
    _best: list[float] = field(default_factory=list)

    @property
    def worst(self) -> float:
        """A feature with more than this is not among the `n` best."""
        return self._best[-1] if len(self._best) == self.n else math.inf

    def take(self, numbers: Tensor) -> None:
        """More features are known, with these ranks."""
        for number in numbers.tolist():
            if number < self.worst:
                insort(self._best, number)
                del self._best[self.n :]


class Ranker:
    """Ranks the tokens of one query in the features of one dictionary."""

    def __init__(
        self,
        tools: Instruments,
        layer: int,
        query: TokenQuery,
        side: Side,
        lens: Lens,
    ) -> None:
        self._tools = tools
        self._layer = layer
        self._query = query
        self._side: Side = side
        self._lens = lens
        dictionary = self._dictionary
        self._readout = lens.readout(tools, side, dictionary)
        self._d_vocab = len(self._readout.rows)
        each = [token_scores(tools, dictionary, token, side, lens) for token in query.ids]
        self.own = torch.stack(each, 1)
        """The scores of all tokens of the query in every feature, those of wanted ones first."""
        self._wanted = self.own[:, : len(query.wanted)]
        self.scores = self._wanted.amin(1)
        """The lowest of the wanted tokens' scores; NaN for a vector of length zero."""
        self._divisor = scales(tools, dictionary, side, lens)

    @property
    def _dictionary(self) -> FeatureDictionary:
        # Not kept: those of all layers may not fit into memory at once.
        return self._tools.dictionaries[self._layer]

    def with_direction(self) -> Int[Tensor, " m"]:
        """The features that have scores."""
        return (~self.scores.isnan()).nonzero()[:, 0]

    def carried(self, features: Sequence[int]) -> Float[Tensor, "n d_model"]:
        """The vectors of some features, carried to where they are read."""
        carry = self._lens.map(self._tools, self._side, self._dictionary)
        return carry(vectors_of(self._side, self._dictionary)[features])

    def bounds(
        self, lists: Float[Tensor, "n_features k"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Int[Tensor, " m"]]:
        """Bounds on the worst rank of the wanted tokens, from the scores of the atlas's lists.

        Features with wanted tokens that are certainly not in their list, or with an unwanted one
        that certainly is, are left out.

        Args:
            lists: best first, NaN where they are not known.

        Returns:
            The features; the least rank that is possible; the highest one, or `k + 1` if it, or
            that no unwanted token excludes the feature, is not certain.
        """
        k, n_wanted = lists.shape[1], len(self._query.wanted)
        if self._readout.compares_by_length:
            lists = lists / self._divisor[:, None]
        own, last = self.own, lists[:, -1:]
        largest = torch.maximum(lists[:, :1].abs(), last.abs())
        slack = _ROUNDING * torch.maximum(largest, own.abs())
        # Of a feature whose list is not known (NaN), nothing is certain.
        inside, outside = ~(own < last - slack), ~(own > last + slack)
        inside &= ~self.scores.isnan()[:, None]
        features = (inside[:, :n_wanted].all(1) & outside[:, n_wanted:].all(1)).nonzero()[:, 0]
        own, slack, last, lists = own[features], slack[features], last[features], lists[features]
        certain = own < last - slack
        certain[:, :n_wanted] = (own > last + slack)[:, :n_wanted]
        own, slack = own[:, :n_wanted, None], slack[:, :n_wanted, None]
        low = 1 + (lists[:, None] > own + slack).sum(2).amax(1)
        high = (lists[:, None] >= own - slack).sum(2).amax(1)
        return features, low, torch.where(certain.all(1), high, k + 1)

    def ranked(self, features: Int[Tensor, " m"]) -> Ranked:
        """Those of `features` that no unwanted token excludes, in the same order."""
        chunks = [
            ranks_among(
                self._tools, self._dictionary, chunk, self._query.ids, self._side, self._lens
            )
            for chunk in torch.split(features, self._rows_at_once)
        ]
        scores = self.scores[features]
        return Ranked.admitted(self._query, self._tools.k, features, torch.cat(chunks), scores)

    @property
    def _rows_at_once(self) -> int:
        """How many features to rank between two reports of progress."""
        return max(64, int(_AT_ONCE / (self._d_vocab * self._dictionary.d_model)))

    def best(self, limit: Limit, settled: Settled, known: Sequence[int] = ()) -> Ranked:
        """All features that can be among the `n` best, which `limit` then knows, and some more.

        Those that are `known` are left out.
        """
        left = every = self.with_direction()
        left = left[~torch.isin(left, left.new_tensor(known))]
        above = torch.zeros_like(self._wanted[left], dtype=torch.int64)
        found = [self.ranked(every[:0])]

        def rank(features: Tensor) -> None:
            found.append(self.ranked(features))
            limit.take(found[-1].rank)

        def report() -> None:
            settled(1 - len(left) / max(1, len(every)))

        for sample in self._samples(self._first_size(len(left), limit)):
            if not self._pays(len(sample), len(left), limit):
                break
            counts, likely = self._above(left, sample, report)
            above += counts
            keep = above.amax(1) < limit.worst
            next_cost = min(_LARGEST, len(sample) * _GROWTH) * int(keep.sum())
            if limit.worst == math.inf or (limit.n + _OVERHEAD) * self._d_vocab < next_cost:
                first = likely.masked_fill(~keep, -math.inf).topk(min(limit.n, len(left))).indices
                first = first[keep[first]]
                rank(left[first])
                keep[first] = False
                keep &= above.amax(1) < limit.worst
            left, above = left[keep], above[keep]
            report()
        while len(left):
            rank(left[: self._rows_at_once])
            left = left[self._rows_at_once :]
            report()
        return Ranked.joined(found)

    def _pays(self, n_tokens: int, n_features: int, limit: Limit) -> bool:
        """Whether a look at some tokens, to drop features, is cheaper than ranking the features."""
        if limit.worst == math.inf and n_features <= limit.n:
            return False
        return 2 * n_tokens * (self._dictionary.d_model + n_features) < n_features * self._d_vocab

    def _first_size(self, n_features: int, limit: Limit) -> int:
        """How many tokens to look at first: to choose `n` features, as many as ranking them costs.

        Fewer are enough if other dictionaries already gave a limit.
        """
        if limit.worst < math.inf or not n_features:
            return _FIRST
        return max(_FIRST, min(_LARGEST, limit.n * self._d_vocab // n_features))

    def _samples(self, size: int) -> Iterator[Int[Tensor, " tokens"]]:
        """All tokens in a random order that is always the same, in growing parts."""
        order = torch.randperm(self._d_vocab, generator=torch.Generator().manual_seed(0))
        start = 0
        while start < self._d_vocab:
            yield order[start : start + size].to(self._wanted.device)
            start, size = start + size, max(size, min(_LARGEST, size * _GROWTH))

    def _above(
        self, features: Int[Tensor, " m"], sample: Int[Tensor, " tokens"], report: Report
    ) -> tuple[Int[Tensor, "m wanted"], Float[Tensor, " m"]]:
        """How many of `sample` score higher than each wanted token, and how far in front it is.

        The second is the distance of the worst token from the mean, in standard deviations.
        """
        rows = directions_of(self._tools, self._dictionary, sample, self._side, self._lens).T
        vectors = vectors_of(self._side, self._dictionary)
        counts, likely = [], []
        for chunk in torch.split(features, max(1, _BLOCK // len(sample))):
            divisor = self._divisor[chunk][:, None]
            # Times the divisor, which changes no order.
            scores = torch.cat([vectors[chunk], divisor, torch.ones_like(divisor)], 1) @ rows
            own = self._wanted[chunk] * divisor
            lowest, highest = scores.aminmax(dim=1)
            largest = torch.maximum(-lowest, highest)[:, None]
            level = own + _ROUNDING * torch.maximum(largest, own.abs())
            counts.append(torch.stack([(scores > one[:, None]).sum(1) for one in level.T], 1))
            variance, mean = torch.var_mean(scores, 1, correction=0)
            spread = variance.sqrt().clamp(min=torch.finfo(scores.dtype).tiny)
            likely.append((own.amin(1) - mean) / spread)
            report()
        return torch.cat(counts), torch.cat(likely)

"""Query Lens on the features of one model: signatures, paths, and search by token.

    value score  = final_norm(T_value v) W_U + b_U          what the feature promotes
    key score    = (E - c)/|E - c| . (T_key^T k)            what activates it

beside plain Logit Lens (`v` and `k` as they are, read with `unembed` and `embed`)
and first order. Key scores are also given for a transported key of length one
(`unit_scores`): within a feature nothing changes, across features they compare.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.activity import FeatureActivity, feature_activity
from lens_core.blocked_topk import ranks_of
from lens_core.carry import (
    SIDES,
    Method,
    Settings,
    Side,
    Transport,
    carried_by,
    site_of,
    vectors_of,
)
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.dictionaries.layers import demand_feature, demand_layer
from lens_core.memory import free_bytes
from lens_core.model import ResidualModel
from lens_core.paths import PathShare, Split, block_tokens, paths
from lens_core.readout import (
    FinalNorm,
    centered_cosine_rows,
    embed,
    embed_centered_cosine,
    final_norm_of,
    top_k,
    unembed,
)
from lens_core.reference import reference_center
from lens_core.search import TRANSITION_OF, Lens, search
from lens_core.vocabulary import Vocabulary

__all__ = [
    "BottomLists",
    "DictionaryShelf",
    "Lens",
    "PathShare",
    "QueryLens",
    "SideSignature",
    "Signature",
    "Split",
    "TokenList",
]

DictionaryLoader = Callable[[int], FeatureDictionary]

_LENSES = 3
# Logit Lens's, and that of the lenses that carry a vector first.
_READOUTS = {"value": ("unembed", "unembed"), "key": ("embed", "embed_centered_cosine")}


@dataclass(frozen=True)
class TokenList:
    """The tokens at one end of a ranking, from the end inwards: the best, or the worst.

    `unit_scores` are the scores of a (transported) key of length one, `None` on the value
    side. `moved` is how many ranks each token rose against Logit Lens.
    """

    readout: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    unit_scores: tuple[float, ...] | None
    moved: tuple[int, ...]


@dataclass(frozen=True)
class BottomLists:
    """What one side is most against, under the three lenses: the worst tokens, worst first."""

    logit_lens: TokenList
    query_lens: TokenList
    first_order: TokenList


@dataclass(frozen=True)
class SideSignature:
    """One side of a feature under the three lenses; `bottom` is `None` unless it was asked for.

    `stability` is the Jaccard similarity of Query Lens's lists from the two halves of the
    reference (`None` without operators, or where they do not answer); `relative_variance`
    is that of the transported vector over tokens (`None` where operators answered).
    """

    logit_lens: TokenList
    query_lens: TokenList
    first_order: TokenList
    norm: float
    transported_norm: float
    stability: float | None
    relative_variance: float | None
    bottom: BottomLists | None = None


@dataclass(frozen=True)
class Signature:
    """What a feature promotes and what activates it."""

    layer: int
    feature: int
    method: Method
    settings: Settings
    value: SideSignature
    key: SideSignature


class QueryLens:
    """Signatures, paths and search for the dictionaries of one model.

    `dictionaries` maps a layer to its dictionary; it may load them as they are asked for.
    """

    def __init__(
        self,
        transport: Transport,
        dictionaries: DictionaryShelf,
        vocabulary: Vocabulary,
        *,
        k: int = 25,
    ) -> None:
        self.transport = transport
        self.model: ResidualModel = transport.model
        self.dictionaries = dictionaries
        self.vocabulary = vocabulary
        self.k = min(k, self.model.d_vocab)
        # One number per feature for each side and lens that was searched.
        self.scales: dict[tuple[Side, Lens, str], Tensor] = {}
        # The last layer looked at: its features are walked one after another.
        self._activity: tuple[str, int, FeatureActivity] | None = None

    @cached_property
    def final_norm(self) -> FinalNorm:
        """The model's final norm in closed form."""
        return final_norm_of(self.model)

    @cached_property
    def center(self) -> Float[Tensor, " d_model"]:
        """The mean embedding of the reference's tokens."""
        return reference_center(self.model.embedding, self.transport.reference)

    @cached_property
    def rows(self) -> Float[Tensor, "d_vocab d_model"]:
        """The centred-cosine readout's rows."""
        return centered_cosine_rows(self.model.embedding, self.center)

    @cached_property
    def lengths(self) -> Float[Tensor, " d_vocab"]:
        """What `rows` were divided by."""
        lengths: Tensor = (self.model.embedding - self.center).norm(dim=-1)
        return lengths

    def dictionary(self, layer: int, feature: int = 0) -> FeatureDictionary:
        """The dictionary of `layer`.

        Raises:
            UsageError: there is none, or it has no such feature.
        """
        dictionary = self.dictionaries[layer]
        demand_feature(layer, feature, dictionary.n_features)
        return dictionary

    def with_k(self, k: int) -> QueryLens:
        """This lens with lists of `k` tokens, on the same model, dictionaries and operators."""
        for name in ("final_norm", "center", "rows", "lengths"):
            getattr(self, name)  # made once: the copy takes along what is there
        other = copy.copy(self)
        other.k = min(k, self.model.d_vocab)
        return other

    def signature(
        self,
        layer: int,
        feature: int,
        settings: Settings | None = None,
        *,
        bottom: bool = False,
    ) -> Signature:
        """Both sides of a feature under Logit Lens, Query Lens and first order.

        `bottom` asks for the other ends of the rankings too.
        """
        settings = settings or Settings()
        dictionary = self.dictionary(layer, feature)
        method = self.transport.method(dictionary, settings)
        value, key = (self._side(side, dictionary, feature, settings, bottom) for side in SIDES)
        return Signature(layer, feature, method, settings, value, key)

    def _side(
        self,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        settings: Settings,
        bottom: bool,
    ) -> SideSignature:
        start = vectors_of(side, dictionary)[feature]
        carried = self.transport.carry(side, dictionary, feature, settings)
        if settings.transition == "first-order":
            first_order = carried
        else:
            asked = settings.with_transition("first-order")
            first_order = self.transport.carry(side, dictionary, feature, asked)
        halves, stability = self._halves(side, dictionary, feature, settings)
        vectors = torch.stack([carried.vector, first_order.vector, *halves])
        readings = self._readings(side, start, vectors, normed=carried.normed)
        best = _outermost(readings, self.k)
        lengths = [float(each.norm()) for each in (start, carried.vector, first_order.vector)]

        def lists(ids: Int[Tensor, "lists k"], *, lowest: bool = False) -> list[TokenList]:
            return [
                self._token_list(side, readings, at, ids[at], lengths[at], lowest=lowest)
                for at in range(_LENSES)
            ]

        worst = None
        if bottom:
            ids = _outermost(readings[:_LENSES], self.k, lowest=True)
            worst = BottomLists(*lists(ids, lowest=True))
        logit_lens, query_lens, first_order_lens = lists(best)
        return SideSignature(
            logit_lens=logit_lens,
            query_lens=query_lens,
            first_order=first_order_lens,
            norm=lengths[0],
            transported_norm=lengths[1],
            stability=_jaccard(best[_LENSES:]) if halves else stability,
            relative_variance=carried.relative_variance,
            bottom=worst,
        )

    def _readings(
        self,
        side: Side,
        start: Float[Tensor, " d_model"],
        vectors: Float[Tensor, "n d_model"],
        *,
        normed: bool,
    ) -> Float[Tensor, "readings d_vocab"]:
        """`plain_scores` of `start`, then `scores` of each vector.

        What this costs is reading the vocabulary, once: the two readouts of values are one, and
        of keys `E k = |E - c| (rows k) + c k`.
        """
        if side == "key":
            read = self.scores(side, torch.cat([start[None], vectors]))
            read[0] = self.lengths * read[0] + self.center @ start
            return read
        if not normed:
            return self.scores(side, torch.cat([start[None], vectors]))
        plain = self.plain_scores(side, start)[None]
        return torch.cat([plain, self.scores(side, vectors, normed=normed)])

    def plain_scores(
        self, side: Side, start: Float[Tensor, " d_model"]
    ) -> Float[Tensor, " d_vocab"]:
        """Logit Lens: `unembed` of the value, `embed` of the key."""
        return unembed(start, self.model) if side == "value" else embed(start, self.model.embedding)

    def scores(
        self, side: Side, vector: Float[Tensor, "*many d_model"], *, normed: bool = False
    ) -> Float[Tensor, "*many d_vocab"]:
        """Query Lens's readout of transported vectors."""
        if side == "value":
            return unembed(vector, self.model, normed=normed)
        return embed_centered_cosine(vector, self.rows)

    def _token_list(
        self,
        side: Side,
        readings: Float[Tensor, "readings d_vocab"],
        at: int,
        ids: Int[Tensor, " k"],
        length: float,
        *,
        lowest: bool,
    ) -> TokenList:
        """The tokens `ids` at one end of reading `at`, of a vector of this length."""
        found = readings[at, ids]
        unit = None
        if side == "key":
            unit = tuple((found / length if length else found * 0).tolist())
        moved = torch.zeros_like(ids)
        if at:  # Logit Lens moves nothing against itself
            place = torch.arange(len(ids), device=ids.device)
            rank = readings.shape[1] - 1 - place if lowest else place
            moved = ranks_of(readings[:1], ids[None])[0] - rank
        return TokenList(
            _READOUTS[side][at > 0],
            tuple(ids.tolist()),
            tuple(self.vocabulary.texts(ids.tolist())),
            tuple(found.tolist()),
            unit,
            tuple(moved.tolist()),
        )

    def _halves(
        self,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        settings: Settings,
    ) -> tuple[list[Float[Tensor, " d_model"]], float | None]:
        """The feature carried by each half of the reference, or its stability where it is stored.

        Neither where operators do not say.
        """
        operators = self.transport.operators
        if (
            operators is None
            or not self.transport.has_operators(dictionary)
            or settings.transition != "full"
            or self.transport.off(side, dictionary, settings)
            or self.transport.obstacle(side, dictionary, settings) is not None
        ):
            return [], None
        start = vectors_of(side, dictionary)[feature]
        matrices = operators.halves(side, site_of(side, dictionary))
        stored = operators.stability(side, dictionary.sha256, self.k)
        return (
            [carried_by(side, matrix, start) for matrix in matrices],
            None if stored is None else float(stored[feature]),
        )

    def paths(
        self,
        side: Side,
        layer: int,
        feature: int,
        settings: Settings | None = None,
        split: Split | None = None,
    ) -> tuple[Split, list[PathShare]]:
        """How much of the signature's score goes through which block; see `lens_core.paths`.

        Raises:
            UsageError: `first-reader` where blocks are off or a norm stands in front.
        """
        dictionary = self.dictionary(layer, feature)
        return paths(self, side, dictionary, feature, settings or Settings(), split)

    def block_tokens(
        self, side: Side, layer: int, feature: int, block: int
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Ids and texts of what a block favours in the first-reader split; see `lens_core.paths`.

        Two passes over the reference, of which the next block needs only one.
        """
        return block_tokens(self, side, self.dictionary(layer, feature), feature, block)

    def search(
        self,
        token_id: int,
        *,
        side: Side = "value",
        lens: Lens = "query",
        layers: Sequence[int] | None = None,
        n: int = 25,
        settings: Settings | None = None,
    ) -> pl.DataFrame:
        """The features that promote (`value`) or fire on (`key`) a token; see `lens_core.search`.

        Raises:
            UsageError: the token id is out of range, a layer has no dictionary, or `settings`
                ask for what operators do not answer (masks, the exact convention).
            OperatorError: `lens` needs operators that are not built.
        """
        self.vocabulary.check(token_id)
        settings = (settings or Settings()).with_transition(TRANSITION_OF[lens])
        return search(self, token_id, settings, side=side, kind=lens, layers=layers, n=n)

    def activity(self, layer: int, top: int = 20) -> FeatureActivity:
        """Firing rate and strongest tokens of every feature of `layer` in the reference."""
        dictionary = self.dictionaries[layer]
        if self._activity is None or self._activity[:2] != (dictionary.sha256, top):

            def compute() -> dict[str, Tensor]:
                found = feature_activity(
                    self.model,
                    dictionary,
                    self.transport.reference,
                    top=top,
                    batch=self.transport.batch,
                    progress=self.transport.progress,
                )
                return dict(vars(found))

            asked = {"kind": "activity", "dictionary": dictionary.sha256, "top": top}
            found = FeatureActivity(**self.transport.cached(asked, compute))
            self._activity = dictionary.sha256, top, found
        return self._activity[2]


class DictionaryShelf:
    """The dictionaries of a configuration, loaded when first asked for.

    They are kept while they fit in `budget` bytes (`None`: a quarter of the memory free on
    the device of the first); the one used longest ago goes first.
    """

    def __init__(
        self, layers: Sequence[int], load: DictionaryLoader, budget: int | None = None
    ) -> None:
        self.layers = tuple(layers)
        self._load = load
        self._budget = budget
        self._kept: dict[int, FeatureDictionary] = {}

    def __getitem__(self, layer: int) -> FeatureDictionary:
        demand_layer(layer, self.layers)
        dictionary = self._kept.pop(layer, None) or self._load(layer)
        if self._budget is None:
            self._budget = free_bytes(dictionary.keys.device) // 4
        self._kept[layer] = dictionary
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self._budget:
            del self._kept[next(iter(self._kept))]
        return dictionary


def _outermost(
    readings: Float[Tensor, "lists d_vocab"], k: int, *, lowest: bool = False
) -> Int[Tensor, "lists k"]:
    """The ids of the `k` best tokens of each reading, or of the `k` worst, from the end inwards.

    Equal scores are in the order of their ids, which at the bottom reads backwards.
    """
    found, ids = readings.topk(min(k + 1, readings.shape[1]), largest=not lowest)
    ids = ids[:, :k]
    # A tie, where topk takes any, or a NaN, which is equal to nothing.
    clear = found[:, 1:] < found[:, :-1] if not lowest else found[:, 1:] > found[:, :-1]
    for row in (~clear.all(1)).nonzero().flatten().tolist():
        scores = readings[row]
        if lowest:
            ids[row] = len(scores) - 1 - top_k(scores.flip(0), k, largest=False)[0]
        else:
            ids[row] = top_k(scores, k)[0]
    return ids


def _jaccard(ids: Int[Tensor, "halves k"]) -> float | None:
    if len(ids) < 2:
        return None
    one, other = (set(each) for each in ids.tolist())
    return len(one & other) / len(one | other)


def _bytes(dictionary: FeatureDictionary) -> int:
    # Twice: what `encode` computes with lies beside the keys and values.
    return 2 * (dictionary.keys.nbytes + dictionary.values.nbytes)

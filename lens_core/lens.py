"""Query Lens on the features of one model: signatures, paths, and search by token.

    value score  = final_norm(T_value v) W_U + b_U          what the feature promotes
    key score    = (E - c)/|E - c| . (T_key^T k)            what activates it

beside plain Logit Lens (`v` and `k` as they are, read with `unembed` and `embed`)
and first order. Key scores are also given for a transported key of length one
(`unit_scores`): within a feature nothing changes, across features they compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.activity import FeatureActivity, feature_activity
from lens_core.dictionary import FeatureDictionary
from lens_core.errors import UsageError
from lens_core.memory import free_bytes
from lens_core.model import ResidualModel
from lens_core.paths import PathShare, Split, paths
from lens_core.readout import (
    FinalNorm,
    centered_cosine_rows,
    embed,
    embed_centered_cosine,
    final_norm_of,
    ranks,
    top_k,
    unembed,
)
from lens_core.reference import reference_center
from lens_core.search import TRANSITION_OF, Lens, search
from lens_core.transport import (
    SIDES,
    Method,
    Settings,
    Side,
    Transport,
    carried_by,
    site_of,
    vectors_of,
)
from lens_core.vocabulary import Vocabulary

__all__ = [
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


@dataclass(frozen=True)
class TokenList:
    """The best tokens of one lens on one side, best first.

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
class SideSignature:
    """One side of a feature under the three lenses.

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

    def dictionary(self, layer: int, feature: int = 0) -> FeatureDictionary:
        """The dictionary of `layer`.

        Raises:
            UsageError: there is none, or it has no such feature.
        """
        dictionary = self.dictionaries[layer]
        if not 0 <= feature < dictionary.n_features:
            raise UsageError(
                f"feature {feature} is out of range: layer {layer} has features 0 to "
                f"{dictionary.n_features - 1}"
            )
        return dictionary

    def signature(self, layer: int, feature: int, settings: Settings | None = None) -> Signature:
        """Both sides of a feature under Logit Lens, Query Lens and first order."""
        settings = settings or Settings()
        dictionary = self.dictionary(layer, feature)
        method = self.transport.method(dictionary, settings)
        value, key = (self._side(side, dictionary, feature, settings) for side in SIDES)
        return Signature(layer, feature, method, settings, value, key)

    def _side(
        self, side: Side, dictionary: FeatureDictionary, feature: int, settings: Settings
    ) -> SideSignature:
        start = vectors_of(side, dictionary)[feature]
        carried = self.transport.carry(side, dictionary, feature, settings)
        if settings.transition == "first-order":
            first_order = carried
        else:
            asked = settings.with_transition("first-order")
            first_order = self.transport.carry(side, dictionary, feature, asked)
        halves = self._halves(side, dictionary, start, settings)
        # One product with the vocabulary for all of them.
        vectors = torch.stack([carried.vector, first_order.vector, *halves])
        query, first, *half_scores = self.scores(side, vectors, normed=carried.normed)
        plain = self.plain_scores(side, start)
        plain_ranks = ranks(plain)
        return SideSignature(
            logit_lens=self._token_list(side, plain, start, plain_ranks, plain=True),
            query_lens=self._token_list(side, query, carried.vector, plain_ranks),
            first_order=self._token_list(side, first, first_order.vector, plain_ranks),
            norm=float(start.norm()),
            transported_norm=float(carried.vector.norm()),
            stability=self._jaccard(half_scores),
            relative_variance=carried.relative_variance,
        )

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
        scores: Float[Tensor, " d_vocab"],
        vector: Float[Tensor, " d_model"],
        plain_ranks: Int[Tensor, " d_vocab"],
        *,
        plain: bool = False,
    ) -> TokenList:
        ids, best = top_k(scores, self.k)
        unit = None
        if side == "key":
            length = float(vector.norm())
            unit = tuple((best / length if length else best * 0).tolist())
        moved = plain_ranks[ids] - torch.arange(len(ids), device=ids.device)
        readout = "unembed" if side == "value" else "embed" if plain else "embed_centered_cosine"
        return TokenList(
            readout,
            tuple(ids.tolist()),
            tuple(self.vocabulary.texts(ids.tolist())),
            tuple(best.tolist()),
            unit,
            tuple(moved.tolist()),
        )

    def _halves(
        self,
        side: Side,
        dictionary: FeatureDictionary,
        start: Float[Tensor, " d_model"],
        settings: Settings,
    ) -> list[Float[Tensor, " d_model"]]:
        """The feature carried by each half of the reference; none where operators do not say."""
        operators = self.transport.operators
        if (
            operators is None
            or settings.transition != "full"
            or self.transport.off(side, dictionary, settings)
            or self.transport.obstacle(side, dictionary, settings) is not None
        ):
            return []
        matrices = operators.halves(side, site_of(side, dictionary))
        return [carried_by(side, matrix, start) for matrix in matrices]

    def _jaccard(self, half_scores: list[Float[Tensor, " d_vocab"]]) -> float | None:
        if len(half_scores) < 2:
            return None
        one, other = (set(top_k(scores, self.k)[0].tolist()) for scores in half_scores)
        return len(one & other) / len(one | other)

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
        if layer not in self.layers:
            has = ", ".join(map(str, self.layers))
            raise UsageError(f"there is no dictionary for layer {layer}: layers are {has}")
        dictionary = self._kept.pop(layer, None) or self._load(layer)
        if self._budget is None:
            self._budget = free_bytes(dictionary.keys.device) // 4
        self._kept[layer] = dictionary
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self._budget:
            del self._kept[next(iter(self._kept))]
        return dictionary


def _bytes(dictionary: FeatureDictionary) -> int:
    # Twice: what `encode` computes with lies beside the keys and values.
    return 2 * (dictionary.keys.nbytes + dictionary.values.nbytes)

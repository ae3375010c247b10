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
from jaxtyping import Float
from torch import Tensor

from lens_core.activity import FeatureActivity, feature_activity
from lens_core.dictionary import FeatureDictionary
from lens_core.errors import UsageError
from lens_core.model import ResidualModel
from lens_core.paths import PathShare, Split, paths
from lens_core.readout import (
    FinalNorm,
    centered_cosine_rows,
    embed,
    embed_centered_cosine,
    final_norm_of,
    ranks_of,
    top_k,
    unembed,
)
from lens_core.reference import reference_center
from lens_core.search import TRANSITION_OF, Lens, search
from lens_core.transport import SIDES, Method, Settings, Side, Transport
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
        start = (dictionary.values if side == "value" else dictionary.keys)[feature]
        carried = self.transport.carry(side, dictionary, feature, settings)
        if settings.transition == "first-order":
            first_order = carried
        else:
            asked = settings.with_transition("first-order")
            first_order = self.transport.carry(side, dictionary, feature, asked)
        plain = self.plain_scores(side, start)
        query = self.scores(side, carried.vector, normed=carried.normed)
        first = self.scores(side, first_order.vector, normed=first_order.normed)
        return SideSignature(
            logit_lens=self._token_list(side, plain, start, plain, plain=True),
            query_lens=self._token_list(side, query, carried.vector, plain),
            first_order=self._token_list(side, first, first_order.vector, plain),
            norm=float(start.norm()),
            transported_norm=float(carried.vector.norm()),
            stability=self._stability(side, dictionary, start, settings),
            relative_variance=(
                None if carried.relative_variance != carried.relative_variance
                else carried.relative_variance
            ),
        )  # fmt: skip

    def plain_scores(
        self, side: Side, start: Float[Tensor, " d_model"]
    ) -> Float[Tensor, " d_vocab"]:
        """Logit Lens: `unembed` of the value, `embed` of the key."""
        return unembed(start, self.model) if side == "value" else embed(start, self.model.embedding)

    def scores(
        self, side: Side, vector: Float[Tensor, " d_model"], *, normed: bool = False
    ) -> Float[Tensor, " d_vocab"]:
        """Query Lens's readout of a transported vector."""
        if side == "value":
            return unembed(vector, self.model, normed=normed)
        return embed_centered_cosine(vector, self.rows)

    def _token_list(
        self,
        side: Side,
        scores: Float[Tensor, " d_vocab"],
        vector: Float[Tensor, " d_model"],
        plain_scores: Float[Tensor, " d_vocab"],
        *,
        plain: bool = False,
    ) -> TokenList:
        ids, best = top_k(scores, self.k)
        unit = None
        if side == "key":
            length = float(vector.norm())
            unit = tuple((best / length if length else best * 0).tolist())
        moved = ranks_of(plain_scores, ids) - torch.arange(len(ids), device=ids.device)
        readout = "unembed" if side == "value" else "embed" if plain else "embed_centered_cosine"
        return TokenList(
            readout,
            tuple(ids.tolist()),
            tuple(self.vocabulary.texts(ids.tolist())),
            tuple(best.tolist()),
            unit,
            tuple(moved.tolist()),
        )

    def _stability(
        self,
        side: Side,
        dictionary: FeatureDictionary,
        start: Float[Tensor, " d_model"],
        settings: Settings,
    ) -> float | None:
        operators = self.transport.operators
        if (
            operators is None
            or settings.transition != "full"
            or self.transport.off(side, dictionary, settings)
            or self.transport.obstacle(side, dictionary, settings) is not None
        ):
            return None
        site = dictionary.write_site if side == "value" else dictionary.read_site
        halves = operators.halves(side, site)
        if len(halves) < 2:
            return None
        tops = []
        for matrix in halves:
            vector = matrix @ start if side == "value" else start @ matrix
            tops.append(set(top_k(self.scores(side, vector), self.k)[0].tolist()))
        return len(tops[0] & tops[1]) / len(tops[0] | tops[1])

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

        def compute() -> dict[str, Tensor]:
            return dict(vars(feature_activity(
                self.model, dictionary, self.transport.reference, top=top
            )))  # fmt: skip

        asked = {"kind": "activity", "dictionary": dictionary.sha256, "top": top}
        return FeatureActivity(**self.transport.cached(asked, compute))


class DictionaryShelf:
    """The dictionaries of a configuration, loaded when first asked for and then kept."""

    def __init__(self, layers: Sequence[int], load: DictionaryLoader) -> None:
        self.layers = tuple(layers)
        self._load = load
        self._kept: dict[int, FeatureDictionary] = {}

    def __getitem__(self, layer: int) -> FeatureDictionary:
        if layer not in self.layers:
            has = ", ".join(map(str, self.layers))
            raise UsageError(f"there is no dictionary for layer {layer}: layers are {has}")
        if layer not in self._kept:
            self._kept[layer] = self._load(layer)
        return self._kept[layer]

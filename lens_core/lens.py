"""Query Lens on the features of one model: signatures, paths, and search by token.

    value score  = final_norm(T_value v) W_U + b_U          what the feature promotes
    key score    = (E - c)/|E - c| . (T_key^T k)            what activates it

together with plain Logit Lens (`v` and `k` as they are, read with `unembed` and `embed`) and
every other lens of `lens_core.lenses` (docs/method.md, section 2). Key scores are also given
for a transported key of length one (`unit_scores`): these can be compared across features, and
rank the tokens of one feature in the same order. A vector of length zero has no lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.activity import FeatureActivity
from lens_core.blocked_topk import ranks_of
from lens_core.carry import Carrier
from lens_core.config import LensConfig
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.direct import Transported
from lens_core.errors import UsageError
from lens_core.feature_map import vectors_of
from lens_core.instruments import DictionaryShelf, Instruments
from lens_core.lenses import LENSES, QUERY, Lens, lens_named
from lens_core.paths import block_tokens, paths
from lens_core.ranking import outermost
from lens_core.readout import Readout, read_together
from lens_core.reference import ReferenceSample
from lens_core.search import search
from lens_core.shortlist import ListScores
from lens_core.signature import (
    NO_DIRECTION,
    Lists,
    PathShare,
    SideSignature,
    Signature,
    TokenList,
)
from lens_core.stability import jaccard
from lens_core.tally import feature_activity
from lens_core.terms import MEASURES, SIDES, Progress, Settings, Side, Split
from lens_core.token_query import By, TokenQuery
from lens_core.vocabulary import Vocabulary
from lens_core.vocabulary_states import VocabularyStates


class QueryLens(Instruments):
    """Signatures, paths and search for the dictionaries of one model.

    `dictionaries` maps a layer to its dictionary and may load it on first use.
    """

    def __init__(
        self,
        carrier: Carrier,
        dictionaries: DictionaryShelf,
        vocabulary: Vocabulary,
        config: LensConfig | None = None,
        *,
        k: int | None = None,
        text: ReferenceSample | None = None,
        states: VocabularyStates | None = None,
    ) -> None:
        """`text` is where features are looked for; `None`: the reference."""
        super().__init__(carrier, dictionaries, vocabulary, config, k=k, states=states)
        self.text = carrier.reference if text is None else text
        # Of the last layer: its features are usually asked for one after another.
        self._activity: tuple[str, int, FeatureActivity] | None = None

    def prepare(self) -> None:
        """Make every readout now, so that the first call does not have to."""
        self.readouts.all()

    def signature(
        self,
        layer: int,
        feature: int,
        settings: Settings | None = None,
        *,
        length: int | None = None,
        bottom: bool = False,
        also: Sequence[Lens] = (),
    ) -> Signature:
        """Both sides of a feature under every lens; `settings` default to the configuration's.

        `also` are lenses on request (`lens_core.lenses`) whose lists are made too.

        `bottom` also asks for the lowest-scored tokens. Lists hold `length` tokens (`None`: `k`),
        which changes nothing else: stability is always that of lists of `k`.

        Raises:
            UsageError: `length` is less than 1, or there is no such feature.
        """
        settings = settings or self.settings
        length = self.k if length is None else length
        if length < 1:
            raise UsageError(f"the length of a list must be at least 1, got {length}")
        dictionary = self.dictionary(layer, feature)
        method = self.carrier.method(dictionary, settings)
        value, key = (
            self._side(side, dictionary, feature, settings, length, bottom, also) for side in SIDES
        )
        return Signature(
            layer,
            feature,
            method,
            self.carrier.source(dictionary) if method == "operator" else "none",
            settings,
            min(each.n_tokens for each in (value, key)),
            value,
            key,
        )

    def _side(
        self,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        settings: Settings,
        length: int,
        bottom: bool,
        also: Sequence[Lens],
    ) -> SideSignature:
        lenses = (*LENSES, *also)
        start = vectors_of(side, dictionary)[feature]
        if _is_zero(start):
            none = Lists({lens.name: self._none(side, lens.name, NO_DIRECTION) for lens in lenses})
            every = self.carrier.reference.n_tokens
            return SideSignature(none, none if bottom else None, 0.0, 0.0, None, None, every)
        reasons = {lens.name: lens.missing(self, side, dictionary) for lens in lenses}
        carried = {
            lens.name: lens.carry(self, side, dictionary, feature, settings)
            for lens in lenses
            if not reasons[lens.name]
        }
        reasons |= {
            name: each.reason or NO_DIRECTION
            for name, each in carried.items()
            if _is_zero(each.vector)
        }
        read = [lens for lens in lenses if not reasons[lens.name]]
        asked = [self._asked(lens, side, dictionary, carried[lens.name]) for lens in read]
        main = carried[QUERY.name]
        stability = None
        halves: list[Tensor] = []
        if QUERY in read and self._has_halves(side, dictionary, settings):
            halves, stability = self._halves(side, dictionary, feature)
        readout = self.readout(QUERY.readouts[side])
        scores = read_together([*asked, *((readout, half) for half in halves)])
        if len(halves) == 2:
            ids = outermost(scores[len(read) :], self.k)
            stability = float(jaccard(ids[:1], ids[1:]))

        def lists(*, lowest: bool) -> Lists:
            best = outermost(scores[: len(read)], length, lowest=lowest)
            found = {name: self._none(side, name, reason) for name, reason in reasons.items()}
            for at, (lens, (one, vector)) in enumerate(zip(read, asked, strict=True)):
                found[lens.name] = self._token_list(
                    one, scores, at, best[at], float(vector.norm()), lowest=lowest
                )
                if lens not in LENSES:
                    n_tokens = carried[lens.name].n_tokens
                    found[lens.name] = replace(found[lens.name], n_tokens=n_tokens)
            return Lists(found)

        return SideSignature(
            top=lists(lowest=False),
            bottom=lists(lowest=True) if bottom else None,
            norm=float(start.norm()),
            transported_norm=float(main.vector.norm()),
            stability=stability,
            relative_variance=main.relative_variance if QUERY in read else None,
            n_tokens=min(
                carried[lens.name].n_tokens or self.carrier.reference.n_tokens
                for lens in LENSES
                if lens.name in carried
            ),
            operators=self.carrier.source(dictionary)
            if self.carrier.method(dictionary, settings, side) == "operator"
            else "none",
        )

    def _asked(
        self, lens: Lens, side: Side, dictionary: FeatureDictionary, carried: Transported
    ) -> tuple[Readout, Tensor]:
        return lens.readout(self, side, dictionary, normed=carried.normed), carried.vector

    def _none(self, side: Side, lens: str, reason: str) -> TokenList:
        """An empty list, with the reason why there are no tokens."""
        name = lens_named(lens).readouts.get(side)
        measure = "" if name is None else MEASURES[name]
        return TokenList(name or "", measure, (), (), (), None, (), reason)

    def _token_list(
        self,
        readout: Readout,
        readings: Float[Tensor, "readings d_vocab"],
        at: int,
        ids: Int[Tensor, " length"],
        norm: float,
        *,
        lowest: bool,
    ) -> TokenList:
        """The list of `ids`, taken from row `at` of `readings`, for a vector of this norm."""
        found = readings[at, ids]
        unit = tuple((found / norm).tolist()) if readout.compares_by_length else None
        moved = torch.zeros_like(ids)
        if at:  # row 0 is Logit Lens itself
            place = torch.arange(len(ids), device=ids.device)
            rank = readings.shape[1] - 1 - place if lowest else place
            moved = ranks_of(readings[:1], ids[None])[0] - rank
        return TokenList(
            readout.name,
            readout.measure,
            tuple(ids.tolist()),
            tuple(self.vocabulary.texts(ids.tolist())),
            tuple(found.tolist()),
            unit,
            tuple(moved.tolist()),
        )

    def _has_halves(self, side: Side, dictionary: FeatureDictionary, settings: Settings) -> bool:
        """Whether operators from the two halves of the reference can answer these settings."""
        carrier = self.carrier
        return (
            carrier.has_operators(dictionary)
            and settings.transition == "full"
            and settings.positions == "all"
            and not carrier.off(side, dictionary, settings)
            and carrier.obstacle(side, dictionary, settings) is None
        )

    def _halves(
        self, side: Side, dictionary: FeatureDictionary, feature: int
    ) -> tuple[list[Float[Tensor, " d_model"]], float | None]:
        """The feature carried by each half of the reference, and its stability if stored."""
        start = vectors_of(side, dictionary)[feature]
        stored = self.carrier.operators_for(dictionary).stability(side, dictionary.sha256, self.k)
        known = None if stored is None else float(stored[feature])
        return [half(start) for half in self.carrier.halves(side, dictionary)], known

    def paths(
        self,
        side: Side,
        layer: int,
        feature: int,
        settings: Settings | None = None,
        split: Split | None = None,
    ) -> tuple[Split, list[PathShare]]:
        """How much of the signature's score goes through each block; see `lens_core.paths`.

        Raises:
            UsageError: `split` is `first-reader` where blocks are off or a norm is applied first.
        """
        dictionary = self.dictionary(layer, feature)
        return paths(self, side, dictionary, feature, settings or self.settings, split)[:2]

    def block_tokens(
        self, side: Side, layer: int, feature: int, block: int
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Ids and texts of the tokens a block raises most; see `lens_core.paths.block_tokens`.

        Costs two passes over the reference, or one if a neighbouring block's are cached.
        """
        return block_tokens(self, side, self.dictionary(layer, feature), feature, block)

    def search(
        self,
        tokens: int | Sequence[int] | TokenQuery,
        *,
        side: Side = "value",
        lens: str = "query",
        layers: Sequence[int] | None = None,
        n: int = 25,
        by: By = "rank",
        settings: Settings | None = None,
        lists: ListScores | None = None,
        progress: Progress | None = None,
    ) -> pl.DataFrame:
        """The features that promote (`value`) or fire on (`key`) tokens; see `lens_core.search`.

        `tokens` are one or several ids, or a `TokenQuery` with tokens that are not wanted. The
        best come first: by their rank of the token (of several: the worst rank), or `by` score.

        Raises:
            UsageError: a token id is out of range, there are none or too many, `n` is less than
                1, a layer has no dictionary, there is no such lens or order, or operators cannot
                answer `settings` (masks, the exact convention).
            OperatorError: `lens` needs operators that are not built.
        """
        if not isinstance(tokens, TokenQuery):
            several = tokens if isinstance(tokens, Sequence) else [tokens]
            tokens = TokenQuery(tuple(map(int, several)))
        for token in tokens.ids:
            self.vocabulary.check(token)
        return search(
            self,
            tokens,
            settings or Settings(),
            side=side,
            lens=lens_named(lens),
            layers=layers,
            n=n,
            by=by,
            lists=lists,
            progress=progress,
        )

    def best_tokens(
        self, side: Side, places: Sequence[tuple[int, int]], lens: Lens, k: int
    ) -> list[list[int]]:
        """The ids of the `k` best tokens under one lens, best first, for each (layer, feature)."""
        carried = torch.empty(len(places), self.model.d_model, dtype=self.model.dtype)
        carried = carried.to(self.model.device)
        for layer in dict.fromkeys(layer for layer, _ in places):
            rows = [row for row, place in enumerate(places) if place[0] == layer]
            dictionary = self.dictionaries[layer]
            features = [places[row][1] for row in rows]
            carry = lens.map(self, side, dictionary)
            carried[rows] = carry(vectors_of(side, dictionary)[features])
        ids, _ = self.readout(lens.readouts[side]).top_k(carried, k)
        found: list[list[int]] = ids.tolist()
        return found

    def activity(self, layer: int, top: int = 20) -> FeatureActivity:
        """How often and where every feature of `layer` fires in `text`."""
        dictionary = self.dictionaries[layer]
        if self._activity is None or self._activity[:2] != (dictionary.sha256, top):

            def compute() -> dict[str, Any]:
                found = feature_activity(
                    self.model,
                    dictionary,
                    self.text,
                    top=top,
                    batch=self.carrier.batch,
                    progress=self.carrier.walks.progress,
                )
                return dict(vars(found))

            asked = {
                "kind": "activity",
                "dictionary": dictionary.sha256,
                "top": top,
                "has_first": True,
            }
            if self.text is not self.carrier.reference:
                asked["text"] = self.text.sha256
            found = FeatureActivity(**self.carrier.results.cached(asked, compute))
            self._activity = dictionary.sha256, top, found
        return self._activity[2]


def _is_zero(vector: Float[Tensor, " d_model"]) -> bool:
    """Whether the vector's length is zero in its dtype."""
    return float(vector.norm()) == 0

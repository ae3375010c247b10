"""Carry a feature's vector to the end where it is read: by operators, or directly and cached.

    value   carried = T_value[site] v          key   carried = k^T T_key[site]

(docs/method.md, section 3.) Operators answer in two matrix-vector products, for any feature.
Three cases need a direct pass over the reference instead, whose result is kept in the result
cache: a full transition with blocks off (a mean of products is not a product of means), a
norm's own Jacobian in front of the dictionary, and a linearised final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lens_core.batch_walk import Route
from lens_core.dictionaries.feature_dictionary import (
    FeatureDictionary,
    read_function,
    write_function,
)
from lens_core.direct import Transported
from lens_core.errors import OperatorError, UsageError
from lens_core.feature_map import FeatureMap, first_reader, rows_of, site_of, vectors_of
from lens_core.kept_results import KeptResults
from lens_core.kept_walks import KeptWalks
from lens_core.model import ResidualModel
from lens_core.operators.demo import ShippedOperators
from lens_core.operators.files import Operators
from lens_core.recording import Recording
from lens_core.reference import ReferenceSample
from lens_core.storage.results import ResultCache
from lens_core.terms import (
    SIDES,
    Method,
    OperatorSource,
    Progress,
    Settings,
    Side,
    Switch,
    in_order,
    merged,
    on_path,
)
from lens_core.walk import Walk


class Carrier:
    """Carries features of `model`'s dictionaries over `reference`."""

    def __init__(
        self,
        model: ResidualModel,
        reference: ReferenceSample,
        operators: Operators | ShippedOperators | None,
        results: ResultCache | None,
        *,
        batch: int | None = None,
        memory: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`memory` is how many bytes of recordings are kept, `None` to choose."""
        self.model = model
        self.reference = reference
        self.operators = operators
        self.results = KeptResults(model, reference, results)
        self._kept_in, self._memory = results, memory
        self.batch = batch
        self.recording = Recording(model, reference, memory=memory, batch=batch)
        self.walks = KeptWalks(self.recording, self.results, progress)

    def over(self, reference: ReferenceSample) -> Carrier:
        """The same over another reference, without operators; results go to the same cache."""
        return Carrier(
            self.model, reference, None, self._kept_in, batch=self.batch, memory=self._memory
        )

    def path(self, side: Side, dictionary: FeatureDictionary) -> range:
        """The blocks between the dictionary and the end where `side` is read."""
        if side == "value":
            return range(dictionary.write_site, self.model.n_blocks)
        return range(dictionary.read_site)

    def off(
        self, side: Side, dictionary: FeatureDictionary, settings: Settings
    ) -> frozenset[Switch]:
        """The blocks and heads of the path that are off, merged (`lens_core.terms.merged`)."""
        return merged(on_path(settings.off, self.path(side, dictionary)), self.model.n_heads)

    def is_all_off(self, side: Side, dictionary: FeatureDictionary, settings: Settings) -> bool:
        """Whether no block of the path is on."""
        return self.off(side, dictionary, settings) >= frozenset(self.path(side, dictionary))

    def norm(
        self, side: Side, dictionary: FeatureDictionary, settings: Settings
    ) -> Callable[[Tensor], Tensor] | None:
        """The norm at the dictionary whose Jacobian is applied first; `None` for no norm."""
        if settings.convention == "paper":
            return None
        if side == "value":
            return write_function(dictionary, self.model)
        return None if dictionary.read_norm == "none" else read_function(dictionary, self.model)

    def obstacle(self, side: Side, dictionary: FeatureDictionary, settings: Settings) -> str | None:
        """Why operators cannot answer; `None` if they can once they are built."""
        if side == "value" and settings.final_norm == "linearize":
            return "the final norm is linearised"
        if self.norm(side, dictionary, settings) is not None:
            return "the exact convention puts a norm's Jacobian in front of this dictionary"
        if settings.positions != "all":
            if self.operators is not None and not self.operators.has_buckets:
                return "the operators that come with qlens do not distinguish positions"
            if settings.transition == "first-order":
                return "first-order operators do not distinguish positions"
        off = self.off(side, dictionary, settings)
        if off and not self.is_all_off(side, dictionary, settings):
            heads = any(not isinstance(each, int) for each in off)
            what = "heads" if heads else "blocks"
            if settings.transition == "full":
                return f"{what} are off in a full transition"
            if settings.transition == "first-order" and heads:
                return "heads are off, and operators do not separate them"
            if settings.transition == "first-order" and not self.has_blocks(dictionary):
                return "blocks are off, and the operators that come with qlens do not separate them"
        return None

    def has_operators(self, dictionary: FeatureDictionary) -> bool:
        """Whether there are operators that carry this dictionary's features."""
        return self.operators is not None and all(
            self.operators.covers(side, site_of(side, dictionary)) for side in SIDES
        )

    def has_blocks(self, dictionary: FeatureDictionary) -> bool:
        """Whether operators hold each block separately, or will once they are built."""
        return not self.has_operators(dictionary) or (
            self.operators is not None and self.operators.has_blocks
        )

    def source(self, dictionary: FeatureDictionary) -> OperatorSource:
        """Which operators answer for this dictionary."""
        if self.operators is None or not self.has_operators(dictionary):
            return "none"
        return self.operators.origin

    def operators_for(self, dictionary: FeatureDictionary) -> Operators | ShippedOperators:
        """The operators that carry this dictionary's features.

        Raises:
            OperatorError: there are none yet.
        """
        if self.operators is None or not self.has_operators(dictionary):
            raise OperatorError(
                "no operators for this model and reference: run `qlens build` first"
            )
        return self.operators

    def method(
        self, dictionary: FeatureDictionary, settings: Settings, side: Side | None = None
    ) -> Method:
        """Which method answers for a side of a feature; by default `direct` if it is for either.

        Raises:
            UsageError: `settings` ask for operators where these give no exact answer.
            OperatorError: `settings` ask for operators that are not built.
        """
        obstacles = [
            why
            for each in (SIDES if side is None else (side,))
            if (why := self.obstacle(each, dictionary, settings)) is not None
        ]
        if settings.method == "operator":
            if obstacles:
                raise UsageError(
                    f"operators cannot answer because {obstacles[0]}: use --method direct"
                )
            if not self.has_operators(dictionary):
                raise OperatorError(
                    "no operators for this model and reference: run `qlens build`, "
                    "or use --method direct"
                )
        if settings.method is not None:
            return settings.method
        return "direct" if obstacles or not self.has_operators(dictionary) else "operator"

    def carry(
        self, side: Side, dictionary: FeatureDictionary, feature: int, settings: Settings
    ) -> Transported:
        """The feature's vector, transported and averaged."""
        start = vectors_of(side, dictionary)[feature]
        norm = self.norm(side, dictionary, settings)
        linearize = side == "value" and settings.final_norm == "linearize"
        all_off = self.is_all_off(side, dictionary, settings)
        identity = settings.transition == "identity" or all_off
        if identity and norm is None and not linearize:
            steps = start.new_zeros(self.model.n_blocks, self.model.d_model)
            return Transported(start, start, steps, 0.0)
        if self.method(dictionary, settings, side) == "direct":
            return self._direct(side, dictionary, feature, settings)
        off = self.off(side, dictionary, settings)
        asked = Settings(settings.transition, off=off, positions=settings.positions)
        return Transported(self.map(side, dictionary, asked)(start), start, None, None)

    def map(self, side: Side, dictionary: FeatureDictionary, settings: Settings) -> FeatureMap:
        """How operators carry every feature of a dictionary; `off` counts in first order only.

        Raises:
            OperatorError: there are no operators yet.
        """
        if settings.transition == "identity":
            return FeatureMap()
        operators, site = self.operators_for(dictionary), site_of(side, dictionary)
        if settings.transition == "first-order":
            blocks_off = frozenset(each for each in settings.off if isinstance(each, int))
            return rows_of(side, operators.first_order(side, site, blocks_off))
        return rows_of(side, operators.transition(side, site, settings.positions))

    def halves(self, side: Side, dictionary: FeatureDictionary) -> list[FeatureMap]:
        """The full transition of each half of the reference; empty where operators have none.

        Raises:
            OperatorError: there are no operators yet.
        """
        operators = self.operators_for(dictionary)
        return [rows_of(side, half) for half in operators.halves(side, site_of(side, dictionary))]

    def contributions(
        self,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        settings: Settings,
    ) -> Float[Tensor, "blocks d_model"]:
        """What each block adds, by operators: first-order responses or the first-reader split."""
        assert isinstance(self.operators, Operators)
        start = vectors_of(side, dictionary)[feature]
        path, operators = self.path(side, dictionary), self.operators
        found = start.new_zeros(self.model.n_blocks, self.model.d_model)
        if settings.transition == "first-order":
            for k in path:
                if k not in settings.off:
                    found[k] = rows_of(side, operators.response(k))(start)
            return found
        carried = {
            site: rows_of(side, operators.transition(side, site, settings.positions))(start)
            for site in range(path.start, path.stop + 1)
        }
        for k in path:
            found[k] = first_reader(side, carried[k], carried[k + 1])
        return found

    def _direct(
        self, side: Side, dictionary: FeatureDictionary, feature: int, settings: Settings
    ) -> Transported:
        asked, walk = self._question("transported", side, dictionary, feature, settings)
        kept = self.results.get(asked)
        if kept is None:
            off = self.off(side, dictionary, settings)
            found, n_tokens = walk().carried(off, settings.tokens, self.walks.progress)
            if n_tokens < self.reference.n_tokens:
                return replace(found, n_tokens=n_tokens)
            kept = self.results.put(
                asked,
                {
                    "direct": found.direct,
                    "steps": found.steps,
                    "vector": found.vector,
                    "relative_variance": found.relative_variance,
                },
            )
        return Transported(
            kept["vector"],
            kept["direct"],
            kept["steps"],
            float(kept["relative_variance"]),
            bool(asked["linearize"]),
        )

    def _question(
        self,
        kind: str,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        settings: Settings,
    ) -> tuple[dict[str, Any], Callable[[], Walk]]:
        """What names a direct result in the result cache, and the walk that gives it."""
        norm = self.norm(side, dictionary, settings)
        linearize = side == "value" and settings.final_norm == "linearize"
        asked = {
            "kind": kind,
            "side": side,
            "dictionary": dictionary.sha256,
            "feature": feature,
            "transition": settings.transition,
            "off": in_order(self.off(side, dictionary, settings)),
            "positions": settings.positions,
            "norm": norm is not None,
            "linearize": linearize,
        }

        def walk() -> Walk:
            route = Route(
                site_of(side, dictionary),
                self.model.n_blocks if side == "value" else 0,
                settings.positions,
                norm=norm,
                after_mlp=side == "value",
                final=self.model.final_norm if linearize else None,
            )
            # Masks that another question puts on must not undo those that the user switches.
            of = (value for key, value in asked.items() if key not in ("kind", "off"))
            start = vectors_of(side, dictionary)[feature]
            return self.walks.named((*of, settings.method), start, route, settings.transition)

        return asked, walk

    def ablated(
        self,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        settings: Settings,
        switches: Sequence[Switch],
    ) -> tuple[Float[Tensor, "switches d_model"], int]:
        """The vector carried with each of `switches` off besides `settings.off`, directly.

        Also the tokens behind it. Costs one walk from each switch on.
        """
        off = self.off(side, dictionary, settings)
        asked, walk = self._question("ablated", side, dictionary, feature, settings)
        asked = asked | {"switches": list(switches)}
        return self.walks.kept(
            asked,
            lambda: walk().ablated(switches, off, settings.tokens, self.walks.progress),
        )

    def of_heads(
        self,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        settings: Settings,
        block: int,
    ) -> tuple[Float[Tensor, "heads d_model"], int]:
        """What each head of a block adds to the vector, directly; zero for heads that are off.

        Also the tokens behind it. Costs one walk to the block.
        """
        off = self.off(side, dictionary, settings)
        asked, walk = self._question("heads", side, dictionary, feature, settings)
        asked = asked | {"block": block}
        return self.walks.kept(
            asked, lambda: walk().of_heads(block, off, settings.tokens, self.walks.progress)
        )

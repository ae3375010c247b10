"""Carry a feature's vector to the end where it is read: by operators, or directly and cached.

    value   carried = T_value[site] v          key   carried = k^T T_key[site]

(docs/method.md, section 3.) Operators answer in two matrix-vector products, for any feature.
Three cases need a direct pass over the reference instead, whose result is kept in the result
cache: a full transition with blocks off (a mean of products is not a product of means), a
norm's own Jacobian in front of the dictionary, and a linearised final norm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import (
    FeatureDictionary,
    read_function,
    write_function,
)
from lens_core.direct import (
    Transported,
    key_transition,
    pull_back,
    push_forward,
    value_transition,
)
from lens_core.errors import OperatorError, UsageError
from lens_core.model import ResidualModel
from lens_core.operators.demo import ShippedOperators
from lens_core.operators.files import Operators
from lens_core.reference import ReferenceSample
from lens_core.storage.fingerprint import fingerprint, versions
from lens_core.storage.results import ResultCache
from lens_core.terms import SIDES, Bucket, Method, OperatorSource, Progress, Settings, Side

# Raise this when a result changes for the same inputs: older results are then not found.
RESULTS_FORMAT = 2


def vectors_of(side: Side, dictionary: FeatureDictionary) -> Float[Tensor, "n_features d_model"]:
    """What is carried: the values (decoder rows) or the keys (encoder columns)."""
    return dictionary.values if side == "value" else dictionary.keys


def site_of(side: Side, dictionary: FeatureDictionary) -> int:
    """The site that the dictionary writes to (value) or reads (key)."""
    return dictionary.write_site if side == "value" else dictionary.read_site


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """One affine map that carries every feature of a dictionary: `x -> x M + b`.

    Vectors are rows, so that values (multiplied by `T_value^T`) and keys (by `T_key`) are
    carried in the same way. A `matrix` of `None` is the identity, a `shift` of `None` is zero.
    """

    matrix: Float[Tensor, "d_model d_model"] | None = None
    shift: Float[Tensor, " d_model"] | None = None

    def __call__(self, vectors: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many d_model"]:
        """The carried vectors."""
        carried = vectors if self.matrix is None else vectors @ self.matrix
        return carried if self.shift is None else carried + self.shift

    def pulled(self, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
        """The `w` for which `x . w + offset(direction) = self(x) . direction` for every `x`."""
        return direction if self.matrix is None else self.matrix @ direction

    def offset(self, direction: Float[Tensor, " d_model"]) -> Float[Tensor, ""]:
        """What the shift adds to the product with `direction`."""
        if self.shift is None:
            return direction.new_zeros(())
        return self.shift @ direction


def first_reader(side: Side, before: Tensor, behind: Tensor) -> Tensor:
    """A block's part in the first-reader split, from the vectors carried to its two sites.

    `before` is from the block's input site, `behind` from its output site.
    """
    return before - behind if side == "value" else behind - before


def _rows(side: Side, operator: Float[Tensor, "d_model d_model"]) -> FeatureMap:
    """An operator as a map of row vectors: `T v` for values, `k^T T` for keys."""
    return FeatureMap(operator.T if side == "value" else operator)


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
        progress: Progress | None = None,
    ) -> None:
        self.model = model
        self.reference = reference
        self.operators = operators
        self._results = results
        self.batch = batch
        self.progress = progress

    def path(self, side: Side, dictionary: FeatureDictionary) -> range:
        """The blocks between the dictionary and the end where `side` is read."""
        if side == "value":
            return range(dictionary.write_site, self.model.n_blocks)
        return range(dictionary.read_site)

    def off(self, side: Side, dictionary: FeatureDictionary, settings: Settings) -> frozenset[int]:
        """The blocks of the path that are off."""
        return settings.off & frozenset(self.path(side, dictionary))

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
        if off and len(off) < len(self.path(side, dictionary)):
            if settings.transition == "full":
                return "blocks are off in a full transition"
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

    def method(self, dictionary: FeatureDictionary, settings: Settings) -> Method:
        """Which method answers for both sides of a feature.

        Raises:
            UsageError: `settings` ask for operators where these give no exact answer.
            OperatorError: `settings` ask for operators that are not built.
        """
        obstacles = [
            why for side in SIDES if (why := self.obstacle(side, dictionary, settings)) is not None
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
        off = self.off(side, dictionary, settings)
        norm = self.norm(side, dictionary, settings)
        linearize = side == "value" and settings.final_norm == "linearize"
        identity = settings.transition == "identity" or len(off) == len(self.path(side, dictionary))
        if identity and norm is None and not linearize:
            steps = start.new_zeros(self.model.n_blocks, self.model.d_model)
            return Transported(start, start, steps, 0.0)
        if self.method(dictionary, settings) == "direct":
            return self._direct(side, dictionary, feature, settings)
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
            return _rows(side, operators.first_order(side, site, settings.off))
        return _rows(side, operators.transition(side, site, settings.positions))

    def halves(self, side: Side, dictionary: FeatureDictionary) -> list[FeatureMap]:
        """The full transition of each half of the reference; empty where operators have none.

        Raises:
            OperatorError: there are no operators yet.
        """
        operators = self.operators_for(dictionary)
        return [_rows(side, half) for half in operators.halves(side, site_of(side, dictionary))]

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
                    found[k] = _rows(side, operators.response(k))(start)
            return found
        carried = {
            site: _rows(side, operators.transition(side, site, settings.positions))(start)
            for site in range(path.start, path.stop + 1)
        }
        for k in path:
            found[k] = first_reader(side, carried[k], carried[k + 1])
        return found

    def _direct(
        self, side: Side, dictionary: FeatureDictionary, feature: int, settings: Settings
    ) -> Transported:
        off = self.off(side, dictionary, settings)
        norm = self.norm(side, dictionary, settings)
        linearize = side == "value" and settings.final_norm == "linearize"
        site, start = site_of(side, dictionary), vectors_of(side, dictionary)[feature]

        def compute() -> dict[str, Any]:
            common: dict[str, Any] = {
                "transition": settings.transition,
                "off": off,
                "positions": settings.positions,
                "batch": self.batch,
                "progress": self.progress,
            }
            if side == "value":
                found = value_transition(
                    self.model, self.reference, start, site,
                    write_norm=norm, linearize_final_norm=linearize, **common,
                )  # fmt: skip
            else:
                found = key_transition(
                    self.model, self.reference, start, site,
                    read_norm=norm, **common,
                )  # fmt: skip
            return {
                "direct": found.direct,
                "steps": found.steps,
                "vector": found.vector,
                "relative_variance": found.relative_variance,
            }

        asked = {
            "kind": "transported",
            "side": side,
            "dictionary": dictionary.sha256,
            "feature": feature,
            "transition": settings.transition,
            "off": sorted(off),
            "positions": settings.positions,
            "norm": norm is not None,
            "linearize": linearize,
        }
        kept = self.cached(asked, compute)
        return Transported(
            kept["vector"],
            kept["direct"],
            kept["steps"],
            float(kept["relative_variance"]),
            linearize,
        )

    def read_back(
        self, side: Side, direction: Float[Tensor, " d_model"], positions: Bucket = "all"
    ) -> Float[Tensor, "sites d_model"]:
        """`T_value[site]^T w` or `T_key[site] w` at every site, from one pass without operators."""
        walk = pull_back if side == "value" else push_forward

        def compute() -> dict[str, Any]:
            sites = walk(
                self.model,
                self.reference,
                direction,
                positions=positions,
                batch=self.batch,
                progress=self.progress,
            )
            return {"sites": sites}

        content = hashlib.sha256(direction.cpu().contiguous().numpy().tobytes()).hexdigest()
        asked = {"kind": "read_back", "side": side, "direction": content, "positions": positions}
        found: Tensor = self.cached(asked, compute)["sites"]
        return found

    def cached(
        self, asked: dict[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """`compute()`, or its stored result for the same model, reference and `asked`."""
        if self._results is None:
            return compute()
        key = fingerprint(
            asked
            | {
                "format": RESULTS_FORMAT,
                "model": self.model.fingerprint,
                "reference": self.reference.sha256,
                "dtype": str(self.model.dtype),
                "versions": versions(),
            }
        )
        kept = self._results.get(key)
        if kept is None:
            kept = {
                name: value.cpu().numpy() if isinstance(value, Tensor) else value
                for name, value in compute().items()
            }
            self._results.put(key, kept)
        return {
            name: torch.from_numpy(value.copy()).to(self.model.device)
            if hasattr(value, "__array__")
            else value
            for name, value in kept.items()
        }

"""Output score: the part of what steering raises that is in a list.

    S       the `RAISED` tokens whose rank rises most when the feature is set (clean to steered)
    O(T) = |S and T| / |S|

(paper, section 4; docs/method.md, section 5.) Protocol `paired`, the paper's own words: behind each
neutral prefix (`lens_core.scores.prefixes`) the next-token distribution of the unchanged model is
compared with that of the model with the feature set to a strength at every position. Strengths are
those at which the mean KL divergence over the prefixes is 0.25 and 0.5 (`strength`). What counts of
a token is the change of its rank percentile, averaged over prefixes and both strengths; of equal
ones the lower id comes first. For a shorter list of `k` tokens, S are the first `k` too.

**Ceiling**: S from every other prefix against S from the others, at the same strengths; their
overlap `o`, corrected to the full number of prefixes, `2 o / (1 + o)` (Spearman and Brown).

Found once for a feature, kept in the result cache, and serving every lens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.instruments import Instruments
from lens_core.kept_results import KeptResults
from lens_core.ranking import top_k
from lens_core.reference import ReferenceSample
from lens_core.scores.strength import TOLERANCE, Strength, find_strength
from lens_core.steering import Steering

TARGETS = (0.25, 0.5)
"""KL divergences, in nats, that steering is to reach."""
RAISED = 25
"""Tokens that count as raised."""
_GUESS = 0.3  # of the length of the stream: about where the demo's features reach 0.25
_LIMIT = 100.0  # of the same: a feature that needs more has no output score
_VERSION = 1

OutputProtocol = Literal["paired", "published"]
"""How strengths are found and ranks compared: here, or `lens_core.scores.published`."""

Tick = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Observed:
    """What steering raises, for the features that reach both divergences.

    `raised` are the tokens from all prefixes, `halves` from every other one, best first;
    `strengths` reach `divergences`.
    `left_out`: features for which no strength reaches them, or that write nothing.
    """

    features: Int64[Tensor, " n"]
    raised: Int64[Tensor, "n raised"]
    halves: Int64[Tensor, "n two raised"]
    strengths: Float[Tensor, "n targets"]
    divergences: Float[Tensor, "n targets"]
    left_out: tuple[int, ...]

    def only(self, chosen: Bool[Tensor, " n"]) -> Observed:
        """Of some features."""
        return Observed(
            self.features[chosen],
            self.raised[chosen],
            self.halves[chosen],
            self.strengths[chosen],
            self.divergences[chosen],
            self.left_out,
        )

    def ceilings(self, k: int) -> list[float]:
        """Each feature's ceiling for lists of `k`."""
        overlap = overlaps(self.halves[:, 0, :k], self.halves[:, 1, :k])
        return (2 * overlap / (1 + overlap)).tolist()

    def scores(self, lists: Int64[Tensor, "n longest"], k: int) -> list[float]:
        """The score of each feature's list, cut to `k` tokens."""
        found: list[float] = overlaps(self.raised[:, :k], lists[:, :k]).tolist()
        return found


def overlaps(one: Int64[Tensor, "n k"], other: Int64[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """The part of the tokens of `one` that are in `other`; -1 is no token."""
    same = (one[:, :, None] == other[:, None, :]) & (one[:, :, None] >= 0)
    return same.any(2).double().mean(1)


def observe(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: Sequence[int],
    prefixes: ReferenceSample,
    tick: Tick = lambda _done, _of: None,
    each_pass: Callable[[], None] = lambda: None,
) -> Observed:
    """Steer each of `features` behind `prefixes`; what is in the result cache is not done again.

    `tick` is called with the features done and their total, `each_pass` before every pass; both
    may raise to cancel.
    """

    def begin() -> Callable[[int], dict[str, Tensor]]:
        each_pass()
        steering = tools.steering(dictionary, prefixes)
        return lambda feature: _steered(steering, dictionary, feature, each_pass)

    results = tools.carrier.results.about(prefixes)
    return observe_each(results, _asked(dictionary), features, begin, tick)


def observed_before(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: Sequence[int],
    prefixes: ReferenceSample,
) -> Observed:
    """What `observe` gives of those `features` that are in the result cache; runs nothing."""
    results = tools.carrier.results.about(prefixes)
    asked = _asked(dictionary)
    kept = {feature: results.get(asked | {"feature": feature}) for feature in features}
    known = {feature: found for feature, found in kept.items() if found is not None}
    return _gathered(list(known), list(known.values()))


def _asked(dictionary: FeatureDictionary) -> dict[str, Any]:
    return {
        "kind": "steered", "version": _VERSION, "dictionary": dictionary.sha256,
        "targets": list(TARGETS), "tolerance": TOLERANCE,
    }  # fmt: skip


def observe_each(
    results: KeptResults,
    asked: dict[str, Any],
    features: Sequence[int],
    begin: Callable[[], Callable[[int], dict[str, Tensor]]],
    tick: Tick,
) -> Observed:
    """What is kept of each feature under `asked`; `begin` is called if some is not, to make it."""
    make: Callable[[int], dict[str, Tensor]] | None = None
    kept: list[Any] = []
    for at, feature in enumerate(features):
        tick(at, len(features))
        of_one = asked | {"feature": feature}
        found = results.get(of_one)
        if found is None:
            make = make or begin()
            found = results.put(of_one, make(feature))
        kept.append(found)
    tick(len(features), len(features))
    return _gathered(features, kept)


def _gathered(features: Sequence[int], kept: Sequence[Any]) -> Observed:
    there = [at for at, found in enumerate(kept) if len(found["raised"])]

    def of(name: str, *shape: int) -> Tensor:
        rows = [kept[at][name] for at in there]
        return torch.stack(rows).cpu() if rows else torch.zeros(0, *shape)

    return Observed(
        torch.tensor([features[at] for at in there], dtype=torch.int64),
        of("raised", RAISED).long(),
        of("halves", 2, RAISED).long(),
        of("strengths", len(TARGETS)),
        of("divergences", len(TARGETS)),
        tuple(feature for at, feature in enumerate(features) if at not in set(there)),
    )


def _steered(
    steering: Steering,
    dictionary: FeatureDictionary,
    feature: int,
    each_pass: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """What is kept of one feature; nothing raised if a divergence is not reached."""
    change = torch.zeros_like(steering.clean, dtype=torch.float32)
    length = float(dictionary.values[feature].norm())
    found: list[Strength] = []
    if length > 0:
        unit = steering.typical / length
        clean = steering.clean.log_softmax(-1)
        probabilities = clean.exp()
        ranks = percentiles(steering.clean)
        known: dict[float, float] = {}
        logits: dict[float, Tensor] = {}

        def divergence(strength: float) -> float:
            each_pass()
            logits.clear()  # only the last one is asked for again
            logits[strength] = steering.logits(feature, strength)
            gone = clean - logits[strength].log_softmax(-1)
            return float((probabilities * gone).sum(-1).mean())

        for target in TARGETS:
            guess = _GUESS * unit
            if found:
                guess = found[-1].strength * (target / found[-1].divergence) ** 0.5
            reached = find_strength(divergence, target, guess, _LIMIT * unit, known)
            if reached is None:
                break
            found.append(reached)
            steered = logits.get(reached.strength)
            if steered is None:
                steered = steering.logits(feature, reached.strength)
            change += percentiles(steered) - ranks
    return raised_by(change, found)


def raised_by(
    change: Float[Tensor, "prefixes d_vocab"], found: Sequence[Strength]
) -> dict[str, Tensor]:
    """What is kept of a feature: nothing raised if not all divergences were `found`.

    `change` is that of the tokens' rank percentiles, behind each prefix.
    """
    if len(found) < len(TARGETS):
        none = torch.zeros(0, dtype=torch.int64)
        return {"raised": none, "halves": none, "strengths": none, "divergences": none}
    rows = [change.mean(0), change[::2].mean(0), change[1::2].mean(0)]
    raised = torch.stack([top_k(row, RAISED)[0] for row in rows])
    return {
        "raised": raised[0],
        "halves": raised[1:],
        "strengths": torch.tensor([each.strength for each in found], dtype=torch.float64),
        "divergences": torch.tensor([each.divergence for each in found], dtype=torch.float64),
    }


def percentiles(logits: Float[Tensor, "texts d_vocab"]) -> Float[Tensor, "texts d_vocab"]:
    """The rank of every token as a part of the vocabulary: 1 for the likeliest, 0 for the last.

    Equal logits are in the order of their ids, the lower id ahead.
    """
    order = logits.argsort(dim=-1, descending=True, stable=True)
    places = torch.linspace(1, 0, logits.shape[-1], device=logits.device)
    return torch.empty_like(order, dtype=torch.float32).scatter_(
        -1, order, places.expand(order.shape)
    )

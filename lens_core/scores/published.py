"""Output score by the procedure of the authors' code, protocol `published`.

(docs/method.md, section 5a; what a score is: `lens_core.scores.output_score`.) It differs from the
paper's words, protocol `paired`, in three ways:

- Strengths are whole numbers, found by bisection between 1 and 1000, until the mean KL divergence
  over *all* positions of the prefixes is in `[target, target + 0.1]`. Both sides have the
  dictionary spliced in without its error, probabilities are at least 1e-10.
- Ranks are those along 20 tokens that the model writes by itself behind each prefix, at temperature
  0.75, with the error kept and the feature set at every position, prefix and continuation.
- They are compared with ranks along other continuations, which the unchanged model writes, scored
  again with the dictionary spliced in without its error.

A continuation's tokens are drawn by numbers that are fixed for a feature and prefix, so that a
score repeats on the same machine. Rounding decides a draw now and then: on another machine, or in
batches of another size, a continuation may part from its twin.

Cost of a feature: 2 x 20 steps of writing, each about a third of a pass over all texts, and at
most 20 passes over the prefixes for the strengths.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import UsageError
from lens_core.instruments import Instruments
from lens_core.memory import Parts
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample
from lens_core.scores.continuations import Continuations
from lens_core.scores.output_score import TARGETS, Observed, Tick, observe_each, raised_by
from lens_core.scores.strength import Strength
from lens_core.splicing import normed_end, obstacle, spliced
from lens_core.tally import BLOCK_BYTES, samples_per_pass

MARGIN = 0.1
"""Nats over its target that a divergence may be."""
WRITTEN, TEMPERATURE = 20, 0.75
"""Tokens behind each prefix, and at what temperature they are drawn."""
STRENGTHS = (1, 1000)
"""The weakest and the strongest that are tried."""
MOST_PASSES = len(TARGETS) * (STRENGTHS[1] - STRENGTHS[0]).bit_length()
"""Passes over the prefixes to find strengths, at most."""
_LEAST = 1e-10  # a probability below counts as this one
_VERSION = 1


def observe_published(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: Sequence[int],
    prefixes: ReferenceSample,
    tick: Tick = lambda _done, _of: None,
) -> Observed:
    """Steer each of `features` behind `prefixes`; what is in the result cache is not done again.

    `tick` is called with the features done and their total, and may raise to cancel.

    Raises:
        UsageError: the dictionary has no reconstruction here.
        DictionaryError: activations are not finite.
    """
    if why := obstacle(dictionary):
        raise UsageError(f"no output score by protocol published: {why}")
    asked = {
        "kind": "steered, published", "version": _VERSION, "dictionary": dictionary.sha256,
        "targets": list(TARGETS), "margin": MARGIN, "strengths": list(STRENGTHS),
        "written": WRITTEN, "temperature": TEMPERATURE,
    }  # fmt: skip

    def begin() -> Callable[[int], dict[str, Tensor]]:
        return _Steered(tools.model, dictionary, prefixes).of

    return observe_each(tools.carrier.results.about(prefixes), asked, features, begin, tick)


class _Steered:
    """What steering raises along continuations, a feature at a time."""

    def __init__(
        self, model: ResidualModel, dictionary: FeatureDictionary, prefixes: ReferenceSample
    ) -> None:
        self._dictionary, self._prefixes = dictionary, prefixes
        self._divergences = Divergences(model, dictionary, prefixes)
        self._texts = Continuations(model, dictionary, prefixes, WRITTEN, TEMPERATURE)
        clean = self._texts.written(draws("unchanged", prefixes.samples)[0])
        self._clean = self._texts.rescored(clean.tokens).ranks

    def of(self, feature: int) -> dict[str, Tensor]:
        """What is kept of one feature; nothing raised if a divergence is not reached."""
        found: list[Strength] = []
        change = torch.zeros_like(self._clean)
        if float(self._dictionary.values[feature].norm()) > 0:
            known: dict[int, float] = {}
            for target in TARGETS:
                reached = whole_strength(
                    lambda strength: self._divergences.of(feature, strength), target, known
                )
                if reached is None:
                    break
                found.append(reached)
        if len(found) == len(TARGETS):
            numbers = draws(f"{self._dictionary.sha256}:{feature}", self._prefixes.samples)
            for each, ours in zip(found, numbers, strict=True):
                steered = self._texts.written(ours, feature, each.strength)
                if not bool(steered.is_finite.all()):
                    found = []
                    break
                change += steered.ranks - self._clean
        return raised_by(change, found)


class Divergences:
    """`KL(clean || steered)` in nats, with the dictionary spliced in without its error.

    The mean over all positions of `texts`, the feature set at each of them.
    """

    def __init__(
        self, model: ResidualModel, dictionary: FeatureDictionary, texts: ReferenceSample
    ) -> None:
        self._model, self._dictionary = model, dictionary
        self._counts = texts.counts.to(model.device)
        self._parts = Parts(samples_per_pass(model, texts), model.device)
        self._made, self._fired = spliced(model, dictionary, texts.tokens)
        self._clean = torch.cat(
            self._parts.each(
                texts.samples, lambda rows: normed_end(model, dictionary, self._made.part(rows))
            )
        )

    @torch.no_grad()
    def of(self, feature: int, strength: float) -> float:
        """With the feature set to `strength`; NaN or infinite where the model gives no numbers."""
        shift = strength - self._fired.of(feature)
        moved = self._made.moved(shift[..., None] * self._dictionary.values[feature])
        at_once = max(1, BLOCK_BYTES // (4 * self._model.d_vocab))

        def some(rows: slice) -> float:
            counts = self._counts[rows]
            clean = self._clean[rows][counts]
            steered = normed_end(self._model, self._dictionary, moved.part(rows))[counts]
            total = 0.0
            for p, q in zip(
                *(torch.split(each, at_once) for each in (clean, steered)), strict=True
            ):
                probable, after = (self._probabilities(each) for each in (p, q))
                total += float((probable * (probable.log() - after.log())).sum())
            return total

        return math.fsum(self._parts.each(len(self._counts), some)) / int(self._counts.sum())

    def _probabilities(self, normed: Float[Tensor, "some d_model"]) -> Tensor:
        return self._model.unembed(normed).softmax(-1).clamp(min=_LEAST)


def whole_strength(
    divergence: Callable[[int], float], target: float, known: dict[int, float]
) -> Strength | None:
    """A whole strength with a divergence in `[target, target + MARGIN]`, as bisection finds it.

    `None` if it ends between two neighbours. A divergence that is not finite is too large. `known`
    holds divergences by strength, and gets those that are computed.
    """
    low, high = STRENGTHS
    while low <= high:
        strength = (low + high) // 2
        if strength not in known:
            found = divergence(strength)
            known[strength] = found if math.isfinite(found) else math.inf
        if known[strength] < target:
            low = strength + 1
        elif known[strength] > target + MARGIN:
            high = strength - 1
        else:
            return Strength(float(strength), known[strength])
    return None


def draws(of: str, texts: int) -> Float[Tensor, "targets texts written"]:
    """Numbers in [0, 1) for what is written behind each text, fixed for a feature and a text."""
    found = []
    for text in range(texts):
        seed = int.from_bytes(hashlib.sha256(f"{of}:{text}".encode()).digest()[:6], "big")
        generator = torch.Generator().manual_seed(seed)
        found.append(torch.rand(len(TARGETS), WRITTEN, generator=generator, dtype=torch.float64))
    return torch.stack(found, 1)

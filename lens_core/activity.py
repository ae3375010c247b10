"""What is known of a layer's features after reading text: how often and where each fires.

A *context* of a feature is a sample in which it fires, at the token where it fires most (of
equal ones the first); a sample counts once, so that contexts are different texts
(docs/method.md, sections 5 and 10). Kept for every feature, in memory that does not grow with
the text:

- the `top` strongest contexts, exactly: by activation and, where equal, by sample;
- the first `top` contexts in the order of the text;
- the number of tokens in each of `BINS` equal parts of `(0, 2^e]`, the smallest such range that
  holds all of its activations; 8 to 16 of the bins are in use;
- of the contexts in each bin three: the one that comes first in a fixed pseudo-random order
  (`lottery`), the weakest, and the strongest.

The last give examples from every quarter of the range `(0, max]` (`quarters`), whose ends are
known only after all text is read. A quarter is never narrower than a bin, so a bin is cut by at
most one end of a quarter, and its weakest and strongest context lie in the parts below and above.
A quarter with any context therefore has an example. All of this depends on the text and its order
alone, not on where reading was divided or interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int, Int32, Int64
from torch import Tensor

BINS = 16
KEPT = 3
"""Contexts kept of each bin: first in the lottery, weakest, strongest."""
QUARTERS = 4
# The exponent field of a float32 `x`: 2^(field - 127) <= x < 2^(field - 126), for subnormal x
# counted as 1.
_BIN_OF_FIELD = 130


@dataclass(frozen=True)
class Place:
    """A context: the token at `position` of `sample`; skipped positions are counted."""

    sample: int
    position: int
    activation: float


@dataclass(frozen=True, eq=False)
class FeatureActivity:
    """Firing of every feature of a layer on the tokens of a text that count.

    A feature with fewer than `top` contexts has 0 for the remaining activations and -1 for their
    sample and position, and so have places of a bin without context. Positions count from the
    beginning of the sample, skipped ones included; `first_samples` and `first_positions` are of
    the first contexts in the order of the text. `fields` are the exponent fields of the largest
    activations (0: silent), which set the width of bins (`bin_width`).
    """

    n_tokens: int
    fields: Int32[Tensor, " n_features"]
    counts: Int64[Tensor, "n_features bins"]
    top_activations: Float32[Tensor, "n_features top"]
    top_samples: Int32[Tensor, "n_features top"]
    top_positions: Int32[Tensor, "n_features top"]
    first_samples: Int32[Tensor, "n_features top"]
    first_positions: Int32[Tensor, "n_features top"]
    bin_activations: Float32[Tensor, "n_features bins kept"]
    bin_samples: Int32[Tensor, "n_features bins kept"]
    bin_positions: Int32[Tensor, "n_features bins kept"]

    @property
    def density(self) -> Float32[Tensor, " n_features"]:
        """The share of the tokens with an activation above zero."""
        return (self.counts.sum(1) / self.n_tokens).float()

    @property
    def max_activation(self) -> Float32[Tensor, " n_features"]:
        """The largest activation, 0 for a silent feature."""
        return self.top_activations[:, 0]

    def bin_width(self, feature: int) -> float:
        """Bin `i` holds activations above `i` and up to `i + 1` times this."""
        return math.ldexp(1.0, int(self.fields[feature]) - _BIN_OF_FIELD)

    def histogram(self, feature: int) -> tuple[int, ...]:
        """Tokens in each bin up to that of the largest activation; empty for a silent feature."""
        used = math.ceil(float(self.max_activation[feature]) / self.bin_width(feature))
        return tuple(self.counts[feature, :used].tolist())

    def strongest(self, feature: int) -> list[Place]:
        """The strongest contexts, strongest first."""
        return _places(
            self.top_samples[feature], self.top_positions[feature], self.top_activations[feature]
        )

    def quarters(
        self, feature: int, n: int, without: Collection[Place] = ()
    ) -> tuple[list[Place], ...]:
        """At most `n` contexts from each quarter of `(0, max]`, weakest quarter first.

        Of the kept contexts of a quarter, `without` some, those that come first in the lottery;
        strongest first.
        """
        rows = self.bin_samples, self.bin_positions, self.bin_activations
        places = dict.fromkeys(_places(*(each[feature].flatten() for each in rows)))
        kept = [place for place in places if place not in without]
        samples = torch.tensor([place.sample for place in kept], dtype=torch.int64)
        tickets = lottery(torch.full_like(samples, feature), samples).tolist()
        drawn = [kept[at] for at in sorted(range(len(kept)), key=lambda at: (tickets[at], at))]
        largest = float(self.max_activation[feature])
        found: tuple[list[Place], ...] = tuple([] for _ in range(QUARTERS))
        for place in drawn:
            inside = found[max(0, math.ceil(QUARTERS * place.activation / largest) - 1)]
            if len(inside) < n:
                inside.append(place)
        for inside in found:
            inside.sort(key=lambda place: (-place.activation, place.sample))
        return found


def _places(
    samples: Int32[Tensor, " n"], positions: Int32[Tensor, " n"], activations: Float32[Tensor, " n"]
) -> list[Place]:
    rows = zip(samples.tolist(), positions.tolist(), activations.tolist(), strict=True)
    return [Place(*row) for row in rows if row[0] >= 0]


def lottery(feature: Int[Tensor, " n"], sample: Int[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """A pseudo-random number below 2^32 for each pair, the same on every machine.

    Two rounds of a 32-bit mixing function (multiply, xor-shift) in 64-bit integers.
    """
    mixed = _mixed(feature.long() + 1)
    return _mixed(mixed ^ sample.long())


def _mixed(x: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)

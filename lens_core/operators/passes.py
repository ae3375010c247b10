"""The three operator families, one pass each over a linearised micro-batch.

With sums over the micro-batch's samples `b`, targets `s` and sources `s'`
(method: `T_value`, `T_key` and `R`, before the division by the number of tokens):

    value     row  i of  sum d h_final[b,s] / d h_site[b,s']      every site at once
    key       col  j of  sum d h_site[b,s'] / d h_0[b,s]          every site at once
    response  row  i of  sum d block_out[b,s] / d block_in[b,s']  every block at once

A pass takes any vectors, not only unit ones: for a cotangent `w`, `value` gives
`T_value[site]^T w`, and for a tangent `w`, `key` gives `T_key[site] w`. First-reader
shares and search numerators are computed this way without operators.

The two transitions are summed separately by the position `s'` where the *feature* sits:
before `EARLY` (attention sinks) and from there on. A full set of unit vectors costs
`d_model` passes per family, for any number of features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lens_core.linearization import Linearization, Tangent
from lens_core.reference import ReferenceSample
from lens_core.terms import Bucket

# docs/method.md, section 7: the first 16 positions hold the attention sinks.
EARLY = 16
N_BUCKETS = 2


@dataclass(frozen=True)
class Positions:
    """Which positions of some samples count, as source and as target, and in which bucket.

    Sources are the earlier end of a path, targets the later one: a value's feature sits at
    sources, a key's at targets. Positions from `start` to `stop` are both, unless each sample
    has one target (`ends`, see `ReferenceSample`): then there are no buckets.
    """

    start: int
    stop: int
    ends: Int64[Tensor, " batch"] | None = None

    @classmethod
    def of(cls, reference: ReferenceSample, samples: range | slice = slice(None)) -> Positions:
        """The positions of a micro-batch of `samples`, on the CPU."""
        included = reference.included
        ends = reference.ends
        if ends is not None:
            ends = ends[samples.start : samples.stop]
        return cls(included.start, included.stop, ends)

    @property
    def buckets(self) -> tuple[slice, slice]:
        """Positions before `EARLY` and from `EARLY` on, among those that count."""
        cut = min(max(EARLY, self.start), self.stop)
        return slice(self.start, cut), slice(cut, self.stop)

    @property
    def counts(self) -> tuple[int, int]:
        """Positions per sample in each bucket."""
        early, late = self.buckets
        return early.stop - early.start, late.stop - late.start

    def where(self, positions: Bucket) -> slice:
        """The positions where a feature in bucket `early`, `late` or `all` sits."""
        early, late = self.buckets
        return {"all": slice(self.start, self.stop), "early": early, "late": late}[positions]

    def sources(
        self, tangent: Tangent, positions: Bucket = "all"
    ) -> Float[Tensor, "*many batch counted d_model"]:
        """`tangent` at the sources."""
        return tangent[..., self.where(positions), :]

    def targets(
        self, tangent: Tangent, positions: Bucket = "all"
    ) -> Float[Tensor, "*many batch counted d_model"]:
        """`tangent` at the targets."""
        if self.ends is None:
            return self.sources(tangent, positions)
        return tangent[..., torch.arange(len(self.ends)), self.ends, :].unsqueeze(-2)

    def at_sources(
        self,
        vectors: Float[Tensor, "many d_model"],
        shape: Sequence[int],
        positions: Bucket = "all",
    ) -> Tangent:
        """Each vector at all sources, zero elsewhere; without a `many` axis for one."""
        batch, pos, d_model = shape
        whole = vectors.new_zeros(len(vectors), batch, pos, d_model)
        whole[:, :, self.where(positions)] = vectors[:, None, None, :]
        return whole[0] if len(vectors) == 1 else whole

    def at_targets(
        self,
        vectors: Float[Tensor, "many d_model"],
        shape: Sequence[int],
        positions: Bucket = "all",
    ) -> Tangent:
        """Each vector at all targets, zero elsewhere; without a `many` axis for one."""
        if self.ends is None:
            return self.at_sources(vectors, shape, positions)
        whole = vectors.new_zeros(len(vectors), *shape)
        whole[:, torch.arange(len(self.ends)), self.ends] = vectors[:, None]
        return whole[0] if len(vectors) == 1 else whole

    def source_sums(self, tangent: Tangent) -> Float[Tensor, "many buckets d_model"]:
        """Sum over samples and over the sources of each bucket."""
        if self.ends is not None:
            return self._in_first(self.sources(tangent))
        many = tangent if tangent.ndim == 4 else tangent[None]
        return torch.stack([many[:, :, bucket].sum((1, 2)) for bucket in self.buckets], dim=1)

    def target_sums(self, tangent: Tangent) -> Float[Tensor, "many buckets d_model"]:
        """Sum over samples and over the targets of each bucket."""
        return (
            self.source_sums(tangent)
            if self.ends is None
            else self._in_first(self.targets(tangent))
        )

    def _in_first(self, part: Tangent) -> Float[Tensor, "many buckets d_model"]:
        """The sum of everything as the first bucket's: where there are none, it has all."""
        many = part if part.ndim == 4 else part[None]
        sums = many.new_zeros(len(many), N_BUCKETS, many.shape[-1])
        sums[:, 0] = many.sum((1, 2))
        return sums


def value_pass(
    linearization: Linearization,
    cotangents: Float[Tensor, "many d_model"],
    positions: Positions,
) -> Float[Tensor, "many sites buckets d_model"]:
    """`cotangents` at the final stream, pulled back to every site."""
    running = positions.at_targets(cotangents, linearization.shape)
    sums = [positions.source_sums(running)]
    for block in reversed(linearization.blocks):
        running = running + block.vjp(running)
        sums.append(positions.source_sums(running))
    return torch.stack(sums[::-1], dim=1)


def key_pass(
    linearization: Linearization,
    tangents: Float[Tensor, "many d_model"],
    positions: Positions,
) -> Float[Tensor, "many sites buckets d_model"]:
    """`tangents` at the embedded input, pushed forward to every site."""
    running = positions.at_sources(tangents, linearization.shape)
    sums = [positions.target_sums(running)]
    for block in linearization.blocks:
        running = running + block.jvp(running)
        sums.append(positions.target_sums(running))
    return torch.stack(sums, dim=1)


def response_pass(
    linearization: Linearization,
    cotangents: Float[Tensor, "many d_model"],
    positions: Positions,
) -> Float[Tensor, "many blocks one d_model"]:
    """`cotangents` at each block's own output, pulled back to that block's input."""
    start = positions.at_targets(cotangents, linearization.shape)
    sums = [
        positions.source_sums(block.vjp(start)).sum(1, keepdim=True)
        for block in linearization.blocks
    ]
    return torch.stack(sums, dim=1)


Pass = Callable[
    [Linearization, Float[Tensor, "many d_model"], Positions],
    Float[Tensor, "many places buckets d_model"],
]


@dataclass(frozen=True)
class Family:
    """One operator family: its pass, and the shape of the result of a full set of passes."""

    name: str
    run: Pass
    forward_mode: bool
    n_buckets: int

    def n_places(self, n_blocks: int) -> int:
        """Sites for the transitions, blocks for the responses."""
        return n_blocks + (self.name != "response")


FAMILIES = (
    Family("value", value_pass, forward_mode=False, n_buckets=N_BUCKETS),
    Family("response", response_pass, forward_mode=False, n_buckets=1),
    Family("key", key_pass, forward_mode=True, n_buckets=N_BUCKETS),
)

"""The three operator families, one pass each over a linearised micro-batch.

With sums over the micro-batch's samples `b` and the positions that count `s`, `s'`
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
from jaxtyping import Float
from torch import Tensor

from lens_core.linearization import Linearization, Tangent
from lens_core.terms import Bucket

# docs/method.md, section 7: the first 16 positions hold the attention sinks.
EARLY = 16
N_BUCKETS = 2


@dataclass(frozen=True)
class Positions:
    """Which positions of a sample count, as source and as target, and in which bucket."""

    start: int
    stop: int

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

    def part(
        self, tangent: Tangent, positions: Bucket = "all"
    ) -> Float[Tensor, "*many batch counted d_model"]:
        """`tangent` at these positions."""
        return tangent[..., self.where(positions), :]

    def spread(
        self,
        vectors: Float[Tensor, "many d_model"],
        shape: Sequence[int],
        positions: Bucket = "all",
    ) -> Tangent:
        """Each vector at all of these positions, zero elsewhere; without a `many` axis for one."""
        batch, pos, d_model = shape
        whole = vectors.new_zeros(len(vectors), batch, pos, d_model)
        whole[:, :, self.where(positions)] = vectors[:, None, None, :]
        return whole[0] if len(vectors) == 1 else whole

    def bucket_sums(self, tangent: Tangent) -> Float[Tensor, "many buckets d_model"]:
        """Sum over samples and over the positions of each bucket."""
        many = tangent if tangent.ndim == 4 else tangent[None]
        return torch.stack([many[:, :, bucket].sum((1, 2)) for bucket in self.buckets], dim=1)


def value_pass(
    linearization: Linearization,
    cotangents: Float[Tensor, "many d_model"],
    positions: Positions,
) -> Float[Tensor, "many sites buckets d_model"]:
    """`cotangents` at the final stream, pulled back to every site."""
    running = positions.spread(cotangents, linearization.shape)
    sums = [positions.bucket_sums(running)]
    for block in reversed(linearization.blocks):
        running = running + block.vjp(running)
        sums.append(positions.bucket_sums(running))
    return torch.stack(sums[::-1], dim=1)


def key_pass(
    linearization: Linearization,
    tangents: Float[Tensor, "many d_model"],
    positions: Positions,
) -> Float[Tensor, "many sites buckets d_model"]:
    """`tangents` at the embedded input, pushed forward to every site."""
    running = positions.spread(tangents, linearization.shape)
    sums = [positions.bucket_sums(running)]
    for block in linearization.blocks:
        running = running + block.jvp(running)
        sums.append(positions.bucket_sums(running))
    return torch.stack(sums, dim=1)


def response_pass(
    linearization: Linearization,
    cotangents: Float[Tensor, "many d_model"],
    positions: Positions,
) -> Float[Tensor, "many blocks one d_model"]:
    """`cotangents` at each block's own output, pulled back to that block's input."""
    start = positions.spread(cotangents, linearization.shape)
    sums = [
        positions.bucket_sums(block.vjp(start)).sum(1, keepdim=True)
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

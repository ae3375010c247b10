"""From a vector of the residual stream to a score for every token of the vocabulary.

    score_t(x) = g(x) . row_t + bias_t

    unembed                 g = final norm,  rows of W_U^T, bias b_U       the output end
    embed                   g = x,           rows of E                     the input end, plain
    embed_centered_cosine   g = x,           rows (E - c) / |E - c|        the input end, Query Lens

(paper, section 3.3; docs/method.md, section 2; `c` is the mean embedding of the *reference's*
tokens.) The final norm is applied to the averaged vector, as in the paper's code; a vector to
which the final norm's Jacobian was already applied token by token is read with `W_U` alone,
since a derivative has no bias. Lists, search, paths and the atlas all read with these objects;
a new readout is a function here and an entry in `READOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.blocked_topk import (
    ranks_in_product,
    top_k_and_ranks_of_product,
    top_k_of_product,
)
from lens_core.final_norm import FinalNorm, final_norm_of
from lens_core.model import ResidualModel
from lens_core.terms import MEASURES

# For up to this many vectors, the product costs no more than reading the vocabulary.
_FEW = 6


@dataclass(frozen=True, eq=False)
class Readout:
    """One way to read a vector as scores of tokens.

    `norm` is the final norm in closed form and `apply_norm` the model's own; both are `None` for
    a readout without a norm. `compares_by_length`: scores of different features can be compared
    only after division by the length of the vector. `through` is a readout from whose scores
    these can be computed without another product with the vocabulary.
    """

    name: str
    rows: Float[Tensor, "d_vocab carried"]
    bias: Float[Tensor, " d_vocab"] | None = None
    norm: FinalNorm | None = None
    apply_norm: Callable[[Tensor], Tensor] | None = None
    compares_by_length: bool = False
    through: DerivedScores | None = None

    @property
    def measure(self) -> str:
        """The name of the displayed score."""
        return MEASURES[self.name]

    @cached_property
    def derivative(self) -> Readout:
        """The same readout without norm and bias, for vectors that include the norm's Jacobian."""
        return replace(self, bias=None, norm=None, apply_norm=None)

    @cached_property
    def center(self) -> Float[Tensor, " d_model"]:
        """The mean row over the vocabulary."""
        return self.rows.mean(0)

    def scores(self, vectors: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many d_vocab"]:
        """The score of every token, for few vectors."""
        product = _product(self._applied(vectors), self.rows)
        return product if self.bias is None else product + self.bias

    def top_k(
        self, vectors: Float[Tensor, "n d_model"], k: int
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """The `k` best tokens of many vectors and their scores, best first."""
        return top_k_of_product(self._applied(vectors), self.rows, self.bias, k)

    def ranks(
        self, vectors: Float[Tensor, "n d_model"], ids: Int[Tensor, "n k"]
    ) -> Int[Tensor, "n k"]:
        """The rank (0 is best) of `ids` among all tokens, for many vectors."""
        return ranks_in_product(self._applied(vectors), self.rows, self.bias, ids)

    def top_k_and_ranks(
        self, vectors: Float[Tensor, "n d_model"], k: int, ids: Int[Tensor, "n m"]
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"], Int[Tensor, "n m"]]:
        """`top_k` and `ranks` from one product."""
        return top_k_and_ranks_of_product(self._applied(vectors), self.rows, self.bias, k, ids)

    def linear(self, vectors: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many d_model"]:
        """The linear part of `g`: everything except the norm's division and bias."""
        return vectors if self.norm is None else self.norm.linear(vectors)

    def parts(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """The scores of the parts of a vector; they add up to its own score times `norm_scale`."""
        return self.linear(vectors) @ self.rows.T

    def direction(self, ids: Int[Tensor, " k"]) -> Float[Tensor, " d_model"]:
        """The `w` for which `w . x / norm_scale` is the summed score of `ids` minus `constant`."""
        summed = self.rows[ids].sum(0)
        return summed if self.norm is None else self.norm.pulled(summed)

    def constant(self, ids: Int[Tensor, " k"]) -> Float[Tensor, ""] | None:
        """The part of the summed score of `ids` that does not depend on `x`; `None` if none."""
        found = None
        if self.norm is not None and self.norm.bias is not None:
            found = self.norm.bias @ self.rows[ids].sum(0)
        if self.bias is not None:
            summed = self.bias[ids].sum()
            found = summed if found is None else found + summed
        return found

    def directions(self, ids: Int[Tensor, " k"]) -> Float[Tensor, "k d_model"]:
        """`direction` of each of `ids` by itself."""
        rows = self.rows[ids]
        return rows if self.norm is None else self.norm.pulled(rows)

    def constants(self, ids: Int[Tensor, " k"]) -> Float[Tensor, " k"] | None:
        """`constant` of each of `ids` by itself; `None` if none."""
        found = None
        if self.norm is not None and self.norm.bias is not None:
            found = self.rows[ids] @ self.norm.bias
        if self.bias is not None:
            found = self.bias[ids] if found is None else found + self.bias[ids]
        return found

    def norm_scale(self, vectors: Float[Tensor, "*many d_model"]) -> Float[Tensor, " *many"]:
        """What the norm divides each vector by; 1 without a norm."""
        if self.norm is None:
            return vectors.new_ones(vectors.shape[:-1])
        return self.norm.scale(vectors)

    def divisor(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """The divisor that makes `w . x` comparable across features: norm scale or length.

        NaN for a vector of length zero, which has no direction.
        """
        length = vectors.norm(dim=-1)
        found = length if self.compares_by_length else self.norm_scale(vectors)
        return found.masked_fill(length == 0, torch.nan)

    def _applied(self, vectors: Tensor) -> Tensor:
        if self.apply_norm is None:
            return vectors
        with torch.no_grad():
            return self.apply_norm(vectors)


@dataclass(frozen=True, eq=False)
class DerivedScores:
    """`scores(x) = lengths * other.scores(x) + shift . x`, which saves a product."""

    other: Readout
    lengths: Float[Tensor, " d_vocab"]
    shift: Float[Tensor, " d_model"]

    def finish(
        self, scores: Float[Tensor, " d_vocab"], vector: Float[Tensor, " d_model"]
    ) -> Float[Tensor, " d_vocab"]:
        """From the other readout's scores of `vector` to these."""
        return self.lengths * scores + self.shift @ vector


def read_together(
    asked: Sequence[tuple[Readout, Float[Tensor, " _"]]],
) -> Float[Tensor, "n d_vocab"]:
    """The scores of several vectors, each by its readout, reading the vocabulary once if possible.

    This is the main cost of a signature: all value readouts are the same, and the key readouts
    can be computed from one another.
    """
    sources = [readout.through.other if readout.through else readout for readout, _ in asked]
    found: dict[int, Tensor] = {}
    for source in dict.fromkeys(sources):
        places = [i for i, each in enumerate(sources) if each is source]
        scores = source.scores(torch.stack([asked[i][1] for i in places]))
        for row, place in zip(scores, places, strict=True):
            readout, vector = asked[place]
            found[place] = row if readout.through is None else readout.through.finish(row, vector)
    return torch.stack([found[place] for place in range(len(asked))])


class Readouts:
    """The readouts of one model and reference, made on first use."""

    def __init__(self, model: ResidualModel, center: Callable[[], Float[Tensor, " d_model"]]):
        """`center` gives the mean embedding of the reference's tokens."""
        self.model = model
        self._center = center
        self._made: dict[str, Readout] = {}

    @cached_property
    def center(self) -> Float[Tensor, " d_model"]:
        """The mean embedding of the reference's tokens."""
        return self._center()

    def __getitem__(self, name: str) -> Readout:
        if name not in self._made:
            self._made[name] = READOUTS[name](self)
        return self._made[name]

    def all(self) -> list[Readout]:
        """All readouts."""
        return [self[name] for name in READOUTS]


def unembed(of: Readouts) -> Readout:
    """The output end: final norm, `W_U`, `b_U`."""
    model = of.model
    norm = final_norm_of(model)
    return Readout("unembed", model.W_U.T, model.b_U, norm, model.final_norm)


def embed(of: Readouts) -> Readout:
    """Logit Lens's input end: the plain product with every token's embedding."""
    embedding = of.model.embedding
    # E k = |E - c| (rows k) + c . k
    lengths = (embedding - of.center).norm(dim=-1)
    through = DerivedScores(of["embed_centered_cosine"], lengths, of.center)
    return Readout("embed", embedding, compares_by_length=True, through=through)


def embed_centered_cosine(of: Readouts) -> Readout:
    """Query Lens's input end: how well replacing the mean embedding by each token realises `x`.

    The size of `x` scales every score alike and cannot change the ranking; divided by it, the
    score is a cosine.
    """
    rows = centered_cosine_rows(of.model.embedding, of.center)
    return Readout("embed_centered_cosine", rows, compares_by_length=True)


READOUTS: Mapping[str, Callable[[Readouts], Readout]] = MappingProxyType(
    {"unembed": unembed, "embed": embed, "embed_centered_cosine": embed_centered_cosine}
)
"""The function that makes each readout, by name."""


def centered_cosine_rows(
    embedding: Float[Tensor, "d_vocab d_model"], center: Float[Tensor, " d_model"]
) -> Float[Tensor, "d_vocab d_model"]:
    """Unit shifts from the reference's mean embedding to each token's; zero where there is none.

    A row equal to the centre has no direction, and scores 0 rather than NaN.
    """
    shift = embedding - center
    length = shift.norm(dim=-1, keepdim=True)
    return shift / torch.where(length > 0, length, 1)


def _product(
    vectors: Float[Tensor, "*batch d_model"], rows: Float[Tensor, "d_vocab d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """`vectors @ rows.T`, computed as `(rows @ vectors.T).T` for a few vectors on a CPU.

    That order only costs reading the vocabulary, because BLAS does not copy it first: 14 ms
    instead of 31 for four vectors at GPT-2's shape (one thread).
    """
    if vectors.ndim == 2 and 1 < len(vectors) <= _FEW and vectors.device.type == "cpu":
        return (rows @ vectors.T).T.contiguous()
    return vectors @ rows.T

"""What is carried, and one map that carries every feature of a dictionary at once.

value   carried = T_value[site] v          key   carried = k^T T_key[site]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.terms import Side


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

    matrix: Float[Tensor, "d_model carried"] | None = None
    shift: Float[Tensor, " carried"] | None = None

    def __call__(self, vectors: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many carried"]:
        """The carried vectors."""
        carried = vectors if self.matrix is None else vectors @ self.matrix
        return carried if self.shift is None else carried + self.shift

    def beside_itself(self) -> FeatureMap:
        """`x -> [self(x), x]`: what a linear map carries, and the vector as it is behind that."""
        assert self.matrix is not None, "it carries through some blocks"
        assert self.shift is None, "it is linear"
        eye = torch.eye(len(self.matrix)).to(self.matrix)
        return FeatureMap(torch.cat([self.matrix, eye], 1))

    def pulled(self, direction: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many d_model"]:
        """The `w` for which `x . w + offset(direction) = self(x) . direction` for every `x`."""
        return direction if self.matrix is None else direction @ self.matrix.T

    def offset(self, direction: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many"]:
        """What the shift adds to the product with `direction`."""
        if self.shift is None:
            return direction.new_zeros(direction.shape[:-1])
        return direction @ self.shift


def first_reader(side: Side, before: Tensor, behind: Tensor) -> Tensor:
    """A block's part in the first-reader split, from the vectors carried to its two sites.

    `before` is from the block's input site, `behind` from its output site.
    """
    return before - behind if side == "value" else behind - before


def rows_of(side: Side, operator: Float[Tensor, "d_model d_model"]) -> FeatureMap:
    """An operator as a map of row vectors: `T v` for values, `k^T T` for keys."""
    return FeatureMap(operator.T if side == "value" else operator)

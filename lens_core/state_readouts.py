"""Readouts of keys by the states of the vocabulary; `lens_core.lenses.forward` has the formulae.

A sum of standard scores is one product: with centred rows `A` and `B` of two readouts and their
covariances over the vocabulary `C_A`, `C_B`,

    z(A x) + z(B y) = [A B] [x / sqrt(x C_A x); y / sqrt(y C_B y)]

so that lists and ranks of all features come from the same blocked products as every other lens's.
A vector of length zero adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary, read_function
from lens_core.direct import Transported
from lens_core.readout import Readout
from lens_core.vocabulary_states import VocabularyStates

_ROWS_AT_ONCE = 8192


class StateReadouts:
    """The readouts of one model's states, for the dictionary that was asked for last."""

    def __init__(self, states: VocabularyStates) -> None:
        self._states = states
        self._kept: dict[tuple[str, str], Readout] = {}

    def forward(self, dictionary: FeatureDictionary) -> Readout:
        """The forward lens of a dictionary's keys.

        Raises:
            OperatorError: its states are not built.
            StoreError: they are damaged.
        """

        def made() -> Readout:
            rows = self._read(dictionary)
            rows = rows - rows.mean(0)
            length = rows.norm(dim=1, keepdim=True)
            rows = rows / torch.where(length > 0, length, 1)
            return Readout("forward", rows, compares_by_length=True)

        return self._of(dictionary, "forward", made)

    def joined(self, dictionary: FeatureDictionary, other: Readout, name: str) -> Readout:
        """The sum of the standard scores of `other` and of the forward lens."""

        def made() -> Readout:
            parts = [each.rows - each.rows.mean(0) for each in (other, self.forward(dictionary))]
            covariances = [part.T @ part / len(part) for part in parts]

            def standardised(vectors: Float[Tensor, "*many both"]) -> Float[Tensor, "*many both"]:
                found = []
                for part, covariance in zip(vectors.chunk(2, -1), covariances, strict=True):
                    deviation = ((part @ covariance) * part).sum(-1, keepdim=True).clamp(min=0)
                    deviation = deviation.sqrt()
                    found.append(part / torch.where(deviation > 0, deviation, torch.inf))
                return torch.cat(found, -1)

            return Readout(name, torch.cat(parts, 1), apply_norm=standardised)

        return self._of(dictionary, name, made)

    @staticmethod
    def joined_vectors(carried: Transported) -> Transported:
        """What `joined` reads: the carried vector, and behind it the vector as it started."""
        both = torch.cat([carried.vector, carried.direct])
        return replace(carried, vector=both, direct=both, steps=None, relative_variance=None)

    def _of(self, dictionary: FeatureDictionary, name: str, made: Callable[[], Readout]) -> Readout:
        """Kept for one dictionary: each takes as much as the vocabulary's embedding, or twice."""
        place = dictionary.sha256, name
        if place not in self._kept:
            self._kept = {k: v for k, v in self._kept.items() if k[0] == dictionary.sha256}
            self._kept[place] = made()
        return self._kept[place]

    @torch.no_grad()
    def _read(self, dictionary: FeatureDictionary) -> Float[Tensor, "d_vocab d_model"]:
        """What the encoder reads for every token."""
        norm = read_function(dictionary, self._states.model)
        states = self._states.at(dictionary.read_site)
        return torch.cat([norm(rows) for rows in torch.split(states, _ROWS_AT_ONCE)])

"""Which contexts of every feature are kept while text is read; `tally` decides what they are.

Contexts of a cell are compared as integers `order * 2^31 + sample`, where `order` is a float's
bits (non-negative floats sort as their bits do), those bits negated, or the lottery's number: so
equal ones go to the first sample, whatever the order in which they are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from lens_core.activity import lottery

_LARGEST_BITS = (1 << 31) - 1
_NONE = (1 << 63) - 1


@dataclass(frozen=True, eq=False)
class Contexts:
    """Contexts, ordered by sample; a feature occurs at most once for each."""

    feature: Int64[Tensor, " contexts"]
    activation: Float32[Tensor, " contexts"]
    sample: Int64[Tensor, " contexts"]
    position: Int64[Tensor, " contexts"]

    def __getitem__(self, chosen: Bool[Tensor, " contexts"]) -> Contexts:
        return Contexts(*(each[chosen] for each in vars(self).values()))


class Lowest:
    """Of the contexts of each cell the one whose `order` is the lowest, of equal ones the first."""

    def __init__(self, n_cells: int, device: torch.device) -> None:
        self._rank = torch.full((n_cells,), _NONE, device=device)
        self._activation = torch.zeros(n_cells, device=device)
        self._position = torch.full((n_cells,), -1, device=device)

    def admit(
        self, cell: Int64[Tensor, " some"], order: Int64[Tensor, " some"], contexts: Contexts
    ) -> None:
        rank = (order << 31) + contexts.sample
        self._admit(cell, rank, contexts.activation, contexts.position)

    def move(self, cells: Int64[Tensor, " some"], to: Int64[Tensor, " some"]) -> None:
        """Take what is in `cells`, each of a feature whose cells are all given, to others."""
        there = self._rank[cells] != _NONE
        cells, to = cells[there], to[there]
        rank, activation = self._rank[cells], self._activation[cells]
        position = self._position[cells]
        self._rank[cells], self._activation[cells], self._position[cells] = _NONE, 0.0, -1
        self._admit(to, rank, activation, position)

    def contexts(
        self,
    ) -> tuple[Float32[Tensor, " n_cells"], Int64[Tensor, " n_cells"], Int64[Tensor, " n_cells"]]:
        """Activation, sample and position of each cell's; 0, -1 and -1 where there is none."""
        sample = (self._rank & _LARGEST_BITS).masked_fill(self._rank == _NONE, -1)
        return self._activation, sample, self._position

    def _admit(
        self,
        cell: Int64[Tensor, " some"],
        rank: Int64[Tensor, " some"],
        activation: Float32[Tensor, " some"],
        position: Int64[Tensor, " some"],
    ) -> None:
        self._rank.scatter_reduce_(0, cell, rank, "amin")
        won = self._rank[cell] == rank
        self._activation[cell[won]] = activation[won]
        self._position[cell[won]] = position[won]


class Strongest:
    """The strongest contexts of every feature; later ones replace only strictly weaker ones."""

    def __init__(self, n_features: int, top: int, device: torch.device) -> None:
        self.activation = torch.zeros(n_features, top, device=device)
        self.sample = torch.full((n_features, top), -1, device=device)
        self.position = torch.full((n_features, top), -1, device=device)

    def admit(self, contexts: Contexts) -> None:
        found = contexts[contexts.activation > self.activation[contexts.feature, -1]]
        n_features, top = self.activation.shape
        device = self.activation.device
        beaten = torch.zeros(n_features, dtype=torch.bool, device=device)
        touched = beaten.index_fill_(0, found.feature, True).nonzero()[:, 0]
        slot = torch.arange(len(touched), device=device)

        # Kept contexts first, then the new ones by sample; a stable sort preserves this.
        owner = torch.cat([slot.repeat_interleave(top), (beaten.cumsum(0) - 1)[found.feature]])
        activation = torch.cat([self.activation[touched].flatten(), found.activation])
        sample = torch.cat([self.sample[touched].flatten(), found.sample])
        position = torch.cat([self.position[touched].flatten(), found.position])
        # By feature, strongest first.
        ordered, order = ((owner << 32) + _LARGEST_BITS - bits_of(activation)).sort(stable=True)
        start = torch.searchsorted(ordered, slot << 32)
        kept = order[start[:, None] + torch.arange(top, device=device)]

        self.activation[touched] = activation[kept]
        self.sample[touched] = sample[kept]
        self.position[touched] = position[kept]


class Earliest:
    """The first contexts of every feature in the order of the text."""

    def __init__(self, n_features: int, top: int, device: torch.device) -> None:
        self.sample = torch.full((n_features, top), -1, device=device)
        self.position = torch.full((n_features, top), -1, device=device)
        self.found = torch.zeros(n_features, dtype=torch.int64, device=device)

    def admit(self, contexts: Contexts) -> None:
        top = self.sample.shape[1]
        open_ = contexts[self.found[contexts.feature] < top]
        feature, order = open_.feature.sort(stable=True)  # each one's contexts stay by sample
        place = torch.arange(len(feature), device=feature.device)
        place = place - torch.searchsorted(feature, feature) + self.found[feature]
        fits = place < top
        feature, order, place = feature[fits], order[fits], place[fits]
        self.sample[feature, place] = open_.sample[order]
        self.position[feature, place] = open_.position[order]
        self.found += torch.bincount(feature, minlength=len(self.found))


def orders_of(contexts: Contexts) -> tuple[Int64[Tensor, " contexts"], ...]:
    """What comes first in each of a bin's `KEPT` places."""
    bits = bits_of(contexts.activation)
    return lottery(contexts.feature, contexts.sample), bits, _LARGEST_BITS - bits


def bits_of(activation: Float32[Tensor, " some"]) -> Int64[Tensor, " some"]:
    """Non-negative floats as integers in the same order."""
    return activation.view(torch.int32).long()

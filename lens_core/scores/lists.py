"""The token lists that are scored: of all features of a dictionary, or of a sample of them.

Operators carry all features at once. Where they cannot answer (the exact convention, a linearised
final norm, a baseline that runs the model), each feature is carried by itself, so that a sample
has to be chosen. Samples of one dictionary are nested: a larger one only adds features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import UsageError
from lens_core.instruments import Instruments
from lens_core.lenses import Lens
from lens_core.terms import Side

_SEED = 0
_AT_ONCE = 1024
_TOGETHER = 8  # of those that are carried by themselves: they may share passes

Tick = Callable[[int, int], None]
"""Called with the features done and their total; may raise to cancel."""


def sampled(counts: Tensor, n: int | None) -> Int64[Tensor, " chosen"]:
    """`n` of the features that count (`None`: all), in a fixed random order, then by number."""
    if n is None:
        return counts.nonzero()[:, 0]
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(_SEED))
    return order[counts[order]][:n].sort().values


def top_lists(
    tools: Instruments,
    lens: Lens,
    side: Side,
    dictionary: FeatureDictionary,
    features: Int64[Tensor, " chosen"],
    k: int,
    tick: Tick = lambda _done, _of: None,
) -> Int64[Tensor, "chosen k"]:
    """The `k` best tokens of each of `features`, -1 for one that has no list.

    Raises:
        UsageError: the lens has no such side.
    """
    missing = lens.missing(tools, side, dictionary)
    if missing:
        raise UsageError(missing)
    if lens.carries_all(tools, side, dictionary):
        return _by_operators(tools, lens, side, dictionary, features, k, tick)
    found = torch.full((len(features), k), -1)
    vectors = lens.vectors(tools, side, dictionary)
    for start in range(0, len(features), _TOGETHER):
        tick(start, len(features))
        some = features[start : start + _TOGETHER].tolist()
        for at, carried in enumerate(
            lens.carry_several(tools, side, dictionary, some, tools.settings), start
        ):
            if float(carried.vector.norm()) > 0 and float(vectors[features[at]].norm()):
                readout = lens.readout(tools, side, dictionary, normed=carried.normed)
                found[at] = readout.top_k(carried.vector[None], k)[0][0].cpu()
    return found


def _by_operators(
    tools: Instruments,
    lens: Lens,
    side: Side,
    dictionary: FeatureDictionary,
    features: Int64[Tensor, " chosen"],
    k: int,
    tick: Tick,
) -> Int64[Tensor, "chosen k"]:
    carry, readout = lens.map(tools, side, dictionary), lens.readout(tools, side, dictionary)
    vectors = lens.vectors(tools, side, dictionary)
    found: list[Int[Tensor, "some k"]] = []
    for start in range(0, len(features), _AT_ONCE):
        tick(start, len(features))
        some = features[start : start + _AT_ONCE].to(vectors.device)
        carried = carry(vectors[some])
        ids = readout.top_k(carried, k)[0]
        none = (carried.norm(dim=1) == 0) | (vectors[some].norm(dim=1) == 0)
        found.append(ids.masked_fill(none[:, None], -1).cpu().long())
    return torch.cat(found) if found else torch.zeros(0, k, dtype=torch.int64)
